//! An uplink: where outside clients come from, and where pods go out.
//!
//! XDP and tc ask [`arrive`]; what XDP did, tc leaves alone, knowing it by the frame's source address.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowFlags, TraceSteps};
use fairlead_packet::net;

use crate::create::{self, Source};
use crate::family::{Family, Ip4, Ip6};
use crate::flow;
use crate::hook::Hook;
use crate::known::{self, known_or};
use crate::maps::{self, count, node};
use crate::parse::{self, Action, FIRST, Kind, LATER, Packet, Verdict};
use crate::service::{self, Client, Preset};
use crate::skb::{self, NEXT, SHOT};
use crate::state::{State, state};
use crate::trace::{self, DRY, LIVE, is_fast};
use crate::{dsr, ended, fragment, icmp_error};

/// The state's packet came in by an uplink, whatever the hook.
#[inline(always)]
pub(crate) fn arrive<F: Family, const MODE: u8>(ifindex: u32, preset: Preset) {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    let moved = follow::<F, MODE>(packet, verdict);
    if verdict.action == Action::Continue {
        begin::<F, MODE>(ifindex, preset, moved);
    }
}

/// The first half of [`arrive`]: what is known already, wherever packet and verdict are. Returns whether the flow must
/// get another endpoint.
#[inline(always)]
pub(crate) fn follow<F: Family, const MODE: u8>(packet: &Packet<F>, verdict: &mut Verdict<F>) -> bool {
    trace::step::<MODE>(TraceSteps::PARSED);
    // Pod to pod between nodes; where they are handed over past `tc_to_pod`, it may be an answer that is its business.
    let within = F::in_cluster(&packet.src) && F::in_cluster(&packet.dst);
    if within && !(node!(redirect) != 0 && maps::bypassed(maps::POD_CLIENTS)) {
        verdict.action = Action::Pass;
        return false;
    }
    flow::follow::<F, MODE>(packet, verdict, Hook::UplinkIn)
}

/// The second half: the state's packet begins a flow.
#[inline(always)]
pub(crate) fn begin<F: Family, const MODE: u8>(ifindex: u32, preset: Preset, moved: bool) {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    match preset {
        Some(id) => service::preset(verdict, id),
        None if packet.is_icmp() => {}
        None => {
            service::choose::<F, MODE>(Client::Outside as u32);
        }
    }
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    let counter = if moved { Counter::FlowMoved } else { Counter::FlowNew };
    match verdict.action {
        Action::Rewrite => {
            if F::in_cluster(&packet.src) && MODE != DRY {
                maps::bypass(maps::CLUSTER_CLIENTS);
            }
            create::note::<F, MODE>(Source::KEPT, counter);
        }
        Action::Transmit => create::note::<F, MODE>(Source(ifindex), counter),
        Action::Encapsulate | Action::Direct => create::note_one::<F, MODE>(counter),
        Action::Continue if !is_fast(MODE) => go_direct::<F, MODE>(),
        _ => {}
    }
}

/// The state's packet may be for a pod's own address: then its replies must leave as they are.
#[inline(always)]
fn go_direct<F: Family, const MODE: u8>() {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    if !F::in_cluster(&packet.dst) || F::is_near(&packet.src) || !F::is_unicast(&packet.src) {
        return;
    }
    trace::step::<MODE>(TraceSteps::DIRECT);
    verdict.flags = FlowFlags::DIRECT;
    verdict.action = Action::Rewrite;
    create::note::<F, MODE>(Source::KEPT, Counter::DirectNew);
    let Some(State { verdict, .. }) = state::<F>() else {
        return;
    };
    if verdict.action == Action::Drop {
        // Without the entry the replies would be masqueraded; the next packet tries again.
        verdict.counter = None;
        verdict.action = Action::Pass;
    } else if verdict.flags & FlowFlags::DIRECT != 0 {
        verdict.action = Action::Pass;
    }
}

/// Whether a packet that leaves is none of ours: pod to pod between nodes.
#[inline(always)]
pub(crate) fn is_foreign<F: Family>(packet: &Packet<F>) -> bool {
    F::in_cluster(&packet.src) && F::in_cluster(&packet.dst) && !maps::bypassed(maps::CLUSTER_CLIENTS)
}

/// The state's packet is about to leave by an uplink.
#[inline(always)]
fn leave<F: Family>(ifindex: u32) {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    if is_foreign(packet) {
        return;
    }
    flow::follow::<F, LIVE>(packet, verdict, Hook::UplinkOut);
    if verdict.action == Action::Continue {
        masquerade::<F, LIVE>(Source(ifindex));
    }
}

/// The state's packet, if it is a pod's towards the outside: behind an address of the node.
#[inline(always)]
pub(crate) fn masquerade<F: Family, const MODE: u8>(source: Source) {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return;
    };
    if node!(masquerade) == 0 || !F::in_cluster(&packet.src) || F::is_near(&packet.dst) || !F::is_unicast(&packet.dst) {
        return;
    }
    trace::step::<MODE>(TraceSteps::MASQUERADE);
    verdict.action = Action::Rewrite;
    create::note::<F, MODE>(source, Counter::MasqueradeNew);
}

/// Into the node.
#[classifier]
pub(crate) fn tc_uplink_in(ctx: TcContext) -> i32 {
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => known_or(&ctx, l3, known::uplink_in::<Ip4>, uplink_in::<Ip4>),
        (net::ETH_IPV6, l3) => known_or(&ctx, l3, known::uplink_in::<Ip6>, uplink_in::<Ip6>),
        _ => NEXT,
    }
}

/// Out of the node.
#[classifier]
pub(crate) fn tc_uplink_out(ctx: TcContext) -> i32 {
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => known_or(&ctx, l3, known::uplink_out::<Ip4>, uplink_out::<Ip4>),
        (net::ETH_IPV6, l3) => known_or(&ctx, l3, known::uplink_out::<Ip6>, uplink_out::<Ip6>),
        _ => NEXT,
    }
}

/// A fragment that was held until its first part had passed.
#[classifier]
pub(crate) fn tc_fragment_back(ctx: TcContext) -> i32 {
    fragment::back(&ctx)
}

/// What comes into the node and the short way had no answer for.
#[inline(never)]
fn uplink_in<F: Family>(ctx: &TcContext, l3: usize, left: i32) -> i32 {
    if left != known::UNREAD {
        if left != known::DECIDED {
            begin::<F, LIVE>(ifindex(ctx), None, left == known::MOVES);
        }
        return skb::carry_out::<F>(ctx, Hook::UplinkIn);
    }
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    let mut kind = skb::read(ctx, l3, packet);
    if skb::is_translated(ctx) {
        return skb::deliver(ctx, packet, false);
    }
    let mut preset = None;
    if kind == Kind::Tunnel {
        match dsr::decapsulate(ctx, packet) {
            dsr::FAILED => return SHOT,
            dsr::LEAVE => {}
            id => {
                preset = Some(id);
                kind = parse::complete(ctx, l3, packet);
            }
        }
    }
    match kind {
        Kind::Error => return icmp_error::translate(ctx, packet, Hook::UplinkIn),
        Kind::Unread => return NEXT,
        Kind::Other | Kind::Tunnel => {
            untranslated(packet);
            return skb::deliver(ctx, packet, false);
        }
        Kind::Flow => {}
    }
    if let Some(action) = ports_of(ctx, packet, Hook::UplinkIn) {
        return action;
    }
    *verdict = Verdict::of(packet);
    arrive::<F, LIVE>(ifindex(ctx), preset);
    skb::carry_out::<F>(ctx, Hook::UplinkIn)
}

/// What leaves the node and the short way had no answer for.
#[inline(never)]
fn uplink_out<F: Family>(ctx: &TcContext, l3: usize, left: i32) -> i32 {
    if left != known::UNREAD {
        if left != known::DECIDED {
            masquerade::<F, LIVE>(Source(ifindex(ctx)));
        }
        return skb::carry_out::<F>(ctx, Hook::UplinkOut);
    }
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    match skb::read(ctx, l3, packet) {
        Kind::Error => return icmp_error::translate(ctx, packet, Hook::UplinkOut),
        Kind::Unread => return NEXT,
        Kind::Other | Kind::Tunnel => {
            if F::in_cluster(&packet.src) && !F::is_near(&packet.dst) {
                untranslated(packet);
            }
            return NEXT;
        }
        Kind::Flow => {}
    }
    if ended::is_lost::<F>(ctx, packet) {
        return SHOT;
    }
    if let Some(action) = ports_of(ctx, packet, Hook::UplinkOut) {
        return action;
    }
    *verdict = Verdict::of(packet);
    leave::<F>(ifindex(ctx));
    skb::carry_out::<F>(ctx, Hook::UplinkOut)
}

/// Index of the interface the packet is at.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the context.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Counts a packet of a protocol that is not translated. ICMP, much of which keeps a link running, is none.
#[inline(always)]
fn untranslated<F: Family>(packet: &Packet<F>) {
    if !packet.is_icmp() && F::is_unicast(&packet.dst) {
        count(Counter::PassedUntranslated);
    }
}

/// Notes the ports of a first fragment, and looks up those of the others. What to do with one whose ports are not known.
#[inline(always)]
pub(crate) fn ports_of<F: Family>(ctx: &TcContext, packet: &mut Packet<F>, hook: Hook) -> Option<i32> {
    if packet.fragment == FIRST {
        fragment::note(packet);
    }
    if packet.fragment == LATER {
        let Some(ports) = fragment::ports(packet) else {
            return Some(fragment::hold(ctx, hook));
        };
        packet.sport = ports.sport;
        packet.dport = ports.dport;
    }
    None
}
