//! IP headers as bytes, for packets that are made or taken apart here and not just translated.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use fairlead_packet::checksum::fold;

use crate::family::Family;

/// `BPF_F_RECOMPUTE_CSUM`: the sum that hardware took over the whole packet follows the store.
pub(crate) const RECOMPUTE: u64 = 1;
/// `BPF_F_ADJ_ROOM_FIXED_GSO`: the segments of a packet to be cut keep their size.
pub(crate) const FIXED_GSO: u64 = 1;
/// Bytes of a packet that an ICMP error quotes at most: room for every header that is of use to the one who reads it.
pub(crate) const QUOTE: usize = 128;

/// What goes into the header of a packet that is made here.
#[derive(Clone, Copy)]
pub(crate) struct Make<F: Family> {
    /// Source address.
    pub(crate) src: F::Addr,
    /// Destination address.
    pub(crate) dst: F::Addr,
    /// Protocol of the payload.
    pub(crate) proto: u8,
    /// Type of service, or traffic class.
    pub(crate) tos: u8,
    /// Bytes of payload.
    pub(crate) payload: u16,
    /// IPv4's identification and fragment bits.
    pub(crate) id: [u8; 4],
}

/// IPv4's identification and fragment bits of what is never to be cut, and so needs no identification (RFC 6864 §4.1).
pub(crate) const ATOMIC: [u8; 4] = [0, 0, 0x40, 0];
/// Hops that packets made here may take.
const TTL: u8 = 64;

/// Writes a header without options.
#[inline(always)]
pub(crate) fn store_header<F: Family>(ctx: &TcContext, at: usize, make: &Make<F>) -> bool {
    let stored = if F::V6 {
        let [high, low] = make.payload.to_be_bytes();
        let head = [0x60 | make.tos >> 4, make.tos << 4, 0, 0, high, low, make.proto, TTL];
        ctx.store(at, &head, RECOMPUTE)
    } else {
        let [high, low] = (make.payload + F::HEADER as u16).to_be_bytes();
        let id = make.id;
        let mut head = [0x45, make.tos, high, low, id[0], id[1], id[2], id[3], TTL, make.proto, 0, 0];
        let check = !fold(sum(&head, sum_addr::<F>(&make.dst, sum_addr::<F>(&make.src, 0))));
        head[10..].copy_from_slice(&check.to_ne_bytes());
        ctx.store(at, &head, RECOMPUTE)
    };
    stored.is_ok()
        && ctx.store(at + F::ADDRS, &make.src, RECOMPUTE).is_ok()
        && ctx.store(at + F::ADDRS + size_of::<F::Addr>(), &make.dst, RECOMPUTE).is_ok()
}

/// Sum of the pseudo header.
#[inline(always)]
pub(crate) fn pseudo<F: Family>(src: &F::Addr, dst: &F::Addr, proto: u8, len: u16) -> u32 {
    let [high, low] = len.to_be_bytes();
    sum(&[0, proto, high, low], sum_addr::<F>(dst, sum_addr::<F>(src, 0)))
}

/// Sum over an address.
#[inline(always)]
fn sum_addr<F: Family>(addr: &F::Addr, seed: u32) -> u32 {
    let len = size_of::<F::Addr>() as u32;
    // SAFETY: the helper reads the bytes of the address, a multiple of four, and writes nothing.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, (&raw const *addr).cast_mut().cast(), len, seed) as u32 }
}

/// What a sum changes by when one address replaces another.
#[inline(always)]
pub(crate) fn difference<F: Family>(old: &F::Addr, new: &F::Addr, seed: u32) -> u32 {
    let len = size_of::<F::Addr>() as u32;
    let (old, new) = ((&raw const *old).cast_mut().cast(), (&raw const *new).cast_mut().cast());
    // SAFETY: as above, for both.
    unsafe { bpf_csum_diff(old, len, new, len, seed) as u32 }
}

/// Sum of 16-bit words as they lie in memory, folded to 32 bits. A multiple of four bytes.
#[inline(always)]
pub(crate) fn sum<const N: usize>(bytes: &[u8; N], seed: u32) -> u32 {
    const { assert!(N.is_multiple_of(4)) }
    // SAFETY: the helper reads N bytes from the array and writes nothing.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), N as u32, seed) as u32 }
}

/// Sum of a part of the packet: `len` bytes, a multiple of four and at most [`QUOTE`], are read.
#[inline(always)]
pub(crate) fn sum_packet(ctx: &TcContext, from: usize, len: usize) -> Option<u32> {
    let mut total = 0u64;
    let mut at = 0;
    while at < QUOTE {
        if at >= len {
            break;
        }
        total += ctx.load::<u32>(from + at).ok()? as u64;
        at += 4;
    }
    let total = (total & 0xffff_ffff) + (total >> 32);
    Some(((total & 0xffff_ffff) + (total >> 32)) as u32)
}

/// Whether the sender left this checksum to the hardware: such a field does not follow changes of the data.
///
/// A program is not told, but the helper that keeps checksums right knows. It is asked to follow a change and then to
/// take it back, which leaves everything as it was.
#[inline(always)]
pub(crate) fn is_unfinished(ctx: &TcContext, check: usize) -> bool {
    let Ok(before) = ctx.load::<u16>(check) else {
        return false;
    };
    if ctx.l4_csum_replace(check, 0, 1, 2).is_err() {
        return false;
    }
    let after = ctx.load::<u16>(check).unwrap_or(before);
    after == before || ctx.l4_csum_replace(check, 1, 0, 2).is_err()
}

/// Makes the packet this long.
#[inline(always)]
pub(crate) fn resize(ctx: &TcContext, len: usize) -> bool {
    // SAFETY: a valid context; the helper checks the length.
    unsafe { bpf_skb_change_tail(ctx.as_ptr().cast(), len as u32, 0) == 0 }
}

/// Makes or takes room before the IP header.
#[inline(always)]
pub(crate) fn make_room(ctx: &TcContext, bytes: i32, flags: u64) -> bool {
    ctx.skb.adjust_room(bytes, BPF_ADJ_ROOM_MAC, flags).is_ok()
}
