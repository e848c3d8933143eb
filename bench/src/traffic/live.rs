//! Frames that the kernel makes and sends through real interfaces (BPF_F_TEST_XDP_LIVE_FRAMES): what a packet costs
//! behind a driver that hands it to XDP.
//!
//! ```text
//!  injector ──► xa ═══ xb ──► (under test) ──► xc ═══ xd ──► counted, dropped
//! ```
//!
//! One core does all of it. Making a frame costs more than handling it, so what counts is the time above `injector`,
//! which makes frames and drops them at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Array, DevMap, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, XdpMode};
use fairlead_datapath::{Config, Datapath, PodInterface, UplinkMode};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::figure;
use crate::cost::fill_one;
use crate::options::{Options, Peer};
use crate::peers::services::Spec;
use crate::programs;
use crate::results::{Better, Cell};
use crate::rig::namespace::{Inhabitant, Namespace};
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

const INJECTOR: &str = "injector";
const REDIRECT: &str = "redirect";
const FORWARD: &str = "kernel-forward";
const MINIMAL: &str = "minimal";

/// Frames per call, and per run of the injector within it.
const REPEAT: u32 = 1 << 15;
const BATCH: u32 = 64;
const FRAME: usize = 60;
/// Flows, less one.
const FLOWS: u32 = (1 << 14) - 1;

const MACS: [[u8; 6]; 4] = [[2, 0, 0, 0, 0, 10], [2, 0, 0, 0, 0, 11], [2, 0, 0, 0, 0, 12], [2, 0, 0, 0, 0, 13]];
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 1);
const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_053;

/// Live frames.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// One per cell: what is attached stays so.
    lanes: Vec<(Cell, Lane)>,
}

/// Two pairs of interfaces, what is between them, and the pod at the end of the second.
#[derive(Debug)]
struct Lane {
    ebpf: Ebpf,
    injector: &'static str,
    /// Ours, detached before the interfaces go.
    _datapath: Option<Datapath>,
    net: Namespace,
    _pod: (Namespace, Inhabitant),
}

impl Lane {
    fn new(stage: &Stage, cell: &Cell) -> Result<Self> {
        let (net, pod) = (Namespace::new()?, Namespace::new()?);
        let inhabitant = pod.inhabit()?;
        net.sysctl("ipv4/ip_forward", "1")?;
        net.sysctl("ipv4/conf/all/rp_filter", "0")?;
        net.sysctl("ipv4/conf/default/rp_filter", "0")?;
        net.connect("xa", &net, "xb")?;
        net.connect("xc", &pod, "xd")?;
        for ((place, interface), mac) in [(&net, "xa"), (&net, "xb"), (&net, "xc"), (&pod, "xd")].into_iter().zip(MACS)
        {
            place.hardware(interface, mac)?;
        }
        net.address("xb", UPLINK, 24)?;
        net.address("xc", GATEWAY, 24)?;
        net.neighbour("xc", ENDPOINT, MACS[3])?;
        net.neighbour("xb", CLIENT, MACS[0])?;
        let middle = match cell.peer.as_str() {
            REDIRECT => Some("arrive_redirect"),
            FORWARD => Some("arrive_pass"),
            MINIMAL => Some("arrive_minimal"),
            INJECTOR => Some("arrive_end"),
            _ => None,
        };
        let is_balanced = middle.is_none_or(|program| program == "arrive_minimal");
        let to = if is_balanced { (UPLINK, NODE_PORT) } else { (ENDPOINT, PORT) };
        let (ebpf, datapath) = net.run(|| {
            // Of our flows, each has two entries.
            let mut ebpf = programs::open_with(&[("MINIMAL_FLOWS", 2 * (FLOWS + 1))])?;
            fill(&mut ebpf, to)?;
            fill_one(&mut ebpf, SocketAddrV4::new(UPLINK, NODE_PORT), SocketAddrV4::new(ENDPOINT, PORT))?;
            // Both ends must be ready for frames that are not socket buffers.
            let mut attach = |interface: &str, program| {
                let xdp = programs::xdp(&mut ebpf, program)?;
                xdp.attach(interface, XdpMode::Driver)
                    .map(drop)
                    .with_context(|| format!("{interface} takes no native XDP program"))
            };
            attach("xa", "arrive_end")?;
            pod.run(|| attach("xd", "arrive_end"))?;
            middle.map_or(Ok(()), |middle| attach("xb", middle))?;
            for name in ["inject_nowhere", "inject_out"] {
                programs::xdp(&mut ebpf, name)?;
            }
            let datapath = match cell.services {
                Some(services) => Some(ours(stage, Spec { services, endpoints: cell.endpoints.unwrap_or(1) })?),
                None => None,
            };
            Ok((ebpf, datapath))
        })?;
        let injector = if cell.peer == INJECTOR { "inject_nowhere" } else { "inject_out" };
        let mut lane = Self { ebpf, injector, _datapath: datapath, net, _pod: (pod, inhabitant) };
        lane.run(stage.core, Duration::from_millis(1))?;
        Ok(lane)
    }

    /// Nanoseconds per frame that came to its end, and frames that did not.
    fn run(&mut self, core: usize, time: Duration) -> Result<Sample> {
        let Self { ebpf, injector, net, .. } = self;
        let (made, ended, took) = net.run(|| {
            let mut cores = CpuSet::new();
            cores.set(core)?;
            sched_setaffinity(Pid::from_raw(0), &cores)?;
            let packet = [0; FRAME];
            let before = counts(ebpf)?;
            let start = Instant::now();
            while start.elapsed() < time {
                let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                let options =
                    TestRunOptions { data_in: Some(&packet), repeat: REPEAT, attrs, ..TestRunOptions::default() };
                programs::xdp(ebpf, injector)?
                    .test_run(options)
                    .context("the kernel does not inject live frames (BPF_F_TEST_XDP_LIVE_FRAMES, since Linux 5.18)")?;
            }
            let took = start.elapsed();
            let after = counts(ebpf)?;
            Ok((after[0] - before[0], after[1] - before[1], took))
        })?;
        if ended * 2 < made {
            bail!("of {made} frames {ended} arrived");
        }
        Ok(Sample { failures: made.saturating_sub(ended), ..Sample::from(took.as_nanos() as f64 / ended as f64) })
    }
}

/// Writes what the injector makes frames from.
fn fill(ebpf: &mut Ebpf, (address, port): (Ipv4Addr, u16)) -> Result<()> {
    let map = |name: &'static str| move || format!("the BPF object has no map {name}");
    let mut frame = [0u8; 42];
    frame[..6].copy_from_slice(&MACS[1]);
    frame[6..12].copy_from_slice(&MACS[0]);
    frame[12] = 8;
    frame[14..24].copy_from_slice(&[0x45, 0, 0, (FRAME - 14) as u8, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&CLIENT.octets());
    frame[30..34].copy_from_slice(&address.octets());
    let sum: u32 = frame[14..34].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&((FRAME - 34) as u16).to_be_bytes());
    let mut template: Array<_, [u8; 42]> = ebpf.map_mut("TEMPLATE").with_context(map("TEMPLATE"))?.try_into()?;
    template.set(0, frame, 0)?;
    let mut flows: Array<_, u32> = ebpf.map_mut("FLOWS").with_context(map("FLOWS"))?.try_into()?;
    flows.set(0, FLOWS, 0)?;
    let mut devices: DevMap<_> = ebpf.map_mut("DEVICES").with_context(map("DEVICES"))?.try_into()?;
    for (place, interface) in [(0, "xa"), (1, "xc")] {
        devices.set(place, if_nametoindex(interface)?, None, 0)?;
    }
    Ok(())
}

/// Frames made, and frames that came to their end.
fn counts(ebpf: &Ebpf) -> Result<[u64; 2]> {
    let map = ebpf.map("COUNTS").context("the BPF object has no map COUNTS")?;
    let counts: PerCpuArray<_, u64> = map.try_into()?;
    Ok([counts.get(&0, 0)?.iter().sum(), counts.get(&1, 0)?.iter().sum()])
}

/// Our data path, with the endpoint behind `xc` and `xb` as its uplink.
fn ours(stage: &Stage, spec: Spec) -> Result<Datapath> {
    let place = stage.place(&format!("live-{}", spec.services))?;
    let config = Config { redirect: true, flows: 4 * (FLOWS + 1), ..Config::new(&place.bpffs, &place.cgroup) };
    let mut datapath = Datapath::open(config)?;
    let uplink = datapath.attach_uplink("xb")?;
    if uplink.mode != UplinkMode::Native {
        bail!("our program is not attached natively: {} {}", uplink.mode, uplink.reason);
    }
    datapath.retain_pods(&[PodInterface {
        name: "xc".into(),
        ifindex: if_nametoindex("xc")?,
        addresses: vec![IpAddr::V4(ENDPOINT)],
        mac: MACS[3],
        netns_cookie: 0,
    }])?;
    let mut services = spec.all();
    // The last one's NodePorts are for other workloads.
    services.pop();
    services.push(Service {
        name: ServiceName { namespace: "bench".into(), name: "live".into() },
        cluster_ips: vec![IpAddr::V4(spec.vip())],
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Udp,
            port: PORT,
            node_port: Some(NODE_PORT),
            endpoints: vec![Endpoint::local((ENDPOINT, PORT).into())],
        }],
        ..Service::default()
    });
    let report = datapath.sync_all(services)?;
    if let Some((name, reason)) = report.rejected.first() {
        bail!("{name} was refused: {reason}");
    }
    Ok(datapath)
}

impl Workload for Live {
    fn name(&self) -> &'static str {
        "xdp-forward"
    }

    fn title(&self) -> &'static str {
        "XDP to a second interface, live frames, above the injector's own time"
    }

    fn figures(&self) -> &'static [Figure] {
        const FIGURES: [Figure; 1] = [figure("", "ns", Better::Lower)];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        let ours = options.peers.contains(&Peer::FairleadXdp);
        let with = |services| Cell::with_services(Peer::FairleadXdp.name(), services, options.endpoints);
        let ours = options.services().into_iter().filter(|_| ours).map(with);
        let (reference, baseline) = (Some(Cell::bare(FORWARD)), Some(Cell::bare(INJECTOR)));
        let held = |cell| Case { cell, reference: reference.clone(), baseline: baseline.clone() };
        let mut cases = vec![Case { cell: Cell::bare(INJECTOR), reference: None, baseline: None }];
        cases.extend([REDIRECT, MINIMAL, FORWARD].map(|name| held(Cell::bare(name))));
        cases.extend(ours.map(held));
        cases
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let lane = Lane::new(stage, cell)?;
        self.lanes.push((cell.clone(), lane));
        Ok(())
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let lane = self.lanes.iter_mut().find(|(of, _)| of == cell);
        lane.map(|(_, lane)| lane).context("it was not prepared")?.run(stage.core, time)
    }
}
