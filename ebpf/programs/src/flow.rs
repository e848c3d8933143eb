//! Known flows. See [`fairlead_abi::FlowKey`] for what an entry says, and `create` for new ones.
//!
//! Either entry of a flow can be computed from the other, so whichever survives (the tables forget what was not used
//! for longest) restores its partner, within a few ticks of its next packet.

use fairlead_abi::{Backend, Counter, FlowFlags, FlowKey, FlowValue, TraceSteps, idle, proto};
use fairlead_packet::net;

use crate::family::Family;
use crate::hook::Hook;
use crate::maps::{self, node, ticks};
use crate::parse::{Action, Packet, Verdict};
use crate::table;
use crate::trace::{self, DRY, FAST_OUT, is_fast};

/// Ticks, a power of two, after which a flow looks after its partner and its place in the table.
const REFRESH: u32 = 16;

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
    let Some(flow) = table::get::<F>(&key) else {
        return false;
    };
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
    if MODE != DRY && flow.seen != now {
        let before = flow.seen;
        flow.seen = now;
        // Not all flows at once.
        let shift = u16::from_be_bytes(packet.sport) as u32;
        if (before.wrapping_add(shift) ^ now.wrapping_add(shift)) >= REFRESH && !refresh::<F>(&key, flow, now) {
            return false;
        }
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
pub(crate) fn partner<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>) -> FlowKey<F::Addr> {
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
    let other = table::find::<F>(&partner::<F>(key, flow))?;
    leads_to::<F>(other, key).then_some(other)
}

/// Removes both entries of a flow; what is gone already is as good.
#[inline(never)]
pub(crate) fn forget<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>) {
    let partner = partner::<F>(key, flow);
    if table::find::<F>(&partner).is_some_and(|other| leads_to::<F>(other, key)) {
        table::remove_partner::<F>(key, flow);
    }
    table::remove::<F>(key);
}

/// At the first packet of some ticks: keeps the place, and the partner with it. After a long silence the partner's place may
/// be somebody else's; then the flow is over and `false` comes back.
#[inline(never)]
fn refresh<F: Family>(key: &FlowKey<F::Addr>, flow: &mut FlowValue<F::Addr>, now: u32) -> bool {
    table::touch::<F>(key, now);
    if flow.flags & (FlowFlags::DSR_IPIP | FlowFlags::DSR_L2) != 0 {
        return true;
    }
    // Not on the stack, which is nearly full here.
    let Some(draft) = table::draft::<F>() else {
        return true;
    };
    draft.key = partner::<F>(key, flow);
    if let Some(other) = table::find::<F>(&draft.key) {
        if leads_to::<F>(other, key) {
            return true;
        }
        table::remove::<F>(key);
        return false;
    }
    draft.value = FlowValue {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        flags: flow.flags & !(FlowFlags::FIN | FlowFlags::RST) ^ FlowFlags::REPLY,
        backend: flow.backend,
        life: flow.life,
        seen: now,
    };
    table::insert::<F>(false);
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
pub(crate) fn is_stale<F: Family>(key: &FlowKey<F::Addr>, flow: &FlowValue<F::Addr>, now: u32) -> bool {
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
