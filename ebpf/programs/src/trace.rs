//! How a decision is run, and what `explain` sees of it.
//!
//! Decisions are generic over a mode. In [`DRY`] no state is written, no packet counted, and every step is noted in
//! `TRACE`; in the others these functions compile to nothing but the counting.

use fairlead_abi::{Counter, FlowValue, Group, ServiceValue, Trace};

use crate::family::Family;
use crate::maps::{self, TRACE};
use crate::parse::Verdict;

/// In tc: everything can be carried out.
pub(crate) const LIVE: u8 = 0;
/// In XDP: what is more than a plain rewrite is left to tc, before anything is written.
pub(crate) const FAST: u8 = 1;
/// In XDP on hardware, which can also send a packet back out.
pub(crate) const FAST_OUT: u8 = 2;
/// For `explain`.
pub(crate) const DRY: u8 = 3;

/// Whether a mode is one of XDP's.
pub(crate) const fn is_fast(mode: u8) -> bool {
    mode == FAST || mode == FAST_OUT
}

/// Whether two modes decide alike.
pub(crate) const fn same(mode: u8, other: u8) -> bool {
    mode == other || is_fast(mode) && is_fast(other)
}

/// Counts a packet, or notes under what it would be counted.
#[inline(always)]
pub(crate) fn count<const MODE: u8>(counter: Counter) {
    if MODE == DRY {
        note::<MODE>(|trace| trace.counter = counter as u32);
    } else {
        maps::count(counter);
    }
}

/// Notes a step, one of [`fairlead_abi::TraceSteps`].
#[inline(always)]
pub(crate) fn step<const MODE: u8>(step: u32) {
    note::<MODE>(|trace| trace.steps |= step);
}

/// Writes into the record.
#[inline(always)]
pub(crate) fn note<const MODE: u8>(write: impl FnOnce(&mut Trace)) {
    if MODE == DRY
        && let Some(trace) = TRACE.get_ptr_mut(0)
    {
        // SAFETY: the map returned a pointer to this CPU's value; test runs of one daemon do not overlap.
        write(unsafe { &mut *trace });
    }
}

/// Forgets what the last run noted.
#[inline(always)]
pub(crate) fn start() {
    note::<DRY>(|trace| {
        trace.steps = 0;
        trace.hash = 0;
        trace.service = ServiceValue { group: 0, flags: 0 };
        trace.group = Group::default();
        trace.counter = u32::MAX;
        trace.backend = u32::MAX;
        trace.place = 0;
        trace.range_start = 0;
        trace.range_len = 0;
        trace.flags = 0;
    });
}

/// Notes the entry of a flow.
#[inline(always)]
pub(crate) fn flow<F: Family, const MODE: u8>(flow: &FlowValue<F::Addr>) {
    note::<MODE>(|trace| {
        trace.flow.src = F::mapped(flow.src);
        trace.flow.dst = F::mapped(flow.dst);
        trace.flow.sport = flow.sport;
        trace.flow.dport = flow.dport;
        trace.flow.flags = flow.flags;
        trace.flow.backend = flow.backend;
        trace.flow.life = flow.life;
        trace.flow.seen = flow.seen;
        trace.backend = flow.backend;
    });
}

/// Notes what would leave.
#[inline(always)]
pub(crate) fn finish<F: Family>(verdict: &Verdict<F>) {
    note::<DRY>(|trace| {
        trace.src = F::mapped(verdict.src);
        trace.dst = F::mapped(verdict.dst);
        trace.sport = verdict.sport;
        trace.dport = verdict.dport;
        trace.flags = verdict.flags;
        if let Some(counter) = verdict.counter {
            trace.counter = counter as u32;
        }
    });
}
