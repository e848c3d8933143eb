//! ICMP errors about packets that were translated.
//!
//! An error travels against the packet it quotes, so the quoted tuple turned around is the key of the flow's entry for
//! packets that travel like the error. What that entry says of the source holds for the quoted destination, and the other
//! way round. The error itself goes to the translated far end; who reports it stays visible, unless it is the very end
//! that the translation hides.
//!
//! This is what makes the discovery of path MTUs work through every translation.

use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FlowFlags, FlowKey, FlowValue, proto};
use fairlead_packet::checksum;

use crate::answer::{ICMP_LEN, send_back};
use crate::desk::{desk, slow_step};
use crate::dsr;
use crate::family::Family;
use crate::header::difference;
use crate::hook::Hook;
use crate::maps::count;
use crate::parse::{Kind, LATER, Packet, complete};
use crate::route;
use crate::skb::{self, NEXT, SHOT};
use crate::table;

/// What is to be done with an error, where it is no action of tc.
struct Next;

impl Next {
    /// It was translated and must be sent out by us.
    const TRANSMIT: i32 = 1005;
    /// It was translated and goes back out by the interface it came in by.
    const HAIRPIN: i32 = 1001;
    /// The endpoint's node gets it in another packet.
    const ENCAPSULATE: i32 = 1002;
    /// The endpoint's node gets it by hardware address.
    const DIRECT: i32 = 1003;
    /// It quotes a packet in a packet.
    const TUNNEL: i32 = 1004;
}

/// Translates an error, if it is about a flow of this hook.
#[inline(always)]
pub(crate) fn translate<F: Family>(ctx: &TcContext, packet: &Packet<F>, hook: Hook) -> i32 {
    let Some(desk) = desk::<F>() else {
        return NEXT;
    };
    desk.packet = *packet;
    let mut next = rewrite::<F>(ctx, hook as u32);
    if next == Next::TUNNEL {
        next = dsr::translate_error::<F>(ctx);
    }
    let (src, dst) = (desk.src, desk.dst);
    match next {
        Next::TRANSMIT | dsr::TRANSLATED => route::transmit(ctx, packet, &src, &dst),
        Next::HAIRPIN => send_back(ctx),
        Next::ENCAPSULATE => dsr::encapsulate(ctx, packet, &dst),
        Next::DIRECT => dsr::direct(ctx, packet, &dst),
        action => action,
    }
}

slow_step!(
    /// Translates an error and says what next: an action of tc, or one of [`Next`].
    rewrite = rewrite_error4, rewrite_error6: step_rewrite(hook)
);

#[inline(always)]
fn step_rewrite<F: Family>(ctx: &TcContext, hook: u32) -> i32 {
    let Some(desk) = desk::<F>() else {
        return NEXT;
    };
    let (packet, quoted) = (&desk.packet, &mut desk.inner);
    let (is_in, is_pod) = (hook == Hook::UplinkIn as u32, hook == Hook::FromPod as u32 || hook == Hook::ToPod as u32);
    match complete(ctx, packet.l4 as usize + ICMP_LEN, quoted) {
        Kind::Flow if quoted.fragment != LATER => {}
        Kind::Tunnel if is_in => return Next::TUNNEL,
        _ => return NEXT,
    }
    let Some(flow) = flow_of(quoted) else {
        return NEXT;
    };
    if (flow.flags & FlowFlags::POD != 0) != is_pod || flow.flags & FlowFlags::DIRECT != 0 {
        return NEXT;
    }
    desk.dst = flow.dst;
    if flow.flags & FlowFlags::DSR_IPIP != 0 {
        return Next::ENCAPSULATE;
    }
    if flow.flags & FlowFlags::DSR_L2 != 0 {
        return Next::DIRECT;
    }
    desk.src = if F::same(&packet.src, &quoted.dst) { flow.src } else { packet.src };
    if outside(ctx, packet, &desk.src, &desk.dst).is_none() || inside(ctx, packet, quoted, flow).is_none() {
        count(Counter::DropRewrite);
        return SHOT;
    }
    count(Counter::IcmpError);
    if flow.flags & FlowFlags::HAIRPIN != 0 {
        return Next::HAIRPIN;
    }
    if flow.flags & FlowFlags::TRANSMIT != 0 && (is_in || hook == Hook::FromPod as u32) {
        return Next::TRANSMIT;
    }
    NEXT
}

/// The entry for packets that travel against the quoted one.
#[inline(always)]
fn flow_of<F: Family>(quoted: &Packet<F>) -> Option<&'static FlowValue<F::Addr>> {
    let key = FlowKey {
        src: quoted.dst,
        dst: quoted.src,
        sport: quoted.dport,
        dport: quoted.sport,
        proto: quoted.proto,
        pad: [0; 3],
    };
    table::find::<F>(&key).map(|flow| &*flow)
}

/// Where the error's own checksum stands.
#[inline(always)]
fn check<F: Family>(packet: &Packet<F>) -> usize {
    packet.l4 as usize + 2
}

/// Rewrites the addresses of the error itself.
#[inline(always)]
fn outside<F: Family>(ctx: &TcContext, packet: &Packet<F>, src: &F::Addr, dst: &F::Addr) -> Option<()> {
    let l3 = packet.l3 as usize;
    let change = difference::<F>(&packet.src, src, difference::<F>(&packet.dst, dst, 0)) as u64;
    // IPv6 has no checksum, but its ICMP covers the addresses.
    if F::V6 {
        ctx.l4_csum_replace(check(packet), 0, change, 0).ok()?;
    } else {
        ctx.l3_csum_replace(l3 + 10, 0, change, 0).ok()?;
    }
    addresses(ctx, packet, src, dst)
}

/// Rewrites the packet that the error quotes. Every change inside is a change of what the error's checksum covers.
#[inline(always)]
fn inside<F: Family>(ctx: &TcContext, packet: &Packet<F>, quoted: &Packet<F>, flow: &FlowValue<F::Addr>) -> Option<()> {
    let check = check(packet);
    let (l3, l4) = (quoted.l3 as usize, quoted.l4 as usize);
    let moved = difference::<F>(&quoted.src, &flow.dst, difference::<F>(&quoted.dst, &flow.src, 0));
    if F::V6 {
        ctx.l4_csum_replace(check, 0, moved as u64, 0).ok()?;
    } else {
        // The quoted header's own checksum takes the change up: to the error's, nothing happened.
        ctx.l3_csum_replace(l3 + 10, 0, moved as u64, 0).ok()?;
    }
    addresses(ctx, quoted, &flow.dst, &flow.src)?;

    let icmp = quoted.is_icmp();
    // An echo's one id, or the two ports.
    let (at, old, new) = if icmp {
        let id = [quoted.sport[0], quoted.sport[1], 0, 0];
        (l4 + 4, id, [flow.dport[0], flow.dport[1], 0, 0])
    } else {
        let old = [quoted.sport[0], quoted.sport[1], quoted.dport[0], quoted.dport[1]];
        (l4, old, [flow.dport[0], flow.dport[1], flow.sport[0], flow.sport[1]])
    };
    let (old, new) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
    ctx.l4_csum_replace(check, old as u64, new as u64, 4).ok()?;
    if icmp {
        ctx.store(at, &flow.dport, 0).ok()?;
    } else {
        ctx.store(at, &new, 0).ok()?;
    }

    // The quoted transport checksum, if the quote goes so far.
    let field = l4 + skb::check_offset(quoted.proto);
    let end = packet.l3 as usize + packet.total as usize;
    if quoted.proto == proto::SCTP {
        return if field + 4 <= end { inside_sctp(ctx, check, field, quoted, old ^ new) } else { Some(()) };
    }
    if field + 2 > end {
        return Some(());
    }
    let Ok(before) = ctx.load::<u16>(field) else {
        return Some(());
    };
    if quoted.proto == proto::UDP && before == 0 {
        return Some(());
    }
    // ICMP for IPv4 does not cover addresses.
    let covered = if icmp && !F::V6 { 0 } else { moved };
    let ports =
        checksum::fold((!old & 0xffff) + (!old >> 16)) as u32 + checksum::fold((new & 0xffff) + (new >> 16)) as u32;
    let after = !checksum::fold((!before) as u32 + checksum::fold(covered) as u32 + ports);
    ctx.store(field, &after, 0).ok()?;
    ctx.l4_csum_replace(check, before as u64, after as u64, 2).ok()
}

/// Moves the quoted checksum of SCTP, which covers all of the packet that is quoted.
#[inline(always)]
fn inside_sctp<F: Family>(ctx: &TcContext, check: usize, field: usize, quoted: &Packet<F>, change: u32) -> Option<()> {
    let Ok(before) = ctx.load::<[u8; 4]>(field) else {
        return Some(());
    };
    let len = quoted.total.wrapping_sub(quoted.l4.wrapping_sub(quoted.l3));
    let after = skb::sctp(before, change.to_ne_bytes(), len);
    ctx.store(field, &after, 0).ok()?;
    ctx.l4_csum_replace(check, u32::from_ne_bytes(before) as u64, u32::from_ne_bytes(after) as u64, 4).ok()
}

/// Stores the addresses of a header.
#[inline(always)]
fn addresses<F: Family>(ctx: &TcContext, packet: &Packet<F>, src: &F::Addr, dst: &F::Addr) -> Option<()> {
    let at = packet.l3 as usize + F::ADDRS;
    ctx.store(at, src, 0).ok()?;
    ctx.store(at + size_of::<F::Addr>(), dst, 0).ok()
}
