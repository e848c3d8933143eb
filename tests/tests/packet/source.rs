//! Under which address packets leave the node: masquerade, what is excluded from it, and where ports end.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use fairlead_source::Protocol;
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{PORT, Plan};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;

use crate::{Kind, Subject};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("pods_leave_behind_the_node_and_are_found_again", masquerade),
    ("pods_that_use_one_port_are_told_apart", masquerade_collision),
    ("what_is_near_sees_the_pod_itself", near),
    ("without_masquerade_pods_leave_as_they_are", no_masquerade),
    ("who_asks_a_pod_itself_is_answered_by_it", direct),
    ("what_comes_unasked_finds_nobody", unasked),
    ("counted_a_destination_without_a_free_port_drops", exhausted),
    ("counted_an_uplink_without_an_address_drops", no_address),
    ("counted_an_endpoint_without_a_route_drops", no_route),
];

fn pod(node: &mut Node, plan: Plan) -> SocketAddr {
    SocketAddr::new(plan.pod(PODS[0]), node.port())
}

/// The protocols that are masqueraded; echo among them.
fn protocols(plan: Plan) -> [u8; 4] {
    [proto::TCP, proto::UDP, proto::SCTP, plan.icmp()]
}

/// Sends a pod's first packet out; as what it left.
pub(crate) fn out(node: &mut Node, plan: Plan, first: &Packet) -> Result<Packet> {
    let ((fate, sent), counted) = node.counted(|node| node.send(Way::Leave, first))?;
    let source = sent.source();
    ensure!(
        fate == Fate::On
            && source.ip() == plan.node()
            && source.port() >= 1024
            && !(32_768..=60_999).contains(&source.port())
            && sent == first.clone().from(source),
        "{first} is {fate:?} as {sent}, counted {counted:?}"
    );
    ensure!(counted.get("masquerade_new") == Some(&1), "{first} left as {sent}, counted {counted:?}");
    Ok(sent)
}

fn masquerade(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in protocols(plan) {
            for door in DOORS {
                for ephemeral in [false, true] {
                    let mut from = pod(node, plan);
                    from.set_port(from.port() + if ephemeral { 30_000 } else { 0 });
                    let first = Packet::new(from, SocketAddr::new(plan.client(9), 443), Body::opening(proto));
                    let sent = out(node, plan, &first)?;
                    node.expect(Way::Leave, &first, Fate::On, &sent, &["flow_hit"])?;
                    let answer = sent.answer();
                    let back = answer.clone().to(from);
                    let back = if proto == plan.icmp() { first.answer() } else { back };
                    node.expect(Way::Arrive(door), &answer, Fate::On, &back, &["reply"])?;
                }
            }
        }
    }
    Ok(())
}

fn masquerade_collision(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in protocols(plan) {
            let port = node.port();
            let mut flows = Vec::new();
            for n in 20..60 {
                let from = SocketAddr::new(plan.pod(n), port);
                let first = Packet::new(from, SocketAddr::new(plan.client(9), 443), Body::opening(proto));
                flows.push((out(node, plan, &first)?, first));
            }
            let ports: BTreeSet<u16> = flows.iter().map(|(sent, _)| sent.ports().0).collect();
            ensure!(ports.len() == flows.len(), "{} ports for {} flows", ports.len(), flows.len());
            for (sent, first) in flows {
                node.expect(Way::Arrive(Door::Card), &sent.answer(), Fate::On, &first.answer(), &["reply"])?;
            }
        }
    }
    Ok(())
}

fn near(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in protocols(plan) {
            for to in [plan.remote(9), plan.near(9)] {
                let packet = Packet::new(pod(node, plan), SocketAddr::new(to, 443), Body::opening(proto));
                node.untouched(Way::Leave, &packet)?;
                for door in DOORS {
                    let (fate, back) = node.send(Way::Arrive(door), &packet.answer())?;
                    ensure!(fate == Fate::On && back == packet.answer(), "{packet}: its answer is {fate:?} as {back}");
                }
            }
        }
    }
    Ok(())
}

fn no_masquerade(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Bare)?;
    for plan in Plan::BOTH {
        for proto in protocols(plan) {
            let packet = Packet::new(pod(node, plan), SocketAddr::new(plan.client(9), 443), Body::opening(proto));
            node.untouched(Way::Leave, &packet)?;
        }
    }
    Ok(())
}

fn direct(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in protocols(plan) {
            for door in DOORS {
                let to = SocketAddr::new(plan.pod(PODS[0]), 9000);
                let first = Packet::new(node.client(plan), to, Body::opening(proto));
                node.expect(Way::Arrive(door), &first, Fate::On, &first, &["direct_new"])?;
                for _ in 0..2 {
                    let (fate, back) = node.send(Way::Leave, &first.answer())?;
                    ensure!(fate == Fate::On && back == first.answer(), "{first}: its answer is {fate:?} as {back}");
                    let later = first.clone().with(Body::later(proto));
                    let ((fate, found), counted) = node.counted(|node| node.send(Way::Arrive(door), &later))?;
                    ensure!(fate == Fate::On && found == later, "{later} is {fate:?} as {found}");
                    ensure!(!counted.contains_key("direct_new"), "{later} is new again: {counted:?}");
                }
            }
        }
    }
    Ok(())
}

/// A packet to one of the ports that translated flows use, which belongs to none.
fn unasked(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            for door in DOORS {
                let to = SocketAddr::new(plan.node(), 20_000 + node.port() % 9000);
                // No other row's pods ask that port, so no random source port of theirs is this one.
                let packet = Packet::new(SocketAddr::new(plan.client(9), 4431), to, Body::later(proto));
                node.untouched(Way::Arrive(door), &packet)?;
            }
        }
    }
    Ok(())
}

fn exhausted(subject: &mut Subject) -> Result<()> {
    // Nothing else has flows there, so none is forgotten for want of room.
    let node = subject.node(Kind::Poor)?;
    // One family is enough for what takes 40,000 packets: the code is one.
    let plan = Plan { v4: true };
    let there = SocketAddr::new(plan.client(10), 443);
    let (mut left, mut dropped) = (BTreeSet::new(), 0);
    let mut full = |node: &mut Node| {
        for (n, port) in (20..33).flat_map(|n| (10_000..13_000).map(move |port| (n, port))) {
            let packet = Packet::new(SocketAddr::new(plan.pod(n), port), there, Body::udp(0));
            match node.send(Way::Leave, &packet)? {
                (Fate::Dropped, _) => dropped += 1,
                (_, out) => ensure!(left.insert(out.ports().0), "port {} was given twice", out.ports().0),
            }
        }
        Ok(())
    };
    let ((), counted) = node.counted(|node| full(node))?;
    // 64,512 less the 28,232 of the host's own.
    ensure!(left.len() > 33_000, "only {} ports were found before {dropped} were dropped", left.len());
    ensure!(dropped > 0 && counted.get("drop_no_source_port") == Some(&dropped), "{dropped} dropped, {counted:?}");
    // Another destination has all ports to itself.
    let other = Packet::new(SocketAddr::new(plan.pod(20), 9999), SocketAddr::new(there.ip(), 444), Body::udp(0));
    out(node, plan, &other)?;
    Ok(())
}

fn no_address(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Poor)?;
    let plan = Plan { v4: false };
    node.services(vec![plan.service(7, Protocol::Udp, vec![plan.there(21)])])?;
    for door in DOORS {
        let packet = Packet::new(node.client(plan), plan.doors(7)[0], Body::udp(1));
        node.expect(Way::Arrive(door), &packet, Fate::Dropped, &packet, &["drop_no_source_address"])?;
    }
    let packet = Packet::new(pod(node, plan), SocketAddr::new(plan.client(9), 443), Body::udp(1));
    node.expect(Way::Leave, &packet, Fate::Dropped, &packet, &["drop_no_source_address"])
}

fn no_route(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Poor)?;
    let plan = Plan { v4: true };
    let nowhere = fairlead_source::Endpoint::remote(SocketAddr::new(plan.external(9), PORT));
    node.services(vec![plan.service(7, Protocol::Udp, vec![nowhere])])?;
    for door in DOORS {
        let packet = Packet::new(node.client(plan), plan.doors(7)[0], Body::udp(1));
        let ((fate, out), counted) = node.counted(|node| node.send(Way::Arrive(door), &packet))?;
        ensure!(
            fate == Fate::Dropped && counted.get("drop_no_route") == Some(&1),
            "{packet} is {fate:?} as {out}, counted {counted:?}"
        );
    }
    Ok(())
}
