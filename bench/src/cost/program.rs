//! Nanoseconds per packet of single programs, under the kernel's test run.
//!
//! A wrapper writes the next flow's packet and calls the program; see the module of the programs. What an empty program
//! costs there is subtracted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions};

use super::bed::{Bed, NOBODY, PORTS, VIP, take};
use crate::options::Options;
use crate::programs;
use crate::results::{Better, Cell};
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

/// Packets of one test run. The kernel tells its mean in whole nanoseconds, so many short ones are exacter than a long one.
const REPEAT: u32 = 20_000;
/// Where the flows of new ones start again: the tables have long forgotten them then.
const NEW_FLOWS: u64 = 1 << 23;
/// Length of a packet.
const LENGTH: usize = 64;
/// Source address of the first flow: of outside clients, and of pods.
const OUTSIDE: u32 = 0x0a64_0000;
const PODS: u32 = 0x0af4_0100;

/// What meets the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packets {
    /// Of connections it knows.
    Known,
    /// The first of connections, each of another one.
    New,
    /// For nobody it knows.
    Others,
}

/// A program that is measured, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    /// Name of it, and of its cells.
    name: &'static str,
    /// In tc rather than in XDP.
    is_tc: bool,
    is_ours: bool,
    /// Where its flows come from.
    source: u32,
}

const fn program(name: &'static str, is_tc: bool, is_ours: bool, source: u32) -> Program {
    Program { name, is_tc, is_ours, source }
}

const PROGRAMS: [Program; 7] = [
    program("empty_xdp", false, false, OUTSIDE),
    program("minimal_xdp", false, false, OUTSIDE),
    program("xdp_service", false, true, OUTSIDE),
    program("empty_tc", true, false, OUTSIDE),
    program("minimal_tc", true, false, OUTSIDE),
    program("tc_uplink_in", true, true, OUTSIDE),
    program("tc_from_pod", true, true, PODS),
];

/// The benchmark's programs and ours, and what tells the wrapper what to do.
struct Bench {
    bed: Bed,
    packets: Array<MapData, [u8; 80]>,
    xdp: ProgramArray<MapData>,
    tc: ProgramArray<MapData>,
    /// Number of the next new flow.
    next: u64,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("bed", &self.bed).field("next", &self.next).finish_non_exhaustive()
    }
}

/// What was made, or why it was not.
type Made = Result<Bench, String>;

/// One kind of packets for all programs. The kinds share what they run on.
#[derive(Debug)]
pub(crate) struct ProgramCost {
    packets: Packets,
    bench: Rc<RefCell<Option<Made>>>,
}

impl ProgramCost {
    /// All kinds.
    pub(crate) fn all() -> [Self; 3] {
        let bench = Rc::new(RefCell::new(None));
        [Packets::Known, Packets::New, Packets::Others].map(|packets| Self { packets, bench: Rc::clone(&bench) })
    }

    fn flows(&self, options: &Options) -> Vec<Option<u32>> {
        match (self.packets, options.quick) {
            (Packets::Known, false) => [1, 1 << 10, 1 << 14, 1 << 20].map(Some).into(),
            (Packets::Known, true) => [1, 1 << 14].map(Some).into(),
            (Packets::New | Packets::Others, _) => vec![None],
        }
    }
}

impl Workload for ProgramCost {
    fn name(&self) -> &'static str {
        match self.packets {
            Packets::Known => "program-hit",
            Packets::New => "program-new",
            Packets::Others => "program-miss",
        }
    }

    fn title(&self) -> &'static str {
        match self.packets {
            Packets::Known => "Program cost per packet, flow known",
            Packets::New => "Program cost per packet, each a new flow",
            Packets::Others => "Program cost per packet, for no service",
        }
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 1] = [Figure { name: "", unit: "ns", better: Better::Lower }];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        let flows = self.flows(options);
        let case = |program: Program, flows: Option<u32>| {
            let side = if program.is_tc { "tc" } else { "xdp" };
            let other = |name: &str| Cell { flows, ..Cell::bare(format!("{name}_{side}")) };
            let is_empty = program.name.starts_with("empty");
            Case {
                cell: Cell { flows, ..Cell::bare(program.name) },
                reference: program.is_ours.then(|| other("minimal")),
                baseline: (!is_empty).then(|| other("empty")),
            }
        };
        PROGRAMS.iter().flat_map(|program| flows.iter().map(move |flows| case(*program, *flows))).collect()
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let mut bench = self.bench.borrow_mut();
        let made = bench.get_or_insert_with(|| Bench::new(stage).map_err(|error| format!("{error:#}")));
        let bench = made.as_mut().map_err(|reason| anyhow!(reason.clone()))?;
        let program = find(cell)?;
        bench.point_at(program, self.packets, cell.flows)?;
        let out = bench.once(program)?;
        let to: [u8; 4] = out[30..34].try_into()?;
        let asked = asked(self.packets);
        let is_rewritten = to != asked.octets();
        let should = self.packets != Packets::Others && !program.name.starts_with("empty");
        ensure!(is_rewritten == should, "{} sent a packet for {asked} to {to:?}", program.name);
        Ok(())
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let mut bench = self.bench.borrow_mut();
        let bench = bench.as_mut().and_then(|made| made.as_mut().ok()).context("nothing was prepared")?;
        let program = find(cell)?;
        bench.point_at(program, self.packets, cell.flows)?;
        let core = stage.core;
        let flows = cell.flows.unwrap_or(1);
        let is_known = self.packets == Packets::Known;
        let cost = crate::cost::on(core, || {
            if is_known {
                // What other samples made the tables forget.
                bench.repeat(program, flows)?;
            }
            bench.cost(program, time)
        })?;
        Ok(cost.into())
    }

    fn lasts(&self, cell: &Cell, time: Duration) -> Duration {
        // A first packet takes up to a microsecond.
        time + Duration::from_micros(cell.flows.unwrap_or(1).into())
    }
}

fn find(cell: &Cell) -> Result<Program> {
    PROGRAMS.into_iter().find(|program| program.name == cell.peer).context("no such program")
}

fn asked(packets: Packets) -> std::net::Ipv4Addr {
    if packets == Packets::Others { NOBODY } else { VIP }
}

impl Bench {
    fn new(stage: &mut Stage) -> Result<Self> {
        let flows = if stage.options.quick { 1 << 17 } else { 1 << 21 };
        let mut bed = Bed::new(stage, "programs", flows)?;
        let packets = take(&mut bed.ebpf, "PACKETS")?;
        let xdp = take(&mut bed.ebpf, "UNDER_XDP")?;
        let tc = take(&mut bed.ebpf, "UNDER_TC")?;
        Ok(Self { bed, packets, xdp, tc, next: 0 })
    }

    /// Makes the wrapper call this program with such packets.
    fn point_at(&mut self, program: Program, packets: Packets, flows: Option<u32>) -> Result<()> {
        let fd: ProgramFd = match (program.is_ours, program.is_tc) {
            (true, _) => self.bed.ours(program.name)?,
            (false, true) => programs::tc(&mut self.bed.ebpf, program.name)?.fd()?.try_clone()?,
            (false, false) => programs::xdp(&mut self.bed.ebpf, program.name)?.fd()?.try_clone()?,
        };
        let called = if program.is_tc { &mut self.tc } else { &mut self.xdp };
        called.set(0, &fd, 0).context("the wrapper cannot call the program")?;
        let mut state = [0; 80];
        let (next, mask) = match packets {
            Packets::New => (self.next, NEW_FLOWS - 1),
            Packets::Known | Packets::Others => (0, u64::from(flows.unwrap_or(1)) - 1),
        };
        state[..8].copy_from_slice(&next.to_ne_bytes());
        state[8..16].copy_from_slice(&mask.to_ne_bytes());
        state[16..20].copy_from_slice(&program.source.to_ne_bytes());
        state[20..74].copy_from_slice(&template(packets));
        Ok(self.packets.set(0, state, 0)?)
    }

    /// What is left of the first packet.
    fn once(&mut self, program: Program) -> Result<Vec<u8>> {
        let mut out = vec![0; 2 * LENGTH];
        let packet = [0; LENGTH];
        self.test_run(
            program,
            TestRunOptions { data_in: Some(&packet), data_out: Some(&mut out), ..Default::default() },
        )?;
        Ok(out)
    }

    /// So many packets; nanoseconds for each.
    fn repeat(&mut self, program: Program, repeat: u32) -> Result<u64> {
        let packet = [0; LENGTH];
        let options = TestRunOptions { data_in: Some(&packet), repeat, ..Default::default() };
        self.test_run(program, options)
    }

    fn test_run(&mut self, program: Program, options: TestRunOptions<'_>) -> Result<u64> {
        let result = if program.is_tc {
            programs::tc(&mut self.bed.ebpf, "wrap_tc")?.test_run(options)
        } else {
            programs::xdp(&mut self.bed.ebpf, "wrap_xdp")?.test_run(options)
        };
        Ok(u64::try_from(result.context("the kernel does not run the program")?.duration.as_nanos())?)
    }

    /// Nanoseconds per packet: the mean of the faster half of the test runs, for nothing makes a program faster than it is.
    fn cost(&mut self, program: Program, time: Duration) -> Result<f64> {
        let start = Instant::now();
        let mut costs = Vec::new();
        while start.elapsed() < time || costs.len() < 4 {
            costs.push(self.repeat(program, REPEAT)?);
        }
        self.next = (self.next + costs.len() as u64 * u64::from(REPEAT)) % NEW_FLOWS;
        costs.sort_unstable();
        let half = &costs[..costs.len().div_ceil(2)];
        Ok(half.iter().sum::<u64>() as f64 / half.len() as f64)
    }
}

/// Ethernet, IPv4 and TCP headers.
fn template(packets: Packets) -> [u8; 54] {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let mut bytes = [0; 54];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let length = (LENGTH - 14) as u8;
    bytes[14..30].copy_from_slice(&[0x45, 0, 0, length, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 100, 0, 0]);
    bytes[30..34].copy_from_slice(&asked(packets).octets());
    bytes[36..38].copy_from_slice(&PORTS.0.to_be_bytes());
    let flags = if packets == Packets::New { SYN } else { ACK };
    bytes[38..54].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0x12, 0x34, 0, 0]);
    bytes
}
