//! What an `explain_*` program saw and decided: the record behind `fairlead explain`.

use crate::{FlowValue, Group, ServiceValue, V6};

/// Value of `TRACE`. Only what [`Trace::steps`] names is of meaning.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// A combination of [`TraceSteps`].
    pub steps: u32,
    /// Hash of the flow.
    pub hash: u32,
    /// The service found.
    pub service: ServiceValue,
    /// Its group.
    pub group: Group,
    /// The entry found, IPv4's addresses mapped.
    pub flow: FlowValue<V6>,
    /// Place in the range chosen from.
    pub place: u32,
    /// Start of the range chosen from.
    pub range_start: u32,
    /// Length of the range chosen from.
    pub range_len: u32,
    /// Endpoint chosen.
    pub backend: u32,
    /// [`crate::Counter`] under which the packet is counted; `u32::MAX`: none.
    pub counter: u32,
    /// Source address it would leave with, mapped if IPv4.
    pub src: V6,
    /// Destination address it would leave with, mapped if IPv4.
    pub dst: V6,
    /// Source port it would leave with.
    pub sport: [u8; 2],
    /// Destination port it would leave with.
    pub dport: [u8; 2],
    /// Flags of the flow that would be kept.
    pub flags: u32,
}

/// What happened, in the order in which it can.
#[derive(Debug)]
pub struct TraceSteps;

impl TraceSteps {
    /// The packet was read as one of ours.
    pub const PARSED: u32 = 1;
    /// An entry of the flow was there.
    pub const FLOW_HIT: u32 = 1 << 1;
    /// The entry's endpoint takes no new flows, so another is chosen.
    pub const FLOW_STALE: u32 = 1 << 2;
    /// The destination is a service.
    pub const SERVICE: u32 = 1 << 3;
    /// The client is in none of the service's source ranges.
    pub const OUT_OF_RANGE: u32 = 1 << 4;
    /// The client's affinity decided.
    pub const AFFINITY: u32 = 1 << 5;
    /// Chosen by hash, from `Group::ring` (outside clients).
    pub const BY_RING: u32 = 1 << 6;
    /// Chosen by hash, from `Group::internal`.
    pub const BY_INTERNAL: u32 = 1 << 7;
    /// Chosen by hash, from `Group::cluster`.
    pub const BY_CLUSTER: u32 = 1 << 8;
    /// The range was empty.
    pub const NO_ENDPOINT: u32 = 1 << 9;
    /// The source is translated.
    pub const SOURCE: u32 = 1 << 10;
    /// The reply tuple was taken, so another source port was found.
    pub const PORT_MOVED: u32 = 1 << 11;
    /// Masqueraded: a pod leaves the cluster.
    pub const MASQUERADE: u32 = 1 << 12;
    /// Straight to a pod's own address.
    pub const DIRECT: u32 = 1 << 13;
}

// SAFETY: repr(C), every byte is initialised (there is no padding: see the assertion), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Trace {}

const _: () = assert!(size_of::<Trace>() == 16 + 32 + 52 + 20 + 32 + 8);
