//! Networks, offsets and flags.

/// Whether a network (address and mask, in packet order) holds an address. The empty network 0/0 with address zero
/// would hold everything, so a mask of zero holds nothing.
#[inline(always)]
pub const fn holds4(network: [u32; 2], addr: [u8; 4]) -> bool {
    network[1] != 0 && u32::from_ne_bytes(addr) & network[1] == network[0]
}

/// The same for IPv6: address and mask as two words each.
#[inline(always)]
pub const fn holds6(network: [u64; 2], mask: [u64; 2], addr: &[u8; 16]) -> bool {
    let [high, low] = halves(addr);
    mask[0] != 0 && high & mask[0] == network[0] && low & mask[1] == network[1]
}

/// An IPv6 address as two words in packet order.
#[inline(always)]
pub const fn halves(addr: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// Multicast, limited broadcast, this-network and loopback addresses are never translated.
#[inline(always)]
pub const fn is_unicast4(addr: [u8; 4]) -> bool {
    addr[0] < 224 && addr[0] != 0 && addr[0] != 127
}

/// Multicast, link-local, loopback and unspecified addresses are never translated.
#[inline(always)]
pub const fn is_unicast6(addr: &[u8; 16]) -> bool {
    let link_local = addr[0] == 0xfe && addr[1] & 0xc0 == 0x80;
    let [high, low] = halves(addr);
    addr[0] != 0xff && !link_local && !(high == 0 && u64::from_be(low) <= 1)
}

/// Source address of a frame that XDP, or tc under a VLAN tag, has translated already: the next program that meets it
/// leaves it alone. The host's stack does not look at who sent a frame.
pub const TRANSLATED_MAC: [u8; 6] = *b"\x02fairl";

/// Ethernet header.
pub const ETH_LEN: usize = 14;
/// Ethernet type of IPv4, as it stands in the packet.
pub const ETH_IPV4: [u8; 2] = [8, 0];
/// Ethernet type of IPv6.
pub const ETH_IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet type of a VLAN tag.
pub const ETH_VLAN: [u8; 2] = [0x81, 0];
/// Ethernet type of a provider's VLAN tag.
pub const ETH_QINQ: [u8; 2] = [0x88, 0xa8];

/// TCP flag: no more data.
pub const FIN: u8 = 1;
/// TCP flag: a new connection.
pub const SYN: u8 = 2;
/// TCP flag: the connection is gone.
pub const RST: u8 = 4;
/// TCP flag: the acknowledgement field counts.
pub const ACK: u8 = 16;

/// Type of the chunk that opens an SCTP association.
pub const SCTP_INIT: u8 = 1;

/// ICMP type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP type of an echo request.
pub const ECHO: u8 = 8;
/// ICMPv6 type of an echo request.
pub const ECHO6: u8 = 128;
/// ICMPv6 type of an echo reply.
pub const ECHO_REPLY6: u8 = 129;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own() {
        let net = [u32::from_ne_bytes([10, 244, 0, 0]), u32::from_ne_bytes([255, 255, 0, 0])];
        assert!(holds4(net, [10, 244, 3, 9]) && !holds4(net, [10, 245, 3, 9]));
        assert!(!holds4([0, 0], [1, 2, 3, 4]));
    }

    #[test]
    fn a_network_of_ipv6_holds_its_own() {
        let mut addr = [0u8; 16];
        addr[..4].copy_from_slice(&[0xfd, 0, 0x02, 0x44]);
        let mut mask = [0u8; 16];
        mask[..7].fill(0xff);
        let (network, mask) = (halves(&addr), halves(&mask));
        addr[7] = 9;
        addr[15] = 1;
        assert!(holds6(network, mask, &addr));
        addr[6] = 1;
        assert!(!holds6(network, mask, &addr));
        assert!(!holds6([0; 2], [0; 2], &addr));
    }

    #[test]
    fn some_addresses_are_never_ends_of_flows() {
        let mut addr = [0u8; 16];
        assert!(!is_unicast6(&addr));
        addr[15] = 1;
        assert!(!is_unicast6(&addr));
        addr[0] = 0xfd;
        assert!(is_unicast6(&addr));
        addr[0] = 0xff;
        assert!(!is_unicast6(&addr));
        (addr[0], addr[1]) = (0xfe, 0x80);
        assert!(!is_unicast6(&addr));
        assert!(is_unicast4([192, 0, 2, 1]) && !is_unicast4([239, 1, 1, 1]) && !is_unicast4([127, 0, 0, 1]));
    }
}
