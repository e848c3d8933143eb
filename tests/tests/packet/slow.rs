//! What the slow steps do where they meet each other: errors and fragments on the encapsulated way, NodePorts there, and
//! answers to packets that are odd themselves.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use fairlead_source::{Dsr, Endpoint, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, PODS, Way};
use fairlead_tests::harness::packet::plan::{NODE_PORT, Plan};
use fairlead_tests::harness::packet::{Body, Frame, Packet, proto};
use fairlead_tests::harness::suite::Case;

use crate::refuse::refusal;
use crate::{Kind, Subject};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("dsr_ipip_serves_a_node_port_that_was_asked_elsewhere", node_port),
    ("what_is_handed_to_another_node_leaves_as_it_is", handed_over),
    ("a_clients_error_about_a_direct_answer_is_sent_to_the_endpoints_node", error_out),
    ("a_clients_error_about_a_direct_answer_is_taken_in", error_in),
    ("fragments_are_encapsulated_each", fragments_out),
    ("encapsulated_fragments_are_taken_in_as_their_first_is", fragments_in),
    ("odd_packets_are_refused_too", refuse_odd),
    ("tagged_frames_are_refused_too", refuse_tagged),
    ("counted_an_uplink_without_an_address_encapsulates_nothing", no_source),
    ("counted_an_encapsulated_packet_for_a_pod_that_is_no_endpoint", no_endpoint),
];

fn dsr(plan: Plan, protocol: Protocol, end: Endpoint) -> Service {
    Service { dsr: Some(Dsr::Ipip), ..plan.service(7, protocol, vec![end]) }
}

/// In another packet, as the other node would send it.
fn wrapped(plan: Plan, inner: &Packet, end: IpAddr) -> Packet {
    let [from, to] = [plan.peer(), end].map(|ip| SocketAddr::new(ip, 0));
    Packet::new(from, to, Body::Inside(Box::new(inner.clone())))
}

/// What is inside a packet, one hop younger, if it is sent from this node to an endpoint.
fn taken_out(plan: Plan, sent: &Packet, end: IpAddr) -> Result<Packet> {
    let Body::Inside(inner) = &sent.body else { bail!("{sent} has nothing inside") };
    ensure!((sent.src, sent.dst) == (plan.node(), end), "{sent} goes the wrong way");
    Ok(Packet { ttl: inner.ttl + 1, ..(**inner).clone() })
}

fn node_port(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in [(Protocol::Tcp, proto::TCP), (Protocol::Udp, proto::UDP)] {
            node.services(vec![dsr(plan, protocol, plan.here(21))])?;
            for door in DOORS {
                let asked = SocketAddr::new(plan.peer(), NODE_PORT + 7);
                let first = Packet::new(node.client(plan), asked, Body::opening(proto));
                let end = plan.here(21).address;
                let got = first.clone().to(end);
                let outer = wrapped(plan, &first, end.ip());
                node.expect(Way::Arrive(door), &outer, Fate::On, &got, &["decapsulated", "flow_new"])?;
                let answer = got.answer();
                node.expect(Way::Leave, &answer, Fate::On, &answer.clone().from(asked), &["reply"])?;
                // Another port of the other node is no service.
                let other = first.clone().to(SocketAddr::new(plan.peer(), NODE_PORT + 8));
                let outer = wrapped(plan, &other, end.ip());
                node.expect(Way::Arrive(door), &outer, Fate::On, &outer, &["passed_untranslated"])?;
            }
        }
    }
    Ok(())
}

/// It passes the uplink's other hook under the very tuple it came with.
fn handed_over(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![Service { dsr: Some(Dsr::L2), ..dsr(plan, Protocol::Udp, plan.there(21)) }])?;
        for door in DOORS {
            let first = Packet::new(node.client(plan), plan.doors(7)[1], Body::udp(12));
            let (fate, sent) = node.send(Way::Arrive(door), &first)?;
            ensure!(fate == Fate::Sent, "{first} is {fate:?} as {sent}");
            node.untouched(Way::Leave, &sent)?;
        }
    }
    Ok(())
}

fn error_out(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Udp, plan.there(21))])?;
        let end = plan.there(21).address.ip();
        for door in DOORS {
            let (way, service) = (Way::Arrive(door), plan.doors(7)[1]);
            let first = Packet::new(node.client(plan), service, Body::udp(12));
            node.send(way, &first)?;
            // Nobody listens at the client any more.
            let (kind, code) = plan.port_unreachable();
            let error = first.answer().error(first.src, kind, code, 0, 8);
            let ((fate, sent), counted) = node.counted(|node| node.send(way, &error))?;
            ensure!(fate == Fate::Sent && taken_out(plan, &sent, end)? == error, "{error} is {fate:?} as {sent}");
            ensure!(counted == [("encapsulated", 1)].into(), "{error}: counted {counted:?}");
        }
    }
    Ok(())
}

fn error_in(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Udp, plan.here(21))])?;
        let end = plan.here(21).address;
        for door in DOORS {
            let (way, service) = (Way::Arrive(door), plan.doors(7)[1]);
            let first = Packet::new(node.client(plan), service, Body::udp(12));
            node.send(way, &wrapped(plan, &first, end.ip()))?;
            let (kind, code) = plan.too_big();
            let answer = first.clone().to(end).answer();
            let seen = answer.clone().from(service);
            for by in [plan.gateway(), first.src] {
                let error = seen.error(by, kind, code, 1300, 1000);
                let told = answer.error(by, kind, code, 1300, 1000);
                let outer = wrapped(plan, &error, end.ip());
                node.expect(way, &outer, Fate::On, &told, &["decapsulated", "icmp_error"])?;
            }
        }
    }
    Ok(())
}

/// A datagram in three pieces.
fn pieces(from: SocketAddr, to: SocketAddr, id: u32) -> Vec<Packet> {
    Packet { id, ..Packet::new(from, to, Body::udp(3000)) }.fragments(1200)
}

fn fragments_out(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Udp, plan.there(21))])?;
        for (door, id) in DOORS.into_iter().zip(0x100..) {
            for (piece, i) in pieces(node.client(plan), plan.doors(7)[1], id).iter().zip(0..) {
                let ((fate, sent), counted) = node.counted(|node| node.send(Way::Arrive(door), piece))?;
                ensure!(fate == Fate::Sent, "piece {i}: {piece} is {fate:?} as {sent}, counted {counted:?}");
                let inner = taken_out(plan, &sent, plan.there(21).address.ip())?;
                ensure!(inner == *piece, "piece {i}: {piece} is sent as {sent}");
                ensure!(counted.get("encapsulated") == Some(&1), "piece {i}: counted {counted:?}");
            }
        }
    }
    Ok(())
}

fn fragments_in(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Udp, plan.here(21))])?;
        let end = plan.here(21).address;
        for (door, id) in DOORS.into_iter().zip(0x200..) {
            let from = node.client(plan);
            let mut got = Vec::new();
            for piece in pieces(from, plan.doors(7)[1], id) {
                let outer = wrapped(plan, &piece, end.ip());
                let ((fate, out), counted) = node.counted(|node| node.send(Way::Arrive(door), &outer))?;
                ensure!(fate == Fate::On, "{outer} is {fate:?} as {out}, counted {counted:?}");
                got.push(out);
            }
            let whole = Packet::join(&got).map_err(anyhow::Error::msg).context("the pieces do not fit")?;
            ensure!(whole.source() == from && whole.destination() == end, "{whole}");
        }
    }
    Ok(())
}

fn refuse_odd(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in [(Protocol::Tcp, proto::TCP), (Protocol::Udp, proto::UDP)] {
            node.services(vec![plan.service(7, protocol, Vec::new())])?;
            for way in [Way::Arrive(Door::Card), Way::Arrive(Door::Veth), Way::Arrive(Door::Tc)] {
                let mut odd = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto).sized(48));
                if plan.v4 {
                    odd.options = vec![1; 12];
                } else {
                    odd.extensions = vec![proto::HOP, proto::DESTINATION];
                }
                let (fate, out) = node.send(way, &odd)?;
                ensure!(fate == Fate::Sent, "{odd} is {fate:?} as {out}");
                refusal(plan, &odd, &out)?;
                ensure!(out.options.is_empty() && out.extensions.is_empty(), "{out} has what it answers");
            }
        }
        // Of a datagram in pieces, the first is answered and the others are not.
        let [first, second, _] = &pieces(node.client(plan), plan.doors(7)[1], 0x300)[..] else { bail!("not three") };
        let way = Way::Arrive(Door::Tc);
        let (fate, out) = node.send(way, first)?;
        ensure!(fate == Fate::Sent && matches!(out.body, Body::Error { .. }), "{first} is {fate:?} as {out}");
        node.expect(way, second, Fate::Dropped, second, &["refused_no_endpoint"])?;
    }
    Ok(())
}

/// The outermost tag of an answer is not in the data any more, where a test run shows it; `uplinks` meets it on the wire.
fn refuse_tagged(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in [(Protocol::Tcp, proto::TCP), (Protocol::Udp, proto::UDP)] {
            node.services(vec![plan.service(7, protocol, Vec::new())])?;
            for (tags, size) in [[5, 0], [100, 200]].into_iter().flat_map(|tags| [0, 48, 900].map(|size| (tags, size)))
            {
                let tags: Vec<u16> = tags.into_iter().filter(|tag| *tag > 0).collect();
                for door in DOORS {
                    let asked = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto).sized(size));
                    let frame = Frame { tags: tags.clone(), ..asked.clone().framed() };
                    let ((fate, out), counted) = node.counted(|node| node.send_frame(Way::Arrive(door), &frame))?;
                    ensure!(fate == Fate::Sent, "{frame} is {fate:?} as {out}, counted {counted:?}");
                    ensure!(out.tags == tags[1..], "{frame} was answered with {out}");
                    ensure!(counted == [("refused_no_endpoint", 1)].into(), "{counted:?}");
                    refusal(plan, &asked, &out.packet)?;
                }
            }
        }
    }
    Ok(())
}

fn no_source(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Poor)?;
    let plan = Plan { v4: false };
    node.services(vec![dsr(plan, Protocol::Tcp, plan.there(21))])?;
    let first = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto::TCP));
    let ((fate, out), counted) = node.counted(|node| node.send(Way::Arrive(Door::Tc), &first))?;
    let counts = counted.get("drop_no_source_address") == Some(&1);
    ensure!(fate == Fate::Dropped && counts, "{first} is {fate:?} as {out}, counted {counted:?}");
    Ok(())
}

fn no_endpoint(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Tcp, plan.here(21))])?;
        let first = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto::TCP));
        for door in DOORS {
            let outer = wrapped(plan, &first, plan.pod(PODS[0]));
            node.expect(Way::Arrive(door), &outer, Fate::Dropped, &outer, &["drop_decapsulate"])?;
        }
    }
    Ok(())
}
