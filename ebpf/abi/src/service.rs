//! Services and what stands behind them.
//!
//! `SERVICES` names a group; a [`Group`] names two ranges of slots, each in one 64-bit word; a slot holds a backend id.
//!
//! Invariant `WHOLE`: a packet sees the old or the new set of endpoints, never a mixture. The new slots are written
//! where nobody looks, then one store of the word switches; the old slots rest for a grace period before reuse.

use crate::NON_MASQUERADE_MAX;

/// Key of `SERVICES`: one virtual address, port and protocol, as the bytes stand in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// ClusterIP or an address of the node.
    pub addr: [u8; 4],
    /// Service port or NodePort.
    pub port: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of `SERVICES`.
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
}

/// The endpoints of one port of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Each endpoint once: for choice in turn, at connect time.
    pub list: Range,
    /// A Maglev permutation, for choice by hash; empty where nobody comes from outside.
    pub ring: Range,
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

/// An endpoint of a group. The address of an id never changes while slots name it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address.
    pub addr: [u8; 4],
    /// Port.
    pub port: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Generation in the upper 24 bits, one of this type's states in the lower 8.
    pub life: u32,
    /// Group it belongs to.
    pub group: u32,
}

impl Backend {
    /// Never used.
    pub const FREE: u32 = 0;
    /// Takes new flows.
    pub const ACTIVE: u32 = 1;
    /// Takes no new flows; those it has go on.
    pub const DRAINING: u32 = 2;

    /// A generation and a state in one word.
    pub const fn life(generation: u32, state: u32) -> u32 {
        (generation << 8) | state
    }

    /// How often the id was given to another endpoint.
    pub const fn generation(&self) -> u32 {
        self.life >> 8
    }

    /// One of the constants of this type.
    pub const fn state(&self) -> u32 {
        self.life & 0xff
    }
}

/// Constants of the node, set when the programs are loaded. Networks are (address, mask) in packet order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Cookie of the node's own network namespace; 0: the kernel has no cookies, so every socket is translated.
    pub netns_cookie: u64,
    /// Where pods live.
    pub cluster: [u32; 2],
    /// What pods reach under their own address, besides.
    pub non_masquerade: [[u32; 2]; NON_MASQUERADE_MAX],
    /// Entries of `non_masquerade` in use.
    pub non_masquerade_len: u32,
    /// `jiffies >> tick_shift` counts in units of about a second.
    pub tick_shift: u32,
    /// The kernel has `bpf_set_retval` for socket hooks.
    pub has_retval: u32,
    /// Zero.
    pub pad: u32,
}

impl Node {
    /// Everything zero: translates every socket, masquerades nothing.
    pub const ZERO: Self = Self {
        netns_cookie: 0,
        cluster: [0; 2],
        non_masquerade: [[0; 2]; NON_MASQUERADE_MAX],
        non_masquerade_len: 0,
        tick_shift: 8,
        has_retval: 0,
        pad: 0,
    };
}

const _: () = assert!(size_of::<ServiceKey>() == 8 && align_of::<ServiceKey>() == 1);
const _: () = assert!(size_of::<ServiceValue>() == 8);
const _: () = assert!(size_of::<Group>() == 16 && align_of::<Group>() == 8);
const _: () = assert!(size_of::<Backend>() == 16 && align_of::<Backend>() == 8);
const _: () = assert!(size_of::<Node>() == 8 + 8 + 64 + 16);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceValue {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Group {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Backend {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Node {}
