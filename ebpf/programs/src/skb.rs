//! Reading packets in socket buffers, and carrying verdicts out on them. Their checksums may still be unfinished, which
//! the kernel's helpers know.

use aya_ebpf::helpers::generated::bpf_redirect_peer;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowFlags, proto};
use fairlead_packet::{checksum, crc32c, net};

use crate::desk::slow_step;
use crate::family::Family;
use crate::hook::Hook;
use crate::maps::{self, count, node};
use crate::parse::{self, Action, Kind, LATER, Packet, Verdict};
use crate::state::{State, state};
use crate::{answer, dsr, route};

/// `BPF_F_RECOMPUTE_CSUM`: the sum of the whole buffer, if the card made one, follows the change.
pub(crate) const RECOMPUTE: u64 = 1;
/// `BPF_F_PSEUDO_HDR`: the change is part of the pseudo header.
pub(crate) const PSEUDO: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: UDP's zero means "no checksum".
pub(crate) const MANGLED_0: u64 = 1 << 5;

/// `TC_ACT_UNSPEC`: go on with other programs and the kernel's own path.
pub(crate) const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
pub(crate) const SHOT: i32 = 2;

/// Offset of the checksum in the transport header.
#[inline(always)]
pub(crate) const fn check_offset(proto: u8) -> usize {
    match proto {
        proto::TCP => 16,
        proto::UDP => 6,
        proto::SCTP => 8,
        _ => 2,
    }
}

/// Offset of the ports, or of an echo's id.
#[inline(always)]
pub(crate) const fn ports_offset<F: Family>(proto: u8) -> usize {
    if proto == F::ICMP { 4 } else { 0 }
}

/// Ethernet type and where the header it announces starts, behind at most two VLAN tags in the frame's data.
#[inline(always)]
pub(crate) fn ether_type(ctx: &TcContext) -> ([u8; 2], usize) {
    if let Some(eth) = parse::at::<[u8; 2]>(ctx.data(), ctx.data_end(), 12) {
        // SAFETY: `at` checked that the bytes are inside the frame.
        let eth = unsafe { *eth };
        if eth == net::ETH_IPV4 || eth == net::ETH_IPV6 {
            return (eth, net::ETH_LEN);
        }
    }
    parse::ether_type(ctx)
}

/// Whether a program that met the frame before has translated it already.
#[inline(always)]
pub(crate) fn is_translated(ctx: &TcContext) -> bool {
    parse::at::<[u8; 6]>(ctx.data(), ctx.data_end(), 6).is_some_and(|mac| {
        // SAFETY: as above.
        let mac = unsafe { *mac };
        u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]) == TRANSLATED
    })
}

const TRANSLATED: u64 = {
    let mac = net::TRANSLATED_MAC;
    u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
};

/// Reads a packet.
#[inline(always)]
pub(crate) fn read<F: Family>(ctx: &TcContext, l3: usize, packet: &mut Packet<F>) -> Kind {
    if l3 == net::ETH_LEN {
        let kind = parse::plain(ctx.data(), ctx.data_end(), packet);
        if kind != Kind::Unread {
            return kind;
        }
    }
    parse::complete(ctx, l3, packet)
}

/// Carries the state's verdict out, and counts it.
#[inline(always)]
pub(crate) fn carry_out<F: Family>(ctx: &TcContext, hook: Hook) -> i32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    let (packet, verdict) = (&*packet, &*verdict);
    if let Some(counter) = verdict.counter {
        // What happens to the later fragments of a known flow has a name of its own.
        let known = matches!(counter, Counter::FlowHit | Counter::Reply);
        count(if known && packet.fragment == LATER { Counter::Fragment } else { counter });
    }
    match verdict.action {
        // What is `tc_to_pod`'s must come by there.
        Action::Continue | Action::Pass | Action::Leave
            if hook == Hook::UplinkIn && verdict.flags & FlowFlags::POD == 0 =>
        {
            deliver(ctx, packet, false)
        }
        Action::Continue | Action::Pass | Action::Leave => NEXT,
        Action::Drop => SHOT,
        // A pod's answer to an outside client, where pods' packets do not go through the host's stack.
        Action::Rewrite if hook == Hook::FromPod && verdict.flags & FlowFlags::POD == 0 => send(ctx, packet, verdict),
        Action::Transmit if hook == Hook::UplinkIn => send(ctx, packet, verdict),
        Action::Rewrite | Action::Transmit => {
            if !rewrite::<F>(ctx) {
                return SHOT;
            }
            if hook != Hook::UplinkIn {
                return NEXT;
            }
            mark_translated(ctx, packet.tagged);
            deliver(ctx, packet, true)
        }
        Action::Hairpin => {
            if !rewrite::<F>(ctx) {
                return SHOT;
            }
            answer::send_back(ctx)
        }
        Action::Reset => answer::reset(ctx, packet),
        Action::Refuse => answer::refuse(ctx, packet),
        Action::Encapsulate => dsr::encapsulate(ctx, packet, &verdict.dst),
        Action::Direct => dsr::direct(ctx, packet, &verdict.dst),
    }
}

/// Hands a packet that came in by an uplink to the host's stack or, where it is set up so, straight to the pod.
#[inline(always)]
pub(crate) fn deliver<F: Family>(ctx: &TcContext, packet: &Packet<F>, translated: bool) -> i32 {
    // SAFETY: a field of the context.
    let tagged = packet.tagged != 0 || unsafe { (*ctx.skb.skb).vlan_present } != 0;
    if node!(redirect) != 0 && !tagged {
        return hand_over::<F>(ctx, translated as u32);
    }
    NEXT
}

slow_step!(
    /// Hands the state's packet to its pod, if it is one of this node.
    hand_over = deliver4, deliver6: step_hand_over(translated)
);

#[inline(always)]
fn step_hand_over<F: Family>(ctx: &TcContext, translated: u32) -> i32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return NEXT;
    };
    let dst = if translated != 0 { &verdict.dst } else { &packet.dst };
    // The host's stack knows what to say where the time to live ends.
    if packet.ttl <= 1 {
        return NEXT;
    }
    let Some(pod) = maps::pod(&F::mapped(*dst)) else {
        return NEXT;
    };
    if pod.ifindex == 0 {
        return NEXT;
    }
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&pod.mac);
    macs[6..].copy_from_slice(&pod.host_mac);
    if !lower_ttl::<F>(ctx, packet) || ctx.store(0, &macs, 0).is_err() {
        count(Counter::DropRewrite);
        return SHOT;
    }
    // SAFETY: an index and no flags.
    unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
}

/// Rewrites a packet and sends it out, as a router would.
#[inline(always)]
fn send<F: Family>(ctx: &TcContext, packet: &Packet<F>, verdict: &Verdict<F>) -> i32 {
    if packet.tagged != 0 {
        // The kernel finds no neighbours for a frame that starts with a tag; the VLAN's own interface meets it again.
        return NEXT;
    }
    if packet.ttl <= 1 {
        return answer::time_exceeded(ctx, packet);
    }
    let way = route::way::<F>(ctx, packet, &verdict.src, &verdict.dst);
    if way < 0 {
        return answer::too_big(ctx, packet, -way as u32);
    }
    if way == 0 {
        count(Counter::DropNoRoute);
        return SHOT;
    }
    if !rewrite::<F>(ctx) {
        return SHOT;
    }
    if step_down::<F>(ctx) == 0 {
        count(Counter::DropRewrite);
        return SHOT;
    }
    route::out(way as u32)
}

slow_step!(
    /// Takes one from the time to live of the state's packet; 0: it could not be written.
    step_down = lower_ttl4, lower_ttl6: step_lower_ttl()
);

#[inline(always)]
fn step_lower_ttl<F: Family>(ctx: &TcContext) -> i32 {
    state::<F>().is_some_and(|state| lower_ttl(ctx, &state.packet)) as i32
}

/// Takes one from the time to live.
#[inline(always)]
fn lower_ttl<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> bool {
    let at = packet.l3 as usize + F::TTL;
    let ttl = [packet.ttl - 1];
    if F::V6 {
        return ctx.store(at, &ttl, RECOMPUTE).is_ok();
    }
    let from = u16::from_ne_bytes([packet.ttl, packet.proto]) as u64;
    let to = u16::from_ne_bytes([ttl[0], packet.proto]) as u64;
    ctx.l3_csum_replace(packet.l3 as usize + 10, from, to, 2).is_ok() && ctx.store(at, &ttl, 0).is_ok()
}

/// Writes the verdict's tuple. A failure is counted.
#[inline(always)]
fn rewrite<F: Family>(ctx: &TcContext) -> bool {
    let done = write_state::<F>(ctx) != 0;
    if !done {
        count(Counter::DropRewrite);
    }
    done
}

slow_step!(
    /// Writes the tuple of the state's verdict; 0: it could not be written.
    write_state = rewrite4, rewrite6: step_write()
);

#[inline(always)]
fn step_write<F: Family>(ctx: &TcContext) -> i32 {
    state::<F>().is_some_and(|state| write(ctx, &state.packet, &state.verdict).is_ok()) as i32
}

#[inline(always)]
fn write<F: Family>(ctx: &TcContext, packet: &Packet<F>, verdict: &Verdict<F>) -> Result<(), i64> {
    let l3 = packet.l3 as usize;
    let l4 = packet.l4 as usize;
    let addrs = F::delta(&packet.src, &verdict.src) + F::delta(&packet.dst, &verdict.dst);
    if packet.fragment != LATER {
        let check = l4 + check_offset(packet.proto);
        let udp = if packet.proto == proto::UDP { MANGLED_0 } else { 0 };
        let old = [packet.sport[0], packet.sport[1], packet.dport[0], packet.dport[1]];
        let mut new = [verdict.sport[0], verdict.sport[1], verdict.dport[0], verdict.dport[1]];
        let moved = u32::from_ne_bytes(old) != u32::from_ne_bytes(new);
        if packet.proto == proto::SCTP {
            if moved {
                let field = ctx.load::<[u8; 4]>(check)?;
                let change = (u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new)).to_ne_bytes();
                let len = packet.total.wrapping_sub(packet.l4 - packet.l3);
                ctx.store(check, &sctp(field, change, len), RECOMPUTE)?;
            }
        } else {
            // An echo of IPv4 has no pseudo header.
            if F::V6 || !packet.is_icmp() {
                ctx.l4_csum_replace(check, 0, addrs as u64, PSEUDO | udp)?;
            }
            if moved {
                let delta = if packet.is_icmp() {
                    // The id stands there once.
                    checksum::delta(&[old[0], old[1], 0, 0], &[new[0], new[1], 0, 0])
                } else {
                    checksum::delta(&old, &new)
                };
                ctx.l4_csum_replace(check, 0, delta as u64, udp)?;
            }
        }
        if moved {
            if packet.is_icmp() {
                // The sequence number stays.
                let sequence = ctx.load::<[u8; 2]>(l4 + 6)?;
                new[2..].copy_from_slice(&sequence);
            }
            let flags = if packet.proto == proto::SCTP { RECOMPUTE } else { 0 };
            ctx.store(l4 + ports_offset::<F>(packet.proto), &new, flags)?;
        }
    }
    if F::V6 {
        // No checksum of the header makes up for what the card summed.
        ctx.store(l3 + F::ADDRS, &[verdict.src, verdict.dst], RECOMPUTE)?;
    } else {
        ctx.l3_csum_replace(l3 + 10, 0, addrs as u64, 0)?;
        ctx.store(l3 + F::ADDRS, &[verdict.src, verdict.dst], 0)?;
    }
    Ok(())
}

/// See [`crc32c::apply`].
#[inline(always)]
pub(crate) fn sctp(field: [u8; 4], change: [u8; 4], len: u16) -> [u8; 4] {
    move_crc(u32::from_ne_bytes(field), u32::from_ne_bytes(change), len as u32).to_ne_bytes()
}

/// A global function, for its loops: see `desk`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn move_crc(field: u32, change: u32, len: u32) -> u32 {
    u32::from_ne_bytes(crc32c::apply(field.to_ne_bytes(), change.to_ne_bytes(), len as u16))
}

/// Tells whoever meets the frame next on its way in that it is translated. For frames with a VLAN tag, which the VLAN's
/// own interface meets again.
#[inline(always)]
pub(crate) fn mark_translated(ctx: &TcContext, packet_tagged: u8) {
    // SAFETY: a field of the context.
    if packet_tagged != 0 || unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        // A frame that cannot be marked is looked up once more.
        let _ = ctx.store(6, &net::TRANSLATED_MAC, 0);
    }
}
