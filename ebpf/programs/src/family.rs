//! The two families of addresses. Everything that decides is written once, over [`Family`].

use aya_ebpf::maps::{HashMap, LruHashMap};
use fairlead_abi::{FlowKey, FlowValue, NON_MASQUERADE_MAX, SOURCES_MAX, ServiceKey, ServiceValue, SourcePool, V4, V6};
use fairlead_packet::{choice, net};

use crate::maps::{self, node};

/// What differs between IPv4 and IPv6.
pub(crate) trait Family: Copy + 'static {
    /// An address as it stands in the packet.
    type Addr: Copy + 'static;
    /// Whether this is IPv6.
    const V6: bool;
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    /// Ethernet type, as it stands in the packet.
    const ETH_TYPE: [u8; 2];
    /// Length of the header without options or extensions.
    const HEADER: usize;
    /// Where the source address stands in the header; the destination follows it.
    const ADDRS: usize;
    /// Where the time to live stands in the header.
    const TTL: usize;
    /// ICMP of this family.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// An address of zeros.
    const ZERO: Self::Addr;

    /// The flows of this family.
    fn flows() -> &'static LruHashMap<FlowKey<Self::Addr>, FlowValue<Self::Addr>>;
    /// The services of this family.
    fn services() -> &'static HashMap<ServiceKey<Self::Addr>, ServiceValue>;
    /// The address in the form of the tables of both families.
    fn mapped(addr: Self::Addr) -> V6;
    /// The address as a [`fairlead_abi::Backend`] holds it.
    fn of_backend(addr: &V6) -> Self::Addr;
    /// Whether two addresses are the same.
    fn same(a: &Self::Addr, b: &Self::Addr) -> bool;
    /// Whether it is where pods live.
    fn in_cluster(addr: &Self::Addr) -> bool;
    /// Whether pods reach it under their own address: in the cluster, or exempt from masquerade.
    fn is_near(addr: &Self::Addr) -> bool;
    /// Whether it may be an end of a flow: not multicast, broadcast, loopback, link-local or unspecified.
    fn is_unicast(addr: &Self::Addr) -> bool;
    /// See [`choice::hash`].
    fn hash(client: &Self::Addr, service: &Self::Addr, port: [u8; 2], proto: u8) -> u32;
    /// Number of addresses of a pool.
    fn sources(pool: &SourcePool) -> u32;
    /// One address of a pool.
    fn source(pool: &SourcePool, place: u32) -> Self::Addr;

    /// The service at an address, if there is one. Its words are constant for its life.
    #[inline(always)]
    fn service(addr: Self::Addr, port: [u8; 2], proto: u8) -> Option<ServiceValue> {
        let key = ServiceKey { addr, port, proto, pad: 0 };
        // SAFETY: the value is copied out at once.
        unsafe { Self::services().get(&key) }.copied()
    }

    /// The first address to translate sources to, on an uplink.
    #[inline(always)]
    fn pool(ifindex: u32) -> Option<Self::Addr> {
        let pool = maps::pool(ifindex)?;
        (Self::sources(pool) != 0).then(|| Self::source(pool, 0))
    }
}

/// IPv4.
#[derive(Clone, Copy)]
pub(crate) struct Ip4;

/// IPv6.
#[derive(Clone, Copy)]
pub(crate) struct Ip6;

impl Family for Ip4 {
    type Addr = V4;
    const V6: bool = false;
    const AF: u8 = 2;
    const ETH_TYPE: [u8; 2] = net::ETH_IPV4;
    const HEADER: usize = 20;
    const ADDRS: usize = 12;
    const TTL: usize = 8;
    const ICMP: u8 = fairlead_abi::proto::ICMP;
    const ECHO: u8 = net::ECHO;
    const ECHO_REPLY: u8 = net::ECHO_REPLY;
    const ZERO: V4 = [0; 4];

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey<V4>, FlowValue<V4>> {
        &maps::FLOWS4
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<V4>, ServiceValue> {
        &maps::SERVICES4
    }

    #[inline(always)]
    fn mapped(addr: V4) -> V6 {
        fairlead_abi::mapped(addr)
    }

    #[inline(always)]
    fn of_backend(addr: &V6) -> V4 {
        [addr[0], addr[1], addr[2], addr[3]]
    }

    #[inline(always)]
    fn same(a: &V4, b: &V4) -> bool {
        u32::from_ne_bytes(*a) == u32::from_ne_bytes(*b)
    }

    #[inline(always)]
    fn in_cluster(addr: &V4) -> bool {
        net::holds4([node!(cluster4.addr), node!(cluster4.mask)], *addr)
    }

    #[inline(always)]
    fn is_near(addr: &V4) -> bool {
        if Self::in_cluster(addr) {
            return true;
        }
        let len = node!(near4_len);
        let mut i = 0;
        while i < NON_MASQUERADE_MAX {
            if i as u32 >= len {
                break;
            }
            if net::holds4([node!(near4[i].addr), node!(near4[i].mask)], *addr) {
                return true;
            }
            i += 1;
        }
        false
    }

    #[inline(always)]
    fn is_unicast(addr: &V4) -> bool {
        net::is_unicast4(*addr)
    }

    #[inline(always)]
    fn hash(client: &V4, service: &V4, port: [u8; 2], proto: u8) -> u32 {
        choice::hash(*client, *service, port, proto)
    }

    #[inline(always)]
    fn sources(pool: &SourcePool) -> u32 {
        pool.v4_len
    }

    #[inline(always)]
    fn source(pool: &SourcePool, place: u32) -> V4 {
        pool.v4[place as usize & (SOURCES_MAX - 1)]
    }
}

impl Family for Ip6 {
    type Addr = V6;
    const V6: bool = true;
    const AF: u8 = 10;
    const ETH_TYPE: [u8; 2] = net::ETH_IPV6;
    const HEADER: usize = 40;
    const ADDRS: usize = 8;
    const TTL: usize = 7;
    const ICMP: u8 = fairlead_abi::proto::ICMPV6;
    const ECHO: u8 = net::ECHO6;
    const ECHO_REPLY: u8 = net::ECHO_REPLY6;
    const ZERO: V6 = [0; 16];

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey<V6>, FlowValue<V6>> {
        &maps::FLOWS6
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<V6>, ServiceValue> {
        &maps::SERVICES6
    }

    #[inline(always)]
    fn mapped(addr: V6) -> V6 {
        addr
    }

    #[inline(always)]
    fn of_backend(addr: &V6) -> V6 {
        *addr
    }

    #[inline(always)]
    fn same(a: &V6, b: &V6) -> bool {
        // Not `==`, which becomes a call of `bcmp`.
        u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
    }

    #[inline(always)]
    fn in_cluster(addr: &V6) -> bool {
        net::holds6(
            [node!(cluster6.addr[0]), node!(cluster6.addr[1])],
            [node!(cluster6.mask[0]), node!(cluster6.mask[1])],
            addr,
        )
    }

    #[inline(always)]
    fn is_near(addr: &V6) -> bool {
        if Self::in_cluster(addr) {
            return true;
        }
        let len = node!(near6_len);
        let mut i = 0;
        while i < NON_MASQUERADE_MAX {
            if i as u32 >= len {
                break;
            }
            let network = [node!(near6[i].addr[0]), node!(near6[i].addr[1])];
            if net::holds6(network, [node!(near6[i].mask[0]), node!(near6[i].mask[1])], addr) {
                return true;
            }
            i += 1;
        }
        false
    }

    #[inline(always)]
    fn is_unicast(addr: &V6) -> bool {
        net::is_unicast6(addr)
    }

    #[inline(always)]
    fn hash(client: &V6, service: &V6, port: [u8; 2], proto: u8) -> u32 {
        choice::hash6(client, service, port, proto)
    }

    #[inline(always)]
    fn sources(pool: &SourcePool) -> u32 {
        pool.v6_len
    }

    #[inline(always)]
    fn source(pool: &SourcePool, place: u32) -> V6 {
        pool.v6[place as usize & (SOURCES_MAX - 1)]
    }
}
