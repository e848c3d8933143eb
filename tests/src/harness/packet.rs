//! Packets to put into the programs, and what comes out of them: both families, with everything awkward a packet can have.
//!
//! Written for the tests alone and without the code under test: a packet is a value; [`mod@write`] gives it its
//! bytes, [`mod@read`] takes bytes apart again and verifies every checksum by plain summing. Payload is a pattern
//! of a given length, so that a value stays small and a moved byte is noticed all the same.

pub mod node;
pub mod plan;
pub mod read;
pub mod sum;
pub mod write;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// A new connection.
    pub const SYN: u8 = 2;
    /// The connection is gone.
    pub const RST: u8 = 4;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
}

/// IP protocol numbers, IPv6 extension headers included.
pub mod proto {
    /// Hop-by-hop options.
    pub const HOP: u8 = 0;
    /// ICMP of IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation, which nobody translates.
    pub const GRE: u8 = 47;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// A hardware address.
pub type Mac = [u8; 6];

/// An Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub to: Mac,
    /// Source.
    pub from: Mac,
    /// VLAN ids in the data, the outermost first: the outer of two is 802.1ad's.
    pub tags: Vec<u16>,
    /// What it carries.
    pub packet: Packet,
    /// Zero bytes behind the packet, as short frames have them.
    pub padding: usize,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Type of service, traffic class.
    pub tos: u8,
    /// Identification: 16 bits of IPv4, or those of the IPv6 fragment header.
    pub id: u32,
    /// IPv4's "don't fragment".
    pub df: bool,
    /// IPv4 options; a multiple of four.
    pub options: Vec<u8>,
    /// IPv6 extension headers before a fragment header, by number.
    pub extensions: Vec<u8>,
    /// Where this piece belongs; `None`: it is whole.
    pub fragment: Option<Fragment>,
    /// What it carries.
    pub body: Body,
}

/// Where a piece of a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// First byte; a multiple of eight.
    pub offset: usize,
    /// There is more behind it.
    pub more: bool,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement.
        ack: u32,
        /// A combination of [`flag`]s.
        flags: u8,
        /// Bytes of pattern.
        payload: usize,
    },
    /// UDP.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// False: the field is zero, "no checksum".
        checked: bool,
        /// Bytes of pattern.
        payload: usize,
    },
    /// SCTP: a common header and one DATA chunk of pattern.
    Sctp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Verification tag.
        tag: u32,
        /// Bytes of pattern.
        payload: usize,
    },
    /// ICMP or ICMPv6 echo.
    Echo {
        /// A reply, not a request.
        reply: bool,
        /// Whose it is.
        id: u16,
        /// Its number.
        seq: u16,
        /// Bytes of pattern.
        payload: usize,
    },
    /// Any other ICMP or ICMPv6 message: an error.
    Error {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum: an MTU, where there is one.
        rest: u32,
        /// The beginning of the packet that it is about.
        quote: Vec<u8>,
    },
    /// A packet in a packet.
    Inside(Box<Packet>),
    /// Bytes of a protocol that is not looked into, or a piece of something.
    Raw {
        /// IP protocol.
        proto: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Who finishes the checksum of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is right.
    Done,
    /// The hardware would: the field holds the sum over the pseudo header (SCTP: zero).
    Offloaded,
}

impl Body {
    /// TCP with these flags and no payload.
    pub fn tcp(flags: u8) -> Self {
        let ack = if flags & flag::ACK == 0 { 0 } else { 0x0a0b_0c0d };
        Self::Tcp { sport: 0, dport: 0, seq: 0x0102_0304, ack, flags, payload: 0 }
    }

    /// UDP with this much payload.
    pub fn udp(payload: usize) -> Self {
        Self::Udp { sport: 0, dport: 0, checked: true, payload }
    }

    /// SCTP with this much payload.
    pub fn sctp(payload: usize) -> Self {
        Self::Sctp { sport: 0, dport: 0, tag: 0xdead_beef, payload }
    }

    /// An echo request.
    pub fn echo(id: u16) -> Self {
        Self::Echo { reply: false, id, seq: 1, payload: 32 }
    }

    /// An opening packet of a protocol: SYN, datagram, chunk, echo request.
    pub fn opening(proto: u8) -> Self {
        match proto {
            proto::TCP => Self::tcp(flag::SYN),
            proto::UDP => Self::udp(12),
            proto::SCTP => Self::sctp(12),
            _ => Self::echo(0),
        }
    }

    /// A later packet of a protocol.
    pub fn later(proto: u8) -> Self {
        match proto {
            proto::TCP => Self::tcp(flag::ACK).sized(20),
            other => Self::opening(other).sized(20),
        }
    }

    /// The same with another length of payload.
    #[must_use]
    pub fn sized(mut self, len: usize) -> Self {
        match &mut self {
            Self::Tcp { payload, .. } | Self::Udp { payload, .. } => *payload = len,
            Self::Sctp { payload, .. } | Self::Echo { payload, .. } => *payload = len,
            Self::Error { .. } | Self::Inside(_) | Self::Raw { .. } => {}
        }
        self
    }
}

impl Packet {
    /// A plain packet.
    ///
    /// # Panics
    /// The addresses are of two families.
    pub fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst}");
        let mut packet = Self {
            src: src.ip(),
            dst: dst.ip(),
            ttl: 64,
            tos: 0,
            id: if src.is_ipv4() { 0x1234 } else { 0 },
            df: src.is_ipv4(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            body,
        };
        packet.set_ports(src.port(), dst.port());
        packet
    }

    /// The IP protocol of the body.
    pub fn proto(&self) -> u8 {
        let v4 = self.src.is_ipv4();
        match &self.body {
            Body::Tcp { .. } => proto::TCP,
            Body::Udp { .. } => proto::UDP,
            Body::Sctp { .. } => proto::SCTP,
            Body::Echo { .. } | Body::Error { .. } => {
                if v4 {
                    proto::ICMP
                } else {
                    proto::ICMPV6
                }
            }
            Body::Inside(inner) => {
                if inner.src.is_ipv4() {
                    proto::IPIP
                } else {
                    proto::IPV6
                }
            }
            Body::Raw { proto, .. } => *proto,
        }
    }

    /// Source and destination port; an echo's id counts as both, what has none has zeros.
    pub fn ports(&self) -> (u16, u16) {
        match self.body {
            Body::Tcp { sport, dport, .. } | Body::Udp { sport, dport, .. } | Body::Sctp { sport, dport, .. } => {
                (sport, dport)
            }
            Body::Echo { id, .. } => (id, id),
            _ => (0, 0),
        }
    }

    fn set_ports(&mut self, source: u16, destination: u16) {
        match &mut self.body {
            Body::Tcp { sport, dport, .. } | Body::Udp { sport, dport, .. } | Body::Sctp { sport, dport, .. } => {
                (*sport, *dport) = (source, destination);
            }
            Body::Echo { id, .. } => *id = source,
            _ => {}
        }
    }

    /// Source address and port.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.ports().0)
    }

    /// Destination address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.ports().1)
    }

    /// The same from another source.
    #[must_use]
    pub fn from(mut self, source: SocketAddr) -> Self {
        let dport = self.ports().1;
        self.src = source.ip();
        self.set_ports(source.port(), dport);
        self
    }

    /// The same to another destination. An echo keeps its id.
    #[must_use]
    pub fn to(mut self, destination: SocketAddr) -> Self {
        let sport = self.ports().0;
        self.dst = destination.ip();
        self.set_ports(sport, destination.port());
        self
    }

    /// The same with another body, whose ports are taken over from this one.
    #[must_use]
    pub fn with(mut self, body: Body) -> Self {
        let (sport, dport) = self.ports();
        self.body = body;
        self.set_ports(sport, dport);
        self
    }

    /// The same after a router.
    #[must_use]
    pub fn hop(mut self) -> Self {
        self.ttl -= 1;
        self
    }

    /// An answer of the same protocol from whom this one reaches: SYN+ACK, datagram, chunk, echo reply.
    #[must_use]
    pub fn answer(&self) -> Self {
        let mut body = match self.body {
            Body::Tcp { flags, .. } if flags & flag::SYN != 0 => Body::tcp(flag::SYN | flag::ACK),
            Body::Tcp { .. } => Body::tcp(flag::ACK).sized(40),
            _ => self.body.clone().sized(40),
        };
        if let Body::Echo { reply, .. } = &mut body {
            *reply = true;
        }
        Self::new(self.destination(), self.source(), body)
    }

    /// The error that `by` sends about this packet. `keep`: bytes quoted behind the IP header.
    #[must_use]
    pub fn error(&self, by: IpAddr, kind: u8, code: u8, rest: u32, keep: usize) -> Self {
        let mut quote = self.bytes();
        quote.truncate(quote.len() - self.payload_len() + keep.min(self.payload_len()));
        let at = |ip| SocketAddr::new(ip, 0);
        Self::new(at(by), at(self.src), Body::Error { kind, code, rest, quote })
    }

    /// The packet in pieces of this many bytes, a multiple of eight.
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        let bytes = self.transport(Finish::Done);
        let chunks = bytes.len().div_ceil(size);
        let pieces = bytes.chunks(size).enumerate().map(|(i, piece)| Self {
            fragment: Some(Fragment { offset: i * size, more: i + 1 < chunks }),
            df: false,
            body: Body::Raw { proto: self.proto(), bytes: piece.to_vec() },
            ..self.clone()
        });
        pieces.collect()
    }

    /// The packet of which these are all the pieces, in any order.
    ///
    /// # Errors
    /// They do not fit together, or the whole has a wrong checksum.
    pub fn join(pieces: &[Self]) -> Result<Self, String> {
        let mut pieces: Vec<_> = pieces.iter().collect();
        pieces.sort_by_key(|piece| piece.fragment.map_or(0, |fragment| fragment.offset));
        let first = pieces.first().ok_or("no pieces")?;
        let mut bytes = Vec::new();
        for piece in &pieces {
            let Body::Raw { bytes: part, .. } = &piece.body else { return Err(format!("no piece: {piece}")) };
            if (piece.src, piece.dst, piece.id) != (first.src, first.dst, first.id) {
                return Err(format!("pieces of two packets: {piece} and {first}"));
            }
            if piece.fragment.map(|fragment| fragment.offset) != Some(bytes.len()) {
                return Err(format!("a hole before {piece}"));
            }
            bytes.extend(part);
        }
        let body = read::body(first.src, first.dst, first.proto(), &bytes, Finish::Done)?;
        Ok(Self { fragment: None, body, ..(*first).clone() })
    }

    /// True for the one packet in 65536 whose finished checksum is the very number an unfinished one shows. Behind a
    /// veth XDP cannot tell the two apart.
    pub fn looks_unfinished(&self) -> bool {
        self.transport(Finish::Done) == self.transport(Finish::Offloaded)
    }

    /// In a frame between hardware addresses of no meaning.
    #[must_use]
    pub fn framed(self) -> Frame {
        Frame { to: [2, 0, 0, 0, 0, 1], from: [2, 0, 0, 0, 0, 2], tags: Vec::new(), packet: self, padding: 0 }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.body {
            Body::Tcp { flags, .. } => {
                let names = [(flag::SYN, 'S'), (flag::FIN, 'F'), (flag::RST, 'R'), (flag::ACK, '.')];
                let set: String = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
                format!("tcp[{set}]")
            }
            Body::Udp { checked: true, .. } => "udp".into(),
            Body::Udp { .. } => "udp[no sum]".into(),
            Body::Sctp { .. } => "sctp".into(),
            Body::Echo { reply, .. } => if *reply { "echo reply" } else { "echo" }.into(),
            Body::Error { kind, code, rest, quote } => {
                format!("icmp {kind}/{code} {rest} quoting {} bytes", quote.len())
            }
            Body::Inside(inner) => format!("ip({inner})"),
            Body::Raw { proto, bytes } => format!("proto {proto} {} bytes", bytes.len()),
        };
        write!(f, "{} > {} {name} ttl {}", self.source(), self.destination(), self.ttl)?;
        if let Some(Fragment { offset, more }) = self.fragment {
            write!(f, " id {} piece {offset}{}", self.id, if more { "+" } else { "" })?;
        }
        if !self.options.is_empty() {
            write!(f, " options {:02x?}", self.options)?;
        }
        if !self.extensions.is_empty() {
            write!(f, " extensions {:?}", self.extensions)?;
        }
        Ok(())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.packet)?;
        if !self.tags.is_empty() {
            write!(f, " vlan {:?}", self.tags)?;
        }
        Ok(())
    }
}

/// The unspecified address of a family.
pub fn nowhere(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}
