//! What is remembered about packets that belong together.
//!
//! A flow is two entries, one per direction. Each says under which addresses and ports packets of a direction leave when
//! they arrive under the key's. With T the tuple under which the opening side's packets arrive and T' the one under
//! which they leave, the entries are `T → T'` and `reverse(T') → reverse(T)`: either can be computed from the other. A
//! flow that is left as it is has `T = T'`; it is kept because its presence means something (see [`FlowFlags::DIRECT`]).
//!
//! The reply's key is what a new flow must find free: two flows that would leave under one tuple get different source
//! ports, whoever their clients are and whichever address they asked for.

use crate::{Bucket, V4, V6};

/// Key of a flow's entry: the packet as it arrives, before translation.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, or the id of an ICMP echo.
    pub sport: [u8; 2],
    /// Destination port, or once more the id of an ICMP echo.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of a flow's entry: enough to forward without another lookup.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue<A> {
    /// Source address the packet leaves with.
    pub src: A,
    /// Destination address it leaves with; with direct server return, the endpoint to encapsulate towards.
    pub dst: A,
    /// Source port it leaves with.
    pub sport: [u8; 2],
    /// Destination port it leaves with.
    pub dport: [u8; 2],
    /// A combination of [`FlowFlags`].
    pub flags: u32,
    /// Endpoint chosen; of meaning with [`FlowFlags::CHOSEN`].
    pub backend: u32,
    /// [`crate::Backend::life`] when it was chosen.
    pub life: u32,
    /// Ticks at the last packet of this direction.
    pub seen: u32,
}

/// A bucket of `FLOWS4` or `FLOWS6`.
pub type FlowBucket<A> = Bucket<FlowKey<A>, FlowValue<A>>;

/// Flags of a flow's entry.
#[derive(Debug)]
pub struct FlowFlags;

impl FlowFlags {
    /// A FIN went by in this direction.
    pub const FIN: u32 = 1;
    /// An RST went by in this direction.
    pub const RST: u32 = 1 << 1;
    /// Nothing is translated: somebody outside talks to a pod's own address, and is to be answered from it.
    pub const DIRECT: u32 = 1 << 2;
    /// Towards an endpoint: [`FlowValue::backend`] and [`FlowValue::life`] count.
    pub const CHOSEN: u32 = 1 << 3;
    /// The client is a pod of this node: translated at pods' interfaces. Without it: at uplinks.
    pub const POD: u32 = 1 << 4;
    /// Leaves under an address of the node, or towards another node: sent out by us, since the host's routing drops what
    /// comes in under an address of its own.
    pub const TRANSMIT: u32 = 1 << 5;
    /// Goes back out by the interface it came in by: a pod talks to itself through a service.
    pub const HAIRPIN: u32 = 1 << 6;
    /// Left as it is, and sent to the endpoint's node encapsulated. No entry for replies: they do not come by.
    pub const DSR_IPIP: u32 = 1 << 7;
    /// Left as it is, and sent to the endpoint's node by its hardware address. No entry for replies either.
    pub const DSR_L2: u32 = 1 << 8;
    /// The entry for packets of the side that was asked.
    pub const REPLY: u32 = 1 << 9;
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 8);
const _: () = assert!(size_of::<FlowKey<V6>>() == 40);
const _: () = assert!(size_of::<FlowValue<V4>>() == 28 && align_of::<FlowValue<V4>>() == 4);
const _: () = assert!(size_of::<FlowValue<V6>>() == 52);
const _: () = assert!(size_of::<FlowBucket<V4>>() == 17 * 64 && size_of::<FlowBucket<V6>>() == 25 * 64);
