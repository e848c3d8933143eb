//! An uplink's tc side: what leaves is translated back or masqueraded; what arrives is handled here only where the
//! interface takes no XDP.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::parse::{Action, Packet, Verdict};
use crate::{masquerade, service, skb};

/// A packet that came in by an uplink, whatever the hook.
#[inline(always)]
pub(crate) fn arrive(packet: &Packet) -> Verdict {
    let verdict = masquerade::back(packet);
    if verdict.action != Action::Continue {
        return verdict;
    }
    let verdict = service::forward(packet);
    if verdict.action == Action::Continue {
        masquerade::direct(packet);
    }
    verdict
}

/// Into the node; XDP's understudy.
#[classifier]
pub(crate) fn tc_uplink_in(mut ctx: TcContext) -> i32 {
    let Some(packet) = skb::read(&ctx) else {
        return skb::NEXT;
    };
    let verdict = arrive(&packet);
    skb::carry_out(&mut ctx, &packet, verdict)
}

/// Out of the node.
#[classifier]
pub(crate) fn tc_uplink_out(mut ctx: TcContext) -> i32 {
    let Some(packet) = skb::read(&ctx) else {
        return skb::NEXT;
    };
    let mut verdict = service::reply(&packet);
    if verdict.action == Action::Continue {
        // SAFETY: a field of the context.
        verdict = masquerade::out(&packet, unsafe { (*ctx.skb.skb).ifindex });
    }
    skb::carry_out(&mut ctx, &packet, verdict)
}
