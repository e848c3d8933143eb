//! From the embedded object to loaded programs, with the maps of an earlier daemon where there are any.

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockAddr, ProgramType, SchedClassifier, Xdp};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use fairlead_abi::{NON_MASQUERADE_MAX, Node, map};
use ipnet::Ipv4Net;
use nix::time::{ClockId, clock_getres};

use crate::config::Config;
use crate::error::DatapathError;
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

/// Loads all programs, which then use the maps pinned under `config.bpffs`; those missing are made and pinned.
pub(crate) fn load(config: &Config) -> Result<(Ebpf, Pins), DatapathError> {
    if OBJECT.is_empty() {
        return Err(DatapathError::NotBuilt);
    }
    let node = node(config)?;
    // Kernels before 5.11 count maps against this limit; later ones do not look.
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        libc::RLIM_INFINITY,
        libc::RLIM_INFINITY,
    );
    let pins = Pins::create(&config.bpffs)?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(&pins.maps)
        .map_max_entries(map::SERVICES, config.services)
        .map_max_entries(map::GROUPS, config.services)
        .map_max_entries(map::TURNS, config.services)
        .map_max_entries(map::BACKENDS, config.backends)
        .map_max_entries(map::SLOTS, config.slots)
        .map_max_entries(map::FLOWS, config.flows)
        .map_max_entries(map::SOCKETS, config.flows)
        .override_global("NODE", &node, true)
        .load(OBJECT)
        .map_err(|source| DatapathError::Object(Box::new(source)))?;
    for name in XDP {
        program::<Xdp>(&mut ebpf, name)?.load().map_err(refused(name))?;
    }
    for name in TC {
        program::<SchedClassifier>(&mut ebpf, name)?.load().map_err(refused(name))?;
    }
    for name in SOCKET {
        program::<CgroupSockAddr>(&mut ebpf, name)?.load().map_err(refused(name))?;
    }
    Ok((ebpf, pins))
}

/// XDP programs of the object: for interfaces with hardware, and for virtual ones.
pub(crate) const XDP: [&str; 2] = ["xdp_service", "xdp_service_veth"];
/// tc programs of the object.
pub(crate) const TC: [&str; 4] = ["tc_uplink_in", "tc_uplink_out", "tc_from_pod", "tc_to_pod"];
/// Socket hooks of the object.
pub(crate) const SOCKET: [&str; 4] = ["sock_connect4", "sock_sendmsg4", "sock_recvmsg4", "sock_getpeername4"];

fn refused(program: &'static str) -> impl Fn(aya::programs::ProgramError) -> DatapathError {
    move |source| DatapathError::Program { program, source: Box::new(source) }
}

/// A program of the object by name.
pub(crate) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(DatapathError::NotBuilt)?;
    <&mut P>::try_from(program).map_err(refused(name))
}

/// Whether socket hooks can say why they refuse.
pub(crate) fn has_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

/// Constants of the node, from configuration and kernel.
fn node(config: &Config) -> Result<Node, DatapathError> {
    let mut node = Node {
        netns_cookie: netns_cookie(None)?,
        cluster: network(config.cluster_cidr),
        tick_shift: tick_shift(),
        has_retval: has_retval().into(),
        ..Node::ZERO
    };
    if config.non_masquerade.len() > NON_MASQUERADE_MAX {
        return Err(DatapathError::Unsupported(format!(
            "{} networks without masquerade are given, at most {NON_MASQUERADE_MAX} can be",
            config.non_masquerade.len()
        )));
    }
    for (place, net) in node.non_masquerade.iter_mut().zip(&config.non_masquerade) {
        *place = network(*net);
        node.non_masquerade_len += 1;
    }
    Ok(node)
}

fn network(net: Ipv4Net) -> [u32; 2] {
    [u32::from_ne_bytes(net.network().octets()), u32::from_ne_bytes(net.netmask().octets())]
}

/// By how many bits a count of jiffies is shifted to count in about seconds. The coarse clock ticks once per jiffy.
fn tick_shift() -> u32 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(4_000_000, |time| time.tv_nsec().max(1));
    let hertz = (1_000_000_000 / resolution).clamp(1, 10_000) as f64;
    hertz.log2().round() as u32
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
