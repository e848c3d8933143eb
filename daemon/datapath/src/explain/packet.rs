//! A first packet of a client, as it would stand on the wire. Checksums are left out: nobody looks at them.

use std::net::{IpAddr, SocketAddr};

use fairlead_source::Protocol;

use crate::tables::protocol_number;

/// The frame: Ethernet, IP, and the opening packet of the protocol.
pub(super) fn first(src: SocketAddr, dst: SocketAddr, protocol: Protocol) -> Vec<u8> {
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let transport = match protocol {
        // SYN, five words of header.
        Protocol::Tcp => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        Protocol::Udp => [&ports[..], &[0, 8, 0, 0]].concat(),
        // INIT.
        Protocol::Sctp => [&ports[..], &[0; 8], &[1, 0, 0, 20], &[0; 16]].concat(),
    };
    let number = protocol_number(protocol);
    let length = u16::try_from(transport.len()).unwrap_or(u16::MAX);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (from, to) => {
            let octets = |addr: IpAddr| match addr {
                IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
                IpAddr::V6(addr) => addr.octets(),
            };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([number, 64]);
            frame.extend(octets(from));
            frame.extend(octets(to));
        }
    }
    frame.extend(transport);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_headers() {
        let four = first("192.0.2.9:1".parse().unwrap(), "10.96.0.1:80".parse().unwrap(), Protocol::Tcp);
        assert_eq!((four.len(), &four[12..14], u16::from_be_bytes([four[16], four[17]])), (54, &[8, 0][..], 40));
        assert_eq!(four[34..38], [0, 1, 0, 80]);
        let six = first("[2001:db8::9]:1".parse().unwrap(), "[fd00::1]:53".parse().unwrap(), Protocol::Udp);
        assert_eq!((six.len(), six[20], &six[54..58]), (62, 17, &[0, 1, 0, 53][..]));
    }
}
