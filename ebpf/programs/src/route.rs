//! Sending packets out by ourselves: past the host's routing of what arrives, which drops what carries an address of the
//! host as its source.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::{TcContext, XdpContext};
use fairlead_abi::Counter;

use crate::family::Family;
use crate::maps::count;
use crate::parse::Packet;
use crate::skb::SHOT;

/// `BPF_FIB_LKUP_RET_FWD_DISABLED`: the interface forwards nothing; what we send is not forwarded by the host.
const FWD_DISABLED: i64 = 5;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the way is known, the hardware address is not yet.
const NO_NEIGHBOUR: i64 = 7;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`.
const FRAG_NEEDED: i64 = 8;
/// What is assumed of a link whose MTU the kernel does not tell (5.10): every link of either family takes it.
const MTU: u32 = 1280;

/// Asks for the way from `src` to `dst`. `len` is compared with the MTU; 0: the kernel looks at the buffer itself.
#[inline(always)]
fn ask<F: Family>(
    ctx: *mut core::ffi::c_void,
    found: &mut FibLookup,
    ifindex: u32,
    len: u16,
    src: &F::Addr,
    dst: &F::Addr,
) -> i64 {
    found.family = F::AF;
    found.ifindex = ifindex;
    found.__bindgen_anon_1.tot_len = len;
    // SAFETY: both unions hold an address of either family, and start with its bytes; the helper writes only what it is
    // given the size of.
    unsafe {
        (&raw mut found.__bindgen_anon_3).cast::<F::Addr>().write_unaligned(*src);
        (&raw mut found.__bindgen_anon_4).cast::<F::Addr>().write_unaligned(*dst);
        bpf_fib_lookup(ctx, found, size_of::<FibLookup>() as i32, 0)
    }
}

/// A question yet to be filled in.
#[inline(always)]
fn empty() -> FibLookup {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { core::mem::zeroed() }
}

/// The interface by which a packet leaves that is to carry these addresses: 0 if there is no way; the negative MTU if it
/// does not fit.
#[inline(never)]
pub(crate) fn way<F: Family>(ctx: &TcContext, packet: &Packet<F>, src: &F::Addr, dst: &F::Addr) -> i32 {
    // SAFETY: fields of the context.
    let (here, gso) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).gso_size) };
    let len = if gso == 0 { packet.total } else { 0 };
    let mut found = empty();
    let code = ask::<F>(ctx.as_ptr(), &mut found, here, len, src, dst);
    match code {
        0 | NO_NEIGHBOUR => found.ifindex as i32,
        FWD_DISABLED => here as i32,
        FRAG_NEEDED => {
            // SAFETY: the other reading of the same word.
            let told = unsafe { found.__bindgen_anon_1.mtu_result };
            -(if told == len || told == 0 { MTU } else { told as u32 } as i32)
        }
        _ => 0,
    }
}

/// Sends out a packet that carries these addresses now. Its time to live is as the caller left it.
#[inline(never)]
pub(crate) fn transmit<F: Family>(ctx: &TcContext, packet: &Packet<F>, src: &F::Addr, dst: &F::Addr) -> i32 {
    let way = way::<F>(ctx, packet, src, dst);
    if way <= 0 {
        count(Counter::DropNoRoute);
        return SHOT;
    }
    out(way as u32)
}

/// Sends the packet out of an interface, to whichever hardware address the kernel finds.
#[inline(always)]
pub(crate) fn out(ifindex: u32) -> i32 {
    // SAFETY: no parameters are given; the helper finds the next hop itself.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// From XDP: the hardware addresses, destination first, under which a packet leaves by the interface it came in by, if
/// that is its way and it fits.
#[inline(never)]
pub(crate) fn back<F: Family>(
    ctx: &XdpContext,
    packet: &Packet<F>,
    src: &F::Addr,
    dst: &F::Addr,
    macs: &mut [u8; 12],
) -> bool {
    let here = ctx.ingress_ifindex() as u32;
    let mut found = empty();
    if ask::<F>(ctx.as_ptr(), &mut found, here, packet.total, src, dst) != 0 || found.ifindex != here {
        return false;
    }
    macs[..6].copy_from_slice(&found.dmac);
    macs[6..].copy_from_slice(&found.smac);
    true
}
