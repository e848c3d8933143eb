//! What the decisions need to know of a packet, and how it is read.
//!
//! Two readers. [`plain`] takes what nearly every packet is, at constant offsets, for XDP and as tc's first try.
//! [`complete`], for tc alone, takes VLAN tags, options, extension headers and fragments.

use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowKey, proto};
use fairlead_packet::net;

use crate::desk::slow_step;
use crate::family::Family;
use crate::state::state;

/// A packet of a flow, or what is known of one that is in none. Aligned, because the target moves bytes of unknown
/// alignment one by one.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Packet<F: Family> {
    /// Source address.
    pub(crate) src: F::Addr,
    /// Destination address.
    pub(crate) dst: F::Addr,
    /// Source port, or the id of an ICMP echo.
    pub(crate) sport: [u8; 2],
    /// Destination port, or once more the id of an ICMP echo.
    pub(crate) dport: [u8; 2],
    /// Identification of a fragment; IPv4's stands in the first two bytes.
    pub(crate) fragment_id: [u8; 4],
    /// Where the IP header starts.
    pub(crate) l3: u16,
    /// Where the transport header starts.
    pub(crate) l4: u16,
    /// Length of the IP packet, headers included.
    pub(crate) total: u16,
    /// IP protocol of the transport header.
    pub(crate) proto: u8,
    /// TCP flags, the ICMP type, or the type of SCTP's first chunk.
    pub(crate) flags: u8,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// One of [`WHOLE`], [`FIRST`], [`LATER`].
    pub(crate) fragment: u8,
    /// 0: no VLAN tag is in the frame's data.
    pub(crate) tagged: u8,
}

/// Not a fragment.
pub(crate) const WHOLE: u8 = 0;
/// The fragment that has the transport header.
pub(crate) const FIRST: u8 = 1;
/// A fragment without transport header.
pub(crate) const LATER: u8 = 2;

/// What a reader made of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// TCP, UDP, SCTP or an ICMP echo: may belong to a flow.
    Flow,
    /// An ICMP error: quotes a packet that may belong to a flow.
    Error,
    /// A packet in a packet of the same family.
    Tunnel,
    /// Any other protocol: not translated.
    Other,
    /// Not for this reader, or not to be made sense of.
    Unread,
}

/// A [`FlowKey`] as words.
#[repr(C)]
struct KeyWords<F: Family> {
    src: F::Addr,
    dst: F::Addr,
    ports: u32,
    proto: u32,
}

/// Writes a key by words, where it is to be. See [`Packet::key`] for why.
#[inline(always)]
pub(crate) fn write_key<F: Family>(to: &mut FlowKey<F::Addr>, addrs: [&F::Addr; 2], ports: [[u8; 2]; 2], proto: u8) {
    let to = core::ptr::from_mut(to).cast::<KeyWords<F>>();
    // SAFETY: of the same size and layout, and any bits are a key. The target is little-endian.
    unsafe {
        (*to).src = *addrs[0];
        (*to).dst = *addrs[1];
        (*to).ports = u16::from_ne_bytes(ports[0]) as u32 | (u16::from_ne_bytes(ports[1]) as u32) << 16;
        (*to).proto = proto as u32;
    }
}

impl<F: Family> Packet<F> {
    /// Nothing read yet.
    // SAFETY: numbers alone, for which zero is a value.
    pub(crate) const EMPTY: Self = unsafe { core::mem::zeroed() };

    /// Key of the flow this packet belongs to.
    #[inline(always)]
    pub(crate) fn key(&self) -> FlowKey<F::Addr> {
        let ports = u16::from_ne_bytes(self.sport) as u32 | (u16::from_ne_bytes(self.dport) as u32) << 16;
        let words: KeyWords<F> = KeyWords { src: self.src, dst: self.dst, ports, proto: self.proto as u32 };
        const { assert!(size_of::<KeyWords<F>>() == size_of::<FlowKey<F::Addr>>()) }
        // SAFETY: of the same size and layout, and any bits are a key. Written by words, because the table's hash reads
        // words, which would wait for bytes to arrive in memory. The target is little-endian.
        unsafe { core::mem::transmute_copy(&words) }
    }

    /// A TCP packet with any of these flags.
    #[inline(always)]
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.proto == proto::TCP && self.flags & flags != 0
    }

    /// The first packet of a TCP connection or an SCTP association.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        match self.proto {
            proto::TCP => self.flags & (net::SYN | net::ACK) == net::SYN,
            proto::SCTP => self.flags == net::SCTP_INIT && self.fragment != LATER,
            _ => false,
        }
    }

    /// Of a protocol with connections, which outlive their endpoint's readiness.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        self.proto == proto::TCP || self.proto == proto::SCTP
    }

    /// ICMP or ICMPv6.
    #[inline(always)]
    pub(crate) fn is_icmp(&self) -> bool {
        self.proto == F::ICMP
    }
}

/// What kind of thing to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Not for the step that was asked; the next may want it.
    Continue,
    /// Leave it as it is: decided.
    Pass,
    /// From XDP: the tc program behind decides.
    Leave,
    /// Drop it; the reason is counted.
    Drop,
    /// Write the verdict's tuple and go on through the host's stack.
    Rewrite,
    /// Write the verdict's tuple and send it out, past the host's routing of what arrives.
    Transmit,
    /// Write the verdict's tuple and send it back out by the interface it came in by.
    Hairpin,
    /// Answer with a reset: the endpoint is gone.
    Reset,
    /// Answer that there is nobody: the service has no endpoint.
    Refuse,
    /// Send it to the endpoint's node in another packet.
    Encapsulate,
    /// Send it to the endpoint's node by hardware address.
    Direct,
}

/// What to do with a packet. Not an enum with fields: the compiler shifts fields together before it looks whether they
/// are there, and the verifier (6.18: "R4 !read_ok") refuses to read what was never written. For the same reason it is
/// filled in through a reference, not returned. Aligned for the same reason as a packet.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Verdict<F: Family> {
    /// Source address it leaves with.
    pub(crate) src: F::Addr,
    /// Destination address it leaves with; of [`Action::Encapsulate`] and [`Action::Direct`] the endpoint.
    pub(crate) dst: F::Addr,
    /// Source port it leaves with.
    pub(crate) sport: [u8; 2],
    /// Destination port it leaves with.
    pub(crate) dport: [u8; 2],
    /// A combination of [`fairlead_abi::FlowFlags`].
    pub(crate) flags: u32,
    /// Endpoint chosen.
    pub(crate) backend: u32,
    /// What its life was, see [`crate::maps::noted`].
    pub(crate) life: u32,
    /// Under what it is counted, besides what the carrying out counts.
    pub(crate) counter: Option<Counter>,
    /// What to do.
    pub(crate) action: Action,
}

impl<F: Family> Verdict<F> {
    /// The packet as it is.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet<F>) -> Self {
        Self {
            src: packet.src,
            dst: packet.dst,
            sport: packet.sport,
            dport: packet.dport,
            flags: 0,
            backend: 0,
            life: 0,
            counter: None,
            action: Action::Continue,
        }
    }
}

/// A pointer into a frame, if what it points to is all inside.
#[inline(always)]
pub(crate) fn at<T>(data: usize, data_end: usize, offset: usize) -> Option<*mut T> {
    let start = data + offset;
    (start + size_of::<T>() <= data_end).then_some(start as *mut T)
}

/// Reads a packet without anything unusual: no VLAN tag, options, extension headers; no fragment.
#[inline(always)]
pub(crate) fn plain<F: Family>(data: usize, data_end: usize, packet: &mut Packet<F>) -> Kind {
    let l4 = net::ETH_LEN + F::HEADER;
    if F::V6 {
        let Some(head) = at::<[u8; net::ETH_LEN + 48]>(data, data_end, 0) else {
            return Kind::Unread;
        };
        // SAFETY: `at` checked that the bytes are inside the frame.
        let head = unsafe { &*head };
        if head[14] >> 4 != 6 {
            return Kind::Unread;
        }
        packet.proto = head[20];
        packet.ttl = head[21];
        packet.total = u16::from_be_bytes([head[18], head[19]]).wrapping_add(40);
    } else {
        let Some(head) = at::<[u8; net::ETH_LEN + 28]>(data, data_end, 0) else {
            return Kind::Unread;
        };
        // SAFETY: as above.
        let head = unsafe { &*head };
        if head[14] != 0x45 || head[20] & 0x3f != 0 || head[21] != 0 {
            return Kind::Unread;
        }
        packet.proto = head[23];
        packet.ttl = head[22];
        packet.total = u16::from_be_bytes([head[16], head[17]]);
    }
    let (Some(src), Some(dst), Some(head)) = (
        at::<F::Addr>(data, data_end, net::ETH_LEN + F::ADDRS),
        at::<F::Addr>(data, data_end, net::ETH_LEN + F::ADDRS + size_of::<F::Addr>()),
        at::<[u16; 4]>(data, data_end, l4),
    ) else {
        return Kind::Unread;
    };
    // SAFETY: as above. Read by words: the verifier refuses that on machines that could not.
    let head = unsafe {
        packet.src = *src;
        packet.dst = *dst;
        *head
    };
    packet.l3 = net::ETH_LEN as u16;
    packet.l4 = l4 as u16;
    packet.flags = 0;
    packet.fragment = WHOLE;
    packet.fragment_id = [0; 4];
    packet.tagged = 0;
    packet.sport = head[0].to_ne_bytes();
    packet.dport = head[1].to_ne_bytes();
    match packet.proto {
        proto::UDP => Kind::Flow,
        proto::TCP | proto::SCTP => {
            let Some(flags) = at::<u8>(data, data_end, l4 + flags_offset(packet.proto)) else {
                return Kind::Unread;
            };
            // SAFETY: as above.
            packet.flags = unsafe { *flags };
            Kind::Flow
        }
        next if next == F::ICMP => icmp(packet, head),
        next if F::V6 && is_extension(next) => Kind::Unread,
        next => other::<F>(next),
    }
}

/// Where the byte of interest stands: TCP's flags, or the type of SCTP's first chunk.
#[inline(always)]
fn flags_offset(proto: u8) -> usize {
    if proto == proto::TCP { 13 } else { 12 }
}

/// Reads the first words of ICMP.
#[inline(always)]
fn icmp<F: Family>(packet: &mut Packet<F>, head: [u16; 4]) -> Kind {
    let [kind, _] = head[0].to_ne_bytes();
    packet.flags = kind;
    if kind == F::ECHO || kind == F::ECHO_REPLY {
        packet.sport = head[2].to_ne_bytes();
        packet.dport = packet.sport;
        return Kind::Flow;
    }
    let is_error = if F::V6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
    if is_error { Kind::Error } else { Kind::Other }
}

/// A protocol that is not translated.
#[inline(always)]
fn other<F: Family>(next: u8) -> Kind {
    if next == (if F::V6 { proto::IPV6 } else { proto::IPIP }) { Kind::Tunnel } else { Kind::Other }
}

/// Extension headers of IPv6 that stand before the transport header.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// Most extension headers looked over.
const EXTENSIONS_MAX: usize = 8;

/// The Ethernet type behind at most two VLAN tags, and where the header it announces starts; 0: nothing to read.
#[inline(always)]
pub(crate) fn ether_type(ctx: &TcContext) -> ([u8; 2], usize) {
    let mut offset = 12;
    let mut tags = 0;
    while tags < 3 {
        let Ok(eth) = ctx.load::<[u8; 2]>(offset) else {
            return ([0; 2], 0);
        };
        if eth != net::ETH_VLAN && eth != net::ETH_QINQ {
            return (eth, offset + 2);
        }
        offset += 4;
        tags += 1;
    }
    ([0; 2], 0)
}

/// Reads a packet at `l3` whatever is between its headers. The ports of a fragment other than the first are not in it.
#[inline(always)]
pub(crate) fn complete<F: Family>(ctx: &TcContext, l3: usize, packet: &mut Packet<F>) -> Kind {
    let kind = read::<F>(ctx, l3 as u32);
    if let Some(state) = state::<F>() {
        *packet = state.read;
    }
    match kind {
        0 => Kind::Flow,
        1 => Kind::Error,
        2 => Kind::Tunnel,
        3 => Kind::Other,
        _ => Kind::Unread,
    }
}

slow_step!(
    /// Reads a packet into the state; the number of its kind.
    read = read4, read6: step_read(l3)
);

#[inline(always)]
fn step_read<F: Family>(ctx: &TcContext, l3: u32) -> i32 {
    let Some(state) = state::<F>() else {
        return Kind::Unread as i32;
    };
    headers(ctx, l3 as usize, &mut state.read) as i32
}

#[inline(always)]
fn headers<F: Family>(ctx: &TcContext, l3: usize, packet: &mut Packet<F>) -> Kind {
    packet.l3 = l3 as u16;
    packet.tagged = (l3 != net::ETH_LEN) as u8;
    packet.fragment = WHOLE;
    packet.fragment_id = [0; 4];
    packet.flags = 0;
    packet.sport = [0; 2];
    packet.dport = [0; 2];
    let found = if F::V6 { headers6(ctx, l3, packet) } else { headers4(ctx, l3, packet) };
    let Some((next, l4)) = found else {
        return Kind::Unread;
    };
    packet.proto = next;
    packet.l4 = l4 as u16;
    let (Ok(src), Ok(dst)) =
        (ctx.load::<F::Addr>(l3 + F::ADDRS), ctx.load::<F::Addr>(l3 + F::ADDRS + size_of::<F::Addr>()))
    else {
        return Kind::Unread;
    };
    packet.src = src;
    packet.dst = dst;
    if packet.fragment == LATER {
        return match next {
            proto::TCP | proto::UDP | proto::SCTP => Kind::Flow,
            _ if next == F::ICMP => Kind::Flow,
            _ => Kind::Other,
        };
    }
    match next {
        proto::TCP | proto::UDP | proto::SCTP => {
            let Ok(ports) = ctx.load::<[u8; 4]>(l4) else {
                return Kind::Unread;
            };
            packet.sport = [ports[0], ports[1]];
            packet.dport = [ports[2], ports[3]];
            if next != proto::UDP {
                // What an ICMP error quotes may end before.
                packet.flags = ctx.load::<u8>(l4 + flags_offset(next)).unwrap_or(0);
            }
            Kind::Flow
        }
        _ if next == F::ICMP => match ctx.load::<[u16; 4]>(l4) {
            Ok(head) => icmp(packet, head),
            Err(_) => Kind::Unread,
        },
        _ => other::<F>(next),
    }
}

/// IPv4's header with options: the protocol, and where its header starts.
#[inline(always)]
fn headers4<F: Family>(ctx: &TcContext, l3: usize, packet: &mut Packet<F>) -> Option<(u8, usize)> {
    let head = ctx.load::<[u8; 10]>(l3).ok()?;
    let words = (head[0] & 15) as usize;
    if head[0] >> 4 != 4 || words < 5 {
        return None;
    }
    packet.total = u16::from_be_bytes([head[2], head[3]]);
    packet.fragment_id = [head[4], head[5], 0, 0];
    packet.ttl = head[8];
    packet.fragment = place(u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0, head[6] & 0x20 != 0);
    Some((head[9], l3 + words * 4))
}

/// IPv6's headers: the protocol, and where its header starts.
#[inline(always)]
fn headers6<F: Family>(ctx: &TcContext, l3: usize, packet: &mut Packet<F>) -> Option<(u8, usize)> {
    let head = ctx.load::<[u8; 8]>(l3).ok()?;
    if head[0] >> 4 != 6 {
        return None;
    }
    packet.total = u16::from_be_bytes([head[4], head[5]]).wrapping_add(40);
    packet.ttl = head[7];
    let mut next = head[6];
    let mut offset = l3 + 40;
    let mut seen = 0;
    while seen < EXTENSIONS_MAX {
        if !is_extension(next) {
            return Some((next, offset));
        }
        let extension = ctx.load::<[u8; 8]>(offset).ok()?;
        if next == FRAGMENT {
            packet.fragment_id = [extension[4], extension[5], extension[6], extension[7]];
            packet.fragment =
                place(u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0, extension[3] & 1 != 0);
        }
        let len = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (extension[1] as usize + 2) * 4,
            _ => (extension[1] as usize + 1) * 8,
        };
        next = extension[0];
        offset += len;
        // What follows in a later fragment is payload, whatever it looks like.
        if packet.fragment == LATER {
            return Some((next, offset));
        }
        seen += 1;
    }
    None
}

/// Which fragment it is, by whether it starts past the beginning and whether more follow.
#[inline(always)]
fn place(offset: bool, more: bool) -> u8 {
    match (offset, more) {
        (true, _) => LATER,
        (false, true) => FIRST,
        (false, false) => WHOLE,
    }
}
