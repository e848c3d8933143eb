//! What the decisions need to know of a packet.

use fairlead_abi::{FlowKey, FlowKind, proto};
use fairlead_packet::net;

/// An IPv4 packet without options that is no fragment, of a protocol we translate.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    /// Source address.
    pub(crate) src: [u8; 4],
    /// Destination address.
    pub(crate) dst: [u8; 4],
    /// Source port, or the id of an ICMP echo.
    pub(crate) sport: [u8; 2],
    /// Destination port; zero for ICMP.
    pub(crate) dport: [u8; 2],
    /// IP protocol.
    pub(crate) proto: u8,
    /// TCP flags, or the ICMP type.
    pub(crate) flags: u8,
}

/// First bytes of a frame: Ethernet, IPv4 and the first eight of the transport header.
pub(crate) const HEAD: usize = net::L4 + 8;

/// What a frame turned out to be.
pub(crate) enum Parsed {
    /// One of ours, perhaps.
    Packet(Packet),
    /// A fragment, or with IP options: not translated.
    Awkward,
    /// Anything else.
    Foreign,
}

/// Reads the head of a frame. TCP flags are not in it; the caller fills them in.
#[inline(always)]
pub(crate) fn parse(head: &[u8; HEAD]) -> Parsed {
    if head[12] != net::ETH_IPV4[0] || head[13] != net::ETH_IPV4[1] || head[14] >> 4 != 4 {
        return Parsed::Foreign;
    }
    if head[14] != 0x45 || head[20] & 0x3f != 0 || head[21] != 0 {
        return Parsed::Awkward;
    }
    let mut packet = Packet {
        src: [head[26], head[27], head[28], head[29]],
        dst: [head[30], head[31], head[32], head[33]],
        sport: [head[34], head[35]],
        dport: [head[36], head[37]],
        proto: head[23],
        flags: 0,
    };
    match packet.proto {
        proto::TCP | proto::UDP => Parsed::Packet(packet),
        proto::ICMP if head[34] == net::ECHO || head[34] == net::ECHO_REPLY => {
            packet.flags = head[34];
            packet.sport = [head[38], head[39]];
            packet.dport = [0; 2];
            Parsed::Packet(packet)
        }
        _ => Parsed::Foreign,
    }
}

impl Packet {
    /// Key of the flow this packet belongs to.
    #[inline(always)]
    pub(crate) fn key(&self, kind: FlowKind) -> FlowKey {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto: self.proto,
            kind: kind as u8,
            pad: [0; 2],
        }
    }

    /// A TCP packet with any of these flags.
    #[inline(always)]
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.proto == proto::TCP && self.flags & flags != 0
    }

    /// The first packet of a TCP connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.proto == proto::TCP && self.flags & (net::SYN | net::ACK) == net::SYN
    }
}

/// One end of a packet.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// What kind of thing to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Not for the step that was asked; the next may want it.
    Continue,
    /// Leave it as it is.
    Pass,
    /// Write another address and port to one end.
    Rewrite,
    /// Drop it; the reason is counted.
    Drop,
}

/// What to do with a packet. Not an enum with fields: the compiler shifts fields together before it looks whether they
/// are there, and the verifier (6.18: "R4 !read_ok") refuses to read what was never written.
#[derive(Clone, Copy)]
pub(crate) struct Verdict {
    /// What to do.
    pub(crate) action: Action,
    /// For a rewrite, which end.
    pub(crate) end: End,
    /// For a rewrite, the new address.
    pub(crate) addr: [u8; 4],
    /// For a rewrite, the new port.
    pub(crate) port: [u8; 2],
}

impl Verdict {
    /// See [`Action::Continue`].
    pub(crate) const CONTINUE: Self = Self::plain(Action::Continue);
    /// See [`Action::Pass`].
    pub(crate) const PASS: Self = Self::plain(Action::Pass);
    /// See [`Action::Drop`].
    pub(crate) const DROP: Self = Self::plain(Action::Drop);

    const fn plain(action: Action) -> Self {
        Self { action, end: End::Source, addr: [0; 4], port: [0; 2] }
    }

    /// See [`Action::Rewrite`].
    #[inline(always)]
    pub(crate) const fn rewrite(end: End, addr: [u8; 4], port: [u8; 2]) -> Self {
        Self { action: Action::Rewrite, end, addr, port }
    }
}
