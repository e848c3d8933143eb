//! What is remembered about flows and sockets.
//!
//! A translated flow has two entries: one under the packets of the side that opened it, one under the replies as they
//! come back. Each can be computed from the other, so that either end can mark both.

/// Key of `FLOWS`: the packet as it arrives, before translation.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Source port, or the id of an ICMP echo.
    pub sport: [u8; 2],
    /// Destination port; zero for ICMP echo.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// A [`FlowKind`].
    pub kind: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// Which table of flows an entry belongs to. They share one map, so that memory goes where it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowKind {
    /// Client towards a service; the destination is translated.
    Service = 1,
    /// Endpoint's answer to a service's client; the source is translated.
    Reply = 2,
    /// Pod towards the outside; the source is translated.
    Masquerade = 3,
    /// The outside's answer to a masqueraded pod; the destination is translated.
    Unmasquerade = 4,
}

/// Value of `FLOWS`: enough to forward without another lookup.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    /// What to write in place of the translated end.
    pub addr: [u8; 4],
    /// Its port.
    pub port: [u8; 2],
    /// A combination of [`FlowFlags`].
    pub flags: u16,
    /// Endpoint chosen.
    pub backend: u32,
    /// [`crate::Backend::life`] when it was chosen.
    pub life: u32,
    /// `jiffies >> tick_shift` of the last packet, for masqueraded flows.
    pub seen: u32,
}

/// Flags of a flow.
#[derive(Debug)]
pub struct FlowFlags;

impl FlowFlags {
    /// A FIN or RST went by.
    pub const CLOSING: u16 = 1;
    /// Nothing is translated: somebody outside talks to a pod's own address.
    pub const DIRECT: u16 = 2;
}

/// Key of `SOCKETS`: a socket and an address it talks to, before or after translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Address of the service or of the endpoint.
    pub addr: [u8; 4],
    /// Port.
    pub port: [u8; 2],
    /// 0: service to endpoint; 1: endpoint to service.
    pub back: u8,
    /// IP protocol.
    pub proto: u8,
}

/// Value of `SOCKETS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketValue {
    /// Address to show or use instead.
    pub addr: [u8; 4],
    /// Port.
    pub port: [u8; 2],
    /// Zero.
    pub pad: u16,
    /// Endpoint chosen.
    pub backend: u32,
    /// [`crate::Backend::life`] when it was chosen.
    pub life: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 16 && align_of::<FlowKey>() == 4);
const _: () = assert!(size_of::<FlowValue>() == 20 && align_of::<FlowValue>() == 4);
const _: () = assert!(size_of::<SocketKey>() == 16 && align_of::<SocketKey>() == 8);
const _: () = assert!(size_of::<SocketValue>() == 16);

// SAFETY: repr(C), every byte is initialised (padding is named), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowValue {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SocketKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SocketValue {}
