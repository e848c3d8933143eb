//! Sockets of this node and its pods: the destination is translated when a socket connects or sends, so that no packet
//! has to be.
//!
//! Hooks at the root of the cgroups see every process of the machine. A socket is ours when its network namespace is
//! the node's own or a pod's; an outside client that happens to live on the same machine must meet the uplink instead.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use fairlead_abi::{Backend, Counter, SocketKey, SocketValue, proto};

use crate::maps::{self, NETNS, SOCKETS, count, node};
use crate::service;

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// A socket connects.
#[cgroup_sock_addr(connect4)]
pub(crate) fn sock_connect4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, false)
}

/// An unconnected UDP socket sends.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    translate(&ctx, true)
}

/// A UDP socket received: the source it shows is the service.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    show_service(&ctx);
    ALLOW
}

/// A socket asks who its peer is: the service.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    show_service(&ctx);
    ALLOW
}

#[inline(always)]
fn translate(ctx: &SockAddrContext, sticky: bool) -> i32 {
    if !is_ours(ctx) {
        return ALLOW;
    }
    let (addr, port, proto) = destination(ctx);
    let Some(found) = service::lookup(addr, port, proto) else {
        return ALLOW;
    };
    // SAFETY: the context is the one the kernel passed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let there = SocketKey { cookie, addr, port, back: 0, proto };
    if sticky && let Some(known) = SOCKETS.get_ptr(&there) {
        // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
        let known = unsafe { *known };
        if maps::is_alive(known.backend, known.life) {
            set_address(ctx, known.addr, known.port);
            return ALLOW;
        }
    }
    let Some((id, backend)) = service::by_turn(found) else {
        count(Counter::SocketNoEndpoint);
        if node!(has_retval) != 0 {
            // SAFETY: the helper only sets what the system call returns.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
        }
        return REFUSE;
    };
    remember(&there, id, &backend, sticky);
    set_address(ctx, backend.addr, backend.port);
    count(Counter::SocketTranslated);
    ALLOW
}

/// Keeps what the reverse hooks show and, for a socket that sends again and again, where it sends to. A table that
/// takes no entry costs the socket its view of the service's address, not its traffic.
#[inline(always)]
fn remember(there: &SocketKey, id: u32, backend: &Backend, sticky: bool) {
    let mut value = SocketValue { addr: there.addr, port: there.port, pad: 0, backend: id, life: backend.life };
    let back = SocketKey { addr: backend.addr, port: backend.port, back: 1, ..*there };
    let _ = SOCKETS.insert(&back, &value, 0);
    if sticky {
        value.addr = backend.addr;
        value.port = backend.port;
        let _ = SOCKETS.insert(there, &value, 0);
    }
}

#[inline(always)]
fn show_service(ctx: &SockAddrContext) {
    if !is_ours(ctx) {
        return;
    }
    let (addr, port, proto) = destination(ctx);
    // SAFETY: the context is the one the kernel passed in.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(service) = SOCKETS.get_ptr(&SocketKey { cookie, addr, port, back: 1, proto }) {
        // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
        let service = unsafe { *service };
        set_address(ctx, service.addr, service.port);
    }
}

#[inline(always)]
fn is_ours(ctx: &SockAddrContext) -> bool {
    let own = node!(netns_cookie);
    if own == 0 {
        return true;
    }
    // SAFETY: the context is the one the kernel passed in.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    cookie == own || NETNS.get_ptr(&cookie).is_some()
}

/// Address, port and protocol the socket names.
#[inline(always)]
fn destination(ctx: &SockAddrContext) -> ([u8; 4], [u8; 2], u8) {
    // SAFETY: fields of the context, each read as the one word the kernel gives.
    unsafe {
        let addr = core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4);
        let port = core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_port);
        let proto = core::ptr::read_volatile(&raw const (*ctx.sock_addr).protocol);
        (addr.to_ne_bytes(), (port as u16).to_ne_bytes(), proto as u8)
    }
}

#[inline(always)]
fn set_address(ctx: &SockAddrContext, addr: [u8; 4], port: [u8; 2]) {
    // SAFETY: fields of the context, each written as the one word the kernel takes.
    unsafe {
        core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, u32::from_ne_bytes(addr));
        core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u16::from_ne_bytes(port) as u32);
    }
}

const _: () = assert!(proto::TCP == 6 && proto::UDP == 17);
