//! What the BPF programs and user space agree on: keys, values, names, limits and verdict counters.
//!
//! Everything here is plain data of fixed layout, asserted at compile time. Addresses and ports are byte arrays as they
//! stand in the packet; IPv4 and IPv6 have tables of their own where the key holds an address, so that an IPv4 entry
//! stays small. A change of any layout raises [`VERSION`], which is part of the pin path, so that a daemon never reads
//! the maps of another layout.
#![no_std]

mod backend;
mod bucket;
mod client;
mod counter;
mod flow;
mod node;
mod service;
mod trace;

pub use backend::{Backend, MemberKey};
pub use bucket::{Bucket, Entry, FLOW_LOCKS, PLACES, SEEDS, SOCKET_LOCKS, Shape};
pub use client::{
    AffinityKey, AffinityValue, Bypass, FragmentKey, FragmentValue, HELD_MAC, INTERFACES, LOST_MAC, Pod, RangeKey,
    SocketBucket, SocketKey, SocketValue,
};
pub use counter::Counter;
pub use flow::{FlowBucket, FlowFlags, FlowKey, FlowValue};
pub use node::{Net4, Net6, Node, SourcePool};
pub use service::{Group, Range, ServiceKey, ServiceValue};
pub use trace::{Trace, TraceSteps};

/// Version of all layouts here; a part of the pin path.
pub const VERSION: u32 = 4;

/// An IPv4 address as it stands in the packet.
pub type V4 = [u8; 4];

/// An IPv6 address as it stands in the packet.
pub type V6 = [u8; 16];

/// The IPv4 address in the form in which tables of both families hold it: `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
pub const fn mapped(addr: V4) -> V6 {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, addr[0], addr[1], addr[2], addr[3]]
}

/// Most destinations, per family, that pods reach under their own address.
pub const NON_MASQUERADE_MAX: usize = 8;

/// Most addresses of each family that one uplink's [`SourcePool`] holds.
pub const SOURCES_MAX: usize = 8;

/// The first port given to a flow whose source is translated; ports go up to 65535.
pub const SOURCE_PORT_FIRST: u16 = 1024;

/// Ports tried for one new flow before it is dropped.
pub const SOURCE_PORT_TRIES: u32 = 64;

/// Ticks (see [`Node::tick_shift`]) of silence after which an entry's reply tuple may be given to another flow.
pub mod idle {
    /// After FIN of both sides, or RST.
    pub const CLOSED: u32 = 60;
    /// TCP.
    pub const TCP: u32 = 86_400;
    /// Everything else.
    pub const OTHER: u32 = 180;
    /// What is known of a packet in fragments. Receivers give up sooner; senders use identifications again.
    pub const FRAGMENTS: u32 = 30;
}

/// IP protocol numbers.
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Names of the maps, as pinned. Where there are two of a kind, `4` and `6` name the family.
pub mod map {
    /// Hash: [`crate::ServiceKey`] of IPv4 to [`crate::ServiceValue`].
    pub const SERVICES4: &str = "SERVICES4";
    /// Hash: [`crate::ServiceKey`] of IPv6 to [`crate::ServiceValue`].
    pub const SERVICES6: &str = "SERVICES6";
    /// Mapped array of [`crate::Group`].
    pub const GROUPS: &str = "GROUPS";
    /// Mapped array of backend ids.
    pub const SLOTS: &str = "SLOTS";
    /// Mapped array of [`crate::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Hash: [`crate::MemberKey`] to backend id, for services with direct server return.
    pub const MEMBERS: &str = "MEMBERS";
    /// LPM trie: [`crate::RangeKey`] to 1: who may use a service with source ranges.
    pub const RANGES: &str = "RANGES";
    /// LRU hash: [`crate::AffinityKey`] to [`crate::AffinityValue`].
    pub const AFFINITY: &str = "AFFINITY";
    /// Mapped array of [`crate::FlowBucket`] of IPv4.
    pub const FLOWS4: &str = "FLOWS4";
    /// Mapped array of [`crate::FlowBucket`] of IPv6.
    pub const FLOWS6: &str = "FLOWS6";
    /// One-entry array of [`crate::Shape`].
    pub const SHAPE: &str = "SHAPE";
    /// LRU hash: [`crate::FragmentKey`] to [`crate::FragmentValue`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// One-entry array: index of the interface through which the daemon takes fragments that came before the first of
    /// their packet; 0: none.
    pub const FRAGMENT_TAP: &str = "FRAGMENT_TAP";
    /// Mapped array of [`crate::SocketBucket`].
    pub const SOCKETS: &str = "SOCKETS";
    /// Hash: cookie of a pod's network namespace to its [`crate::Pod`].
    pub const NETNS: &str = "NETNS";
    /// Hash: address of a pod of this node (mapped if IPv4) to its [`crate::Pod`].
    pub const PODS: &str = "PODS";
    /// Hash: interface index of an uplink to its [`crate::SourcePool`].
    pub const UPLINKS: &str = "UPLINKS";
    /// Per-CPU array: turn of a group's round robin; two per group, for `internal` and for `cluster`.
    pub const TURNS: &str = "TURNS";
    /// Per-CPU array of packets by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Mapped array of one [`crate::Bypass`].
    pub const BYPASS: &str = "BYPASS";
    /// Per-CPU array of one [`crate::Trace`], written by the `explain_*` programs.
    pub const TRACE: &str = "TRACE";
}
