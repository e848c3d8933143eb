//! Where slow steps find what they work on: one place per CPU.
//!
//! A slow step is a global function in BTF's sense (not mangled, C's calling convention): the verifier looks at it once
//! and on its own, however many places call it in whatever state. In return it takes nothing but the context and numbers;
//! everything else lies here, where the verifier knows nothing about it. Programs of one CPU do not interrupt each other.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

use crate::family::Family;
use crate::parse::Packet;

/// What a slow step works on.
#[derive(Clone, Copy)]
pub(crate) struct Desk<F: Family> {
    /// The packet.
    pub(crate) packet: Packet<F>,
    /// A packet that it quotes or holds.
    pub(crate) inner: Packet<F>,
    /// Source address it is to leave with.
    pub(crate) src: F::Addr,
    /// Destination address it is to leave with, or the endpoint it is for.
    pub(crate) dst: F::Addr,
}

const WORDS: usize = 32;

#[map]
static DESK: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's desk.
#[inline(always)]
pub(crate) fn desk<F: Family>() -> Option<&'static mut Desk<F>> {
    const { assert!(size_of::<Desk<F>>() <= size_of::<[u64; WORDS]>()) }
    // SAFETY: the map returned a pointer to this CPU's value, which is large enough and aligned for any desk; nobody else
    // uses it while the program runs, and any bytes make a desk: it holds numbers alone.
    DESK.get_ptr_mut(0).map(|desk| unsafe { &mut *desk.cast::<Desk<F>>() })
}

/// Makes a generic slow step callable: one global function per family, and one that picks the right one.
macro_rules! slow_step {
    ($(#[$doc:meta])* $visible:vis $name:ident = $four:ident, $six:ident: $step:ident($($argument:ident),*)) => {
        $(#[$doc])*
        #[inline(always)]
        $visible fn $name<F: $crate::family::Family>(ctx: &TcContext $(, $argument: u32)*) -> i32 {
            if F::V6 { $six(ctx.skb.skb $(, $argument)*) } else { $four(ctx.skb.skb $(, $argument)*) }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $four(skb: *mut aya_ebpf::bindings::__sk_buff $(, $argument: u32)*) -> i32 {
            $step::<$crate::family::Ip4>(&TcContext::new(skb) $(, $argument)*)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $six(skb: *mut aya_ebpf::bindings::__sk_buff $(, $argument: u32)*) -> i32 {
            $step::<$crate::family::Ip6>(&TcContext::new(skb) $(, $argument)*)
        }
    };
}
pub(crate) use slow_step;
