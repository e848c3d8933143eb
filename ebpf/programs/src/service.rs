//! Towards a service and back: which endpoint, and what its replies must look like.

use fairlead_abi::{Backend, Counter, FlowKey, FlowKind, FlowValue, Range, ServiceKey, ServiceValue, proto};
use fairlead_packet::choice;

use crate::maps::{self, BACKENDS, FLOWS, GROUPS, SERVICES, SLOTS, TURNS, count};
use crate::parse::{End, Packet, Verdict};

/// A packet that may be meant for a service.
#[inline(always)]
pub(crate) fn forward(packet: &Packet) -> Verdict {
    if packet.proto == proto::ICMP {
        return Verdict::CONTINUE;
    }
    let key = packet.key(FlowKind::Service);
    let mut moved = false;
    if let Some(flow) = maps::flow(&key) {
        // An established TCP connection keeps its endpoint until it ends; anything that begins goes where it may.
        let begins = packet.proto == proto::UDP || packet.opens();
        if !begins || maps::is_alive(flow.backend, flow.life) {
            count(Counter::FlowHit);
            return Verdict::rewrite(End::Destination, flow.addr, flow.port);
        }
        moved = true;
    }
    let Some(service) = lookup(packet.dst, packet.dport, packet.proto) else {
        return Verdict::CONTINUE;
    };
    let hash = choice::hash(packet.src, packet.dst, packet.dport, packet.proto);
    let Some((id, backend)) = by_hash(service, choice::walk(hash, packet.sport)) else {
        if service.flags & ServiceValue::NODE_ADDRESS != 0 {
            return Verdict::PASS;
        }
        count(Counter::DropNoEndpoint);
        return Verdict::DROP;
    };
    // The way back first: a flow that can be hit can be answered.
    let value =
        FlowValue { addr: backend.addr, port: backend.port, flags: 0, backend: id, life: backend.life, seen: 0 };
    if !claim_reply(packet, &value) || FLOWS.insert(&key, &value, 0).is_err() {
        count(Counter::DropFlowInsert);
        return Verdict::DROP;
    }
    count(if moved { Counter::FlowMoved } else { Counter::FlowNew });
    Verdict::rewrite(End::Destination, backend.addr, backend.port)
}

/// Makes the answers to this flow show the address its client asked for. Whatever else this client port was used for
/// towards the same endpoint is forgotten: were it hit again, its answers would show the wrong address.
#[inline(always)]
fn claim_reply(packet: &Packet, flow: &FlowValue) -> bool {
    let back = FlowKey {
        src: flow.addr,
        dst: packet.src,
        sport: flow.port,
        dport: packet.sport,
        proto: packet.proto,
        kind: FlowKind::Reply as u8,
        pad: [0; 2],
    };
    let shown = FlowValue { addr: packet.dst, port: packet.dport, ..*flow };
    if let Some(other) = maps::flow(&back) {
        let stale = FlowKey { dst: other.addr, dport: other.port, ..packet.key(FlowKind::Service) };
        if stale.dst != packet.dst || stale.dport != packet.dport {
            forget(&stale);
        }
    }
    let direct = FlowKey { kind: FlowKind::Masquerade as u8, ..back };
    if maps::flow(&direct).is_some() {
        forget(&direct);
    }
    FLOWS.insert(&back, &shown, 0).is_ok()
}

/// A packet goes straight to what may be a service's endpoint: if its client's port came here through the service
/// before, that is over, and the answers show the endpoint.
#[inline(always)]
pub(crate) fn goes_direct(packet: &Packet) {
    if packet.proto == proto::ICMP {
        return;
    }
    let back = FlowKey {
        src: packet.dst,
        dst: packet.src,
        sport: packet.dport,
        dport: packet.sport,
        proto: packet.proto,
        kind: FlowKind::Reply as u8,
        pad: [0; 2],
    };
    if let Some(other) = maps::flow(&back) {
        forget(&FlowKey { dst: other.addr, dport: other.port, ..packet.key(FlowKind::Service) });
        forget(&back);
    }
}

/// Removes a flow; one that is gone already is as good.
#[inline(always)]
fn forget(key: &FlowKey) {
    let _ = FLOWS.remove(key);
}

/// A packet that may be an endpoint's answer to a client whose packets were translated.
#[inline(always)]
pub(crate) fn reply(packet: &Packet) -> Verdict {
    if packet.proto == proto::ICMP {
        return Verdict::CONTINUE;
    }
    match maps::flow(&packet.key(FlowKind::Reply)) {
        Some(flow) => {
            count(Counter::Reply);
            Verdict::rewrite(End::Source, flow.addr, flow.port)
        }
        None => Verdict::CONTINUE,
    }
}

/// The service at an address, if there is one.
#[inline(always)]
pub(crate) fn lookup(addr: [u8; 4], port: [u8; 2], proto: u8) -> Option<ServiceValue> {
    let key = ServiceKey { addr, port, proto, pad: 0 };
    // SAFETY: the value is copied out at once; both of its words are constant for the life of a service.
    unsafe { SERVICES.get(&key) }.copied()
}

/// The endpoint at the hash's place in the ring, or in the plain list where the service has no ring.
#[inline(always)]
fn by_hash(service: ServiceValue, hash: u32) -> Option<(u32, Backend)> {
    let group = GROUPS.get_ptr(service.group)?;
    // SAFETY: the map returned a pointer to a value of the array; each range is one word and read whole.
    let mut range = unsafe { core::ptr::read_volatile(&raw const (*group).ring) };
    if range.is_empty() {
        // SAFETY: as above.
        range = unsafe { core::ptr::read_volatile(&raw const (*group).list) };
    }
    at(range, choice::place(hash, range.len()))
}

/// The endpoint whose turn it is: each CPU goes around by itself, so no line of cache is fought over.
#[inline(always)]
pub(crate) fn by_turn(service: ServiceValue) -> Option<(u32, Backend)> {
    let group = GROUPS.get_ptr(service.group)?;
    // SAFETY: the map returned a pointer to a value of the array; the range is one word and read whole.
    let range = unsafe { core::ptr::read_volatile(&raw const (*group).list) };
    let len = range.len();
    let turn = TURNS.get_ptr_mut(service.group)?;
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
fn at(range: Range, place: u32) -> Option<(u32, Backend)> {
    if range.is_empty() {
        return None;
    }
    let id = *SLOTS.get(range.start().wrapping_add(place))?;
    let backend = *BACKENDS.get(id)?;
    Some((id, backend))
}
