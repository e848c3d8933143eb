//! What our hook adds to a call of `connect`: a UDP socket connects again and again, and no packet is sent.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use super::bed::{Bed, PORTS, SOCKETS_TO, VIP};
use crate::options::Options;
use crate::results::{Better, Cell};
use crate::stage::{Place, Stage};
use crate::workload::{Case, Figure, Sample, Workload};

/// Calls of one measurement.
const CALLS: u32 = 2000;
/// Sockets, not flows, fill tables here.
const FLOWS: u32 = 1 << 16;

/// What is attached, and who is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    cell: &'static str,
    hook: Hook,
    /// A service, or else its endpoint itself.
    is_service: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hook {
    None,
    Empty,
    Minimal,
    Ours,
}

const WAYS: [Way; 6] = [
    Way { cell: "none", hook: Hook::None, is_service: false },
    Way { cell: "empty", hook: Hook::Empty, is_service: false },
    Way { cell: "minimal", hook: Hook::Minimal, is_service: true },
    Way { cell: "minimal, no service", hook: Hook::Minimal, is_service: false },
    Way { cell: "fairlead", hook: Hook::Ours, is_service: true },
    Way { cell: "fairlead, no service", hook: Hook::Ours, is_service: false },
];

/// The cost of a call with each hook.
#[derive(Debug, Default)]
pub(crate) struct ConnectHook {
    /// What was made, or why it was not.
    ground: Option<Result<Ground, String>>,
}

/// The hooks, each in a cgroup of its own.
#[derive(Debug)]
struct Ground {
    bed: Bed,
    /// For no program, the empty one and the minimal one.
    places: [Place; 3],
}

impl Workload for ConnectHook {
    fn name(&self) -> &'static str {
        "connect-hook"
    }

    fn title(&self) -> &'static str {
        "Added to a call of connect"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 1] = [Figure { name: "", unit: "ns", better: Better::Lower }];
        &FIGURES
    }

    fn cases(&self, _options: &Options) -> Vec<Case> {
        let case = |way: &Way| {
            let reference = match way.cell {
                "fairlead" => Some(Cell::bare("minimal")),
                "fairlead, no service" => Some(Cell::bare("minimal, no service")),
                _ => None,
            };
            let baseline = (way.hook != Hook::None).then(|| Cell::bare("none"));
            Case { cell: Cell::bare(way.cell), reference, baseline }
        };
        WAYS.iter().map(case).collect()
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let made = self.ground.get_or_insert_with(|| Ground::new(stage).map_err(|error| format!("{error:#}")));
        let ground = made.as_ref().map_err(|reason| anyhow!(reason.clone()))?;
        let way = find(cell)?;
        // The hook is there, and does what is measured.
        let reached = ground.inside(way, stage.core, || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(target(way))?;
            Ok(socket.peer_addr()?)
        })?;
        // Ours shows whom the socket asked for.
        let shown = if way.is_service && way.hook == Hook::Ours { (VIP, PORTS.1) } else { SOCKETS_TO };
        ensure!(reached == shown.into(), "a socket with the hook `{}` reached {reached}", way.cell);
        Ok(())
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let way = find(cell)?;
        let ground = self.ground.as_ref().and_then(|made| made.as_ref().ok()).context("nothing was prepared")?;
        let cost = ground.inside(way, stage.core, || calls(way, time))?;
        Ok(cost.into())
    }
}

fn find(cell: &Cell) -> Result<Way> {
    WAYS.into_iter().find(|way| way.cell == cell.peer).context("no such hook")
}

fn target(way: Way) -> (Ipv4Addr, u16) {
    if way.is_service { (VIP, PORTS.1) } else { SOCKETS_TO }
}

/// Nanoseconds per call: the mean of the faster half, for nothing makes a call faster than it is.
fn calls(way: Way, time: Duration) -> Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = SocketAddr::from(target(way));
    let start = Instant::now();
    let mut costs = Vec::new();
    while start.elapsed() < time || costs.len() < 4 {
        let began = Instant::now();
        for _ in 0..CALLS {
            socket.connect(to)?;
        }
        costs.push(began.elapsed().as_nanos());
    }
    costs.sort_unstable();
    let half = &costs[..costs.len().div_ceil(2)];
    Ok(half.iter().sum::<u128>() as f64 / half.len() as f64 / f64::from(CALLS))
}

impl Ground {
    fn new(stage: &mut Stage) -> Result<Self> {
        let mut bed = Bed::new(stage, "connect", FLOWS)?;
        let places = [stage.place("connect-none")?, stage.place("connect-empty")?, stage.place("connect-minimal")?];
        for (place, name) in places.iter().skip(1).zip(["empty_connect4", "minimal_connect4"]) {
            let program = bed.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load().with_context(|| format!("the kernel refused the BPF program `{name}`"))?;
            let cgroup = fs::File::open(&place.cgroup)?;
            program.attach(cgroup, CgroupAttachMode::Single).with_context(|| format!("cannot attach `{name}`"))?;
        }
        Ok(Self { bed, places })
    }

    /// Does something in the cgroup of a hook.
    fn inside<T: Send>(&self, way: Way, core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let cgroup = match way.hook {
            Hook::None => &self.places[0].cgroup,
            Hook::Empty => &self.places[1].cgroup,
            Hook::Minimal => &self.places[2].cgroup,
            Hook::Ours => &self.bed.cgroup,
        };
        let _visit = Visit::new(cgroup)?;
        super::on(core, || self.bed.net.run(work))
    }
}

/// This process in another cgroup, until the value is gone. Sockets have their hooks from where they were made.
#[derive(Debug)]
struct Visit {
    home: PathBuf,
}

impl Visit {
    fn new(cgroup: &Path) -> Result<Self> {
        // The place is two levels below the root of the run's own mount.
        let root = cgroup.ancestors().nth(2).context("a cgroup without parents")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2 in /proc/self/cgroup")?;
        let home = root.join(own.trim_start_matches('/'));
        enter(cgroup)?;
        Ok(Self { home })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.home) {
            eprintln!("{error:#}");
        }
    }
}

fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))
}
