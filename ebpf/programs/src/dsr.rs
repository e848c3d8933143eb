//! Direct server return: the endpoint's node gets the client's packet as it is, and answers the client itself.
//!
//! Two ways. In another packet, whose destination is the endpoint: it reaches any node to which pods' addresses are
//! routed. Or as it is, under the hardware address of the next hop towards the endpoint: that must be the endpoint's
//! node itself, which then makes the same choice, because its ring is the same.
//!
//! A packet that does not fit once it is wrapped is answered with an ICMP error, also where IPv4 would allow to cut it:
//! the parts would have to be put together before they are unwrapped, and nobody is there to do that. Before 5.12 the
//! kernel does not tell the MTU of a route; 1500 is assumed there.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::bindings::{bpf_fib_lookup as FibLookup, bpf_redir_neigh as Neighbour};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Backend, Counter, FlowFlags, MemberKey, ServiceValue, proto};

use crate::answer::{self, ICMP_LEN, finish_error, quote_len};
use crate::desk::{desk, slow_step};
use crate::family::Family;
use crate::fragment;
use crate::header::{ATOMIC, FIXED_GSO, Make, RECOMPUTE, make_room, resize, store_header};
use crate::maps::{self, MEMBERS, count, node};
use crate::parse::{Kind, LATER, Packet, WHOLE, complete};
use crate::skb::{NEXT, SHOT};
use crate::table;

/// From [`decapsulate`]: not for us; the packet is as it was.
pub(crate) const LEAVE: u32 = u32::MAX - 1;
/// From [`decapsulate`]: to be dropped; counted.
pub(crate) const FAILED: u32 = u32::MAX;

/// What is assumed of a route whose MTU the kernel does not tell.
const MTU: u16 = 1500;

/// Protocol of a packet of this family in a packet.
#[inline(always)]
const fn inside<F: Family>() -> u8 {
    if F::V6 { proto::IPV6 } else { proto::IPIP }
}

/// From [`translate_error`]: it is an error for the client now, and must be sent out.
pub(crate) const TRANSLATED: i32 = 1000;
/// From [`step_wrap`] and [`step_hand_over`]: the packet has come too far.
const TOO_FAR: i32 = 1001;
/// From [`step_wrap`] and [`step_hand_over`]: plus the MTU that the packet does not fit.
const TOO_BIG: i32 = 1 << 20;

/// Sends a packet to its endpoint's node in another packet.
#[inline(always)]
pub(crate) fn encapsulate<F: Family>(ctx: &TcContext, packet: &Packet<F>, endpoint: &F::Addr) -> i32 {
    say(ctx, packet, endpoint, wrap::<F>)
}

/// Sends a packet to its endpoint's node by hardware address.
#[inline(always)]
pub(crate) fn direct<F: Family>(ctx: &TcContext, packet: &Packet<F>, endpoint: &F::Addr) -> i32 {
    say(ctx, packet, endpoint, hand_over::<F>)
}

/// Takes a step with a packet, and answers what must be answered.
#[inline(always)]
fn say<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F>,
    endpoint: &F::Addr,
    step: impl FnOnce(&TcContext) -> i32,
) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    desk.packet = *packet;
    desk.dst = *endpoint;
    match step(ctx) {
        TOO_FAR => answer::time_exceeded(ctx, packet),
        outcome @ TOO_BIG.. => answer::too_big(ctx, packet, (outcome - TOO_BIG) as u32),
        action => action,
    }
}

slow_step!(wrap = wrap4, wrap6: step_wrap());
slow_step!(hand_over = hand_over4, hand_over6: step_hand_over());
slow_step!(unwrap = unwrap4, unwrap6: step_unwrap());

#[inline(always)]
fn step_wrap<F: Family>(ctx: &TcContext) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    let (packet, endpoint) = (&desk.packet, &desk.dst);
    // SAFETY: fields of the context.
    let (ifindex, is_gso) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).gso_size != 0) };
    let Some(source) = F::pool(ifindex) else {
        count(Counter::DropNoSourceAddress);
        return SHOT;
    };
    if packet.ttl <= 1 {
        return TOO_FAR;
    }
    // What will be cut into segments is cut smaller: making room sees to that. UDP's segments must keep their size.
    let is_cut = is_gso && packet.proto == proto::TCP;
    let len = if is_cut { 0 } else { packet.total.saturating_add(F::HEADER as u16) };
    // SAFETY: plain numbers, of which all zero is a value.
    let mut found: FibLookup = unsafe { core::mem::zeroed() };
    match look_up::<F>(ctx, &source, endpoint, len, &mut found) {
        // What is sent from here is not forwarded.
        Route::FOUND | Route::UNRESOLVED | Route::NOT_FORWARDED => {}
        Route::TOO_SMALL => return TOO_BIG + mtu(&found, len).saturating_sub(F::HEADER as i32),
        _ => {
            count(Counter::DropNoRoute);
            return SHOT;
        }
    }
    if put_before(ctx, packet, source, endpoint, !is_cut).is_none() {
        count(Counter::DropRewrite);
        return SHOT;
    }
    count(Counter::Encapsulated);
    // SAFETY: the helper takes numbers and no parameters: the next hop is that of the header's destination.
    unsafe { bpf_redirect_neigh(found.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Puts a header before the packet's.
#[inline(always)]
fn put_before<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F>,
    source: F::Addr,
    endpoint: &F::Addr,
    fixed: bool,
) -> Option<()> {
    let l3 = packet.l3 as usize;
    let head = ctx.load::<[u8; 8]>(l3).ok()?;
    age(ctx, packet)?;
    let mut make = Make::<F> {
        src: source,
        dst: *endpoint,
        proto: inside::<F>(),
        tos: head[1],
        payload: packet.total,
        id: ATOMIC,
    };
    if F::V6 {
        make.tos = head[0] << 4 | head[1] >> 4;
    } else {
        make.id = [head[4], head[5], head[6] & 0x40, 0];
    }
    // `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4` and `_IPV6`.
    let flags = if F::V6 { 1 << 2 } else { 1 << 1 } | if fixed { FIXED_GSO } else { 0 };
    (make_room(ctx, F::HEADER as i32, flags) && store_header(ctx, l3, &make)).then_some(())
}

/// One hop more.
#[inline(always)]
fn age<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> Option<()> {
    let at = packet.l3 as usize + F::TTL;
    if !F::V6 {
        let old = u16::from_ne_bytes([packet.ttl, 0]) as u64;
        let new = u16::from_ne_bytes([packet.ttl - 1, 0]) as u64;
        ctx.l3_csum_replace(packet.l3 as usize + 10, old, new, 2).ok()?;
    }
    // IPv4's checksum has taken the change up already.
    ctx.store(at, &(packet.ttl - 1), if F::V6 { RECOMPUTE } else { 0 }).ok()
}

#[inline(always)]
fn step_hand_over<F: Family>(ctx: &TcContext) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    let (packet, endpoint) = (&desk.packet, &desk.dst);
    if packet.ttl <= 1 {
        return TOO_FAR;
    }
    // SAFETY: a field of the context.
    let len = if unsafe { (*ctx.skb.skb).gso_size } != 0 { 0 } else { packet.total };
    // SAFETY: plain numbers, of which all zero is a value.
    let mut found: FibLookup = unsafe { core::mem::zeroed() };
    let way = look_up::<F>(ctx, &packet.src, endpoint, len, &mut found);
    match way {
        Route::FOUND | Route::UNRESOLVED => {}
        Route::TOO_SMALL => return TOO_BIG + mtu(&found, len),
        _ => {
            count(Counter::DropNoRoute);
            return SHOT;
        }
    }
    if age(ctx, packet).is_none() {
        count(Counter::DropRewrite);
        return SHOT;
    }
    if way == Route::FOUND {
        let [a, b] = [found.dmac, found.smac];
        let macs = [a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1], b[2], b[3], b[4], b[5]];
        if ctx.store(0, &macs, 0).is_err() {
            count(Counter::DropRewrite);
            return SHOT;
        }
        // SAFETY: the helper takes numbers.
        return unsafe { bpf_redirect(found.ifindex, 0) as i32 };
    }
    // SAFETY: plain numbers, of which all zero is a value.
    let mut hop: Neighbour = unsafe { core::mem::zeroed() };
    hop.nh_family = found.family as u32;
    // SAFETY: both unions are 16 bytes of plain numbers. The helper has replaced the destination by the next hop.
    unsafe { hop.__bindgen_anon_1.ipv6_nh = found.__bindgen_anon_4.ipv6_dst };
    // SAFETY: the helper reads the parameters, whose size it is told.
    unsafe { bpf_redirect_neigh(found.ifindex, &raw mut hop, size_of::<Neighbour>() as i32, 0) as i32 }
}

/// What came of looking for a route.
struct Route;

impl Route {
    /// There is one that the packet fits.
    const FOUND: u32 = 0;
    /// The same, but the hardware address of the next hop is not known yet.
    const UNRESOLVED: u32 = 4;
    /// There is one that it does not fit.
    const TOO_SMALL: u32 = 1;
    /// The interface the packet came in by forwards nothing.
    const NOT_FORWARDED: u32 = 2;
    /// There is none.
    const NONE: u32 = 3;
}

/// Looks for the route of a packet of `len` bytes; 0: of any.
#[inline(always)]
fn look_up<F: Family>(ctx: &TcContext, src: &F::Addr, dst: &F::Addr, len: u16, found: &mut FibLookup) -> u32 {
    const SUCCESS: i64 = 0;
    const FORWARDING_DISABLED: i64 = 5;
    const NO_NEIGHBOUR: i64 = 7;
    const FRAG_NEEDED: i64 = 8;
    found.family = F::AF;
    // SAFETY: a field of the context.
    found.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    found.__bindgen_anon_1.tot_len = len;
    // SAFETY: unions of 16 bytes, which hold an address of either family in packet order from their start.
    unsafe {
        (&raw mut found.__bindgen_anon_3).cast::<F::Addr>().write(*src);
        (&raw mut found.__bindgen_anon_4).cast::<F::Addr>().write(*dst);
    }
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the helper reads and writes the parameters, whose size it is told.
    let code = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut *found, size, 0) };
    match code {
        // Kernels that have `bpf_set_retval` compare the length themselves; of others this is what can be known.
        SUCCESS | NO_NEIGHBOUR if node!(has_retval) == 0 && len > MTU && told(found) == len => Route::TOO_SMALL,
        SUCCESS => Route::FOUND,
        NO_NEIGHBOUR => Route::UNRESOLVED,
        FRAG_NEEDED => Route::TOO_SMALL,
        FORWARDING_DISABLED => Route::NOT_FORWARDED,
        _ => Route::NONE,
    }
}

/// What the helper left where the length was: the route's MTU, if it tells.
#[inline(always)]
fn told(found: &FibLookup) -> u16 {
    // SAFETY: both readings of the union are the same two bytes.
    unsafe { found.__bindgen_anon_1.mtu_result }
}

/// MTU of a route that a packet of `len` bytes did not fit.
#[inline(always)]
fn mtu(found: &FibLookup, len: u16) -> i32 {
    let told = told(found);
    (if told == len { MTU } else { told }) as i32
}

/// Takes a packet out of another that a node sent for an endpoint here: the endpoint's id, or [`LEAVE`], or [`FAILED`].
#[inline(always)]
pub(crate) fn decapsulate<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> u32 {
    if node!(decapsulate) == 0 || packet.fragment != WHOLE {
        return LEAVE;
    }
    let Some(desk) = desk::<F>() else {
        return LEAVE;
    };
    desk.packet = *packet;
    unwrap::<F>(ctx) as u32
}

/// [`decapsulate`]'s answer as a number with a sign.
#[inline(always)]
fn step_unwrap<F: Family>(ctx: &TcContext) -> i32 {
    match desk::<F>() {
        Some(desk) => take_out(ctx, &desk.packet, &mut desk.inner) as i32,
        None => LEAVE as i32,
    }
}

#[inline(always)]
fn take_out<F: Family>(ctx: &TcContext, packet: &Packet<F>, inner: &mut Packet<F>) -> u32 {
    let here = F::mapped(packet.dst);
    // The service's end, from the side of its client.
    match complete(ctx, packet.l4 as usize, inner) {
        Kind::Flow => {
            if inner.fragment == LATER {
                let Some(known) = fragment::ports(inner) else {
                    return refuse(&here, Counter::DropFragment);
                };
                inner.dport = known.dport;
            }
        }
        Kind::Error => {
            let quoted = inner.l4 as usize + ICMP_LEN;
            if complete(ctx, quoted, inner) != Kind::Flow || inner.fragment == LATER {
                return LEAVE;
            }
            inner.dst = inner.src;
            inner.dport = inner.sport;
        }
        _ => return LEAVE,
    }
    let Some(service) = service(ctx, inner) else {
        return LEAVE;
    };
    let member = MemberKey { group: service.group, addr: here };
    // SAFETY: the value is copied out at once.
    let Some(&id) = (unsafe { MEMBERS.get(member) }) else {
        return refuse(&here, Counter::DropDecapsulate);
    };
    if maps::backend(id).is_none_or(|backend| backend.flags & Backend::LOCAL == 0) {
        return refuse(&here, Counter::DropDecapsulate);
    }
    if !make_room(ctx, -((packet.l4 - packet.l3) as i32), FIXED_GSO) {
        count(Counter::DropRewrite);
        return FAILED;
    }
    count(Counter::Decapsulated);
    id
}

/// The service a wrapped packet is for. A NodePort was asked at the sender's address, which is no service here; the same
/// port on an address of this node is the same service.
#[inline(always)]
fn service<F: Family>(ctx: &TcContext, inner: &Packet<F>) -> Option<ServiceValue> {
    if let Some(service) = F::service(inner.dst, inner.dport, inner.proto) {
        return (service.flags & ServiceValue::DSR_IPIP != 0).then_some(service);
    }
    const NODE_PORT: u32 = ServiceValue::DSR_IPIP | ServiceValue::NODE_ADDRESS;
    // SAFETY: a field of the context.
    let own = F::pool(unsafe { (*ctx.skb.skb).ifindex })?;
    let service = F::service(own, inner.dport, inner.proto)?;
    (service.flags & NODE_PORT == NODE_PORT).then_some(service)
}

/// A wrapped packet that no endpoint can get: nothing a pod of ours could make sense of, but perhaps another node's.
#[inline(always)]
fn refuse(here: &fairlead_abi::V6, reason: Counter) -> u32 {
    if maps::pod(here).is_none() {
        return LEAVE;
    }
    count(reason);
    FAILED
}

slow_step!(
    /// An error about a packet that was wrapped here, on the desk: what it says is said to the client, of the packet it
    /// sent. An action of tc, or [`TRANSLATED`], with the addresses it must be sent with on the desk.
    pub(crate) translate_error = unwrap_error4, unwrap_error6: step_unwrap_error()
);

#[inline(always)]
fn step_unwrap_error<F: Family>(ctx: &TcContext) -> i32 {
    let Some(desk) = desk::<F>() else {
        return NEXT;
    };
    let (packet, inner) = (&desk.packet, &mut desk.inner);
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let start = l4 + ICMP_LEN + F::HEADER;
    // The packet that was wrapped. The header before it was made here, and so without options.
    if l4 != l3 + F::HEADER || complete(ctx, start, inner) != Kind::Flow || inner.fragment == LATER {
        return NEXT;
    }
    if !is_wrapped(inner) {
        return NEXT;
    }
    let (Ok(head), Some(left)) = (ctx.load::<[u8; ICMP_LEN]>(l4), (packet.total as usize + l3).checked_sub(start))
    else {
        return NEXT;
    };
    let mut rest = [head[4], head[5], head[6], head[7]];
    let too_big = if F::V6 { head[0] == 2 } else { head[0] == 3 && head[1] == 4 };
    if too_big {
        rest = u32::from_be_bytes(rest).saturating_sub(F::HEADER as u32).to_be_bytes();
    }
    let quote = quote_len(left as u32);
    // The tail of the header that is taken out makes room for the new ICMP header.
    let cut = ctx.skb.adjust_room(-(F::HEADER as i32), BPF_ADJ_ROOM_NET, FIXED_GSO).is_ok()
        && resize(ctx, l3 + F::HEADER + ICMP_LEN + quote);
    (desk.src, desk.dst) = (inner.dst, inner.src);
    if !cut || finish_error::<F>(ctx, l3, &desk.src, &desk.dst, [head[0], head[1]], rest, quote).is_none() {
        count(Counter::DropRewrite);
        return SHOT;
    }
    count(Counter::IcmpError);
    TRANSLATED
}

/// Whether packets like this are sent to their endpoint's node in other packets.
#[inline(always)]
fn is_wrapped<F: Family>(packet: &Packet<F>) -> bool {
    let flags = table::find::<F>(&packet.key()).map_or(0, |flow| flow.flags);
    flags & FlowFlags::DSR_IPIP != 0
}
