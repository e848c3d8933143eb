//! Pods towards the outside, behind the uplink's address, and back.
//!
//! The reply's key is what reserves a port: one port serves any number of destinations. Ports come from
//! [`fairlead_abi::MASQUERADE_PORTS`]. An entry that was closed, or idle for longer than its protocol may be, gives its
//! port away when somebody needs it; nothing has to sweep.

use fairlead_abi::{
    Counter, FlowFlags, FlowKey, FlowKind, FlowValue, MASQUERADE_PORTS, MASQUERADE_TRIES, NON_MASQUERADE_MAX, proto,
};
use fairlead_packet::{choice, net};

use crate::maps::{self, FLOWS, UPLINKS, count, node, ticks};
use crate::parse::{End, Packet, Verdict};
use crate::service;

const BPF_NOEXIST: u64 = 1;
const PORTS: u32 = *MASQUERADE_PORTS.end() as u32 - *MASQUERADE_PORTS.start() as u32 + 1;

/// A packet about to leave by an uplink.
#[inline(always)]
pub(crate) fn out(packet: &Packet, uplink: u32) -> Verdict {
    if net::holds(node!(cluster), packet.src) {
        if is_near(packet.dst) || !net::is_unicast(packet.dst) {
            return Verdict::CONTINUE;
        }
    } else if !is_transit(packet) {
        return Verdict::CONTINUE;
    }
    let key = packet.key(FlowKind::Masquerade);
    let now = ticks();
    if let Some(flow) = maps::flow(&key) {
        if flow.flags & FlowFlags::DIRECT != 0 {
            return Verdict::PASS;
        }
        note(packet, flow, now);
        let back = back_key(packet, flow.addr, flow.port);
        // After a long silence the port may be somebody else's.
        if let Some(other) = maps::flow(&back)
            && other.addr == packet.src
            && other.port == packet.sport
        {
            note(packet, other, now);
            count(Counter::MasqueradeHit);
            return Verdict::rewrite(End::Source, flow.addr, flow.port);
        }
    }
    // SAFETY: four bytes, copied out at once.
    let Some(&addr) = (unsafe { UPLINKS.get(&uplink) }) else {
        return Verdict::CONTINUE;
    };
    let mut value = FlowValue { addr: packet.src, port: packet.sport, flags: 0, backend: 0, life: 0, seen: now };
    let hash = choice::hash(packet.src, packet.dst, packet.dport, packet.proto);
    let first = choice::place(choice::walk(hash, packet.sport), PORTS);
    let mut chosen = 0u16;
    let mut step = 0;
    while step < MASQUERADE_TRIES {
        // A stride prime to the number of ports, so that the tries of neighbours do not run into each other.
        let port = *MASQUERADE_PORTS.start() + ((first + step * 1009) % PORTS) as u16;
        let back = back_key(packet, addr, port.to_be_bytes());
        let taken = FLOWS.insert(&back, &value, BPF_NOEXIST).is_err();
        if !taken || is_stale(&back, now) && FLOWS.insert(&back, &value, 0).is_ok() {
            chosen = port;
            break;
        }
        step += 1;
    }
    if chosen == 0 {
        count(Counter::DropNoMasqueradePort);
        return Verdict::DROP;
    }
    value.addr = addr;
    value.port = chosen.to_be_bytes();
    if FLOWS.insert(&key, &value, 0).is_err() {
        count(Counter::DropFlowInsert);
        return Verdict::DROP;
    }
    count(Counter::MasqueradeNew);
    Verdict::rewrite(End::Source, value.addr, value.port)
}

/// A packet that came in by an uplink and may answer a masqueraded pod.
#[inline(always)]
pub(crate) fn back(packet: &Packet) -> Verdict {
    let port = u16::from_be_bytes(if packet.proto == proto::ICMP { packet.sport } else { packet.dport });
    if port < *MASQUERADE_PORTS.start() || packet.proto == proto::ICMP && packet.flags != net::ECHO_REPLY {
        return Verdict::CONTINUE;
    }
    let Some(flow) = maps::flow(&packet.key(FlowKind::Unmasquerade)) else {
        return Verdict::CONTINUE;
    };
    note(packet, flow, ticks());
    count(Counter::MasqueradeReply);
    Verdict::rewrite(End::Destination, flow.addr, flow.port)
}

/// A packet that came in by an uplink for a pod's own address: its replies must leave as they are.
#[inline(always)]
pub(crate) fn direct(packet: &Packet) {
    if !net::holds(node!(cluster), packet.dst) || is_near(packet.src) {
        return;
    }
    let icmp = packet.proto == proto::ICMP;
    let key = FlowKey {
        src: packet.dst,
        dst: packet.src,
        sport: if icmp { packet.sport } else { packet.dport },
        dport: if icmp { packet.dport } else { packet.sport },
        proto: packet.proto,
        kind: FlowKind::Masquerade as u8,
        pad: [0; 2],
    };
    if maps::flow(&key).is_none() {
        service::goes_direct(packet);
        let value =
            FlowValue { addr: [0; 4], port: [0; 2], flags: FlowFlags::DIRECT, backend: 0, life: 0, seen: ticks() };
        // Without the entry the replies would be masqueraded; the next packet tries again.
        if FLOWS.insert(&key, &value, BPF_NOEXIST).is_ok() {
            count(Counter::DirectNew);
        }
    }
}

/// An outside client's packet on its way to an endpoint on another node, whose replies must come back through here.
#[inline(always)]
fn is_transit(packet: &Packet) -> bool {
    if packet.proto == proto::ICMP || !net::holds(node!(cluster), packet.dst) {
        return false;
    }
    let answer = FlowKey {
        src: packet.dst,
        dst: packet.src,
        sport: packet.dport,
        dport: packet.sport,
        proto: packet.proto,
        kind: FlowKind::Reply as u8,
        pad: [0; 2],
    };
    maps::flow(&answer).is_some()
}

/// Destinations that see a pod's own address.
#[inline(always)]
fn is_near(addr: [u8; 4]) -> bool {
    if net::holds(node!(cluster), addr) {
        return true;
    }
    let len = node!(non_masquerade_len);
    let mut i = 0;
    while i < NON_MASQUERADE_MAX {
        if i as u32 >= len {
            break;
        }
        if net::holds(node!(non_masquerade[i]), addr) {
            return true;
        }
        i += 1;
    }
    false
}

/// Key of the answer to a packet that leaves with this source.
#[inline(always)]
fn back_key(packet: &Packet, addr: [u8; 4], port: [u8; 2]) -> FlowKey {
    let icmp = packet.proto == proto::ICMP;
    FlowKey {
        src: packet.dst,
        dst: addr,
        sport: if icmp { port } else { packet.dport },
        dport: if icmp { [0; 2] } else { port },
        proto: packet.proto,
        kind: FlowKind::Unmasquerade as u8,
        pad: [0; 2],
    }
}

/// Keeps the time of the last packet, and whether the connection ends. Writes only what changes.
#[inline(always)]
fn note(packet: &Packet, flow: &mut FlowValue, now: u32) {
    if flow.seen != now {
        flow.seen = now;
    }
    if packet.has(net::FIN | net::RST) {
        flow.flags |= FlowFlags::CLOSING;
    } else if packet.opens() {
        flow.flags &= !FlowFlags::CLOSING;
    }
}

/// Whether the holder of a port can be expected to be done with it.
#[inline(always)]
fn is_stale(key: &FlowKey, now: u32) -> bool {
    let Some(flow) = maps::flow(key) else {
        return true;
    };
    let idle = now.wrapping_sub(flow.seen);
    let limit = if flow.flags & FlowFlags::CLOSING != 0 {
        60
    } else if key.proto == proto::TCP {
        86_400
    } else {
        180
    };
    idle > limit
}
