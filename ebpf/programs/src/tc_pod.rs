//! A pod's host-side interface: the net that catches packets to services that no socket hook saw (virtual machines,
//! packet sockets, clients in the kernel), and their replies.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use fairlead_abi::proto;
use fairlead_packet::net;

use crate::maps::{BYPASS, node};
use crate::parse::Action;
use crate::{service, skb};

/// From the pod.
#[classifier]
pub(crate) fn tc_from_pod(mut ctx: TcContext) -> i32 {
    let Some(packet) = skb::read(&ctx) else {
        return skb::NEXT;
    };
    // Pod to pod, the most frequent by far, costs one comparison.
    if net::holds(node!(cluster), packet.dst) {
        if bypassed() && (packet.proto == proto::UDP || packet.opens()) {
            service::goes_direct(&packet);
        }
        return skb::NEXT;
    }
    let verdict = service::forward(&packet);
    if verdict.action == Action::Rewrite
        && let Some(bypass) = BYPASS.get_ptr_mut(0)
    {
        // SAFETY: the map returned a pointer to its value; the word only ever goes from 0 to 1.
        unsafe {
            if *bypass == 0 {
                *bypass = 1;
            }
        }
    }
    skb::carry_out(&mut ctx, &packet, verdict)
}

/// To the pod.
#[classifier]
pub(crate) fn tc_to_pod(mut ctx: TcContext) -> i32 {
    // As long as no pod's packets were translated, no reply has to be.
    if !bypassed() {
        return skb::NEXT;
    }
    let Some(packet) = skb::read(&ctx) else {
        return skb::NEXT;
    };
    let verdict = service::reply(&packet);
    skb::carry_out(&mut ctx, &packet, verdict)
}

/// Whether any pod's packets were ever translated here.
#[inline(always)]
fn bypassed() -> bool {
    BYPASS.get(0).is_some_and(|bypass| *bypass != 0)
}
