//! Datagrams of sockets whose endpoint is gone.
//!
//! No hook runs when a connected socket sends, so its datagrams go on to the endpoint it was given until user space has
//! closed it, which takes milliseconds; a fast sender fills them. While user space is about it, it says so in `BYPASS`,
//! and every interface that a local socket's datagrams cross first looks for what the socket was given. They are dropped
//! from the store of the endpoint's life on. At all other times this costs one comparison.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, SocketKey, proto};

use crate::desk::slow_step;
use crate::family::Family;
use crate::maps::{self, count};
use crate::parse::{LATER, Packet};
use crate::sock;
use crate::state::{State, state};

/// Whether the state's packet is such a datagram, which is counted.
#[inline(always)]
pub(crate) fn is_lost<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> bool {
    maps::has_ended() && packet.proto == proto::UDP && packet.fragment != LATER && look::<F>(ctx) != 0
}

slow_step!(
    /// 1: it is.
    look = lost4, lost6: step_look()
);

#[inline(always)]
fn step_look<F: Family>(ctx: &TcContext) -> i32 {
    let Some(State { packet, .. }) = state::<F>() else {
        return 0;
    };
    // SAFETY: the context is the one the kernel passed in; a packet of no socket has the cookie 0.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let key = SocketKey { cookie, addr: F::mapped(packet.dst), port: packet.dport, back: 1, proto: proto::UDP, pad: 0 };
    let Some(given) = sock::given(&key) else {
        return 0;
    };
    if maps::is_alive(given.backend, given.life) {
        return 0;
    }
    count(Counter::DropEndpointGone);
    1
}
