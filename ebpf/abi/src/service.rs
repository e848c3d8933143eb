//! Services: where they answer, and the sets of endpoints a client may get.
//!
//! `SERVICES4` and `SERVICES6` name a group; a [`Group`] names three ranges of slots, each in one 64-bit word; a slot
//! holds a backend id.
//!
//! Invariant `WHOLE`: a packet sees the old or the new set of endpoints, never a mixture. The new slots are written
//! where nobody looks, then one store of the word switches; the old slots rest for a grace period before reuse.

use crate::{V4, V6};

/// Key of `SERVICES4` and `SERVICES6`: one virtual address, port and protocol, as the bytes stand in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey<A> {
    /// ClusterIP, external address or an address of the node.
    pub addr: A,
    /// Service port or NodePort.
    pub port: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of `SERVICES4` and `SERVICES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// Index into `GROUPS` and `TURNS`.
    pub group: u32,
    /// A combination of the constants of this type.
    pub flags: u32,
}

impl ServiceValue {
    /// The address is the node's own: without endpoints the host's stack answers, as for any closed port.
    pub const NODE_ADDRESS: u32 = 1;
    /// A NodePort, an address of a load balancer, or an external IP: clients of this node and its pods choose from
    /// [`Group::cluster`], others from [`Group::ring`]. Without it, everybody chooses from [`Group::internal`].
    pub const EXTERNAL: u32 = 1 << 1;
    /// `externalTrafficPolicy: Local`: outside clients get endpoints of this node alone, and are dropped without one.
    pub const EXTERNAL_LOCAL: u32 = 1 << 2;
    /// `internalTrafficPolicy: Local`, for the service's own address.
    pub const INTERNAL_LOCAL: u32 = 1 << 3;
    /// Only clients with an entry in `RANGES` may use this address.
    pub const SOURCE_RANGES: u32 = 1 << 4;
    /// Direct server return to endpoints on other nodes, encapsulated.
    pub const DSR_IPIP: u32 = 1 << 5;
    /// Direct server return to endpoints on other nodes of the same link, by their node's hardware address.
    pub const DSR_L2: u32 = 1 << 6;
    /// Answers sockets of this node alone (NodePort on the loopback address): packets that carry it are not looked at.
    pub const SOCKETS_ONLY: u32 = 1 << 7;
}

/// The endpoints of one port of a Service, of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// For the ClusterIP: what `internalTrafficPolicy` leaves. Each endpoint as often as its weight says.
    pub internal: Range,
    /// For clients of this node and its pods on external addresses: every endpoint. Often the same slots as `internal`.
    pub cluster: Range,
    /// For outside clients: a Maglev permutation of what `externalTrafficPolicy` leaves; empty where nobody comes from
    /// outside.
    pub ring: Range,
    /// Seconds of `sessionAffinity: ClientIP`; 0: none.
    pub affinity: u32,
    /// A combination of the constants of this type.
    pub flags: u32,
}

impl Group {
    /// There are endpoints somewhere: a client for whom none is left is dropped, not refused.
    pub const HAS_ENDPOINTS: u32 = 1;
}

/// A range of slots in one word, so that it is read and written whole: start in the upper half, length in the lower.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Range(pub u64);

impl Range {
    /// `len` slots from `start`.
    pub const fn new(start: u32, len: u32) -> Self {
        Self(((start as u64) << 32) | len as u64)
    }

    /// Index of the first slot.
    #[inline(always)]
    pub const fn start(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of slots.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        self.0 as u32
    }

    /// No slots.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl core::fmt::Debug for Range {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}+{}", self.start(), self.len())
    }
}

const _: () = assert!(size_of::<ServiceKey<V4>>() == 8 && align_of::<ServiceKey<V4>>() == 1);
const _: () = assert!(size_of::<ServiceKey<V6>>() == 20 && align_of::<ServiceKey<V6>>() == 1);
const _: () = assert!(size_of::<ServiceValue>() == 8);
const _: () = assert!(size_of::<Group>() == 32 && align_of::<Group>() == 8);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceKey<V4> {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceKey<V6> {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceValue {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Group {}
