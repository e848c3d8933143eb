//! Bytes to packets. Whatever is wrong with them is an error: a checksum, a length, a byte of the pattern.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::write::{check_at, pattern};
use super::{Body, Finish, Fragment, Frame, Packet, flag, proto, sum};

impl Frame {
    /// Reads a frame whose checksums are all right.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::parse_finished(bytes, Finish::Done)
    }

    /// Reads a frame whose transport's checksum is in this state.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse_finished(bytes: &[u8], finish: Finish) -> Result<Self, String> {
        let mut rest = bytes;
        let (to, from) = (array(take(&mut rest, 6)?), array(take(&mut rest, 6)?));
        let mut tags = Vec::new();
        loop {
            let kind = word(take(&mut rest, 2)?);
            match kind {
                0x8100 | 0x88a8 => tags.push(word(take(&mut rest, 2)?)),
                0x0800 | 0x86dd => break,
                _ => return Err(format!("Ethernet type {kind:04x}")),
            }
        }
        let (packet, padding) = packet(rest, finish)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(format!("{} bytes behind the packet are not zero", padding.len()));
        }
        Ok(Self { to, from, tags, packet, padding: padding.len() })
    }
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        Ok(packet(bytes, Finish::Done)?.0)
    }
}

fn packet(bytes: &[u8], finish: Finish) -> Result<(Packet, &[u8]), String> {
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => v4(bytes, finish),
        Some(6) => v6(bytes, finish),
        other => Err(format!("IP version {other:?}")),
    }
}

fn v4(bytes: &[u8], finish: Finish) -> Result<(Packet, &[u8]), String> {
    let header = usize::from(bytes[0] & 15) * 4;
    if header < 20 || bytes.len() < header {
        return Err(format!("an IP header of {header} bytes in {}", bytes.len()));
    }
    let total = usize::from(word(&bytes[2..4]));
    if total < header || total > bytes.len() {
        return Err(format!("IP length {total} of {} bytes", bytes.len()));
    }
    let check = sum::internet([&bytes[..header]]);
    if check != 0xffff {
        return Err(format!("the IP checksum is wrong: the header sums to {check:04x}: {:02x?}", &bytes[..header]));
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::from(array::<4>(&bytes[at..at + 4])));
    let flags = word(&bytes[6..8]);
    let piece = Fragment { offset: usize::from(flags & 0x1fff) * 8, more: flags & 0x2000 != 0 };
    let fragment = (piece.offset > 0 || piece.more).then_some(piece);
    let (src, dst) = (address(12), address(16));
    let packet = Packet {
        src,
        dst,
        ttl: bytes[8],
        tos: bytes[1],
        id: u32::from(word(&bytes[4..6])),
        df: flags & 0x4000 != 0,
        options: bytes[20..header].to_vec(),
        extensions: Vec::new(),
        fragment,
        body: piece_or_body(src, dst, bytes[9], &bytes[header..total], fragment, finish)?,
    };
    Ok((packet, &bytes[total..]))
}

fn v6(bytes: &[u8], finish: Finish) -> Result<(Packet, &[u8]), String> {
    if bytes.len() < 40 {
        return Err(format!("an IPv6 header in {} bytes", bytes.len()));
    }
    let total = 40 + usize::from(word(&bytes[4..6]));
    if total > bytes.len() {
        return Err(format!("IPv6 length {total} of {} bytes", bytes.len()));
    }
    let address = |at: usize| IpAddr::V6(Ipv6Addr::from(array::<16>(&bytes[at..at + 16])));
    let (src, dst) = (address(8), address(24));
    let mut packet = Packet {
        src,
        dst,
        ttl: bytes[7],
        tos: (bytes[0] << 4) | (bytes[1] >> 4),
        id: 0,
        df: false,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        body: Body::Raw { proto: 0, bytes: Vec::new() },
    };
    let (mut next, mut rest) = (bytes[6], &bytes[40..total]);
    loop {
        match next {
            proto::FRAGMENT => {
                let header = take(&mut rest, 8)?;
                let place = word(&header[2..4]);
                packet.fragment = Some(Fragment { offset: usize::from(place & 0xfff8), more: place & 1 == 1 });
                packet.id = u32::from_be_bytes(array(&header[4..8]));
                next = header[0];
            }
            proto::HOP | proto::ROUTING | proto::DESTINATION | proto::AH => {
                let word_len = if next == proto::AH { 4 } else { 8 };
                let words = usize::from(*rest.get(1).ok_or("an extension header is cut off")?);
                let header = take(&mut rest, (words + if next == proto::AH { 2 } else { 1 }) * word_len)?;
                packet.extensions.push(next);
                next = header[0];
            }
            _ => break,
        }
    }
    packet.body = piece_or_body(src, dst, next, rest, packet.fragment, finish)?;
    Ok((packet, &bytes[total..]))
}

fn piece_or_body(
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    bytes: &[u8],
    fragment: Option<Fragment>,
    finish: Finish,
) -> Result<Body, String> {
    match fragment {
        Some(_) => Ok(Body::Raw { proto, bytes: bytes.to_vec() }),
        None => body(src, dst, proto, bytes, finish),
    }
}

/// Reads a whole transport header and payload.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn body(src: IpAddr, dst: IpAddr, proto: u8, bytes: &[u8], finish: Finish) -> Result<Body, String> {
    verify(src, dst, proto, bytes, finish)?;
    let mut rest = bytes;
    let mut half = || take(&mut rest, 2).map(word);
    Ok(match proto {
        proto::TCP => {
            let (sport, dport) = (half()?, half()?);
            let header = take(&mut rest, 16)?;
            // The window of what is written here, or that of a reset.
            let window = word(&header[10..12]);
            let odd = window != 0xffff && !(window == 0 && header[9] & flag::RST != 0);
            if header[8] != 0x50 || odd || header[14..] != [0, 0] {
                return Err(format!("an odd TCP header: {header:02x?}"));
            }
            let number = |at: usize| u32::from_be_bytes(array(&header[at..at + 4]));
            Body::Tcp { sport, dport, seq: number(0), ack: number(4), flags: header[9], payload: payload(rest)? }
        }
        proto::UDP => {
            let (sport, dport, len, check) = (half()?, half()?, half()?, half()?);
            if usize::from(len) != bytes.len() {
                return Err(format!("UDP length {len} of {} bytes", bytes.len()));
            }
            Body::Udp { sport, dport, checked: check != 0, payload: payload(rest)? }
        }
        proto::SCTP => {
            let (sport, dport) = (half()?, half()?);
            let tag = u32::from_be_bytes(array(&take(&mut rest, 8)?[..4]));
            let chunk = take(&mut rest, 16)?;
            let len = usize::from(word(&chunk[2..4])).checked_sub(16).ok_or("a short SCTP chunk")?;
            Body::Sctp { sport, dport, tag, payload: payload(take(&mut rest, len)?)? }
        }
        proto::ICMP | proto::ICMPV6 => {
            let header = take(&mut rest, 8)?;
            let (kind, code) = (header[0], header[1]);
            let (request, reply) = if proto == proto::ICMP { (8, 0) } else { (128, 129) };
            if code == 0 && (kind == request || kind == reply) {
                let (id, seq) = (word(&header[4..6]), word(&header[6..8]));
                Body::Echo { reply: kind == reply, id, seq, payload: payload(rest)? }
            } else {
                Body::Error { kind, code, rest: u32::from_be_bytes(array(&header[4..8])), quote: rest.to_vec() }
            }
        }
        proto::IPIP | proto::IPV6 => {
            let (inner, behind) = packet(bytes, Finish::Done).map_err(|wrong| format!("inside: {wrong}"))?;
            if !behind.is_empty() {
                return Err(format!("{} bytes behind the inner packet", behind.len()));
            }
            Body::Inside(Box::new(inner))
        }
        _ => Body::Raw { proto, bytes: bytes.to_vec() },
    })
}

fn verify(src: IpAddr, dst: IpAddr, proto: u8, bytes: &[u8], finish: Finish) -> Result<(), String> {
    if proto == proto::SCTP {
        let field: [u8; 4] = array(bytes.get(8..12).ok_or("SCTP is cut off")?);
        let mut blank = bytes.to_vec();
        blank[8..12].fill(0);
        let expected = if finish == Finish::Done { sum::crc32c(&blank).to_le_bytes() } else { [0; 4] };
        return if field == expected { Ok(()) } else { Err(format!("CRC32c {field:02x?}, not {expected:02x?}")) };
    }
    let Some(at) = check_at(proto) else { return Ok(()) };
    let field = word(bytes.get(at..at + 2).ok_or_else(|| format!("protocol {proto} in {} bytes", bytes.len()))?);
    if proto == proto::UDP && field == 0 {
        return if src.is_ipv4() { Ok(()) } else { Err("UDP over IPv6 without a checksum".into()) };
    }
    let pseudo = match proto {
        proto::ICMP => Vec::new(),
        _ => sum::pseudo(src, dst, proto, bytes.len()),
    };
    match finish {
        Finish::Done => match sum::internet([&pseudo[..], bytes]) {
            0xffff => Ok(()),
            wrong => Err(format!("the checksum {field:04x} of protocol {proto} is wrong: all sums to {wrong:04x}")),
        },
        Finish::Offloaded => {
            let expected = sum::internet([&pseudo[..]]);
            // Zero and 0xffff are one number to who goes on adding.
            if field == expected || (field.is_multiple_of(0xffff) && expected.is_multiple_of(0xffff)) {
                Ok(())
            } else {
                Err(format!("the unfinished checksum is {field:04x}, not {expected:04x}"))
            }
        }
    }
}

fn payload(bytes: &[u8]) -> Result<usize, String> {
    match bytes.iter().zip(pattern(bytes.len())).position(|(found, expected)| *found != expected) {
        Some(at) => Err(format!("byte {at} of {} of the payload changed", bytes.len())),
        None => Ok(bytes.len()),
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (head, tail) = bytes.split_at_checked(len).ok_or_else(|| format!("{len} of {} bytes left", bytes.len()))?;
    *bytes = tail;
    Ok(head)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    all.copy_from_slice(bytes);
    all
}

fn word(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let ends = [["10.0.0.1:1000", "10.96.0.7:80"], ["[fd00::1]:1000", "[fd00::7]:80"]];
        for [src, dst] in ends.map(|ends| ends.map(|end| end.parse().expect("an address"))) {
            let quoted = Packet::new(dst, src, Body::udp(10));
            let bodies = [
                Body::tcp(flag::SYN),
                Body::tcp(flag::ACK).sized(1001),
                Body::udp(7),
                Body::sctp(9),
                Body::echo(77),
                quoted.error(src.ip(), 3, 4, 1400, 8).body,
                Body::Inside(Box::new(quoted.clone())),
                Body::Raw { proto: proto::GRE, bytes: vec![1, 2, 3] },
            ];
            for body in bodies {
                for extra in 0..3 {
                    let mut frame = Packet::new(src, dst, body.clone()).framed();
                    frame.tags = vec![5, 6][..extra].to_vec();
                    frame.padding = extra;
                    if src.is_ipv4() {
                        frame.packet.options = vec![1; 4 * extra];
                    } else {
                        frame.packet.extensions = vec![proto::HOP, proto::AH][..extra].to_vec();
                    }
                    let mut bytes = frame.bytes();
                    assert_eq!(Frame::parse(&bytes), Ok(frame.clone()), "{frame}");
                    let start = 14 + 4 * extra;
                    bytes[start + 15] ^= 4;
                    assert_ne!(Frame::parse(&bytes), Ok(frame.clone()), "{frame}");
                }
            }
        }
    }

    #[test]
    fn pieces_make_a_whole_again() {
        for [src, dst] in [["10.0.0.1:1000", "10.96.0.7:80"], ["[fd00::1]:1000", "[fd00::7]:80"]] {
            let whole = Packet::new(src.parse().expect("it is"), dst.parse().expect("it is"), Body::udp(3001));
            let mut pieces = whole.fragments(1480);
            assert_eq!(pieces.len(), 3);
            for piece in &pieces {
                assert_eq!(Packet::parse(&piece.bytes()).as_ref(), Ok(piece));
            }
            pieces.reverse();
            assert_eq!(Packet::join(&pieces).map(|joined| joined.body), Ok(whole.body));
        }
    }
}
