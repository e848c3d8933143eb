//! What is remembered about clients: their sockets, their affinities, their fragments, where their pods are.

use crate::{Bucket, V4, V6};

/// Key of `SOCKETS`: a socket and an address it talks to, before or after translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Address of the service or of the endpoint; mapped if IPv4.
    pub addr: V6,
    /// Port.
    pub port: [u8; 2],
    /// 0: service to endpoint; 1: endpoint to service.
    pub back: u8,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u32,
}

/// Value of `SOCKETS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketValue {
    /// Address to show or use instead; mapped if IPv4.
    pub addr: V6,
    /// Port.
    pub port: [u8; 2],
    /// Zero.
    pub pad: u16,
    /// Endpoint chosen.
    pub backend: u32,
    /// [`crate::Backend::life`] when it was chosen.
    pub life: u32,
}

/// A bucket of `SOCKETS`.
pub type SocketBucket = Bucket<SocketKey, SocketValue>;

/// Key of `AFFINITY`: a client of a group.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Address of the client, mapped if IPv4; or, of a socket whose address is not known, the cookie of its network
    /// namespace in the last eight bytes after eight of `0xff`.
    pub client: V6,
    /// The group.
    pub group: u32,
}

/// Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// The endpoint.
    pub backend: u32,
    /// [`crate::Backend::life`] when it was chosen.
    pub life: u32,
    /// Ticks at the client's latest new flow.
    pub seen: u32,
}

/// The one value of `BYPASS`: what takes part of the fast paths away. User space writes `closing`, programs
/// the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// Kinds of clients, as bits, whose packets were ever translated one by one.
    pub clients: u64,
    /// Changes after which datagram sockets are being closed: their datagrams to endpoints that are gone are dropped.
    pub closing: u64,
    /// Of each pod's interface, by what of its index is below their number: not zero if its packets were ever translated one
    /// by one. Only at such an interface they have to be looked up.
    pub interfaces: [u8; INTERFACES],
}

/// Interfaces that [`Bypass`] tells apart, a power of two. Others that share a place merely take longer.
pub const INTERFACES: usize = 4096;

/// Data of a key of the trie `RANGES`; its prefix length counts the group's 32 bits and, for IPv4, the 96 of mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RangeKey {
    /// The group, in network order.
    pub group: [u8; 4],
    /// Network; mapped if IPv4.
    pub addr: V6,
}

/// Key of `FRAGMENTS`: all fragments of one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address; mapped if IPv4.
    pub src: V6,
    /// Destination address; mapped if IPv4.
    pub dst: V6,
    /// Identification; IPv4's stands in the first two bytes.
    pub id: [u8; 4],
    /// IP protocol of the whole packet; zero for IPv6, where it does not tell packets apart.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `FRAGMENTS`: what only the first fragment tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// Source port.
    pub sport: [u8; 2],
    /// Destination port.
    pub dport: [u8; 2],
    /// Ticks when it went by.
    pub seen: u32,
}

/// How the source's hardware address of a fragment begins that the daemon holds, or has held, until the first of its
/// packet went by; the index of the interface it came in by follows.
pub const HELD_MAC: [u8; 2] = [0x02, 0xfa];

/// How it begins when the first never came.
pub const LOST_MAC: [u8; 2] = [0x02, 0xfb];

/// Value of `PODS` and `NETNS`: a pod of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its IPv4 address, or zero.
    pub v4: V4,
    /// Its IPv6 address, or zero.
    pub v6: V6,
    /// Its host-side interface, or zero if packets must take the host's own path to it.
    pub ifindex: u32,
    /// Hardware address of the pod's own end.
    pub mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
    /// The longest IP packet that its interface takes straight from XDP; zero if it takes none.
    pub frames: u32,
}

const _: () = assert!(size_of::<SocketKey>() == 32 && align_of::<SocketKey>() == 8);
const _: () = assert!(size_of::<SocketValue>() == 28 && size_of::<SocketBucket>() == 17 * 64);
const _: () = assert!(size_of::<AffinityKey>() == 20 && size_of::<AffinityValue>() == 12);
const _: () = assert!(size_of::<Bypass>() == 16 + INTERFACES);
const _: () = assert!(size_of::<RangeKey>() == 20 && align_of::<RangeKey>() == 1);
const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentValue>() == 8);
const _: () = assert!(size_of::<Pod>() == 40);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AffinityKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for AffinityValue {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Bypass {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RangeKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentValue {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Pod {}
