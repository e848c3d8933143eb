//! The life of a flow: how TCP opens and ends, what a removed endpoint means for it, ports used again.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use fairlead_source::{Endpoint, Protocol};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, flag, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;
use crate::services::{doors, knocker};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("both_sides_may_open_at_once", simultaneous_open),
    ("a_half_closed_connection_goes_on", half_close),
    ("a_connection_reset_or_closed_makes_room_for_the_next", port_reuse),
    ("a_connection_already_under_way_finds_an_endpoint", midstream),
    ("a_removed_endpoint_keeps_its_connections_and_gets_no_new_ones", draining),
    ("counted_a_connection_is_reset_when_its_endpoint_has_drained", reset),
    ("an_endpoint_that_comes_back_in_time_keeps_its_connections", comes_back),
    ("udp_moves_at_once", udp_moves),
    ("a_changed_service_leaves_other_flows_alone", others),
];

const FIN: u8 = flag::FIN | flag::ACK;

fn tcp(node: &mut Node, plan: Plan, ends: &[u16]) -> Result<()> {
    let ends: Vec<Endpoint> = ends.iter().map(|n| plan.here(*n)).collect();
    node.services(vec![plan.service(7, Protocol::Tcp, ends.clone()), plan.service(8, Protocol::Udp, ends)])
}

/// Opens a connection (or sends the first datagram): its packet, and where it went.
fn open(node: &mut Node, plan: Plan, way: Way, service: SocketAddr, proto: u8) -> Result<(Packet, SocketAddr)> {
    let first = Packet::new(knocker(node, plan, way), service, Body::opening(proto));
    let (fate, sent) = node.send(way, &first)?;
    ensure!(fate == Fate::On && sent == first.clone().to(sent.destination()), "{first} is {fate:?} as {sent}");
    Ok((first, sent.destination()))
}

fn simultaneous_open(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        tcp(node, plan, &[21, 22])?;
        for (into, out) in doors() {
            let (first, end) = open(node, plan, into, plan.doors(7)[1], proto::TCP)?;
            // The other side's SYN crosses ours.
            let cross = Packet::new(end, first.source(), Body::tcp(flag::SYN));
            node.expect(out, &cross, Fate::On, &cross.clone().from(first.destination()), &["reply"])?;
            let both = first.clone().with(Body::tcp(flag::SYN | flag::ACK));
            node.expect(into, &both, Fate::On, &both.clone().to(end), &["flow_hit"])?;
            let both = cross.with(Body::tcp(flag::SYN | flag::ACK));
            node.expect(out, &both, Fate::On, &both.clone().from(first.destination()), &["reply"])?;
        }
    }
    Ok(())
}

fn half_close(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        tcp(node, plan, &[21, 22, 23])?;
        for (into, out) in doors() {
            let (first, end) = open(node, plan, into, plan.doors(7)[0], proto::TCP)?;
            let there = |flags| first.clone().with(Body::tcp(flags));
            let back = |flags| Packet::new(end, first.source(), Body::tcp(flags).sized(100));
            for flags in [flag::ACK, FIN, flag::ACK, flag::ACK] {
                node.expect(into, &there(flags), Fate::On, &there(flags).to(end), &["flow_hit"])?;
                let answer = back(flag::ACK);
                node.expect(out, &answer, Fate::On, &answer.clone().from(first.destination()), &["reply"])?;
            }
            for flags in [FIN, flag::ACK, FIN] {
                node.expect(out, &back(flags), Fate::On, &back(flags).from(first.destination()), &["reply"])?;
                let last = there(flag::ACK);
                node.expect(into, &last, Fate::On, &last.clone().to(end), &["flow_hit"])?;
            }
        }
    }
    Ok(())
}

fn port_reuse(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (into, out) in doors() {
            for reset in [false, true] {
                tcp(node, plan, &[21, 22, 23])?;
                let (first, end) = open(node, plan, into, plan.doors(7)[1], proto::TCP)?;
                if reset {
                    let reset = first.clone().with(Body::tcp(flag::RST));
                    node.expect(into, &reset, Fate::On, &reset.clone().to(end), &["flow_hit"])?;
                } else {
                    node.send(into, &first.clone().with(Body::tcp(FIN)))?;
                    node.send(out, &Packet::new(end, first.source(), Body::tcp(FIN)))?;
                    // Late packets of the old connection still find their way.
                    let late = first.clone().with(Body::tcp(flag::ACK));
                    node.expect(into, &late, Fate::On, &late.clone().to(end), &["flow_hit"])?;
                }
                // Again from the same port, now that its endpoint is no more.
                let others: Vec<u16> = [21, 22, 23].into_iter().filter(|n| plan.here(*n).address != end).collect();
                tcp(node, plan, &others)?;
                let (fate, sent) = node.send(into, &first)?;
                let new = sent.destination();
                ensure!(
                    fate == Fate::On && new != end && others.iter().any(|n| plan.here(*n).address == new),
                    "{first} again is {fate:?} as {sent}; it went to {end} before"
                );
                let answer = sent.answer();
                node.expect(
                    out,
                    &answer,
                    Fate::On,
                    &answer.clone().from(first.destination()).to(first.source()),
                    &["reply"],
                )?;
                let later = first.clone().with(Body::tcp(flag::ACK));
                let (fate, found) = node.send(into, &later)?;
                ensure!(fate == Fate::On && found.destination() == new, "{later} is {fate:?} as {found}, not to {new}");
            }
        }
    }
    Ok(())
}

fn midstream(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        tcp(node, plan, &[21])?;
        for (into, out) in doors() {
            let packet = Packet::new(knocker(node, plan, into), plan.doors(7)[0], Body::tcp(flag::ACK).sized(9));
            let to = packet.clone().to(plan.here(21).address);
            node.expect(into, &packet, Fate::On, &to, &["flow_new"])?;
            let answer = to.answer();
            node.expect(out, &answer, Fate::On, &answer.clone().from(packet.destination()), &["reply"])?;
        }
    }
    Ok(())
}

/// Connections open, then one endpoint removed: they go on, and whatever begins goes elsewhere.
fn draining(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        tcp(node, plan, &[21, 22, 23])?;
        let gone = plan.here(22).address;
        let mut flows = Vec::new();
        for (into, out) in doors() {
            for i in 0..30 {
                let (first, end) = open(node, plan, into, plan.doors(7)[i % 3], proto::TCP)?;
                flows.push((into, out, first, end));
            }
        }
        ensure!(flows.iter().any(|flow| flow.3 == gone), "nothing went to the endpoint that is removed");
        tcp(node, plan, &[21, 23])?;
        for (into, out, first, end) in flows {
            let later = first.clone().with(Body::tcp(flag::ACK).sized(5));
            node.expect(into, &later, Fate::On, &later.clone().to(end), &["flow_hit"])?;
            let answer = Packet::new(end, first.source(), Body::tcp(flag::ACK).sized(50));
            node.expect(out, &answer, Fate::On, &answer.clone().from(first.destination()), &["reply"])?;
            // The same port for a new connection.
            let (_, new) = node.send(into, &first)?;
            ensure!(new.destination() != gone, "a new connection to a removed endpoint: {new}");
            let fresh = open(node, plan, into, first.destination(), proto::TCP)?;
            ensure!(fresh.1 != gone, "a new connection to a removed endpoint: {}", fresh.0);
        }
    }
    Ok(())
}

fn reset(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (into, out) in doors() {
            tcp(node, plan, &[21, 22])?;
            let (first, end) = open(node, plan, into, plan.doors(7)[1], proto::TCP)?;
            let left = if end == plan.here(21).address { 22 } else { 21 };
            tcp(node, plan, &[left])?;
            node.drained()?;
            let later = first.clone().with(Body::tcp(flag::ACK).sized(11));
            let ((fate, answer), counted) = node.counted(|node| node.send(into, &later))?;
            ensure!(
                fate == Fate::Sent && counted == [("reset_endpoint_gone", 1)].into(),
                "{into:?}: {later} is {fate:?} as {answer}, counted {counted:?}"
            );
            crate::refuse::refusal(plan, &later, &answer)?;
            // A reset is not answered.
            let (fate, out_of) = node.send(into, &first.clone().with(Body::tcp(flag::RST)))?;
            ensure!(fate != Fate::Sent, "a reset was answered with {out_of}");
            // The next connection from that port works.
            let (fate, sent) = node.send(into, &first)?;
            ensure!(
                fate == Fate::On && sent.destination() == plan.here(left).address,
                "{first} again is {fate:?} as {sent}"
            );
            let answer = sent.answer();
            node.expect(
                out,
                &answer,
                Fate::On,
                &answer.clone().from(first.destination()).to(first.source()),
                &["reply"],
            )?;
        }
    }
    Ok(())
}

fn comes_back(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (into, _) in doors() {
            tcp(node, plan, &[21])?;
            let (first, end) = open(node, plan, into, plan.doors(7)[0], proto::TCP)?;
            tcp(node, plan, &[22])?;
            tcp(node, plan, &[21, 22])?;
            node.drained()?;
            for body in [Body::tcp(flag::ACK), Body::tcp(FIN)] {
                let later = first.clone().with(body);
                node.expect(into, &later, Fate::On, &later.clone().to(end), &["flow_hit"])?;
            }
            // Once it has drained, its address is another endpoint's, even if the same pod answers there.
            tcp(node, plan, &[21])?;
            let (first, _) = open(node, plan, into, plan.doors(7)[0], proto::TCP)?;
            tcp(node, plan, &[22])?;
            node.drained()?;
            tcp(node, plan, &[21, 22])?;
            let later = first.clone().with(Body::tcp(flag::ACK));
            let (fate, answer) = node.send(into, &later)?;
            ensure!(fate == Fate::Sent, "{later} is {fate:?} as {answer}, after its endpoint had been gone");
        }
    }
    Ok(())
}

fn udp_moves(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for drained in [false, true] {
            for (into, out) in doors() {
                tcp(node, plan, &[21, 22])?;
                let (first, end) = open(node, plan, into, plan.doors(8)[1], proto::UDP)?;
                let left = if end == plan.here(21).address { 22 } else { 21 };
                tcp(node, plan, &[left])?;
                if drained {
                    node.drained()?;
                }
                let to = first.clone().to(plan.here(left).address);
                node.expect(into, &first, Fate::On, &to, &["flow_moved"])?;
                node.expect(into, &first, Fate::On, &to, &["flow_hit"])?;
                let answer = to.answer();
                node.expect(out, &answer, Fate::On, &answer.clone().from(first.destination()), &["reply"])?;
            }
        }
        // Nobody left: refused, and found again as soon as there is somebody.
        tcp(node, plan, &[21])?;
        let way = Way::Arrive(Door::Card);
        let (first, _) = open(node, plan, way, plan.doors(8)[1], proto::UDP)?;
        tcp(node, plan, &[])?;
        let (fate, out) = node.send(way, &first)?;
        ensure!(fate == Fate::Sent, "{first} is {fate:?} as {out}, though nobody is left");
        tcp(node, plan, &[23])?;
        let (fate, out) = node.send(way, &first)?;
        ensure!(fate == Fate::On && out.destination() == plan.here(23).address, "{first} is {fate:?} as {out}");
    }
    Ok(())
}

fn others(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let proto = number(protocol);
            let ends: Vec<Endpoint> = (21..25).map(|n| plan.here(n)).collect();
            let service = plan.service(7, protocol, ends.clone());
            node.services(vec![service.clone()])?;
            let mut flows = Vec::new();
            for i in 0..40 {
                flows.push(open(node, plan, Way::Arrive(DOORS[i % 3]), plan.doors(7)[i % 3], proto)?);
            }
            // A service beside it, more endpoints, fewer of the others.
            node.services(vec![plan.service(9, protocol, vec![plan.here(30)]), service])?;
            node.services(vec![plan.service(7, protocol, ends.iter().cloned().chain([plan.here(31)]).collect())])?;
            node.services(vec![plan.service(7, protocol, ends[1..].to_vec())])?;
            for (first, end) in flows {
                if end == ends[0].address {
                    continue;
                }
                let later = first.clone().with(Body::later(proto));
                node.expect(Way::Arrive(Door::Card), &later, Fate::On, &later.clone().to(end), &["flow_hit"])?;
            }
        }
    }
    Ok(())
}
