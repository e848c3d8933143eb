//! What the data path is told at start, and the shapes its callers hand in and get back.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use fairlead_source::{Dsr, ServiceName};
use ipnet::{IpNet, Ipv4Net};

/// How this node's data path is set up. [`Config::new`] gives the product's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// A mounted BPF file system; pins live under `fairlead/v<ABI>` in it.
    pub bpffs: PathBuf,
    /// A cgroup v2 directory: the sockets of every process below it go through the hooks.
    pub cgroup: PathBuf,
    /// Addresses on which NodePorts answer, besides those of the uplinks.
    pub node_addresses: Vec<IpAddr>,
    /// NodePorts answer only on addresses in one of these networks; empty: on all of the node's.
    pub node_port_networks: Vec<IpNet>,
    /// NodePorts answer processes of this node on 127.0.0.1 and ::1, too.
    pub node_port_loopback: bool,
    /// Services answer on their `externalIPs`. Whoever may create a Service may then take any address over
    /// (CVE-2020-8554).
    pub external_ips: bool,
    /// Where pods of the whole cluster live, at most one network per family. What leaves it by an uplink is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade pods that leave the cluster.
    pub masquerade: bool,
    /// Destinations outside the cluster that pods reach under their own address; at most
    /// [`fairlead_abi::NON_MASQUERADE_MAX`] per family.
    pub non_masquerade: Vec<IpNet>,
    /// Addresses to translate sources to, besides each uplink's first: each adds 64,512 flows per destination.
    pub source_addresses: Vec<IpAddr>,
    /// Direct server return, where a Service does not say.
    pub dsr: Dsr,
    /// Redirect packets between uplinks and pods' interfaces, past the host's stack and its netfilter rules.
    pub redirect: bool,
    /// How packets of uplinks are to reach the programs; `None`: in the best way that costs nothing, native XDP or tc.
    /// One that an interface does not take gives way to tc.
    pub uplink_mode: Option<UplinkMode>,
    /// How long connections of a removed endpoint go on before they are reset.
    pub drain: Duration,
    /// Capacity of the tables of services (a Service takes one entry per address and port), per family.
    pub services: u32,
    /// Capacity of the table of endpoints.
    pub backends: u32,
    /// Capacity of the slots, eight bytes each: a service takes one per endpoint, and a Maglev ring if it is reachable
    /// from outside (8,171 slots up to 12 endpoints, 65,519 up to 256, 262,139 above; 251 or as few as will do as soon as less than
    /// half of all are free).
    pub slots: u32,
    /// Capacity of the tables of flows, per family; a translated connection takes two entries.
    pub flows: u32,
}

impl Config {
    /// The defaults, for a BPF file system and a cgroup v2 directory that are there.
    pub fn new(bpffs: impl Into<PathBuf>, cgroup: impl Into<PathBuf>) -> Self {
        Self {
            bpffs: bpffs.into(),
            cgroup: cgroup.into(),
            node_addresses: Vec::new(),
            node_port_networks: Vec::new(),
            node_port_loopback: false,
            external_ips: false,
            cluster_cidrs: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16))],
            masquerade: true,
            non_masquerade: Vec::new(),
            source_addresses: Vec::new(),
            dsr: Dsr::Off,
            redirect: false,
            uplink_mode: None,
            drain: Duration::from_secs(30),
            services: 65_536,
            backends: 131_072,
            slots: 1 << 23,
            flows: 262_144,
        }
    }
}

/// The host's end of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Name of the host-side interface; also names the pins.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// The pod's addresses; empty where they are not known.
    pub addresses: Vec<IpAddr>,
    /// Hardware address of the pod's own end; zero where it is not known.
    pub mac: [u8; 6],
    /// See [`crate::netns_cookie`]; 0 where the kernel has none (before 5.14), or the namespace is not known.
    pub netns_cookie: u64,
}

/// How packets of an uplink reach the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMode {
    /// XDP in the driver, with tc for what XDP leaves to it.
    Native,
    /// XDP on socket buffers, likewise.
    Generic,
    /// tc alone.
    Tc,
}

impl std::fmt::Display for UplinkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native XDP",
            Self::Generic => "generic XDP",
            Self::Tc => "tc",
        })
    }
}

/// An attached uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Its addresses, the first of each family being the one pods are masqueraded behind. Without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// How packets arrive.
    pub mode: UplinkMode,
    /// Why not better.
    pub reason: String,
}

/// What a synchronisation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Map writes performed.
    pub steps: usize,
    /// System calls that took; arrays shared with the kernel are written without any.
    pub system_calls: usize,
    /// Services refused alone, with the reason; the rest is in force.
    pub rejected: Vec<(ServiceName, String)>,
}

/// A kernel feature looked for at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub name: &'static str,
    /// What came out.
    pub state: FindingState,
    /// One sentence for the operator: what it means and the cure.
    pub detail: String,
}

/// Outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingState {
    /// It is there.
    Present,
    /// It is missing, and a fallback is used.
    Fallback,
    /// It is missing, and the data path cannot run.
    Missing,
}
