//! The uplink's fast side: plain packets are translated in the driver's buffer and handed to the stack, which routes
//! them to the pod's interface; or, where that is wanted and possible, sent there at once. Whatever is more than that goes up untouched, to `tc_uplink_in`.
//!
//! Two programs, so that a real card does not pay for virtual ones: behind a veth the sender may have left the checksum
//! unfinished, which shows as the bare pseudo-header sum in its field. One finished checksum in 65536 is that number
//! too and is taken for an unfinished one: XDP is not told which it is. Both again for cards whose packets come in
//! several buffers (5.18); all that is looked at is in the first.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use fairlead_abi::{Counter, Pod};
use fairlead_packet::{checksum, net};

use crate::family::{Family, Ip4, Ip6};
use crate::maps::{self, count, node};
use crate::parse::{Action, Kind, Packet, Verdict, at, plain};
use crate::rewrite::{self, Checksum};
use crate::skb::check_offset;
use crate::state::state;
use crate::trace::{FAST, FAST_OUT};
use crate::{route, uplink};

/// For interfaces with hardware behind them.
#[xdp]
pub(crate) fn xdp_service(ctx: XdpContext) -> u32 {
    run::<FAST_OUT>(&ctx)
}

/// For virtual interfaces.
#[xdp]
pub(crate) fn xdp_service_veth(ctx: XdpContext) -> u32 {
    run::<FAST>(&ctx)
}

/// For interfaces with hardware behind them, whose packets may take several buffers.
#[xdp(frags)]
pub(crate) fn xdp_service_frags(ctx: XdpContext) -> u32 {
    run::<FAST_OUT>(&ctx)
}

/// For virtual interfaces whose packets may take several buffers.
#[xdp(frags)]
pub(crate) fn xdp_service_veth_frags(ctx: XdpContext) -> u32 {
    run::<FAST>(&ctx)
}

#[inline(always)]
fn run<const MODE: u8>(ctx: &XdpContext) -> u32 {
    let Some(eth) = at::<[u8; 2]>(ctx.data(), ctx.data_end(), 12) else {
        return XDP_PASS;
    };
    // SAFETY: `at` checked that the bytes are inside the frame.
    match unsafe { *eth } {
        net::ETH_IPV4 => arrive::<Ip4, MODE>(ctx),
        net::ETH_IPV6 => arrive::<Ip6, MODE>(ctx),
        _ => XDP_PASS,
    }
}

/// Not inlined: the variables of both families together would fill the stack.
#[inline(never)]
fn arrive<F: Family, const MODE: u8>(ctx: &XdpContext) -> u32 {
    // Here, not in the state: a hit is decided in registers.
    let mut packet = Packet::<F>::EMPTY;
    if plain(ctx.data(), ctx.data_end(), &mut packet) != Kind::Flow {
        return XDP_PASS;
    }
    let mut verdict = Verdict::of(&packet);
    let moved = uplink::follow::<F, MODE>(&packet, &mut verdict);
    if verdict.action == Action::Continue {
        let Some(place) = state::<F>() else {
            return XDP_PASS;
        };
        place.packet = packet;
        place.verdict = verdict;
        uplink::begin::<F, MODE>(0, None, moved);
        let Some(place) = state::<F>() else {
            return XDP_PASS;
        };
        verdict = place.verdict;
    }
    let (packet, verdict) = (&packet, &verdict);
    let checksum = if MODE == FAST { Checksum::Either } else { Checksum::Finished };
    let outcome = match verdict.action {
        Action::Rewrite => match taker(ctx, packet, verdict, checksum) {
            Some(pod) => send_to_pod(ctx, packet, verdict, pod),
            None => rewrite(ctx, packet, verdict, checksum)
                .and_then(|()| store(ctx, 6, net::TRANSLATED_MAC))
                .map(|()| XDP_PASS),
        },
        Action::Transmit if MODE == FAST_OUT && packet.ttl > 1 => {
            let mut macs = [0u8; 12];
            if !route::back(ctx, packet, &verdict.src, &verdict.dst, &mut macs) {
                return XDP_PASS;
            }
            rewrite(ctx, packet, verdict, checksum)
                .and_then(|()| lower_ttl::<F>(ctx, packet))
                .and_then(|()| store(ctx, 0, macs))
                .map(|()| XDP_TX)
        }
        Action::Drop => Some(XDP_DROP),
        _ => return XDP_PASS,
    };
    if let Some(counter) = verdict.counter {
        count(counter);
    }
    match outcome {
        Some(outcome) => outcome,
        None => {
            count(Counter::DropRewrite);
            XDP_DROP
        }
    }
}

/// Writes bytes of the Ethernet header.
#[inline(always)]
fn store<const N: usize>(ctx: &XdpContext, offset: usize, bytes: [u8; N]) -> Option<()> {
    let place = at::<[u8; N]>(ctx.data(), ctx.data_end(), offset)?;
    // SAFETY: `at` checked that the place lies inside the packet; byte arrays have no alignment.
    unsafe { *place = bytes };
    Some(())
}

/// The pod of this node that the packet is for, if redirects are wanted and its interface takes this frame as it is: whole
/// in one buffer, of no more than its length, with time to live, and its checksum finished.
#[inline(always)]
fn taker<F: Family>(
    ctx: &XdpContext,
    packet: &Packet<F>,
    verdict: &Verdict<F>,
    checksum: Checksum,
) -> Option<&'static Pod> {
    if node!(redirect) == 0 {
        return None;
    }
    let len = packet.total as usize;
    // Lengths, not places: kernels as old as 5.10 move no pointer by a number that they do not know to be small.
    if packet.ttl <= 1 || ctx.data_end().wrapping_sub(ctx.data()) < net::ETH_LEN + len {
        return None;
    }
    if checksum == Checksum::Either && !packet.is_icmp() {
        let offset = net::ETH_LEN + F::HEADER + check_offset(packet.proto);
        let field = at::<u16>(ctx.data(), ctx.data_end(), offset)?;
        // SAFETY: `at` checked that it lies inside the packet.
        if unsafe { field.read_unaligned() } == rewrite::unfinished(packet) {
            return None;
        }
    }
    maps::pod(&F::mapped(verdict.dst)).filter(|pod| pod.frames as usize >= len)
}

/// Sends a packet on to its pod, as a router would.
#[inline(never)]
fn send_to_pod<F: Family>(ctx: &XdpContext, packet: &Packet<F>, verdict: &Verdict<F>, pod: &Pod) -> Option<u32> {
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&pod.mac);
    macs[6..].copy_from_slice(&pod.host_mac);
    rewrite(ctx, packet, verdict, Checksum::Finished)?;
    lower_ttl::<F>(ctx, packet)?;
    store(ctx, 0, macs)?;
    // SAFETY: an index and no flags.
    Some(unsafe { bpf_redirect(pod.ifindex, 0) } as u32)
}

/// Writes the verdict's tuple.
#[inline(always)]
fn rewrite<F: Family>(ctx: &XdpContext, packet: &Packet<F>, verdict: &Verdict<F>, checksum: Checksum) -> Option<()> {
    rewrite::plain(ctx.data(), ctx.data_end(), packet, verdict, checksum)
}

/// Takes one from the time to live.
#[inline(always)]
fn lower_ttl<F: Family>(ctx: &XdpContext, packet: &Packet<F>) -> Option<()> {
    let (data, end) = (ctx.data(), ctx.data_end());
    let ttl = at::<u8>(data, end, net::ETH_LEN + F::TTL)?;
    // SAFETY: `at` checked that each lies inside the packet.
    unsafe {
        *ttl = packet.ttl - 1;
        if !F::V6 {
            let check = at::<u16>(data, end, net::ETH_LEN + 10)?;
            let delta = checksum::delta(&[packet.ttl, 0, 0, 0], &[packet.ttl - 1, 0, 0, 0]);
            check.write_unaligned(checksum::apply(check.read_unaligned(), delta));
        }
    }
    Some(())
}
