//! A pod's host-side interface: the net that catches packets to services that no socket hook saw (virtual machines,
//! packet sockets, clients in the kernel), and their replies. Where packets do not go through the host's stack, it also
//! sends pods' answers to outside clients out.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowFlags, FlowKey, TraceSteps, proto};
use fairlead_packet::net;

use crate::create::{self, Source};
use crate::ended;
use crate::family::{Family, Ip4, Ip6};
use crate::flow;
use crate::hook::Hook;
use crate::icmp_error;
use crate::known::{self, known_or};
use crate::maps::{self, POD_CLIENTS, node};
use crate::parse::{Action, Kind, Packet, Verdict};
use crate::service::{self, Client};
use crate::skb::{self, NEXT, SHOT};
use crate::state::{State, state};
use crate::table;
use crate::trace::{self, DRY, LIVE};
use crate::uplink::{ifindex, ports_of};

/// The state's packet comes from a pod, by this interface.
#[inline(always)]
pub(crate) fn depart<F: Family, const MODE: u8>(ifindex: u32) {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    trace::step::<MODE>(TraceSteps::PARSED);
    // Pod to pod, the most frequent by far, costs one comparison.
    if F::in_cluster(&packet.dst) {
        meet::<F, MODE>(packet, ifindex);
        return;
    }
    let moved = follow::<F, MODE>(packet, verdict, ifindex);
    if verdict.action == Action::Continue {
        begin::<F, MODE>(moved, ifindex);
    }
}

/// The first half of [`depart`], see [`flow::follow`].
#[inline(always)]
pub(crate) fn follow<F: Family, const MODE: u8>(packet: &Packet<F>, verdict: &mut Verdict<F>, ifindex: u32) -> bool {
    // Nobody said by which interface a packet that is made up would come.
    let bypassed = if MODE == DRY { maps::bypassed(POD_CLIENTS) } else { maps::bypassed_at(ifindex) };
    (bypassed || node!(redirect) != 0) && flow::follow::<F, MODE>(packet, verdict, Hook::FromPod)
}

/// The second half: the state's packet may begin a flow to a service.
#[inline(always)]
fn begin<F: Family, const MODE: u8>(moved: bool, ifindex: u32) {
    let Some(State { packet, .. }) = state::<F>() else {
        return;
    };
    if packet.is_icmp() {
        return;
    }
    service::choose::<F, MODE>(Client::Pod as u32);
    let Some(State { verdict, .. }) = state::<F>() else {
        return;
    };
    let source = match verdict.action {
        Action::Rewrite => Source::KEPT,
        Action::Hairpin => Source::ANY,
        _ => return,
    };
    create::note::<F, MODE>(source, if moved { Counter::FlowMoved } else { Counter::FlowNew });
    if MODE != DRY {
        maps::bypass_at(ifindex);
    }
}

/// A packet of a pod to a pod.
#[inline(always)]
pub(crate) fn meet<F: Family, const MODE: u8>(packet: &Packet<F>, ifindex: u32) {
    if MODE != DRY && maps::bypassed_at(ifindex) && (packet.proto == proto::UDP || packet.opens()) {
        end_translation(packet);
    }
}

/// A pod talks to another's own address: if its port came there through a service before, that is over, and the answers
/// show the endpoint.
#[inline(never)]
fn end_translation<F: Family>(packet: &Packet<F>) {
    let back = FlowKey {
        src: packet.dst,
        dst: packet.src,
        sport: packet.dport,
        dport: packet.sport,
        proto: packet.proto,
        pad: [0; 3],
    };
    if let Some(known) = table::find::<F>(&back)
        && known.flags & (FlowFlags::POD | FlowFlags::REPLY) == FlowFlags::POD | FlowFlags::REPLY
    {
        flow::forget::<F>(&back, known);
    }
}

/// From the pod.
#[classifier]
pub(crate) fn tc_from_pod(ctx: TcContext) -> i32 {
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => known_or(&ctx, l3, known::from_pod::<Ip4>, from_pod::<Ip4>),
        (net::ETH_IPV6, l3) => known_or(&ctx, l3, known::from_pod::<Ip6>, from_pod::<Ip6>),
        _ => NEXT,
    }
}

/// To the pod.
#[classifier]
pub(crate) fn tc_to_pod(ctx: TcContext) -> i32 {
    // As long as no packet of this pod was translated, no reply has to be.
    if !maps::bypassed_at(ifindex(&ctx)) && !maps::has_ended() {
        return NEXT;
    }
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => known_or(&ctx, l3, known::to_pod::<Ip4>, to_pod::<Ip4>),
        (net::ETH_IPV6, l3) => known_or(&ctx, l3, known::to_pod::<Ip6>, to_pod::<Ip6>),
        _ => NEXT,
    }
}

/// What comes from a pod and the short way had no answer for.
#[inline(never)]
fn from_pod<F: Family>(ctx: &TcContext, l3: usize, left: i32) -> i32 {
    if left != known::UNREAD {
        if left != known::DECIDED {
            begin::<F, LIVE>(left == known::MOVES, ifindex(ctx));
        }
        return skb::carry_out::<F>(ctx, Hook::FromPod);
    }
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    match skb::read(ctx, l3, packet) {
        Kind::Error if maps::bypassed(POD_CLIENTS) || node!(redirect) != 0 => {
            return icmp_error::translate(ctx, packet, Hook::FromPod);
        }
        Kind::Flow => {}
        _ => return NEXT,
    }
    if ended::is_lost::<F>(ctx, packet) {
        return SHOT;
    }
    if !F::in_cluster(&packet.dst)
        && let Some(action) = ports_of(ctx, packet, Hook::FromPod)
    {
        return action;
    }
    *verdict = Verdict::of(packet);
    depart::<F, LIVE>(ifindex(ctx));
    skb::carry_out::<F>(ctx, Hook::FromPod)
}

/// What goes to a pod and the short way had no answer for.
#[inline(never)]
fn to_pod<F: Family>(ctx: &TcContext, l3: usize, left: i32) -> i32 {
    if left != known::UNREAD {
        return skb::carry_out::<F>(ctx, Hook::ToPod);
    }
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    let kind = skb::read(ctx, l3, packet);
    if kind == Kind::Flow && ended::is_lost::<F>(ctx, packet) {
        return SHOT;
    }
    match kind {
        _ if !maps::bypassed_at(ifindex(ctx)) => return NEXT,
        Kind::Error => return icmp_error::translate(ctx, packet, Hook::ToPod),
        Kind::Flow => {}
        _ => return NEXT,
    }
    if let Some(action) = ports_of(ctx, packet, Hook::ToPod) {
        return action;
    }
    *verdict = Verdict::of(packet);
    flow::follow::<F, LIVE>(packet, verdict, Hook::ToPod);
    skb::carry_out::<F>(ctx, Hook::ToPod)
}
