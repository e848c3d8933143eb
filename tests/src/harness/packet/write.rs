//! Packets to bytes.

use std::net::IpAddr;

use super::{Body, Finish, Frame, Packet, proto, sum};

/// Payload: a pattern in which no two neighbours are equal.
pub fn pattern(len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(|i| (i % 251) as u8)
}

/// Where a transport header has its checksum; SCTP's is four bytes long.
pub fn check_at(proto: u8) -> Option<usize> {
    match proto {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        proto::ICMP | proto::ICMPV6 => Some(2),
        _ => None,
    }
}

impl Frame {
    /// The bytes, with every checksum right.
    pub fn bytes(&self) -> Vec<u8> {
        self.finished(Finish::Done)
    }

    /// The bytes, with the transport's checksum in this state.
    pub fn finished(&self, finish: Finish) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.to);
        bytes.extend(self.from);
        for (i, tag) in self.tags.iter().enumerate() {
            let outer = self.tags.len() > 1 && i == 0;
            bytes.extend(if outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(if self.packet.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.packet.finished(finish));
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }
}

impl Packet {
    /// The bytes, with every checksum right.
    pub fn bytes(&self) -> Vec<u8> {
        self.finished(Finish::Done)
    }

    /// The bytes, with the transport's checksum in this state.
    pub fn finished(&self, finish: Finish) -> Vec<u8> {
        let body = self.transport(finish);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options.len();
                let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
                bytes.extend(((header + body.len()) as u16).to_be_bytes());
                bytes.extend((self.id as u16).to_be_bytes());
                let (offset, more) = self.fragment.map_or((0, false), |piece| (piece.offset / 8, piece.more));
                let flags = (u16::from(self.df) << 14) | (u16::from(more) << 13);
                bytes.extend((flags | offset as u16).to_be_bytes());
                bytes.extend([self.ttl, self.proto(), 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(&self.options);
                let check = !sum::internet([&bytes[..]]);
                bytes[10..12].copy_from_slice(&check.to_be_bytes());
                bytes.extend(body);
                bytes
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut chain = self.extensions.clone();
                chain.extend(self.fragment.map(|_| proto::FRAGMENT));
                let mut headers = Vec::new();
                for (i, number) in chain.iter().enumerate() {
                    let next = chain.get(i + 1).copied().unwrap_or(self.proto());
                    headers.extend(self.extension(*number, next));
                }
                let mut bytes = vec![0x60 | (self.tos >> 4), self.tos << 4, 0, 0];
                bytes.extend(((headers.len() + body.len()) as u16).to_be_bytes());
                bytes.extend([chain.first().copied().unwrap_or(self.proto()), self.ttl]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(headers);
                bytes.extend(body);
                bytes
            }
            _ => unreachable!("`new` takes one family alone"),
        }
    }

    fn extension(&self, number: u8, next: u8) -> Vec<u8> {
        match number {
            proto::FRAGMENT => {
                let (offset, more) = self.fragment.map_or((0, false), |piece| (piece.offset, piece.more));
                let mut bytes = vec![next, 0];
                bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes
            }
            // 24 bytes: its length is told in words of four, less two.
            proto::AH => [&[next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0xaa; 12][..]].concat(),
            // No segments left.
            proto::ROUTING => vec![next, 0, 4, 0, 0, 0, 0, 0],
            // Six bytes of padding.
            _ => vec![next, 0, 1, 4, 0, 0, 0, 0],
        }
    }

    /// Length of what follows the IP header and its extensions.
    pub fn payload_len(&self) -> usize {
        self.transport(Finish::Done).len()
    }

    /// Transport header and payload.
    pub fn transport(&self, finish: Finish) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.body {
            Body::Tcp { sport, dport, seq, ack, flags, payload } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(pattern(*payload));
            }
            Body::Udp { sport, dport, payload, .. } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.extend(((8 + payload) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(pattern(*payload));
            }
            Body::Sctp { sport, dport, tag, payload } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend([0, 3]);
                bytes.extend(((16 + payload) as u16).to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(pattern(*payload));
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            Body::Echo { reply, id, seq, payload } => {
                let kind = match (self.src.is_ipv4(), reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                bytes.extend([kind, 0, 0, 0]);
                bytes.extend(id.to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(pattern(*payload));
            }
            Body::Error { kind, code, rest, quote } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                bytes.extend(quote);
            }
            Body::Inside(inner) => bytes.extend(inner.bytes()),
            Body::Raw { bytes: raw, .. } => bytes.extend(raw),
        }
        if !matches!(self.body, Body::Raw { .. } | Body::Inside(_)) {
            self.finish(&mut bytes, finish);
        }
        bytes
    }

    fn finish(&self, bytes: &mut [u8], finish: Finish) {
        let proto = self.proto();
        if matches!(self.body, Body::Udp { checked: false, .. }) {
            return;
        }
        if proto == proto::SCTP {
            if finish == Finish::Done {
                let crc = sum::crc32c(bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&crc);
            }
            return;
        }
        let Some(at) = check_at(proto) else { return };
        let pseudo = match proto {
            proto::ICMP => Vec::new(),
            _ => sum::pseudo(self.src, self.dst, proto, bytes.len()),
        };
        let mut check = match finish {
            Finish::Done => !sum::internet([&pseudo[..], bytes]),
            Finish::Offloaded => sum::internet([&pseudo[..]]),
        };
        if proto == proto::UDP && check == 0 {
            check = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
}
