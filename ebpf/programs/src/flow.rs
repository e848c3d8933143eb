//! Flows: following those that are known, and noting new ones. See [`fairlead_abi::FlowKey`] for what an entry says.
//!
//! Either entry of a flow can be computed from the other, so whichever survives (the tables forget what was not used
//! for longest) restores its partner, at the first packet of a tick.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use fairlead_abi::{
    Backend, Counter, FlowFlags, FlowKey, FlowValue, SOURCE_PORT_FIRST, SOURCE_PORT_TRIES, SOURCES_MAX, SourcePool,
    TraceSteps, idle, proto,
};
use fairlead_packet::{choice, net};

use crate::family::Family;
use crate::hook::Hook;
use crate::maps::{self, node, ticks};
use crate::parse::{Action, Packet, Verdict};
use crate::state::{State, state, step};
use crate::trace::{self, DRY, FAST_OUT, is_fast};

const BPF_NOEXIST: u64 = 1;

/// What XDP does not carry out.
const NOT_PLAIN: u32 = FlowFlags::TRANSMIT
    | FlowFlags::HAIRPIN
    | FlowFlags::DSR_IPIP
    | FlowFlags::DSR_L2
    | FlowFlags::DIRECT
    | FlowFlags::POD;

/// A packet that may belong to a known flow. Where it does, the verdict says what to do with it. Returns whether it
/// did, and must get another endpoint.
#[inline(always)]
pub(crate) fn follow<F: Family, const MODE: u8>(packet: &Packet<F>, verdict: &mut Verdict<F>, hook: Hook) -> bool {
    let key = packet.key();
    let Some(flow) = F::flows().get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program; fields are words that may
    // be overwritten by another CPU, with values as good as ours.
    let flow = unsafe { &mut *flow };
    let flags = flow.flags;
    if is_fast(MODE) && flags & NOT_PLAIN != 0 && !(MODE == FAST_OUT && flags & NOT_PLAIN == FlowFlags::TRANSMIT) {
        verdict.action = Action::Leave;
        return false;
    }
    if !is_fast(MODE) && hook.is_pod() != (flags & FlowFlags::POD != 0) {
        // The other side's. A pod's own packets may nevertheless go to a service that came later; and answers to
        // outside clients are taken here where pods' packets do not go through the host's stack.
        if hook != Hook::FromPod {
            verdict.flags = flags;
            verdict.action = Action::Pass;
            return false;
        }
        if node!(redirect) == 0 || flags & (FlowFlags::REPLY | FlowFlags::DIRECT) == 0 {
            return false;
        }
    }
    if hook == Hook::UplinkOut && flags & (FlowFlags::CHOSEN | FlowFlags::REPLY) == FlowFlags::CHOSEN {
        // On its way, by us: with direct server return it leaves as it came, and so under the same key.
        verdict.action = Action::Pass;
        return false;
    }
    if MODE == DRY {
        trace::flow::<F, MODE>(flow);
    }
    if flags & (FlowFlags::CHOSEN | FlowFlags::REPLY) == FlowFlags::CHOSEN {
        let life = maps::life(flow.backend);
        if life != flow.life {
            let drains = life == flow.life & !0xff | Backend::DRAINING;
            let goes_on = packet.is_connected() && !packet.opens();
            if !(drains && goes_on) {
                trace::step::<MODE>(TraceSteps::FLOW_HIT | TraceSteps::FLOW_STALE);
                if is_fast(MODE) {
                    verdict.action = Action::Leave;
                    return false;
                }
                if packet.proto == proto::TCP && goes_on {
                    verdict.action = Action::Reset;
                    return false;
                }
                if MODE != DRY {
                    forget::<F>(&key, flow);
                }
                return true;
            }
        }
    }
    if packet.has(net::FIN | net::SYN | net::RST) && is_over::<F, MODE>(&key, flow, packet.flags) {
        return false;
    }
    let now = ticks();
    if MODE != DRY && flow.seen != now && !refresh::<F>(&key, flow, now) {
        return false;
    }
    trace::step::<MODE>(TraceSteps::FLOW_HIT);
    verdict.src = flow.src;
    verdict.dst = flow.dst;
    verdict.sport = flow.sport;
    verdict.dport = flow.dport;
    verdict.flags = flags;
    verdict.backend = flow.backend;
    verdict.counter = Some(if flags & FlowFlags::REPLY != 0 { Counter::Reply } else { Counter::FlowHit });
    verdict.action = Action::Rewrite;
    if flags & NOT_PLAIN != 0 {
        verdict.unusual();
    }
    false
}

impl<F: Family> Verdict<F> {
    /// What the flags of a flow ask for beyond a rewrite.
    #[inline(always)]
    fn unusual(&mut self) {
        if self.flags & FlowFlags::DIRECT != 0 {
            self.action = Action::Pass;
            self.counter = None;
        } else if self.flags & FlowFlags::HAIRPIN != 0 {
            self.action = Action::Hairpin;
        } else if self.flags & FlowFlags::DSR_IPIP != 0 {
            self.action = Action::Encapsulate;
        } else if self.flags & FlowFlags::DSR_L2 != 0 {
            self.action = Action::Direct;
        } else if self.flags & FlowFlags::TRANSMIT != 0 {
            self.action = Action::Transmit;
        }
    }
}

/// Key of a flow's other entry.
#[inline(always)]
fn partner<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>) -> FlowKey<F::Addr> {
    FlowKey { src: flow.dst, dst: flow.src, sport: flow.dport, dport: flow.sport, proto: key.proto, pad: [0; 3] }
}

/// Whether an entry leads back to a key: whether it is the other entry of that key's flow.
#[inline(always)]
fn leads_to<F: Family>(flow: &FlowValue<F::Addr>, key: &FlowKey<F::Addr>) -> bool {
    F::same(&flow.src, &key.dst)
        && F::same(&flow.dst, &key.src)
        && u16::from_ne_bytes(flow.sport) == u16::from_ne_bytes(key.dport)
        && u16::from_ne_bytes(flow.dport) == u16::from_ne_bytes(key.sport)
}

/// The other entry of a flow, if it is there.
#[inline(always)]
fn other<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>) -> Option<&'static mut FlowValue<F::Addr>> {
    let other = F::flows().get_ptr_mut(partner::<F>(key, flow))?;
    // SAFETY: as in `follow`.
    let other = unsafe { &mut *other };
    leads_to::<F>(other, key).then_some(other)
}

/// Removes both entries of a flow; what is gone already is as good.
#[inline(never)]
pub(crate) fn forget<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>) {
    let partner = partner::<F>(key, flow);
    if let Some(other) = F::flows().get_ptr(&partner) {
        // SAFETY: as in `follow`.
        if leads_to::<F>(unsafe { &*other }, key) {
            let _ = F::flows().remove(&partner);
        }
    }
    let _ = F::flows().remove(key);
}

/// At the first packet of a tick: keeps the time, and the partner with it. After a long silence the partner's place may
/// be somebody else's; then the flow is over and `false` comes back.
#[inline(never)]
fn refresh<F: Family>(key: &FlowKey<F::Addr>, flow: &mut FlowValue<F::Addr>, now: u32) -> bool {
    flow.seen = now;
    if flow.flags & (FlowFlags::DSR_IPIP | FlowFlags::DSR_L2) != 0 {
        return true;
    }
    let partner = partner::<F>(key, flow);
    if let Some(other) = F::flows().get_ptr(&partner) {
        // SAFETY: as in `follow`.
        if leads_to::<F>(unsafe { &*other }, key) {
            return true;
        }
        let _ = F::flows().remove(key);
        return false;
    }
    let value = FlowValue {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        flags: flow.flags & !(FlowFlags::FIN | FlowFlags::RST) ^ FlowFlags::REPLY,
        backend: flow.backend,
        life: flow.life,
        seen: now,
    };
    let _ = F::flows().insert(&partner, &value, BPF_NOEXIST);
    true
}

/// Whether a connection with these two entries has ended.
#[inline(always)]
fn is_closed(flags: u32, other: u32) -> bool {
    (flags | other) & FlowFlags::RST != 0 || flags & other & FlowFlags::FIN != 0
}

/// Notes the signs of an end. Returns whether this is the beginning of another connection under the tuple of one that
/// has ended, which then is forgotten.
#[inline(never)]
fn is_over<F: Family, const MODE: u8>(key: &FlowKey<F::Addr>, flow: &mut FlowValue<F::Addr>, tcp_flags: u8) -> bool {
    if tcp_flags & (net::SYN | net::ACK | net::RST) == net::SYN {
        let other = other::<F>(key, flow).map_or(FlowFlags::FIN, |other| other.flags);
        let over = is_closed(flow.flags, other);
        if over && MODE != DRY {
            forget::<F>(key, flow);
        }
        return over;
    }
    let mut ends = 0;
    if tcp_flags & net::FIN != 0 {
        ends |= FlowFlags::FIN;
    }
    if tcp_flags & net::RST != 0 {
        ends |= FlowFlags::RST;
    }
    if MODE != DRY && flow.flags & ends != ends {
        flow.flags |= ends;
    }
    false
}

/// Whether the holder of a reply tuple can be expected to be done with it.
#[inline(never)]
fn is_stale<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>, now: u32) -> bool {
    // Signed: another CPU may be a tick ahead.
    let mut idle = now.wrapping_sub(flow.seen) as i32;
    let mut flags = FlowFlags::FIN;
    if let Some(other) = other::<F>(key, flow) {
        let seen = now.wrapping_sub(other.seen) as i32;
        idle = if seen < idle { seen } else { idle };
        flags = other.flags;
    }
    let limit = if is_closed(flow.flags, flags) {
        idle::CLOSED
    } else if key.proto == proto::TCP {
        idle::TCP
    } else {
        idle::OTHER
    };
    idle > limit as i32
}

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

/// Notes a new flow, as [`create`] does, and under what it is counted; or drops its packet.
#[inline(always)]
pub(crate) fn note<F: Family, const MODE: u8>(verdict: &mut Verdict<F>, source: Source, counter: Counter) {
    let noted = create::<F, MODE>(source.0);
    settle(verdict, noted, counter);
}

/// Notes a new flow whose replies do not come by.
#[inline(always)]
pub(crate) fn note_one<F: Family, const MODE: u8>(verdict: &mut Verdict<F>, counter: Counter) {
    let noted = enter::<F, MODE>(ticks());
    settle(verdict, noted, counter);
}

#[inline(always)]
fn settle<F: Family>(verdict: &mut Verdict<F>, noted: u32, counter: Counter) {
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
    F::flows().get_ptr(reply_key(packet, verdict)).is_none() as u32
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
    let key = reply_key(packet, verdict);
    let mut update = BPF_NOEXIST;
    if let Some(held) = F::flows().get_ptr(&key) {
        // SAFETY: as in `follow`.
        let held = unsafe { &*held };
        // Ours, of which only this half is left, or a holder that is done.
        let ours = F::same(&held.src, &packet.dst)
            && F::same(&held.dst, &packet.src)
            && u16::from_ne_bytes(held.sport) == u16::from_ne_bytes(packet.dport)
            && u16::from_ne_bytes(held.dport) == u16::from_ne_bytes(packet.sport);
        if !ours {
            if !is_stale::<F>(&key, held, now) {
                return 0;
            }
            if MODE != DRY {
                forget::<F>(&key, held);
            }
        }
        update = 0;
    }
    if MODE == DRY {
        return 1;
    }
    let value = FlowValue {
        src: packet.dst,
        dst: packet.src,
        sport: packet.dport,
        dport: packet.sport,
        flags: verdict.flags | FlowFlags::REPLY,
        backend: verdict.backend,
        life: verdict.life,
        seen: now,
    };
    F::flows().insert(&key, &value, update).is_ok() as u32
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
    let key = packet.key();
    let value = FlowValue {
        src: verdict.src,
        dst: verdict.dst,
        sport: verdict.sport,
        dport: verdict.dport,
        flags: verdict.flags,
        backend: verdict.backend,
        life: verdict.life,
        seen: now,
    };
    if F::flows().insert(&key, &value, BPF_NOEXIST).is_ok() {
        return Noted::YES;
    }
    // Another CPU was faster with a packet of the same flow: its way goes. Anything else under this key is of the other
    // kind of hook, and out of date.
    if let Some(held) = F::flows().get_ptr(&key) {
        // SAFETY: as in `follow`.
        let held = unsafe { &*held };
        if (held.flags ^ value.flags) & (FlowFlags::POD | FlowFlags::REPLY) == 0 {
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
                let _ = F::flows().remove(partner::<F>(&key, &value));
            }
            return Noted::YES;
        }
    }
    if F::flows().insert(&key, &value, 0).is_ok() { Noted::YES } else { Noted::NO_ENTRY }
}
