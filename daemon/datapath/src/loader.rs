//! From the embedded object to loaded programs, with the maps of an earlier daemon where there are any.

use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockAddr, ProgramError, ProgramType, SchedClassifier, Xdp};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use fairlead_abi::{Net4, Net6, Node, Shape, map};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::time::{ClockId, clock_getres, clock_gettime};

use crate::config::Config;
use crate::error::DatapathError;
use crate::flows;
use crate::netns_cookie;

/// The BPF object; empty in a build without the BPF tool chain.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// Where everything of one BPF file system is pinned.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    /// Links.
    pub(crate) links: PathBuf,
    /// Maps.
    pub(crate) maps: PathBuf,
}

/// The folder of all versions.
pub(crate) fn pin_root(bpffs: &Path) -> PathBuf {
    bpffs.join("fairlead")
}

fn version_dir() -> String {
    format!("v{}", fairlead_abi::VERSION)
}

impl Pins {
    fn create(bpffs: &Path) -> Result<Self, DatapathError> {
        let dir = pin_root(bpffs).join(version_dir());
        let pins = Self { links: dir.join("links"), maps: dir.join("maps") };
        for path in [&pins.links, &pins.maps] {
            fs::create_dir_all(path).map_err(|source| DatapathError::Io {
                action: "create the folder for pins",
                path: path.clone(),
                source,
            })?;
        }
        Ok(pins)
    }
}

/// Loads all programs, which then use the maps pinned under `config.bpffs`; those missing are made and pinned. The
/// programs for buffers of many parts are loaded where an uplink needs them: see [`ready_xdp`].
pub(crate) fn load(config: &Config) -> Result<(Ebpf, Pins), DatapathError> {
    if OBJECT.is_empty() {
        return Err(DatapathError::NotBuilt);
    }
    // Kernels before 5.11 count maps against this limit; later ones do not look.
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        libc::RLIM_INFINITY,
        libc::RLIM_INFINITY,
    );
    let pins = Pins::create(&config.bpffs)?;
    let mut ebpf = object(config, &pins)?;
    flows::shape(&pins.maps)?;
    for name in XDP {
        ready_xdp(&mut ebpf, name)?;
    }
    for name in TC {
        program::<SchedClassifier>(&mut ebpf, name)?.load().map_err(refused(name))?;
    }
    for name in SOCKET {
        program::<CgroupSockAddr>(&mut ebpf, name)?.load().map_err(refused(name))?;
    }
    Ok((ebpf, pins))
}

/// The object with its maps, and no program loaded yet.
pub(crate) fn object(config: &Config, pins: &Pins) -> Result<Ebpf, DatapathError> {
    let node = node(config)?;
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins.maps).override_global("NODE", &node, true);
    for (name, entries) in sizes(config) {
        loader.map_max_entries(name, entries);
    }
    loader.load(OBJECT).map_err(|source| DatapathError::Object(Box::new(source)))
}

/// Entries of the maps whose size is configured.
fn sizes(config: &Config) -> [(&'static str, u32); 14] {
    [
        (map::SERVICES4, config.services),
        (map::SERVICES6, config.services),
        (map::GROUPS, config.services),
        (map::TURNS, config.services.saturating_mul(2)),
        (map::RANGES, config.services),
        (map::BACKENDS, config.backends),
        (map::MEMBERS, config.backends),
        (map::SLOTS, config.slots),
        (map::FLOWS4, Shape::buckets(config.flows)),
        (map::FLOWS6, Shape::buckets(config.flows)),
        (map::SOCKETS, Shape::buckets(config.flows)),
        (map::AFFINITY, config.flows),
        (map::NETNS, PODS_MAX),
        (map::FRAGMENTS, FRAGMENTS_MAX),
    ]
}

/// Packets in fragments whose first was seen, at any moment.
const FRAGMENTS_MAX: u32 = 16_384;
/// More pods than a node has.
const PODS_MAX: u32 = 4096;

/// XDP programs of the object: for interfaces with hardware, and for virtual ones.
pub(crate) const XDP: [&str; 2] = ["xdp_service", "xdp_service_veth"];
/// The same for packets in buffers of many parts (since Linux 5.18).
pub(crate) const XDP_FRAGS: [&str; 2] = ["xdp_service_frags", "xdp_service_veth_frags"];
/// tc programs of the object. The last two are never attached.
pub(crate) const TC: [&str; 7] =
    ["tc_uplink_in", "tc_uplink_out", "tc_from_pod", "tc_to_pod", "tc_fragment_back", "explain_uplink", "explain_pod"];
/// Socket hooks of the object.
pub(crate) const SOCKET: [&str; 8] = [
    "sock_connect4",
    "sock_sendmsg4",
    "sock_recvmsg4",
    "sock_getpeername4",
    "sock_connect6",
    "sock_sendmsg6",
    "sock_recvmsg6",
    "sock_getpeername6",
];

/// Lines of the verifier's log that an error shows.
const VERIFIER_LINES: usize = 30;

fn refused(program: &'static str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| match source {
        // The whole of it may be megabytes.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!(program, log, "the verifier refused a program");
            let lines: Vec<&str> = log.lines().collect();
            let log = lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n");
            DatapathError::Refused { program, log, source: io_error }
        }
        source => DatapathError::Program { program, source: Box::new(source) },
    }
}

/// A program of the object by name.
pub(crate) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(DatapathError::NotBuilt)?;
    <&mut P>::try_from(program).map_err(refused(name))
}

/// An XDP program, loaded.
pub(crate) fn ready_xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DatapathError> {
    let program: &mut Xdp = program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(refused(name))?;
    }
    Ok(program)
}

/// Programs that are loaded: the instructions the kernel holds of each, and those that the verifier went through (since
/// Linux 5.16).
pub(crate) fn instructions(ebpf: &Ebpf) -> Vec<(&'static str, u32, Option<u32>)> {
    const INSTRUCTION: u32 = 8;
    let names = XDP.iter().chain(&XDP_FRAGS).chain(&TC).chain(&SOCKET);
    let of = |name: &&'static str| {
        let info = ebpf.program(name)?.info().ok()?;
        Some((*name, info.size_translated().unwrap_or(0) / INSTRUCTION, info.verified_instruction_count()))
    };
    names.filter_map(of).collect()
}

/// Whether socket hooks can say why they refuse.
pub(crate) fn has_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

/// Constants of the node, from configuration and kernel.
fn node(config: &Config) -> Result<Node, DatapathError> {
    let (ephemeral_first, ephemeral_last) = ephemeral();
    let mut node = Node {
        netns_cookie: netns_cookie(None)?,
        tick_shift: tick_shift(),
        has_retval: has_retval().into(),
        masquerade: config.masquerade.into(),
        redirect: config.redirect.into(),
        ephemeral_first,
        ephemeral_last,
        decapsulate: 1,
        ..Node::ZERO
    };
    for net in &config.cluster_cidrs {
        match net {
            IpNet::V4(net) if node.cluster4.mask == 0 => node.cluster4 = network4(*net),
            IpNet::V6(net) if node.cluster6.mask == [0; 2] => node.cluster6 = network6(*net),
            _ => {
                let all: Vec<String> = config.cluster_cidrs.iter().map(ToString::to_string).collect();
                return Err(DatapathError::Unsupported(format!(
                    "one cluster network per family; {} were given",
                    all.join(", ")
                )));
            }
        }
    }
    for net in &config.non_masquerade {
        match net {
            IpNet::V4(net) => *next(&mut node.near4, &mut node.near4_len)? = network4(*net),
            IpNet::V6(net) => *next(&mut node.near6, &mut node.near6_len)? = network6(*net),
        }
    }
    Ok(node)
}

/// The next free place of an array of the node.
fn next<'a, T>(places: &'a mut [T], len: &mut u32) -> Result<&'a mut T, DatapathError> {
    let most = places.len();
    let place = places.get_mut(*len as usize).ok_or_else(|| {
        DatapathError::Unsupported(format!("at most {most} networks without masquerade per family; more were given"))
    })?;
    *len += 1;
    Ok(place)
}

fn network4(net: Ipv4Net) -> Net4 {
    Net4 { addr: u32::from_ne_bytes(net.network().octets()), mask: u32::from_ne_bytes(net.netmask().octets()) }
}

fn network6(net: Ipv6Net) -> Net6 {
    let words = |addr: Ipv6Addr| {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.octets();
        [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
    };
    Net6 { addr: words(net.network()), mask: words(net.netmask()) }
}

/// First and last port of the host's own sockets. The kernel's default where it cannot be read.
fn ephemeral() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) => (first, last),
        _ => (32_768, 60_999),
    }
}

/// Jiffies per second. The coarse clock ticks once per jiffy.
fn hertz() -> i64 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(4_000_000, |time| time.tv_nsec().max(1));
    (1_000_000_000 / resolution).clamp(1, 10_000)
}

/// By how many bits a count of jiffies is shifted to count in about seconds.
fn tick_shift() -> u32 {
    (hertz() as f64).log2().round() as u32
}

/// What the programs' clock shows, give or take a few seconds: user space has no jiffies. The kernel starts their count
/// five minutes before 32 bits of it run out.
pub(crate) fn ticks() -> u32 {
    let hertz = hertz();
    let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |time| time.tv_sec());
    let jiffies = (1i64 << 32) + (uptime - 300) * hertz;
    (jiffies >> tick_shift()) as u32
}

/// Takes over the links of other versions of the ABI: their programs are replaced in place where ours are attached, so
/// that there is no moment in which none runs. Flows of those versions are lost with their tables.
pub(crate) fn inherit_links(bpffs: &Path, pins: &Pins) {
    let versions = fs::read_dir(pin_root(bpffs)).into_iter().flatten().flatten();
    for version in versions.filter(|entry| entry.file_name() != version_dir().as_str()) {
        for link in fs::read_dir(version.path().join("links")).into_iter().flatten().flatten() {
            let to = pins.links.join(link.file_name());
            if !to.exists() {
                // What cannot be moved is detached with its version, and attached anew.
                let _ = fs::rename(link.path(), to);
            }
        }
    }
}

/// Removes the pins of other versions of the ABI, whose programs ours have replaced.
pub(crate) fn forget_other_versions(bpffs: &Path) -> Result<(), DatapathError> {
    let root = pin_root(bpffs);
    let entries = fs::read_dir(&root).map_err(|source| DatapathError::Io {
        action: "list the pins in",
        path: root.clone(),
        source,
    })?;
    for entry in entries.flatten().filter(|entry| entry.file_name() != version_dir().as_str()) {
        fs::remove_dir_all(entry.path()).map_err(|source| DatapathError::Io {
            action: "remove the pins of another version in",
            path: entry.path(),
            source,
        })?;
    }
    Ok(())
}
