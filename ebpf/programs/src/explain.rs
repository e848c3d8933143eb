//! The programs behind `fairlead explain`: never attached, run on a packet made up for the purpose. They decide by the
//! same code as the others, write no state, and leave what they saw in `TRACE`.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use fairlead_abi::Counter;
use fairlead_packet::net;

use crate::create::Source;
use crate::family::{Family, Ip4, Ip6};
use crate::parse::{Action, Kind, Verdict};
use crate::skb::{self, NEXT};
use crate::state::{State, state};
use crate::trace::{self, DRY};
use crate::{pod, uplink};

/// A packet that comes in by an uplink.
#[classifier]
pub(crate) fn explain_uplink(ctx: TcContext) -> i32 {
    trace::start();
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => explain::<Ip4>(&ctx, l3, false),
        (net::ETH_IPV6, l3) => explain::<Ip6>(&ctx, l3, false),
        _ => NEXT,
    }
}

/// A packet that a pod sends.
#[classifier]
pub(crate) fn explain_pod(ctx: TcContext) -> i32 {
    trace::start();
    match skb::ether_type(&ctx) {
        (net::ETH_IPV4, l3) => explain::<Ip4>(&ctx, l3, true),
        (net::ETH_IPV6, l3) => explain::<Ip6>(&ctx, l3, true),
        _ => NEXT,
    }
}

#[inline(never)]
fn explain<F: Family>(ctx: &TcContext, l3: usize, pod: bool) -> i32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    if skb::read(ctx, l3, packet) != Kind::Flow {
        return NEXT;
    }
    *verdict = Verdict::of(packet);
    // SAFETY: a field of the context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if pod {
        pod::depart::<F, DRY>(ifindex);
        // What the uplink would do with it next, as if it were to leave by the first.
        if state::<F>().is_some_and(|state| state.verdict.action == Action::Continue) {
            uplink::masquerade::<F, DRY>(Source::ANY);
        }
    } else {
        uplink::arrive::<F, DRY>(ifindex, None);
    }
    let Some(State { verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    match verdict.action {
        Action::Reset => trace::count::<DRY>(Counter::ResetEndpointGone),
        Action::Refuse => trace::count::<DRY>(Counter::RefusedNoEndpoint),
        _ => {}
    }
    trace::finish(verdict);
    NEXT
}
