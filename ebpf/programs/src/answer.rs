//! Answers made out of the packet they answer: TCP resets and ICMP errors.
//!
//! They go back where the packet came from, with the hardware addresses swapped, and show the address that the client
//! asked. What cannot be answered (an answer to an error, to a group, to a part of a packet) is dropped under the same
//! counter.
//!
//! The kernel makes room behind headers of Ethernet and IP alone. So of a frame with VLAN tags in its data, as the inner
//! one of two, the outermost tag is taken off, which moves the next one out of the data, and put on again.
//!
//! A packet of a local sender may come with its checksum left to the hardware, and stays such a packet: whoever finishes
//! it sums from the place where its transport header was. A reset keeps that place and gets the sum that is expected
//! there. Inside an error, the quoted field gets the one value that finishing does not change.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push};
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, proto};
use fairlead_packet::checksum::fold;
use fairlead_packet::net;

use crate::desk::{desk, slow_step};
use crate::family::Family;
use crate::header::{
    ATOMIC, FIXED_GSO, Make, QUOTE, RECOMPUTE, is_unfinished, make_room, pseudo, resize, store_header, sum, sum_packet,
};
use crate::maps::count;
use crate::parse::{LATER, Packet, WHOLE};
use crate::skb::{self, SHOT};

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// Bytes of an ICMP header.
pub(crate) const ICMP_LEN: usize = 8;

/// Type and code of the ICMP errors made here, per family.
struct Error;

impl Error {
    const PORT_UNREACHABLE: [[u8; 2]; 2] = [[3, 3], [1, 4]];
    const TOO_BIG: [[u8; 2]; 2] = [[3, 4], [2, 0]];
    const TIME_EXCEEDED: [[u8; 2]; 2] = [[11, 0], [3, 0]];
}

/// The connection's endpoint is gone.
#[inline(always)]
pub(crate) fn reset<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> i32 {
    count(Counter::ResetEndpointGone);
    put(packet, || answer_reset::<F>(ctx))
}

/// Nobody is there: what a closed port would answer.
#[inline(always)]
pub(crate) fn refuse<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> i32 {
    count(Counter::RefusedNoEndpoint);
    if packet.proto == proto::TCP {
        return put(packet, || answer_reset::<F>(ctx));
    }
    error(ctx, packet, Error::PORT_UNREACHABLE, 0)
}

/// The packet does not fit through a link of this MTU.
#[inline(always)]
pub(crate) fn too_big<F: Family>(ctx: &TcContext, packet: &Packet<F>, mtu: u32) -> i32 {
    count(Counter::TooBig);
    error(ctx, packet, Error::TOO_BIG, mtu)
}

/// The packet has come too far.
#[inline(always)]
pub(crate) fn time_exceeded<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> i32 {
    count(Counter::TimeExceeded);
    error(ctx, packet, Error::TIME_EXCEEDED, 0)
}

#[inline(always)]
fn error<F: Family>(ctx: &TcContext, packet: &Packet<F>, kinds: [[u8; 2]; 2], rest: u32) -> i32 {
    let [kind, code] = kinds[F::V6 as usize];
    put(packet, || answer_error::<F>(ctx, (kind as u32) << 8 | code as u32, rest))
}

/// Puts the packet on the desk for a slow step.
#[inline(always)]
fn put<F: Family>(packet: &Packet<F>, step: impl FnOnce() -> i32) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    desk.packet = *packet;
    step()
}

slow_step!(answer_reset = answer_reset4, answer_reset6: step_reset());
slow_step!(answer_error = answer_error4, answer_error6: step_error(kind, rest));

#[inline(always)]
fn step_reset<F: Family>(ctx: &TcContext) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    let packet = &mut desk.packet;
    if packet.flags & net::RST != 0 || packet.fragment != WHOLE || !is_answerable(ctx, packet) {
        return SHOT;
    }
    let Some(tag) = take_tag(ctx, packet) else {
        return SHOT;
    };
    match make_reset(ctx, packet) {
        Some(()) => send_tagged(ctx, tag),
        None => SHOT,
    }
}

/// RFC 9293 §3.10.7.1: a reset takes the sequence number that is expected, or else acknowledges everything.
#[inline(always)]
fn make_reset<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> Option<()> {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let head: [u8; TCP_LEN] = ctx.load(l4).ok()?;
    let mut tcp = [0u8; TCP_LEN];
    tcp[..2].copy_from_slice(&head[2..4]);
    tcp[2..4].copy_from_slice(&head[..2]);
    tcp[12] = 0x50;
    if head[13] & net::ACK != 0 {
        tcp[4..8].copy_from_slice(&head[8..12]);
        tcp[13] = net::RST;
    } else {
        let headers = (l4 - l3) as u32 + (head[12] >> 4) as u32 * 4;
        let flags = (head[13] & net::SYN != 0) as u32 + (head[13] & net::FIN != 0) as u32;
        let seq = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let end = seq.wrapping_add(packet.total as u32).wrapping_sub(headers).wrapping_add(flags);
        tcp[8..12].copy_from_slice(&end.to_be_bytes());
        tcp[13] = net::RST | net::ACK;
    }
    let unfinished = is_unfinished(ctx, l4 + 16);
    let extra = l4 - l3 - F::HEADER;
    if extra != 0 {
        ctx.skb.adjust_room(-(extra as i32), BPF_ADJ_ROOM_NET, FIXED_GSO).ok()?;
    }
    if !resize(ctx, l3 + F::HEADER + TCP_LEN) {
        return None;
    }
    let pseudo = pseudo::<F>(&packet.dst, &packet.src, proto::TCP, TCP_LEN as u16);
    let check = if unfinished { fold(pseudo) } else { !fold(sum(&tcp, pseudo)) };
    tcp[16..18].copy_from_slice(&check.to_ne_bytes());
    ctx.store(l3 + F::HEADER, &tcp, RECOMPUTE).ok()?;
    let (src, dst) = (packet.dst, packet.src);
    let make = Make { src, dst, proto: proto::TCP, tos: 0, payload: TCP_LEN as u16, id: ATOMIC };
    store_header::<F>(ctx, l3, &make).then_some(())
}

#[inline(always)]
fn step_error<F: Family>(ctx: &TcContext, kind: u32, rest: u32) -> i32 {
    let Some(desk) = desk::<F>() else {
        return SHOT;
    };
    let packet = &mut desk.packet;
    let echo = packet.flags == F::ECHO || packet.flags == F::ECHO_REPLY;
    if packet.fragment == LATER || packet.proto == F::ICMP && !echo || !is_answerable(ctx, packet) {
        return SHOT;
    }
    let Some(tag) = take_tag(ctx, packet) else {
        return SHOT;
    };
    match make_error(ctx, packet, [(kind >> 8) as u8, kind as u8], rest) {
        Some(()) => send_tagged(ctx, tag),
        None => SHOT,
    }
}

#[inline(always)]
fn make_error<F: Family>(ctx: &TcContext, packet: &Packet<F>, kind: [u8; 2], rest: u32) -> Option<()> {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let check = match packet.proto {
        proto::TCP => l4 + 16,
        proto::UDP => l4 + 6,
        _ => 0,
    };
    let unfinished = check != 0 && is_unfinished(ctx, check);
    let room = F::HEADER + ICMP_LEN;
    let quote = quote_len(packet.total as u32);
    if !resize(ctx, l3 + quote) || !make_room(ctx, room as i32, FIXED_GSO) {
        return None;
    }
    if unfinished {
        ctx.store(check + room, &0u16, RECOMPUTE).ok()?;
        let rest = fold(sum_packet(ctx, l4 + room, l3 + quote - l4)?);
        ctx.store(check + room, &fixed_point(rest), RECOMPUTE).ok()?;
    }
    finish_error::<F>(ctx, l3, &packet.dst, &packet.src, kind, rest.to_be_bytes(), quote)
}

/// Bytes to quote of a packet of this length: a multiple of four, for summing.
#[inline(always)]
pub(crate) fn quote_len(total: u32) -> usize {
    (if total > QUOTE as u32 { QUOTE } else { total as usize }) & !3
}

/// Writes the headers of an ICMP error before the `quote` bytes that follow the room for them.
#[inline(always)]
pub(crate) fn finish_error<F: Family>(
    ctx: &TcContext,
    l3: usize,
    src: &F::Addr,
    dst: &F::Addr,
    kind: [u8; 2],
    rest: [u8; 4],
    quote: usize,
) -> Option<()> {
    let len = (ICMP_LEN + quote) as u16;
    let mut icmp = [kind[0], kind[1], 0, 0, rest[0], rest[1], rest[2], rest[3]];
    // ICMP for IPv4 has no pseudo header.
    let pseudo = if F::V6 { pseudo::<F>(src, dst, F::ICMP, len) } else { 0 };
    let quoted = sum_packet(ctx, l3 + F::HEADER + ICMP_LEN, quote)?;
    let total = sum(&icmp, pseudo) as u64 + quoted as u64;
    let check = !fold(fold((total >> 16) as u32) as u32 + (total & 0xffff) as u32);
    icmp[2..4].copy_from_slice(&check.to_ne_bytes());
    ctx.store(l3 + F::HEADER, &icmp, RECOMPUTE).ok()?;
    let make = Make { src: *src, dst: *dst, proto: F::ICMP, tos: 0, payload: len, id: ATOMIC };
    store_header::<F>(ctx, l3, &make).then_some(())
}

/// The value of a checksum field that equals the checksum over the bytes with this value in it, where `rest` is the sum
/// of all others: `x = −(rest + x)`, so `x = −rest / 2` modulo 65535.
#[inline(always)]
fn fixed_point(rest: u16) -> u16 {
    const HALF: u32 = 32_768;
    ((65_535 - rest as u32) * HALF % 65_535) as u16
}

/// Only one sender that can be named is answered (RFC 1122 §3.2.2), and for one receiver.
#[inline(always)]
fn is_answerable<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> bool {
    let group = ctx.load::<u8>(0).map_or(1, |first| first & 1);
    group == 0 && F::is_unicast(&packet.src) && F::is_unicast(&packet.dst)
}

/// A VLAN tag as it stands in a frame: protocol and number, both zero for none.
#[derive(Clone, Copy)]
struct Tag {
    proto: [u8; 2],
    number: [u8; 2],
}

/// Takes the outermost tag off a frame that has others, or itself, in its data.
#[inline(always)]
fn take_tag<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<Tag> {
    if packet.tagged == 0 {
        return Some(Tag { proto: [0; 2], number: [0; 2] });
    }
    // SAFETY: fields of the context; the protocol is in network order.
    let (present, proto, number) =
        unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_proto, (*ctx.skb.skb).vlan_tci) };
    let tag = if present != 0 {
        Tag { proto: (proto as u16).to_ne_bytes(), number: (number as u16).to_be_bytes() }
    } else {
        let [a, b, c, d] = ctx.load::<[u8; 4]>(12).ok()?;
        Tag { proto: [a, b], number: [c, d] }
    };
    // SAFETY: the helper takes the context.
    if unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } != 0 {
        return None;
    }
    // Of three tags, there is still one in the data, and no room is made.
    let left = packet.l3.checked_sub(net::ETH_LEN as u16)?;
    packet.l3 -= left;
    packet.l4 -= left;
    let (eth, _) = skb::ether_type(ctx);
    let plain = eth == net::ETH_IPV4 || eth == net::ETH_IPV6;
    (plain && ctx.load::<[u8; 2]>(12).ok()? == eth).then_some(tag)
}

/// Puts the tag on again, and sends the packet back.
#[inline(always)]
fn send_tagged(ctx: &TcContext, tag: Tag) -> i32 {
    let proto = u16::from_ne_bytes(tag.proto);
    // SAFETY: the helper takes the context and numbers.
    if proto != 0 && unsafe { bpf_skb_vlan_push(ctx.skb.skb, proto, u16::from_be_bytes(tag.number)) } != 0 {
        return SHOT;
    }
    send_back(ctx)
}

/// Sends the packet back to its sender on the link.
#[inline(always)]
pub(crate) fn send_back(ctx: &TcContext) -> i32 {
    let Ok(old) = ctx.load::<[u8; 12]>(0) else {
        return SHOT;
    };
    let mut new = [0u8; 12];
    new[..6].copy_from_slice(&old[6..]);
    new[6..].copy_from_slice(&old[..6]);
    if ctx.store(0, &new, 0).is_err() {
        return SHOT;
    }
    // SAFETY: a field of the context; the helper takes numbers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}
