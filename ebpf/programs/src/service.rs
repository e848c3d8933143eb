//! Towards a service: who may, and which endpoint.

use aya_ebpf::maps::lpm_trie::Key;
use fairlead_abi::{
    AffinityKey, AffinityValue, Backend, Counter, FlowFlags, Group, Range, RangeKey, ServiceValue, TraceSteps, V6,
};
use fairlead_packet::choice;

use crate::family::Family;
use crate::maps::{self, AFFINITY, GROUPS, RANGES, SLOTS, TURNS, ticks};
use crate::parse::{Action, Packet, Verdict};
use crate::state::{state, step};
use crate::trace::{self, is_fast};

/// Where a client of a service is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Somewhere behind an uplink.
    Outside,
    /// A pod of this node.
    Pod,
}

/// Endpoint chosen by another node, which sent the packet here; `None`: one is to be chosen.
pub(crate) type Preset = Option<u32>;

/// Gives a packet the endpoint that another node chose.
#[inline(always)]
pub(crate) fn preset<F: Family>(verdict: &mut Verdict<F>, id: u32) {
    let Some(backend) = maps::backend(id) else {
        return;
    };
    give(verdict, id, backend);
}

/// Points a verdict at an endpoint.
#[inline(always)]
fn give<F: Family>(verdict: &mut Verdict<F>, id: u32, backend: &Backend) {
    verdict.dst = F::of_backend(backend);
    verdict.dport = backend.port;
    verdict.backend = id;
    verdict.life = maps::noted(backend.life);
    verdict.flags = FlowFlags::CHOSEN;
    verdict.action = Action::Rewrite;
}

step!(
    /// A packet that may be meant for a service and belongs to no known flow: the verdict gets an endpoint, or says why
    /// there is none. [`Action::Continue`] stays where it is not for a service.
    pub(crate) choose = [
        choose4_live, choose6_live: LIVE,
        choose4_fast, choose6_fast: FAST,
        choose4_dry, choose6_dry: DRY
    ]: step_choose(1)
);

#[inline(always)]
fn step_choose<F: Family, const MODE: u8>(client: u32) -> u32 {
    let Some(state) = state::<F>() else {
        return 0;
    };
    let client = if client == Client::Pod as u32 { Client::Pod } else { Client::Outside };
    decide::<F, MODE>(&state.packet, &mut state.verdict, client);
    0
}

#[inline(always)]
fn decide<F: Family, const MODE: u8>(packet: &Packet<F>, verdict: &mut Verdict<F>, client: Client) {
    let Some(service) = F::service(packet.dst, packet.dport, packet.proto) else {
        return;
    };
    if service.flags & ServiceValue::SOCKETS_ONLY != 0 {
        return;
    }
    let Some(group) = GROUPS.get_ptr(service.group) else {
        return;
    };
    trace::step::<MODE>(TraceSteps::SERVICE);
    trace::note::<MODE>(|trace| {
        trace.service = service;
        // SAFETY: the map returned a pointer to a value of the array.
        trace.group = unsafe { *group };
    });
    let external = service.flags & ServiceValue::EXTERNAL != 0;
    if service.flags & ServiceValue::SOURCE_RANGES != 0 && !in_range(service.group, &F::mapped(packet.src)) {
        trace::step::<MODE>(TraceSteps::OUT_OF_RANGE);
        return refuse::<F, MODE>(verdict, Action::Drop, Counter::DropSourceRange);
    }
    let (range, local_only, step) = match (external, client) {
        // SAFETY: as above; each range is one word and read whole.
        (false, _) => (
            unsafe { core::ptr::read_volatile(&raw const (*group).internal) },
            service.flags & ServiceValue::INTERNAL_LOCAL != 0,
            TraceSteps::BY_INTERNAL,
        ),
        // SAFETY: as above.
        (true, Client::Pod) => {
            (unsafe { core::ptr::read_volatile(&raw const (*group).cluster) }, false, TraceSteps::BY_CLUSTER)
        }
        // SAFETY: as above.
        (true, Client::Outside) => (
            unsafe { core::ptr::read_volatile(&raw const (*group).ring) },
            service.flags & ServiceValue::EXTERNAL_LOCAL != 0,
            TraceSteps::BY_RING,
        ),
    };
    // SAFETY: as above; words.
    let (affinity, state) = unsafe {
        (core::ptr::read_volatile(&raw const (*group).affinity), core::ptr::read_volatile(&raw const (*group).flags))
    };
    let hash = choice::walk(F::hash(&packet.src, &packet.dst, packet.dport, packet.proto), packet.sport);
    let place = choice::place(hash, range.len());
    trace::note::<MODE>(|trace| {
        trace.hash = hash;
        trace.place = place;
        trace.range_start = range.start();
        trace.range_len = range.len();
    });
    let mut stuck = None;
    if affinity != 0 {
        stuck = stick(&F::mapped(packet.src), service.group, affinity, local_only);
    }
    let id = match stuck {
        Some(id) => id,
        None if range.is_empty() => {
            trace::step::<MODE>(TraceSteps::NO_ENDPOINT);
            if state & Group::HAS_ENDPOINTS != 0 {
                return refuse::<F, MODE>(verdict, Action::Drop, Counter::DropNoLocalEndpoint);
            }
            if service.flags & ServiceValue::NODE_ADDRESS != 0 {
                verdict.action = Action::Pass;
                return;
            }
            verdict.action = if is_fast(MODE) { Action::Leave } else { Action::Refuse };
            return;
        }
        None => {
            trace::step::<MODE>(step);
            let Some(id) = at(range, place) else {
                return;
            };
            id
        }
    };
    let Some(backend) = maps::backend(id) else {
        return;
    };
    let local = backend.flags & Backend::LOCAL != 0;
    give(verdict, id, backend);
    if client == Client::Pod {
        verdict.flags |= FlowFlags::POD;
        if F::same(&verdict.dst, &packet.src) {
            verdict.flags |= FlowFlags::HAIRPIN;
            verdict.action = Action::Hairpin;
        }
    } else if !local {
        if is_fast(MODE) {
            verdict.action = Action::Leave;
            return;
        }
        if service.flags & ServiceValue::DSR_IPIP != 0 {
            verdict.flags |= FlowFlags::DSR_IPIP;
            verdict.action = Action::Encapsulate;
        } else if service.flags & ServiceValue::DSR_L2 != 0 {
            verdict.flags |= FlowFlags::DSR_L2;
            verdict.action = Action::Direct;
        } else {
            verdict.flags |= FlowFlags::TRANSMIT;
            verdict.action = Action::Transmit;
        }
    }
    trace::note::<MODE>(|trace| trace.backend = id);
    if stuck.is_some() {
        trace::step::<MODE>(TraceSteps::AFFINITY);
    }
    if MODE != trace::DRY && affinity != 0 {
        if stuck.is_some() {
            maps::count(Counter::AffinityHit);
        }
        remember(&F::mapped(packet.src), service.group, id, verdict.life);
    }
}

/// Nobody for this client: tc says so, XDP leaves it to tc.
#[inline(always)]
fn refuse<F: Family, const MODE: u8>(verdict: &mut Verdict<F>, action: Action, counter: Counter) {
    if is_fast(MODE) {
        verdict.action = Action::Leave;
    } else {
        verdict.action = action;
        verdict.counter = Some(counter);
    }
}

/// Whether a client (mapped if IPv4) is in one of a group's source ranges.
#[inline(never)]
pub(crate) fn in_range(group: u32, client: &V6) -> bool {
    RANGES.get(Key::new(32 + 128, RangeKey { group: group.to_be_bytes(), addr: *client })).is_some()
}

/// The endpoint that a client (see [`AffinityKey`]) of a group had before, if it is to have it again: not after
/// `timeout` ticks, not another life of it, and where a policy asks for it not on another node.
#[inline(never)]
pub(crate) fn stick(client: &V6, group: u32, timeout: u32, local_only: bool) -> Option<u32> {
    let known = AFFINITY.get_ptr(AffinityKey { client: *client, group })?;
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
    let known = unsafe { *known };
    let backend = maps::backend(known.backend)?;
    // Signed: another CPU may be a tick ahead.
    let fresh = ticks().wrapping_sub(known.seen) as i32 <= timeout as i32;
    // SAFETY: a value of the array; volatile, because user space stores into it.
    let life = unsafe { core::ptr::read_volatile(&raw const backend.life) };
    (fresh && life == known.life && backend.group == group && (!local_only || backend.flags & Backend::LOCAL != 0))
        .then_some(known.backend)
}

/// Keeps which endpoint a client of a group has. A table that takes no entry costs the client its affinity, not its
/// connection.
#[inline(never)]
pub(crate) fn remember(client: &V6, group: u32, backend: u32, life: u32) {
    let value = AffinityValue { backend, life, seen: ticks() };
    let _ = AFFINITY.insert(AffinityKey { client: *client, group }, value, 0);
}

/// The place in a range whose turn it is: each CPU goes around by itself, so no line of cache is fought over. `turn` is
/// an index into `TURNS`.
#[inline(always)]
pub(crate) fn by_turn(range: Range, turn: u32) -> Option<u32> {
    let len = range.len();
    let turn = TURNS.get_ptr_mut(turn)?;
    // SAFETY: the map returned a pointer to this CPU's value; no other CPU writes it. An interrupted step gives two
    // sockets the same turn, which does no harm.
    let place = unsafe {
        let place = if *turn < len { *turn } else { 0 };
        *turn = place + 1;
        place
    };
    at(range, place)
}

/// The endpoint at a place of a range.
#[inline(always)]
pub(crate) fn at(range: Range, place: u32) -> Option<u32> {
    if range.is_empty() {
        return None;
    }
    SLOTS.get(range.start().wrapping_add(place)).copied()
}
