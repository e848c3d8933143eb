//! Frames to put in, and what comes out, with every checksum verified by plain summing.

use std::net::Ipv4Addr;

use fairlead_packet::checksum::{fold, sum};

/// TCP, UDP and ICMP.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const ICMP: u8 = 1;

/// An IPv4 frame to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// IP protocol.
    pub proto: u8,
    /// Source address and port (or the id of an echo).
    pub src: (Ipv4Addr, u16),
    /// Destination address and port.
    pub dst: (Ipv4Addr, u16),
    /// TCP flags, or the ICMP type.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: usize,
}

impl Frame {
    /// The bytes, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut l4 = match self.proto {
            TCP => {
                let mut l4 = vec![0; 20];
                l4[12] = 0x50;
                l4[13] = self.flags;
                l4[14..16].copy_from_slice(&[0xff, 0xff]);
                l4
            }
            _ => vec![0; 8],
        };
        if self.proto == ICMP {
            l4[0] = self.flags;
            l4[4..6].copy_from_slice(&self.src.1.to_be_bytes());
        } else {
            l4[..2].copy_from_slice(&self.src.1.to_be_bytes());
            l4[2..4].copy_from_slice(&self.dst.1.to_be_bytes());
        }
        l4.extend((0..self.payload).map(|i| i as u8));
        let len = l4.len() as u16;
        if self.proto == UDP {
            l4[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let check = !fold(sum(&l4) + self.pseudo(len));
        l4[check_at(self.proto)..][..2].copy_from_slice(&check.to_ne_bytes());

        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let mut ip = [0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, self.proto, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        ip[12..16].copy_from_slice(&self.src.0.octets());
        ip[16..20].copy_from_slice(&self.dst.0.octets());
        let check = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_ne_bytes());
        frame.extend(ip);
        frame.extend(l4);
        frame
    }

    /// Reads a frame back. The error names the first thing that is wrong with it.
    ///
    /// # Errors
    /// A checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (ip, l4) = (&bytes[14..34], &bytes[34..]);
        if fold(sum(ip)) != 0xffff {
            return Err(format!("the IP checksum is wrong: {ip:02x?}"));
        }
        let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
        let proto = ip[9];
        let mut frame = Self {
            proto,
            src: ([ip[12], ip[13], ip[14], ip[15]].into(), port(0)),
            dst: ([ip[16], ip[17], ip[18], ip[19]].into(), port(2)),
            flags: if proto == TCP { l4[13] } else { 0 },
            payload: l4.len() - if proto == TCP { 20 } else { 8 },
        };
        if proto == ICMP {
            (frame.src.1, frame.dst.1, frame.flags) = (port(4), 0, l4[0]);
        }
        let unchecked = proto == UDP && l4[6..8] == [0, 0];
        if !unchecked && fold(sum(l4) + frame.pseudo(l4.len() as u16)) != 0xffff {
            return Err(format!("the checksum of protocol {proto} is wrong: {l4:02x?}"));
        }
        Ok(frame)
    }

    /// True for the one frame in 65536 whose finished checksum is the very number an unfinished one shows. Behind a veth
    /// no program can tell the two apart.
    pub fn looks_unfinished(&self) -> bool {
        let bytes = self.bytes();
        let l4 = &bytes[34..];
        let at = check_at(self.proto);
        u16::from_ne_bytes([l4[at], l4[at + 1]]) == fold(self.pseudo(l4.len() as u16))
    }

    fn pseudo(&self, len: u16) -> u32 {
        if self.proto == ICMP {
            return 0;
        }
        let mut pseudo = Vec::from(self.src.0.octets());
        pseudo.extend(self.dst.0.octets());
        pseudo.extend([0, self.proto]);
        pseudo.extend(len.to_be_bytes());
        sum(&pseudo)
    }
}

/// Where the checksum stands in the transport header.
pub fn check_at(proto: u8) -> usize {
    match proto {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}
