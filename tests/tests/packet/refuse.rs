//! Nobody there, or nobody for this client: refused, dropped, or left to the host.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use fairlead_source::{Endpoint, Protocol, Service};
use fairlead_tests::harness::packet::node::{Fate, Node, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, flag, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;
use crate::services::{PROTOCOLS, converse, doors, knocker};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("counted_a_service_without_endpoints_refuses", refuses),
    ("a_refusal_answers_nobody_it_must_not", refuses_in_silence),
    ("counted_a_local_policy_without_local_endpoints_drops", drops),
    ("a_local_policy_keeps_to_this_node", keeps_local),
    ("inside_clients_are_not_bound_by_the_external_policy", short_cut),
    ("endpoints_that_end_serve_while_there_are_no_others", terminating),
    ("endpoints_that_are_not_near_get_nothing", near),
];

/// What must come back to a client that asks where nobody is. It comes from the address asked.
pub(crate) fn refusal(plan: Plan, asked: &Packet, found: &Packet) -> Result<()> {
    let fits = match (&asked.body, &found.body) {
        (&Body::Tcp { seq, ack, flags, payload, .. }, &Body::Tcp { seq: s, ack: a, flags: f, payload: 0, .. }) => {
            let counts = payload as u32 + u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
            let expected = match flags & flag::ACK {
                0 => (0, seq.wrapping_add(counts), flag::RST | flag::ACK),
                // RFC 9293 §3.10.7.1: the reset takes its number from the acknowledgement.
                _ => (ack, a, flag::RST),
            };
            (s, a, f) == expected || (flags & flag::ACK != 0 && (s, f) == (ack, flag::RST | flag::ACK))
        }
        (_, Body::Error { kind, code, rest: 0, quote }) => {
            let all = asked.bytes();
            let least = if plan.v4 { 28 } else { 48.min(all.len()) };
            (*kind, *code) == plan.port_unreachable() && all.starts_with(quote) && quote.len() >= least
        }
        _ => false,
    };
    let ports = matches!(found.body, Body::Error { .. }) || found.destination() == asked.source();
    let ends = (found.src, found.dst) == (asked.dst, asked.src) && ports;
    ensure!(fits && ends && found.ttl >= 32, "{asked} was answered with {found}\n  {:?}", found.body);
    Ok(())
}

fn refused(node: &mut Node, plan: Plan, way: Way, packet: &Packet, counter: &'static str) -> Result<()> {
    let ((fate, found), counted) = node.counted(|node| node.send(way, packet))?;
    ensure!(fate == Fate::Sent, "{way:?}: {packet} is {fate:?} as {found}; counted: {counted:?}");
    refusal(plan, packet, &found)?;
    ensure!(counted == [(counter, 1)].into(), "{way:?}: {packet} was refused, counted: {counted:?}");
    Ok(())
}

fn refuses(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let unready = Endpoint { ready: false, serving: false, ..plan.here(21) };
        for (endpoints, local) in
            [(vec![], false), (vec![], true), (vec![unready.clone()], false), (vec![unready], true)]
        {
            for protocol in PROTOCOLS {
                let service = plan.service(7, protocol, endpoints.clone());
                node.services(vec![Service { internal_local: local, external_local: local, ..service }])?;
                for (way, _) in doors() {
                    let [vip, balancer, node_port] = plan.doors(7);
                    for address in [vip, balancer] {
                        let client = knocker(node, plan, way);
                        for body in [Body::opening(number(protocol)), Body::later(number(protocol))] {
                            let packet = Packet::new(client, address, body);
                            refused(node, plan, way, &packet, "refused_no_endpoint")
                                .with_context(|| format!("{protocol:?}, policy Local: {local}"))?;
                        }
                    }
                    // On the node's own address the host answers, as for any closed port.
                    let client = knocker(node, plan, way);
                    let packet = Packet::new(client, node_port, Body::opening(number(protocol)));
                    node.untouched(way, &packet)?;
                }
            }
        }
    }
    Ok(())
}

fn refuses_in_silence(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![])])?;
        for (way, _) in doors() {
            let client = knocker(node, plan, way);
            for flags in [flag::RST, flag::RST | flag::ACK] {
                let reset = Packet::new(client, plan.doors(7)[0], Body::tcp(flags));
                let (fate, out) = node.send(way, &reset)?;
                ensure!(fate == Fate::Dropped, "{way:?}: {reset} is {fate:?} as {out}");
            }
        }
    }
    Ok(())
}

fn drops(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let service = plan.service(7, protocol, vec![plan.there(21)]);
            node.services(vec![Service { internal_local: true, external_local: true, ..service }])?;
            for (way, _) in doors() {
                let [vip, balancer, node_port] = plan.doors(7);
                let outside = matches!(way, Way::Arrive(_));
                for address in [vip, balancer, node_port].into_iter().take(if outside { 3 } else { 1 }) {
                    let packet = Packet::new(knocker(node, plan, way), address, Body::opening(number(protocol)));
                    node.expect(way, &packet, Fate::Dropped, &packet, &["drop_no_local_endpoint"])?;
                }
            }
        }
    }
    Ok(())
}

/// The endpoints that clients find, by one way. Of four endpoints, 64 clients miss one less than once in ten million times.
fn found(node: &mut Node, plan: Plan, way: Way, service: SocketAddr, proto: u8) -> Result<Vec<SocketAddr>> {
    let mut ends = Vec::new();
    for _ in 0..64 {
        let packet = Packet::new(knocker(node, plan, way), service, Body::opening(proto));
        let (fate, out) = node.send(way, &packet)?;
        ensure!(fate != Fate::Dropped, "{way:?}: {packet} is dropped");
        ends.push(out.destination());
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

fn keeps_local(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends = vec![plan.here(21), plan.there(21), plan.here(22), plan.there(22)];
        let all: Vec<SocketAddr> = {
            let mut all: Vec<_> = ends.iter().map(|end| end.address).collect();
            all.sort_unstable();
            all
        };
        let local = [plan.here(21).address, plan.here(22).address];
        let [vip, balancer, node_port] = plan.doors(7);
        for (internal_local, external_local) in [(false, false), (true, false), (false, true), (true, true)] {
            let service = plan.service(7, Protocol::Udp, ends.clone());
            node.services(vec![Service { internal_local, external_local, ..service }])?;
            for (way, _) in doors() {
                let inside = found(node, plan, way, vip, proto::UDP)?;
                let expected = if internal_local { &local[..] } else { &all[..] };
                ensure!(inside == expected, "{way:?}, internal Local {internal_local}: {inside:?}");
                for address in [balancer, node_port] {
                    let outside = found(node, plan, way, address, proto::UDP)?;
                    let bound = external_local && matches!(way, Way::Arrive(_));
                    let expected = if bound { &local[..] } else { &all[..] };
                    ensure!(outside == expected, "{way:?} to {address}, external Local {external_local}: {outside:?}");
                }
            }
        }
    }
    Ok(())
}

fn short_cut(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let service = plan.service(7, Protocol::Tcp, vec![plan.there(21)]);
        node.services(vec![Service { external_local: true, ..service }])?;
        for address in &plan.doors(7)[1..] {
            let client = knocker(node, plan, Way::FromPod(0));
            let ways = (Way::FromPod(0), Way::ToPod(0));
            converse(node, ways, client, *address, proto::TCP, &[plan.there(21).address])?;
        }
    }
    Ok(())
}

fn terminating(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends = |end: Endpoint| Endpoint { ready: false, serving: true, terminating: true, ..end };
        let over = |end: Endpoint| Endpoint { ready: false, serving: false, terminating: true, ..end };
        let cases: [(Vec<Endpoint>, Vec<Endpoint>); 4] = [
            (vec![plan.here(21), ends(plan.here(22)), over(plan.here(23))], vec![plan.here(21)]),
            (vec![ends(plan.here(21)), over(plan.here(22))], vec![plan.here(21)]),
            (vec![ends(plan.here(21)), ends(plan.here(22))], vec![plan.here(21), plan.here(22)]),
            // Serving but neither ready nor ending: it was never asked for.
            (vec![Endpoint { ready: false, ..plan.here(21) }, ends(plan.here(22))], vec![plan.here(22)]),
        ];
        for (endpoints, expected) in cases {
            node.services(vec![plan.service(7, Protocol::Udp, endpoints.clone())])?;
            let expected: Vec<_> = expected.iter().map(|end| end.address).collect();
            for (way, _) in doors() {
                for address in plan.doors(7) {
                    let got = found(node, plan, way, address, proto::UDP)?;
                    ensure!(got == expected, "{way:?} to {address}: {got:?} of {endpoints:?}");
                }
            }
        }
        // Local: this node's last one serves on though another node has a ready one.
        let service = plan.service(7, Protocol::Udp, vec![ends(plan.here(21)), plan.there(21)]);
        node.services(vec![Service { external_local: true, ..service }])?;
        let way = doors()[0].0;
        let got = found(node, plan, way, plan.doors(7)[2], proto::UDP)?;
        ensure!(got == [plan.here(21).address], "{got:?}");
        let got = found(node, plan, Way::FromPod(0), plan.doors(7)[0], proto::UDP)?;
        ensure!(got == [plan.there(21).address], "{got:?}");
    }
    Ok(())
}

fn near(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let far = Endpoint { near: false, ..plan.here(22) };
        let service = plan.service(7, Protocol::Udp, vec![plan.there(21), far]);
        node.services(vec![service.clone()])?;
        for (way, _) in doors() {
            let got = found(node, plan, way, plan.doors(7)[0], proto::UDP)?;
            ensure!(got == [plan.there(21).address], "{way:?}: {got:?}");
        }
        // A Local policy does not heed it.
        node.services(vec![Service { external_local: true, ..service }])?;
        let got = found(node, plan, doors()[0].0, plan.doors(7)[1], proto::UDP)?;
        ensure!(got == [plan.here(22).address], "{got:?}");
    }
    Ok(())
}
