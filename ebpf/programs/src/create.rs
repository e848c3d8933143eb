//! New flows: which source address and port they leave with, and their two entries.
//!
//! The reply's key is what reserves a port, so one port serves any number of destinations; nothing has to sweep, since a
//! holder that is done gives way when somebody needs its key.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use fairlead_abi::{
    Counter, FlowFlags, FlowKey, FlowValue, SOURCE_PORT_FIRST, SOURCE_PORT_TRIES, SOURCES_MAX, SourcePool, TraceSteps,
};
use fairlead_packet::choice;

use crate::family::Family;
use crate::flow::{forget, is_stale};
use crate::maps::{self, node, ticks};
use crate::parse::{Action, Packet, Verdict, write_key};
use crate::state::{State, state, step};
use crate::table::{self, Draft};
use crate::trace::{self, DRY};

/// How the noting of a new flow went.
struct Noted;

impl Noted {
    /// It is there.
    const YES: u32 = 0;
    /// No address to translate the source to.
    const NO_ADDRESS: u32 = 1;
    /// No source port is free.
    const NO_PORT: u32 = 2;
    /// The table took no entry.
    const NO_ENTRY: u32 = 3;
}

/// Whose source address a flow leaves with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source(pub(crate) u32);

impl Source {
    /// The client's.
    pub(crate) const KEPT: Self = Self(u32::MAX);
    /// Of any uplink.
    pub(crate) const ANY: Self = Self(0);
}

/// Notes a new flow for the state's packet, as [`create`] does, and under what it is counted; or drops the packet.
#[inline(always)]
pub(crate) fn note<F: Family, const MODE: u8>(source: Source, counter: Counter) {
    let noted = create::<F, MODE>(source.0);
    settle::<F>(noted, counter);
}

/// Notes a new flow whose replies do not come by.
#[inline(always)]
pub(crate) fn note_one<F: Family, const MODE: u8>(counter: Counter) {
    let noted = enter::<F, MODE>(ticks());
    settle::<F>(noted, counter);
}

#[inline(always)]
fn settle<F: Family>(noted: u32, counter: Counter) {
    let Some(State { verdict, .. }) = state::<F>() else {
        return;
    };
    verdict.counter = Some(match noted {
        Noted::YES => counter,
        Noted::NO_ADDRESS => Counter::DropNoSourceAddress,
        Noted::NO_PORT => Counter::DropNoSourcePort,
        _ => Counter::DropFlowInsert,
    });
    if noted != Noted::YES {
        verdict.action = Action::Drop;
    }
}

step!(
    /// Notes the flow of the state's packet, which leaves as its verdict says, and chooses the source: its address,
    /// where the verdict's is to be replaced by one of an uplink, and its port. The reply's key is what must be free.
    create = [
        create4_live, create6_live: LIVE,
        create4_fast, create6_fast: FAST,
        create4_dry, create6_dry: DRY
    ]: step_create(1)
);

#[inline(always)]
fn step_create<F: Family, const MODE: u8>(source: u32) -> u32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return Noted::NO_ENTRY;
    };
    let mut pool = None;
    let mut addresses = 0;
    let mut first = 0;
    if source != Source::KEPT.0 {
        pool = maps::pool(source);
        addresses = pool.map_or(0, F::sources);
        if addresses == 0 || addresses > SOURCES_MAX as u32 {
            return Noted::NO_ADDRESS;
        }
        trace::step::<MODE>(TraceSteps::SOURCE);
        // One client keeps one address as long as that has ports.
        first = choice::place(F::hash(&packet.src, &packet.src, [0; 2], 0), addresses);
    }
    let now = ticks();
    let own = u16::from_be_bytes(packet.sport);
    let host = source_of(verdict, pool, first);
    let mut claimed = 0;
    // The client's own port, even if it is a low one, where its address is kept.
    if pool.is_none() || own >= SOURCE_PORT_FIRST && !(own as u32 >= host.start && (own as u32) < host.end) {
        leave_by(packet, verdict, own);
        claimed = claim::<F, MODE>(now);
        if claimed == 0 {
            trace::step::<MODE>(TraceSteps::PORT_MOVED);
            if MODE != DRY {
                maps::count(Counter::PortMoved);
            }
        }
    }
    if claimed == 0 {
        let Some(State { verdict, .. }) = state::<F>() else {
            return Noted::NO_ENTRY;
        };
        verdict.flags &= !FlowFlags::DIRECT;
        let mut attempt = 0;
        while attempt < SOURCE_PORT_TRIES {
            if draw::<F, MODE>(source, first + attempt * addresses / SOURCE_PORT_TRIES) != 0 {
                break;
            }
            attempt += 1;
        }
        // If none was free, the holder of the last may be done with it.
        claimed = claim::<F, MODE>(now);
    }
    if claimed == 0 { Noted::NO_PORT } else { enter::<F, MODE>(now) }
}

step!(
    /// Gives the state's verdict any port of one of a pool's addresses (`place` counts around), and says whether nobody
    /// holds the reply's key then.
    draw = [
        draw4_live, draw6_live: LIVE,
        draw4_fast, draw6_fast: FAST,
        draw4_dry, draw6_dry: DRY
    ]: step_draw(2)
);

#[inline(always)]
fn step_draw<F: Family, const MODE: u8>(source: u32, place: u32) -> u32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return 0;
    };
    let pool = if source == Source::KEPT.0 { None } else { maps::pool(source) };
    let addresses = pool.map_or(0, F::sources);
    let host = source_of(verdict, pool, if place >= addresses { place - addresses } else { place });
    leave_by(packet, verdict, any_port(&host));
    table::find::<F>(&reply_key(packet, verdict)).is_none() as u32
}

/// Sets the verdict's source address to one of a pool's, and says which of its ports the host uses itself.
#[inline(always)]
fn source_of<F: Family>(verdict: &mut Verdict<F>, pool: Option<&SourcePool>, place: u32) -> core::ops::Range<u32> {
    let Some(pool) = pool else {
        return 0..0;
    };
    verdict.src = F::source(pool, place);
    if place == 0 { node!(ephemeral_first)..node!(ephemeral_last) + 1 } else { 0..0 }
}

/// Sets the verdict's source port, which is an echo's id.
#[inline(always)]
fn leave_by<F: Family>(packet: &Packet<F>, verdict: &mut Verdict<F>, port: u16) {
    verdict.sport = port.to_be_bytes();
    if packet.is_icmp() {
        verdict.dport = verdict.sport;
    }
}

/// Key of a flow's replies.
#[inline(always)]
fn reply_key<F: Family>(packet: &Packet<F>, verdict: &Verdict<F>) -> FlowKey<F::Addr> {
    FlowKey {
        src: verdict.dst,
        dst: verdict.src,
        sport: verdict.dport,
        dport: verdict.sport,
        proto: packet.proto,
        pad: [0; 3],
    }
}

/// Any port above the reserved ones that is not the host's.
#[inline(always)]
fn any_port(host: &core::ops::Range<u32>) -> u16 {
    const FIRST: u32 = SOURCE_PORT_FIRST as u32;
    let span = if host.start >= FIRST && host.end > host.start { host.end - host.start } else { 0 };
    // SAFETY: the helper takes nothing and cannot fail.
    let place = choice::place(unsafe { bpf_get_prandom_u32() }, 65_536 - FIRST - span);
    let port = FIRST + place;
    (if span != 0 && port >= host.start { port + span } else { port }) as u16
}

step!(
    /// Takes the reply's key for the flow of the state's packet, unless another flow needs it.
    claim = [
        claim4_live, claim6_live: LIVE,
        claim4_fast, claim6_fast: FAST,
        claim4_dry, claim6_dry: DRY
    ]: step_claim(1)
);

#[inline(always)]
fn step_claim<F: Family, const MODE: u8>(now: u32) -> u32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return 0;
    };
    let Some(Draft { key, value, .. }) = table::draft::<F>() else {
        return 0;
    };
    write_key::<F>(key, [&verdict.dst, &verdict.src], [verdict.dport, verdict.sport], packet.proto);
    *value = FlowValue {
        src: packet.dst,
        dst: packet.src,
        sport: packet.dport,
        dport: packet.sport,
        flags: verdict.flags | FlowFlags::REPLY,
        backend: verdict.backend,
        life: verdict.life,
        seen: now,
    };
    if MODE != DRY && table::insert::<F>(false) {
        return 1;
    }
    if let Some(held) = table::find::<F>(key) {
        // Ours, of which only this half is left, or a holder that is done.
        let ours = F::same(&held.src, &packet.dst)
            && F::same(&held.dst, &packet.src)
            && u16::from_ne_bytes(held.sport) == u16::from_ne_bytes(packet.dport)
            && u16::from_ne_bytes(held.dport) == u16::from_ne_bytes(packet.sport);
        if !ours {
            if !is_stale::<F>(key, held, now) {
                return 0;
            }
            if MODE != DRY {
                forget::<F>(key, held);
            }
        }
    }
    if MODE == DRY {
        return 1;
    }
    table::insert::<F>(true) as u32
}

step!(
    /// Enters the flow of the state's packet under its own key, its reply's being there. A dry run has nothing to enter.
    enter = [
        enter4_live, enter6_live: LIVE,
        enter4_fast, enter6_fast: FAST
    ]: step_enter(1)
);

#[inline(always)]
fn step_enter<F: Family, const MODE: u8>(now: u32) -> u32 {
    let Some(State { packet, verdict, .. }) = state::<F>() else {
        return Noted::NO_ENTRY;
    };
    let Some(Draft { key, value, .. }) = table::draft::<F>() else {
        return Noted::NO_ENTRY;
    };
    write_key::<F>(key, [&packet.src, &packet.dst], [packet.sport, packet.dport], packet.proto);
    *value = FlowValue {
        src: verdict.src,
        dst: verdict.dst,
        sport: verdict.sport,
        dport: verdict.dport,
        flags: verdict.flags,
        backend: verdict.backend,
        life: verdict.life,
        seen: now,
    };
    if table::insert::<F>(false) {
        return Noted::YES;
    }
    // Another CPU was faster with a packet of the same flow: its way goes. Anything else under this key is of the other
    // kind of hook, and out of date.
    if let Some(held) = table::find::<F>(key)
        && (held.flags ^ value.flags) & (FlowFlags::POD | FlowFlags::REPLY) == 0
    {
        let same = F::same(&held.src, &value.src)
            && F::same(&held.dst, &value.dst)
            && u16::from_ne_bytes(held.sport) == u16::from_ne_bytes(value.sport)
            && u16::from_ne_bytes(held.dport) == u16::from_ne_bytes(value.dport);
        verdict.src = held.src;
        verdict.dst = held.dst;
        verdict.sport = held.sport;
        verdict.dport = held.dport;
        verdict.flags = held.flags;
        if !same {
            table::remove_partner::<F>(key, value);
        }
        return Noted::YES;
    }
    if table::insert::<F>(true) { Noted::YES } else { Noted::NO_ENTRY }
}
