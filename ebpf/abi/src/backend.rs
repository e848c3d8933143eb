//! Endpoints of services.

use crate::V6;

/// An endpoint of a group. The address of an id never changes while slots name it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address; an IPv4 address stands in the first four bytes.
    pub addr: V6,
    /// Port.
    pub port: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// A combination of the flags of this type.
    pub flags: u8,
    /// Generation in the upper 24 bits, one of this type's states in the lower 8.
    pub life: u32,
    /// Group it belongs to.
    pub group: u32,
    /// Its [`Backend::life`] as it was noted for the last socket that was given it: the socket hooks' alone to write. One
    /// of another generation says that no socket was.
    pub given: u32,
}

impl Backend {
    /// Never used.
    pub const FREE: u32 = 0;
    /// Takes new flows.
    pub const ACTIVE: u32 = 1;
    /// Takes no new flows; TCP connections it has go on.
    pub const DRAINING: u32 = 2;
    /// Gone: what still talks to it over TCP is reset.
    pub const GONE: u32 = 3;

    /// Flag: runs on this node.
    pub const LOCAL: u8 = 1;
    /// Flag: an IPv6 address.
    pub const IPV6: u8 = 2;

    /// A generation and a state in one word.
    pub const fn life(generation: u32, state: u32) -> u32 {
        (generation << 8) | state
    }

    /// How often the id was given to another endpoint.
    pub const fn generation(&self) -> u32 {
        self.life >> 8
    }

    /// One of the states of this type.
    pub const fn state(&self) -> u32 {
        self.life & 0xff
    }
}

/// Key of `MEMBERS`: an endpoint's address within its group. Tells a node that receives an encapsulated packet which
/// endpoint the sender chose.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberKey {
    /// The group.
    pub group: u32,
    /// Address of the endpoint; mapped if IPv4.
    pub addr: V6,
}

const _: () = assert!(size_of::<Backend>() == 32 && align_of::<Backend>() == 8);
const _: () = assert!(size_of::<MemberKey>() == 20);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Backend {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for MemberKey {}
