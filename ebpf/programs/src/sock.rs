//! Sockets of this node and its pods: the destination is translated when a socket connects or sends, so that no packet
//! has to be.
//!
//! Hooks at the root of the cgroups see every process of the machine. A socket is ours when its network namespace is
//! the node's own or a pod's; an outside client that happens to live on the same machine must meet the uplink instead.
//!
//! What a socket was given is kept under its cookie, in both directions. Service to endpoint: an unconnected UDP socket
//! that sends again goes where it went, as long as that lives. Endpoint to service: `recvmsg` and `getpeername` show
//! whom the socket asked, and user space finds the sockets of an endpoint that is gone. One socket that asks two
//! services and is given the same endpoint by both is answered by the latter: there is no port to tell them apart.

mod context;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::SockAddrContext;
use fairlead_abi::{
    Backend, Counter, Pod, SOCKET_LOCKS, ServiceValue, Shape, SocketBucket, SocketKey, SocketValue, V6, mapped, proto,
};

use crate::bucket::{self, Table, words};
use crate::family::{Family, Ip4, Ip6};
use crate::maps::{self, GROUPS, NETNS, count, node};
use crate::service;
use context::{Context, Ctx4, Ctx6, Name, is_mapped, is_zero};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// A socket connects.
#[cgroup_sock_addr(connect4)]
pub(crate) fn sock_connect4(ctx: SockAddrContext) -> i32 {
    translate::<Ctx4>(&ctx, false)
}

/// An IPv6 socket connects, perhaps to a mapped IPv4 address.
#[cgroup_sock_addr(connect6)]
pub(crate) fn sock_connect6(ctx: SockAddrContext) -> i32 {
    translate::<Ctx6>(&ctx, false)
}

/// An unconnected UDP socket sends, to a mapped IPv4 address too.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate::<Ctx4>(&ctx, true)
}

/// An unconnected UDP socket sends.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    translate::<Ctx6>(&ctx, true)
}

/// A UDP socket received: the source it shows is the service.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    show_service::<Ctx4>(&ctx)
}

/// An IPv6 one received, perhaps from a mapped IPv4 address.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    show_service::<Ctx6>(&ctx)
}

/// A socket asks who its peer is: the service.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    show_service::<Ctx4>(&ctx)
}

/// An IPv6 one asks.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    show_service::<Ctx6>(&ctx)
}

#[inline(always)]
fn translate<C: Context>(ctx: &SockAddrContext, sends: bool) -> i32 {
    let mut to = C::name(ctx);
    to.reach_self();
    // SAFETY: the context is the one the kernel passed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let there = SocketKey { cookie, addr: to.addr, port: to.port, back: 0, proto: to.proto, pad: 0 };
    let Some(found) = lookup(&to) else {
        // Not when it sends: an IPv6 socket that is connected to a mapped address comes by with its endpoint each time.
        if !sends {
            forget(&there);
        }
        return ALLOW;
    };
    let Some(client) = Client::of(ctx) else { return ALLOW };
    if found.flags & ServiceValue::SOCKETS_ONLY != 0 && !client.is_node {
        return ALLOW;
    }
    if sends
        && let Some(known) = given(&there)
        && maps::is_alive(known.backend, known.life)
    {
        C::put(ctx, &known.addr, known.port);
        return ALLOW;
    }
    if found.flags & ServiceValue::SOURCE_RANGES != 0 && !client.is_node {
        // A pod whose address is not known is judged by its packets.
        let Some(address) = client.address(is_mapped(&to.addr)) else { return ALLOW };
        if !service::in_range(found.group, &address) {
            count(Counter::SocketOutOfRange);
            return refuse();
        }
    }
    let Some((id, backend)) = choose(found, &client, is_mapped(&to.addr)) else {
        count(Counter::SocketNoEndpoint);
        return refuse();
    };
    let addr = if backend.flags & Backend::IPV6 != 0 {
        backend.addr
    } else {
        mapped([backend.addr[0], backend.addr[1], backend.addr[2], backend.addr[3]])
    };
    remember(&there, &addr, id, backend);
    C::put(ctx, &addr, backend.port);
    count(Counter::SocketTranslated);
    ALLOW
}

/// Refused, for good: an error at once beats a connection that hangs.
#[inline(always)]
fn refuse() -> i32 {
    if node!(has_retval) != 0 {
        // SAFETY: the helper only sets what the system call returns.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

/// Whose socket it is.
struct Client {
    netns: u64,
    pod: Option<&'static Pod>,
    is_node: bool,
}

impl Client {
    /// `None` for sockets that are none of ours.
    #[inline(always)]
    fn of(ctx: &SockAddrContext) -> Option<Self> {
        // SAFETY: the context is the one the kernel passed in.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        let own = node!(netns_cookie);
        if own == 0 {
            // User space does not know any cookie. The initial namespace's, which the kernel gives for no context, is
            // the node's on all but a test's machine.
            // SAFETY: the helper takes null for that.
            let initial = unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) };
            return Some(Self { netns, pod: None, is_node: netns == initial });
        }
        if netns == own {
            return Some(Self { netns, pod: None, is_node: true });
        }
        // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
        let pod = NETNS.get_ptr(&netns).map(|pod| unsafe { &*pod })?;
        Some(Self { netns, pod: Some(pod), is_node: false })
    }

    /// The pod's address of a family, if that is known.
    #[inline(always)]
    fn address(&self, v4: bool) -> Option<V6> {
        let pod = self.pod?;
        let addr = if v4 { mapped(pod.v4) } else { pod.v6 };
        (!is_zero(&addr)).then_some(addr)
    }

    /// As session affinity knows it: see [`fairlead_abi::AffinityKey`].
    #[inline(always)]
    fn affine(&self, v4: bool) -> V6 {
        match self.address(v4) {
            Some(addr) => addr,
            None => context::words(u64::MAX, self.netns),
        }
    }
}

/// The service of this name.
#[inline(always)]
fn lookup(to: &Name) -> Option<ServiceValue> {
    if is_mapped(&to.addr) {
        Ip4::service(Ip4::of_mapped(&to.addr), to.port, to.proto)
    } else {
        Ip6::service(Ip6::of_mapped(&to.addr), to.port, to.proto)
    }
}

/// The client's endpoint from before, if it has affinity, or the one whose turn it is.
#[inline(always)]
fn choose(found: ServiceValue, client: &Client, v4: bool) -> Option<(u32, &'static Backend)> {
    let group = GROUPS.get_ptr(found.group)?;
    let external = found.flags & ServiceValue::EXTERNAL != 0;
    // SAFETY: the map returned a pointer to a value of the array; each field is a word and read whole.
    let (range, timeout) = unsafe {
        let range = if external {
            core::ptr::read_volatile(&raw const (*group).cluster)
        } else {
            core::ptr::read_volatile(&raw const (*group).internal)
        };
        (range, core::ptr::read_volatile(&raw const (*group).affinity))
    };
    let turn = found.group * 2 + external as u32;
    if timeout == 0 {
        let id = service::by_turn(range, turn)?;
        return Some((id, maps::backend(id)?));
    }
    let affine = client.affine(v4);
    let local_only = !external && found.flags & ServiceValue::INTERNAL_LOCAL != 0;
    let id = match service::stick(&affine, found.group, timeout, local_only) {
        Some(id) => {
            count(Counter::AffinityHit);
            id
        }
        None => service::by_turn(range, turn)?,
    };
    let backend = maps::backend(id)?;
    service::remember(&affine, found.group, id, maps::noted(backend.life));
    Some((id, backend))
}

/// Keeps what the socket was given. A table that takes no entry costs the socket its view of the service's address, not
/// its traffic.
#[inline(always)]
fn remember(there: &SocketKey, addr: &V6, id: u32, backend: &Backend) {
    let life = maps::noted(backend.life);
    maps::mark_given(id, life);
    let mut value = SocketValue { addr: there.addr, port: there.port, pad: 0, backend: id, life };
    let back = SocketKey { addr: *addr, port: backend.port, back: 1, ..*there };
    if there.proto == proto::TCP {
        // A socket of its own for each connection: it is not there yet.
        bucket::insert::<Sockets>(&back, &value, true);
        return;
    }
    keep(&back, &value);
    // A UDP socket may send to the service by name, even if it is connected to it.
    if there.proto == proto::UDP {
        value.addr = *addr;
        value.port = backend.port;
        keep(there, &value);
    }
}

/// The socket connects to an address that is no service's. If a service gave it that very endpoint before, this is over:
/// it is to see the address it asked for.
#[inline(always)]
fn forget(there: &SocketKey) {
    let back = SocketKey { back: 1, ..*there };
    if let Some(given) = given(&back) {
        bucket::remove::<Sockets>(&SocketKey { addr: given.addr, port: given.port, ..*there });
        bucket::remove::<Sockets>(&back);
    }
}

/// What sockets were given.
struct Sockets;

impl Table for Sockets {
    type Key = SocketKey;
    type Value = SocketValue;
    const LOCKS: u32 = SOCKET_LOCKS as u32;

    #[inline(always)]
    fn map() -> &'static Array<SocketBucket> {
        &maps::SOCKETS
    }

    #[inline(always)]
    fn locks(shape: *mut Shape) -> *mut u64 {
        // SAFETY: the caller's pointer is to the map's value.
        unsafe { (&raw mut (*shape).socket_locks).cast() }
    }

    #[inline(always)]
    fn place(key: &SocketKey, shape: &Shape) -> (u32, u32) {
        fairlead_packet::bucket::socket(words::<_, [u32; 8]>(key), &shape.seeds, shape.socket_step, shape.sockets)
    }

    #[inline(always)]
    fn same(a: &SocketKey, b: &SocketKey) -> bool {
        let (a, b): (&[u64; 4], &[u64; 4]) = (words(a), words(b));
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }
}

/// What is kept under a key, which is in use now.
#[inline(always)]
pub(crate) fn given(key: &SocketKey) -> Option<&'static mut SocketValue> {
    let home = bucket::home::<Sockets>(key)?;
    let (entry, place) = bucket::entry(&home, key)?;
    home.touch(place, maps::ticks());
    // SAFETY: inside the map's value, which lives on for the run of the program.
    Some(unsafe { &mut (*entry).value })
}

/// Keeps a value. One that is there is written over: nobody but this socket has to do with it.
#[inline(always)]
fn keep(key: &SocketKey, value: &SocketValue) {
    match given(key) {
        Some(known) => *known = *value,
        None => {
            bucket::insert::<Sockets>(key, value, true);
        }
    }
}

#[inline(always)]
fn show_service<C: Context>(ctx: &SockAddrContext) -> i32 {
    let Name { addr, port, proto } = C::name(ctx);
    // SAFETY: the context is the one the kernel passed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Only sockets of ours are in the table.
    if let Some(service) = given(&SocketKey { cookie, addr, port, back: 1, proto, pad: 0 }) {
        C::put(ctx, &service.addr, service.port);
    }
    ALLOW
}
