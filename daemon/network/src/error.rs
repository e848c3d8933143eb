//! What can go wrong with a pod's network.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// Errors of this crate. Each names the object and what was attempted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The kernel refused a netlink request.
    #[error("the kernel refused to {attempt}")]
    Netlink {
        /// What was asked, with names.
        attempt: String,
        /// Its answer.
        source: Box<rtnetlink::Error>,
    },
    /// Netlink cannot be reached at all.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// A namespace cannot be entered.
    #[error("cannot enter the network namespace {path} (has its sandbox ended?)")]
    Namespace {
        /// Path of the namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread for work inside a namespace could not be had or failed.
    #[error("the thread that works in a network namespace ended early")]
    Thread,
    /// A sysctl could not be read or written.
    #[error("cannot set {path} to `{value}`")]
    Sysctl {
        /// Below `/proc/sys`.
        path: PathBuf,
        /// Wanted value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A state file could not be read or written.
    #[error("cannot keep network state in {path}")]
    State {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pod CIDR is used up.
    #[error("no free pod address in {cidr}: all {used} are in use")]
    Exhausted {
        /// The node's pod addresses.
        cidr: Ipv4Net,
        /// How many are taken.
        used: usize,
    },
    /// Asked about a sandbox that has no interface of ours.
    #[error("sandbox {container} has no interface {ifname} here")]
    Unknown {
        /// The sandbox.
        container: String,
        /// The interface in it.
        ifname: String,
    },
    /// An interface that should be there is not.
    #[error("interface {interface} of pod {pod} ({address}) does not exist")]
    Missing {
        /// Name on the host.
        interface: String,
        /// Namespace and name.
        pod: String,
        /// The pod's address.
        address: Ipv4Addr,
    },
    /// An uplink that does not exist.
    #[error("uplink {0} does not exist (`ip link` lists the interfaces there are)")]
    NoUplink(String),
    /// Another instance owns the addresses.
    #[error(
        "pod addresses {0} are already routed on this machine, perhaps by another cluster: choose others with --cluster-cidr"
    )]
    CidrInUse(Ipv4Net),
    /// An earlier panic left the state in doubt.
    #[error("the address table is in doubt after a panic: restart the daemon")]
    Poisoned,
}
