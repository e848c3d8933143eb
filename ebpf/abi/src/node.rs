//! What the programs know of their node.

use crate::{NON_MASQUERADE_MAX, SOURCES_MAX, V4, V6};

/// An IPv4 network: address and mask, in packet order. A mask of zero holds nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net4 {
    /// Address.
    pub addr: u32,
    /// Mask.
    pub mask: u32,
}

/// An IPv6 network: address and mask as two words each, in packet order. A mask of zero holds nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net6 {
    /// Address.
    pub addr: [u64; 2],
    /// Mask.
    pub mask: [u64; 2],
}

/// Constants of the node, set when the programs are loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Cookie of the node's own network namespace; 0: the kernel has no cookies, so every socket is translated.
    pub netns_cookie: u64,
    /// Where pods live, IPv6.
    pub cluster6: Net6,
    /// What pods reach under their own address besides, IPv6.
    pub near6: [Net6; NON_MASQUERADE_MAX],
    /// Where pods live, IPv4.
    pub cluster4: Net4,
    /// What pods reach under their own address besides, IPv4.
    pub near4: [Net4; NON_MASQUERADE_MAX],
    /// Entries of `near4` in use.
    pub near4_len: u32,
    /// Entries of `near6` in use.
    pub near6_len: u32,
    /// `jiffies >> tick_shift` counts in units of about a second.
    pub tick_shift: u32,
    /// The kernel has `bpf_set_retval` for socket hooks.
    pub has_retval: u32,
    /// Pods that leave the cluster are masqueraded.
    pub masquerade: u32,
    /// Packets are redirected between uplinks and pods' interfaces, past the host's stack.
    pub redirect: u32,
    /// First port of the host's own sockets (`net.ipv4.ip_local_port_range`): not given to translated flows under
    /// [`SourcePool`]'s first address.
    pub ephemeral_first: u32,
    /// Last port of the same.
    pub ephemeral_last: u32,
    /// Accepts packets that other nodes encapsulated (direct server return).
    pub decapsulate: u32,
    /// Zero.
    pub pad: u32,
}

impl Node {
    /// Everything zero: translates every socket, masquerades nothing.
    pub const ZERO: Self = Self {
        netns_cookie: 0,
        cluster6: Net6 { addr: [0; 2], mask: [0; 2] },
        near6: [Net6 { addr: [0; 2], mask: [0; 2] }; NON_MASQUERADE_MAX],
        cluster4: Net4 { addr: 0, mask: 0 },
        near4: [Net4 { addr: 0, mask: 0 }; NON_MASQUERADE_MAX],
        near4_len: 0,
        near6_len: 0,
        tick_shift: 8,
        has_retval: 0,
        masquerade: 0,
        redirect: 0,
        ephemeral_first: 0,
        ephemeral_last: 0,
        decapsulate: 0,
        pad: 0,
    };
}

/// Value of `UPLINKS`: addresses under which translated flows leave by an uplink. The first of each family is the one
/// the host's own sockets use, too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePool {
    /// IPv4 addresses.
    pub v4: [V4; SOURCES_MAX],
    /// IPv6 addresses.
    pub v6: [V6; SOURCES_MAX],
    /// Entries of `v4` in use.
    pub v4_len: u32,
    /// Entries of `v6` in use.
    pub v6_len: u32,
}

const _: () = assert!(size_of::<Node>() == 8 + 32 + 256 + 8 + 64 + 40);
const _: () = assert!(size_of::<SourcePool>() == 32 + 128 + 8);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Node {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SourcePool {}
