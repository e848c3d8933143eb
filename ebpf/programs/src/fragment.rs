//! Fragments: only the first has the ports, so what it says is kept for the others.
//!
//! A card that spreads packets over queues often delivers a first fragment after the others. One that comes before its
//! first is given to the daemon through a TAP interface, which holds it until the first has gone by and then writes it
//! back; [`back`] puts it into the interface where it came in. Its source's hardware address, which nobody needs of such a
//! packet, carries the index of that interface meanwhile.

use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, FragmentKey, FragmentValue, HELD_MAC, LOST_MAC, idle};

use crate::family::Family;
use crate::hook::Hook;
use crate::maps::{FRAGMENT_TAP, FRAGMENTS, count, ticks};
use crate::parse::Packet;
use crate::skb::{NEXT, SHOT};

/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;

#[inline(always)]
fn key<F: Family>(packet: &Packet<F>) -> FragmentKey {
    FragmentKey {
        src: F::mapped(packet.src),
        dst: F::mapped(packet.dst),
        id: packet.fragment_id,
        // IPv6 tells packets apart without it (RFC 8200 §4.5), and what its fragment header names may be another header.
        proto: if F::V6 { 0 } else { packet.proto },
        pad: [0; 3],
    }
}

/// Keeps what a first fragment says, as it arrives: the others arrive the same way.
#[inline(never)]
pub(crate) fn note<F: Family>(packet: &Packet<F>) {
    let value = FragmentValue { sport: packet.sport, dport: packet.dport, seen: ticks() };
    // If the table takes it not, the others are lost, and the sender will try again.
    let _ = FRAGMENTS.insert(key(packet), value, 0);
}

/// What the first fragment of this packet said.
#[inline(always)]
pub(crate) fn ports<F: Family>(packet: &Packet<F>) -> Option<FragmentValue> {
    // SAFETY: the value is copied out at once.
    let value = (unsafe { FRAGMENTS.get(key(packet)) }).copied()?;
    if ticks().wrapping_sub(value.seen) > idle::FRAGMENTS {
        // An older packet's: whoever waits for this one's must not be told too soon.
        let _ = FRAGMENTS.remove(key(packet));
        return None;
    }
    Some(value)
}

/// A fragment whose first has not been seen. Without a place to hold it, it is left to the host, whose own it may be.
/// Local senders send in order: what they did not begin is not theirs.
#[inline(never)]
pub(crate) fn hold(ctx: &TcContext, hook: Hook) -> i32 {
    let tap = FRAGMENT_TAP.get(0).map_or(0, |tap| *tap);
    if tap == 0 {
        count(Counter::PassedUntranslated);
        return NEXT;
    }
    // SAFETY: a field of the context.
    let [a, b, c, d] = unsafe { (*ctx.skb.skb).ifindex }.to_be_bytes();
    let held = [HELD_MAC[0], HELD_MAC[1], a, b, c, d];
    let source = ctx.load::<[u8; 6]>(6).unwrap_or(held);
    let again = (0..6).all(|i| source[i] == held[i]);
    if !matches!(hook, Hook::UplinkIn | Hook::FromPod) || again || ctx.store(6, &held, 0).is_err() {
        count(Counter::DropFragment);
        return SHOT;
    }
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(tap, 0) as i32 }
}

/// A fragment comes back from the daemon.
#[inline(always)]
pub(crate) fn back(ctx: &TcContext) -> i32 {
    let Ok([m, n, a, b, c, d]) = ctx.load::<[u8; 6]>(6) else {
        return SHOT;
    };
    if [m, n] == HELD_MAC {
        // SAFETY: the helper takes numbers.
        return unsafe { bpf_redirect(u32::from_be_bytes([a, b, c, d]), INGRESS) as i32 };
    }
    if [m, n] == LOST_MAC {
        count(Counter::DropFragment);
    }
    SHOT
}
