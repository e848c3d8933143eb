//! What the BPF programs and user space agree on: keys, values, names, limits and verdict counters.
//!
//! Everything here is plain data of fixed layout, asserted at compile time. Addresses and ports are byte arrays as they
//! stand in the packet. A change of any layout raises [`VERSION`], which is part of the pin path, so that a daemon never
//! reads the maps of another layout.
#![no_std]

mod counter;
mod flow;
mod service;

pub use counter::Counter;
pub use flow::{FlowFlags, FlowKey, FlowKind, FlowValue, SocketKey, SocketValue};
pub use service::{Backend, Group, Node, Range, ServiceKey, ServiceValue};

/// Version of all layouts here; a part of the pin path.
pub const VERSION: u32 = 1;

/// Most destinations that [`Node::non_masquerade`] holds.
pub const NON_MASQUERADE_MAX: usize = 8;

/// Ports that masqueraded flows leave from: above the kernel's default ephemeral range (32768-60999) and the NodePorts
/// (30000-32767), so that no socket of the host and no NodePort can be hit by the reply.
pub const MASQUERADE_PORTS: core::ops::RangeInclusive<u16> = 61_000..=65_535;

/// Ports tried for one new masqueraded flow before it is dropped.
pub const MASQUERADE_TRIES: u32 = 16;

/// IP protocol numbers.
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Names of the maps, as pinned.
pub mod map {
    /// Hash: [`crate::ServiceKey`] to [`crate::ServiceValue`].
    pub const SERVICES: &str = "SERVICES";
    /// Mapped array of [`crate::Group`].
    pub const GROUPS: &str = "GROUPS";
    /// Mapped array of backend ids.
    pub const SLOTS: &str = "SLOTS";
    /// Mapped array of [`crate::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// LRU hash: [`crate::FlowKey`] to [`crate::FlowValue`].
    pub const FLOWS: &str = "FLOWS";
    /// LRU hash: [`crate::SocketKey`] to [`crate::SocketValue`].
    pub const SOCKETS: &str = "SOCKETS";
    /// Hash: cookie of a pod's network namespace to 1.
    pub const NETNS: &str = "NETNS";
    /// Hash: interface index to the address masqueraded behind.
    pub const UPLINKS: &str = "UPLINKS";
    /// Per-CPU array: turn of a group's round robin.
    pub const TURNS: &str = "TURNS";
    /// Per-CPU array of packets by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// One-entry array: whether any pod's packets were ever translated.
    pub const BYPASS: &str = "BYPASS";
}
