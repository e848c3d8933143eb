//! tc's short way: a plain packet of a known flow is decided in registers and written where it lies, as in XDP. What is more than that is left to the programs themselves, with what was found out so far in the state.

use aya_ebpf::helpers::generated::bpf_csum_update;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowFlags, proto};
use fairlead_packet::{checksum, net};

use crate::family::Family;
use crate::hook::Hook;
use crate::maps::{self, count, node};
use crate::parse::{Action, Kind, Packet, Verdict, at, plain};
use crate::rewrite::{self, Checksum};
use crate::skb::{self, MANGLED_0, NEXT, PSEUDO, SHOT, check_offset};
use crate::state::{State, state};
use crate::trace::LIVE;
use crate::{flow, pod, uplink};

/// Nothing was done: the packet is not plain. Beside the kernel's verdicts, all of which are below.
pub(crate) const UNREAD: i32 = 256;
/// The state's packet belongs to no known flow.
pub(crate) const BEGINS: i32 = 257;
/// The same, and its flow must get another endpoint.
pub(crate) const MOVES: i32 = 258;
/// The state's verdict is to be carried out.
pub(crate) const DECIDED: i32 = 259;

/// Asks the short way, if the headers are where it looks for them, and what comes after it for what it leaves.
#[inline(always)]
pub(crate) fn known_or(
    ctx: &TcContext,
    l3: usize,
    known: fn(&TcContext) -> i32,
    rest: fn(&TcContext, usize, i32) -> i32,
) -> i32 {
    let left = if l3 == net::ETH_LEN { known(ctx) } else { UNREAD };
    if left < UNREAD { left } else { rest(ctx, l3, left) }
}

/// Into the node by an uplink. Not inlined, as all of these: beside the variables of what comes after them, theirs would
/// fill the stack.
#[inline(never)]
pub(crate) fn uplink_in<F: Family>(ctx: &TcContext) -> i32 {
    if skb::is_translated(ctx) {
        // By XDP. All that may be left is to send it to its pod.
        return if node!(redirect) == 0 { NEXT } else { UNREAD };
    }
    try_at::<F>(ctx, Hook::UplinkIn)
}

/// Out of the node by an uplink.
#[inline(never)]
pub(crate) fn uplink_out<F: Family>(ctx: &TcContext) -> i32 {
    try_at::<F>(ctx, Hook::UplinkOut)
}

/// From a pod.
#[inline(never)]
pub(crate) fn from_pod<F: Family>(ctx: &TcContext) -> i32 {
    // To another pod, as nearly everything: nobody's business.
    if node!(redirect) == 0
        && !maps::bypassed_at(uplink::ifindex(ctx))
        && !maps::has_ended()
        && let Some(dst) = at::<F::Addr>(ctx.data(), ctx.data_end(), net::ETH_LEN + F::ADDRS + size_of::<F::Addr>())
        // SAFETY: `at` checked that it lies inside the packet. Read by words: the verifier refuses that where it cannot be.
        && F::in_cluster(unsafe { &*dst })
    {
        return NEXT;
    }
    try_at::<F>(ctx, Hook::FromPod)
}

/// To a pod.
#[inline(never)]
pub(crate) fn to_pod<F: Family>(ctx: &TcContext) -> i32 {
    try_at::<F>(ctx, Hook::ToPod)
}

#[inline(always)]
fn try_at<F: Family>(ctx: &TcContext, hook: Hook) -> i32 {
    if F::V6 {
        // Too large for the stack beside what is below it.
        let Some(State { packet, verdict, .. }) = state::<F>() else {
            return NEXT;
        };
        return decide(ctx, hook, packet, verdict);
    }
    let mut packet = Packet::<F>::EMPTY;
    let mut verdict = Verdict::of(&packet);
    decide(ctx, hook, &mut packet, &mut verdict)
}

#[inline(always)]
fn decide<F: Family>(ctx: &TcContext, hook: Hook, packet: &mut Packet<F>, verdict: &mut Verdict<F>) -> i32 {
    if plain(ctx.data(), ctx.data_end(), packet) != Kind::Flow {
        return UNREAD;
    }
    if hook != Hook::UplinkIn && packet.proto == proto::UDP && maps::has_ended() {
        return UNREAD;
    }
    let packet = &*packet;
    *verdict = Verdict::of(packet);
    let moved = match hook {
        Hook::UplinkIn => uplink::follow::<F, LIVE>(packet, verdict),
        Hook::UplinkOut => {
            if uplink::is_foreign(packet) {
                return NEXT;
            }
            let moved = flow::follow::<F, LIVE>(packet, verdict, hook);
            if verdict.action == Action::Continue && (node!(masquerade) == 0 || !F::in_cluster(&packet.src)) {
                return NEXT;
            }
            moved
        }
        Hook::FromPod => {
            if F::in_cluster(&packet.dst) {
                pod::meet::<F, LIVE>(packet, uplink::ifindex(ctx));
                return NEXT;
            }
            pod::follow::<F, LIVE>(packet, verdict, uplink::ifindex(ctx))
        }
        Hook::ToPod if !maps::bypassed_at(uplink::ifindex(ctx)) => return NEXT,
        Hook::ToPod => flow::follow::<F, LIVE>(packet, verdict, hook),
    };
    let ported = packet.proto == proto::TCP || packet.proto == proto::UDP;
    // A pod's answer to an outside client.
    let is_sent = hook == Hook::FromPod && verdict.flags & FlowFlags::POD == 0;
    let translated = match verdict.action {
        Action::Rewrite if ported && !is_sent => true,
        Action::Pass if hook != Hook::UplinkIn || verdict.flags & FlowFlags::POD != 0 => return NEXT,
        Action::Pass => false,
        Action::Continue if hook == Hook::ToPod => return NEXT,
        action => {
            leave(packet, verdict);
            return match action {
                Action::Continue if moved => MOVES,
                Action::Continue => BEGINS,
                _ => DECIDED,
            };
        }
    };
    if translated {
        if let Some(counter) = verdict.counter {
            count(counter);
        }
        if write(ctx, packet, verdict).is_none() {
            count(Counter::DropRewrite);
            return SHOT;
        }
    }
    if hook != Hook::UplinkIn {
        return NEXT;
    }
    if translated {
        skb::mark_translated(ctx, 0);
    }
    if node!(redirect) != 0 {
        leave(packet, verdict);
        return skb::deliver(ctx, packet, translated);
    }
    NEXT
}

/// Leaves packet and verdict in the state.
#[inline(always)]
fn leave<F: Family>(packet: &Packet<F>, verdict: &Verdict<F>) {
    if !F::V6
        && let Some(place) = state::<F>()
    {
        place.packet = *packet;
        place.verdict = *verdict;
    }
}

/// Writes the verdict's tuple into a plain packet of TCP or UDP.
///
/// Whether its checksum is finished is not told to programs. One that is left to the hardware shows as the bare sum of the
/// pseudo header, or in a packet that is yet to be segmented; for these, and the few finished ones that look so, the
/// kernel brings it up to date. What a card may have summed up over the whole of an IPv4 packet changes by what the
/// addresses took from the transport's checksum; all other changes, and all in IPv6, make up for each other.
#[inline(always)]
fn write<F: Family>(ctx: &TcContext, packet: &Packet<F>, verdict: &Verdict<F>) -> Option<()> {
    let check = net::ETH_LEN + F::HEADER + check_offset(packet.proto);
    let addrs = F::delta(&packet.src, &verdict.src) + F::delta(&packet.dst, &verdict.dst);
    let skb = ctx.skb.skb;
    // SAFETY: a field of the context.
    let segmented = unsafe { (*skb).gso_size } != 0;
    let checksum = if segmented || field(ctx, check)? == rewrite::unfinished(packet) {
        let old = [packet.sport[0], packet.sport[1], packet.dport[0], packet.dport[1]];
        let new = [verdict.sport[0], verdict.sport[1], verdict.dport[0], verdict.dport[1]];
        let flags = if packet.proto == proto::UDP { MANGLED_0 } else { 0 };
        ctx.l4_csum_replace(check, 0, addrs as u64, PSEUDO | flags).ok()?;
        ctx.l4_csum_replace(check, 0, checksum::delta(&old, &new) as u64, flags).ok()?;
        Checksum::Done
    } else {
        if !F::V6 {
            // SAFETY: the context is the one the kernel passed in. Fails where the card made no sum.
            unsafe { bpf_csum_update(skb, !checksum::fold(addrs) as u32) };
        }
        Checksum::Finished
    };
    rewrite::plain(ctx.data(), ctx.data_end(), packet, verdict, checksum)
}

/// A checksum's field.
#[inline(always)]
fn field(ctx: &TcContext, offset: usize) -> Option<u16> {
    // SAFETY: `at` checked that the place lies inside the packet.
    at::<u16>(ctx.data(), ctx.data_end(), offset).map(|field| unsafe { field.read_unaligned() })
}
