//! Networks, offsets and flags.

/// An address as the bytes stand in the packet, for masks.
#[inline(always)]
pub const fn bits(addr: [u8; 4]) -> u32 {
    u32::from_ne_bytes(addr)
}

/// Whether a network (address and mask, in packet order) holds an address. The empty network 0/0 with address zero
/// would hold everything, so a mask of zero holds nothing.
#[inline(always)]
pub const fn holds(network: [u32; 2], addr: [u8; 4]) -> bool {
    network[1] != 0 && bits(addr) & network[1] == network[0]
}

/// Multicast, limited broadcast, this-network and loopback addresses are never translated.
#[inline(always)]
pub const fn is_unicast(addr: [u8; 4]) -> bool {
    addr[0] < 224 && addr[0] != 0 && addr[0] != 127
}

/// Ethernet header.
pub const ETH_LEN: usize = 14;
/// IPv4 header without options.
pub const IP_LEN: usize = 20;
/// Where the transport header starts.
pub const L4: usize = ETH_LEN + IP_LEN;
/// Ethernet type of IPv4, as it stands in the packet.
pub const ETH_IPV4: [u8; 2] = [8, 0];

/// TCP flag: no more data.
pub const FIN: u8 = 1;
/// TCP flag: a new connection.
pub const SYN: u8 = 2;
/// TCP flag: the connection is gone.
pub const RST: u8 = 4;
/// TCP flag: the acknowledgement field counts.
pub const ACK: u8 = 16;

/// ICMP type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP type of an echo request.
pub const ECHO: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own() {
        let net = [bits([10, 244, 0, 0]), bits([255, 255, 0, 0])];
        assert!(holds(net, [10, 244, 3, 9]) && !holds(net, [10, 245, 3, 9]));
        assert!(!holds([0, 0], [1, 2, 3, 4]));
    }
}
