//! Where the steps of a decision find what they work on: one place per CPU, as with `desk`, and for the same reason. The
//! hit of a known flow takes no such step.
//!
//! A step changes the state behind its caller's back: whoever calls one asks for the state anew afterwards, and nobody
//! calls one who was given a reference into it.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

use crate::family::Family;
use crate::parse::{Packet, Verdict};

/// What a step works on.
#[repr(C, align(8))]
pub(crate) struct State<F: Family> {
    /// The packet.
    pub(crate) packet: Packet<F>,
    /// What is to become of it.
    pub(crate) verdict: Verdict<F>,
    /// What the complete reader read last.
    pub(crate) read: Packet<F>,
}

const WORDS: usize = 24;

#[map]
static STATE: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's state.
#[inline(always)]
pub(crate) fn state<F: Family>() -> Option<&'static mut State<F>> {
    const { assert!(size_of::<State<F>>() <= size_of::<[u64; WORDS]>()) }
    // SAFETY: the map returned a pointer to this CPU's value, which is large enough and aligned for any state; nobody
    // else uses it while the program runs. What is read from it was written before by the same run.
    STATE.get_ptr_mut(0).map(|state| unsafe {
        // Told, because it is not remembered for what is reached through a reference.
        core::hint::assert_unchecked(state.is_aligned());
        &mut *state.cast::<State<F>>()
    })
}

/// Makes a generic step without context callable: one global function per family and mode, and one that picks the right
/// one. The number is that of its arguments.
macro_rules! step {
    ($(#[$doc:meta])* $visible:vis $name:ident = $names:tt: $step:ident(1)) => {
        $crate::state::step!(@ $(#[$doc])* $visible $name = $names: $step, (number: u32), (number));
    };
    ($(#[$doc:meta])* $visible:vis $name:ident = $names:tt: $step:ident(2)) => {
        $crate::state::step!(@ $(#[$doc])* $visible $name = $names: $step, (number: u32, other: u32), (number, other));
    };
    (@ $(#[$doc:meta])* $visible:vis $name:ident = [$($four:ident, $six:ident: $mode:ident),*]: $step:ident,
        $parameters:tt, $arguments:tt) => {
        $(#[$doc])*
        #[inline(always)]
        $visible fn $name<F: $crate::family::Family, const MODE: u8> $parameters -> u32 {
            $(if $crate::trace::same(MODE, $crate::trace::$mode) {
                return if F::V6 { $six $arguments } else { $four $arguments };
            })*
            0
        }

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $four $parameters -> u32 {
                $step::<$crate::family::Ip4, { $crate::trace::$mode }> $arguments
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $six $parameters -> u32 {
                $step::<$crate::family::Ip6, { $crate::trace::$mode }> $arguments
            }
        )*
    };
}
pub(crate) use step;
