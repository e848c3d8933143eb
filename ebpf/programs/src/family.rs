//! The two families of addresses. Everything that decides is written once, over [`Family`].

use aya_ebpf::maps::{Array, HashMap};
use fairlead_abi::{
    Backend, FlowBucket, FlowKey, NON_MASQUERADE_MAX, SEEDS, SOURCES_MAX, ServiceKey, ServiceValue, SourcePool, V6,
};
use fairlead_packet::{checksum, choice, net};

use crate::bucket::{hash, words};
use crate::maps::{self, node};

/// What differs between IPv4 and IPv6.
pub(crate) trait Family: Copy + 'static {
    /// An address as it stands in the packet, as words: the target moves what is not known to be aligned byte by byte.
    type Addr: Copy + 'static;
    /// Whether this is IPv6.
    const V6: bool;
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
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

    /// The flows of this family, for `table`.
    fn flows() -> &'static Array<FlowBucket<Self::Addr>>;
    /// The hash of a flow's key, see [`hash`].
    fn flow_hash(key: &FlowKey<Self::Addr>, seeds: &[u64; SEEDS]) -> u32;
    /// Whether two keys are the same.
    fn same_key(a: &FlowKey<Self::Addr>, b: &FlowKey<Self::Addr>) -> bool;
    /// The services of this family.
    fn services() -> &'static HashMap<ServiceKey<Self::Addr>, ServiceValue>;
    /// The address in the form of the tables of both families.
    fn mapped(addr: Self::Addr) -> V6;
    /// The address that is in the form of the tables of both families.
    fn of_mapped(addr: &V6) -> Self::Addr;
    /// Address of an endpoint.
    fn of_backend(backend: &Backend) -> Self::Addr;
    /// Whether two addresses are the same.
    fn same(a: &Self::Addr, b: &Self::Addr) -> bool;
    /// What a sum changes by when an address is replaced, see [`checksum::delta_words`].
    fn delta(old: &Self::Addr, new: &Self::Addr) -> u32;
    /// The sum of an address, see [`checksum::sum_words`].
    fn words(addr: &Self::Addr) -> u32;
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

/// The bytes of an address.
#[inline(always)]
fn bytes(words: &[u32; 4]) -> V6 {
    // SAFETY: words of the same size, any bits of which are bytes.
    unsafe { core::mem::transmute(*words) }
}

impl Family for Ip4 {
    type Addr = u32;
    const V6: bool = false;
    const AF: u8 = 2;
    const HEADER: usize = 20;
    const ADDRS: usize = 12;
    const TTL: usize = 8;
    const ICMP: u8 = fairlead_abi::proto::ICMP;
    const ECHO: u8 = net::ECHO;
    const ECHO_REPLY: u8 = net::ECHO_REPLY;

    #[inline(always)]
    fn flows() -> &'static Array<FlowBucket<u32>> {
        &maps::FLOWS4
    }

    #[inline(always)]
    fn flow_hash(key: &FlowKey<u32>, seeds: &[u64; SEEDS]) -> u32 {
        hash(words::<_, [u32; 4]>(key), seeds)
    }

    #[inline(always)]
    fn same_key(a: &FlowKey<u32>, b: &FlowKey<u32>) -> bool {
        let (a, b): (&[u64; 2], &[u64; 2]) = (words(a), words(b));
        a[0] == b[0] && a[1] == b[1]
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<u32>, ServiceValue> {
        &maps::SERVICES4
    }

    #[inline(always)]
    fn mapped(addr: u32) -> V6 {
        bytes(&[0, 0, 0xffff_u32.to_be(), addr])
    }

    #[inline(always)]
    fn of_mapped(addr: &V6) -> u32 {
        u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]])
    }

    #[inline(always)]
    fn of_backend(backend: &Backend) -> u32 {
        Ip6::of_backend(backend)[0]
    }

    #[inline(always)]
    fn same(a: &u32, b: &u32) -> bool {
        a == b
    }

    #[inline(always)]
    fn delta(old: &u32, new: &u32) -> u32 {
        checksum::delta_words(&[*old], &[*new])
    }

    #[inline(always)]
    fn words(addr: &u32) -> u32 {
        checksum::sum_words(&[*addr])
    }

    #[inline(always)]
    fn in_cluster(addr: &u32) -> bool {
        net::holds4([node!(cluster4.addr), node!(cluster4.mask)], addr.to_ne_bytes())
    }

    #[inline(always)]
    fn is_near(addr: &u32) -> bool {
        if Self::in_cluster(addr) {
            return true;
        }
        let len = node!(near4_len);
        let mut i = 0;
        while i < NON_MASQUERADE_MAX {
            if i as u32 >= len {
                break;
            }
            if net::holds4([node!(near4[i].addr), node!(near4[i].mask)], addr.to_ne_bytes()) {
                return true;
            }
            i += 1;
        }
        false
    }

    #[inline(always)]
    fn is_unicast(addr: &u32) -> bool {
        net::is_unicast4(addr.to_ne_bytes())
    }

    #[inline(always)]
    fn hash(client: &u32, service: &u32, port: [u8; 2], proto: u8) -> u32 {
        choice::hash(client.to_ne_bytes(), service.to_ne_bytes(), port, proto)
    }

    #[inline(always)]
    fn sources(pool: &SourcePool) -> u32 {
        pool.v4_len
    }

    #[inline(always)]
    fn source(pool: &SourcePool, place: u32) -> u32 {
        // SAFETY: `in_pool` keeps to the pool's length, a power of two.
        u32::from_ne_bytes(unsafe { *pool.v4.get_unchecked(in_pool(place)) })
    }
}

impl Family for Ip6 {
    type Addr = [u32; 4];
    const V6: bool = true;
    const AF: u8 = 10;
    const HEADER: usize = 40;
    const ADDRS: usize = 8;
    const TTL: usize = 7;
    const ICMP: u8 = fairlead_abi::proto::ICMPV6;
    const ECHO: u8 = net::ECHO6;
    const ECHO_REPLY: u8 = net::ECHO_REPLY6;

    #[inline(always)]
    fn flows() -> &'static Array<FlowBucket<[u32; 4]>> {
        &maps::FLOWS6
    }

    #[inline(always)]
    fn flow_hash(key: &FlowKey<[u32; 4]>, seeds: &[u64; SEEDS]) -> u32 {
        hash(words::<_, [u32; 10]>(key), seeds)
    }

    #[inline(always)]
    fn same_key(a: &FlowKey<[u32; 4]>, b: &FlowKey<[u32; 4]>) -> bool {
        let (a, b): (&[u64; 5], &[u64; 5]) = (words(a), words(b));
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4]
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<[u32; 4]>, ServiceValue> {
        &maps::SERVICES6
    }

    #[inline(always)]
    fn mapped(addr: [u32; 4]) -> V6 {
        bytes(&addr)
    }

    #[inline(always)]
    fn of_mapped(addr: &V6) -> [u32; 4] {
        // SAFETY: bytes of the same size, any of which are words.
        unsafe { core::mem::transmute(*addr) }
    }

    #[inline(always)]
    fn of_backend(backend: &Backend) -> [u32; 4] {
        // SAFETY: the first field of a struct of this alignment.
        unsafe { *(&raw const backend.addr).cast::<[u32; 4]>() }
    }

    #[inline(always)]
    fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
        // Not `==`, which becomes a call of `bcmp`.
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }

    #[inline(always)]
    fn delta(old: &[u32; 4], new: &[u32; 4]) -> u32 {
        checksum::delta_words(old, new)
    }

    #[inline(always)]
    fn words(addr: &[u32; 4]) -> u32 {
        checksum::sum_words(addr)
    }

    #[inline(always)]
    fn in_cluster(addr: &[u32; 4]) -> bool {
        net::holds6(
            [node!(cluster6.addr[0]), node!(cluster6.addr[1])],
            [node!(cluster6.mask[0]), node!(cluster6.mask[1])],
            &bytes(addr),
        )
    }

    #[inline(always)]
    fn is_near(addr: &[u32; 4]) -> bool {
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
            if net::holds6(network, [node!(near6[i].mask[0]), node!(near6[i].mask[1])], &bytes(addr)) {
                return true;
            }
            i += 1;
        }
        false
    }

    #[inline(always)]
    fn is_unicast(addr: &[u32; 4]) -> bool {
        net::is_unicast6(&bytes(addr))
    }

    #[inline(always)]
    fn hash(client: &[u32; 4], service: &[u32; 4], port: [u8; 2], proto: u8) -> u32 {
        choice::hash6(&bytes(client), &bytes(service), port, proto)
    }

    #[inline(always)]
    fn sources(pool: &SourcePool) -> u32 {
        pool.v6_len
    }

    #[inline(always)]
    fn source(pool: &SourcePool, place: u32) -> [u32; 4] {
        // SAFETY: inside the pool, which is aligned for words, as this field of it is.
        unsafe { *core::ptr::from_ref(pool.v6.get_unchecked(in_pool(place))).cast::<[u32; 4]>() }
    }
}

/// A bound that the compiler cannot prove superfluous, and so leaves in for the verifier: kernels before 6 do not see that
/// a hash scaled to a length is below it.
static LAST_SOURCE: u32 = SOURCES_MAX as u32 - 1;

/// A place in a [`SourcePool`], whatever the number.
#[inline(always)]
fn in_pool(place: u32) -> usize {
    // SAFETY: a static of the object; volatile, so that its value stays unknown to the compiler. The verifier knows it.
    (place & unsafe { core::ptr::read_volatile(&raw const LAST_SOURCE) }) as usize
}
