//! How a packet gets to an endpoint that is not simply here, and back.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, ensure};
use fairlead_source::{Dsr, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, PEER, PODS, Way, pod_mac};
use fairlead_tests::harness::packet::plan::{NODE_PORT, PORT, Plan, number};
use fairlead_tests::harness::packet::{Body, Frame, Packet, flag, proto};
use fairlead_tests::harness::suite::Case;

use crate::services::{PROTOCOLS, converse, doors, knocker};
use crate::{Kind, Subject};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("an_endpoint_elsewhere_sees_the_node", snat),
    ("two_clients_on_one_port_are_told_apart", snat_collision),
    ("two_services_with_one_endpoint_live_at_once", two_services),
    ("a_service_and_its_endpoint_asked_from_one_port", service_and_direct),
    ("a_pod_reaches_itself_through_a_service", hairpin),
    ("dsr_ipip_sends_and_takes_in", dsr_ipip),
    ("dsr_l2_sends_to_the_endpoints_node", dsr_l2),
    ("dsr_is_not_for_local_endpoints_and_cluster_ips", dsr_not),
    ("counted_what_is_encapsulated_for_nobody_here", dsr_foreign),
    ("redirect_goes_straight_to_the_pod_and_back", redirect),
    ("redirected_frames_skip_what_they_can", frames),
];

/// Sends towards an endpoint elsewhere; as what it left, which must be under the node's address.
pub(crate) fn away(node: &mut Node, way: Way, plan: Plan, first: &Packet, end: SocketAddr) -> Result<Packet> {
    let ((fate, sent), counted) = node.counted(|node| node.send(way, first))?;
    let port = sent.ports().0;
    ensure!(
        fate == Fate::Sent
            && sent == first.clone().to(end).from(SocketAddr::new(plan.node(), port)).hop()
            && port >= 1024,
        "{way:?}: {first} is {fate:?} as {sent}, counted {counted:?}"
    );
    ensure!(counted.get("flow_new") == Some(&1), "{first} became {sent}, counted {counted:?}");
    ensure!(!(32_768..=60_999).contains(&port), "{port} is one of the host's own ephemeral ports");
    Ok(sent)
}

fn snat(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![plan.there(21)])])?;
            for door in DOORS {
                for service in plan.doors(7) {
                    let way = Way::Arrive(door);
                    for client in [node.client(plan), SocketAddr::new(plan.client(78), 40_000 + node.port() % 9000)] {
                        let first = Packet::new(client, service, Body::opening(proto));
                        let sent = away(node, way, plan, &first, plan.there(21).address)?;
                        let later = first.clone().with(Body::later(proto));
                        let out = sent.clone().with(Body::later(proto));
                        node.expect(way, &later, Fate::Sent, &Packet { ttl: 64, ..out.clone() }, &["flow_hit"])?;
                        for answer in [Packet { ttl: 64, ..sent }.answer(), out.answer()] {
                            let back = answer.clone().from(service).to(client);
                            node.expect(way, &answer, Fate::Sent, &back, &["reply"])?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn snat_collision(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![plan.there(21)])])?;
            let (port, way) = (node.port(), Way::Arrive(Door::Card));
            let mut all = Vec::new();
            for n in 1..=50 {
                let client = SocketAddr::new(plan.client(n), port);
                let first = Packet::new(client, plan.doors(7)[usize::from(n % 3)], Body::opening(proto));
                let sent = away(node, way, plan, &first, plan.there(21).address)?;
                all.push((first, sent));
            }
            let mut ports: Vec<u16> = all.iter().map(|(_, sent)| sent.ports().0).collect();
            ports.sort_unstable();
            ports.dedup();
            ensure!(ports.len() == 50, "{} ports for 50 flows", ports.len());
            for (first, sent) in all {
                let answer = Packet { ttl: 64, ..sent }.answer();
                let back = answer.clone().from(first.destination()).to(first.source());
                node.expect(way, &answer, Fate::Sent, &back, &["reply"])?;
            }
        }
    }
    Ok(())
}

/// Endpoints of rows that make ports move: what they move to is anybody's next port, towards these alone.
const SHARED: [u16; 2] = [61, 62];

fn two_services(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            let two = [7, 8].map(|n| plan.service(n, protocol, vec![plan.here(SHARED[0])]));
            node.services(two.to_vec())?;
            for (into, out) in doors() {
                let client = knocker(node, plan, into);
                let mut flows = Vec::new();
                for service in [7, 8].into_iter().flat_map(|n| plan.doors(n)) {
                    let first = Packet::new(client, service, Body::opening(proto));
                    let ((fate, sent), counted) = node.counted(|node| node.send(into, &first))?;
                    let source = SocketAddr::new(client.ip(), sent.ports().0);
                    ensure!(
                        fate == Fate::On && sent == first.clone().to(plan.here(SHARED[0]).address).from(source),
                        "{into:?}: {first} is {fate:?} as {sent}"
                    );
                    let moved = u64::from(source != client);
                    ensure!(
                        counted.get("flow_new") == Some(&1) && counted.get("port_moved").copied().unwrap_or(0) == moved,
                        "{first} became {sent}, counted {counted:?}"
                    );
                    ensure!(
                        flows.is_empty() == (source == client),
                        "{first} left as {sent} after {} others",
                        flows.len()
                    );
                    flows.push((first, sent));
                }
                // All live at once, both ways.
                for _ in 0..2 {
                    for (first, sent) in &flows {
                        let (later, after) =
                            (first.clone().with(Body::later(proto)), sent.clone().with(Body::later(proto)));
                        node.expect(into, &later, Fate::On, &after, &["flow_hit"])?;
                        let back = after.answer().from(first.destination()).to(client);
                        node.expect(out, &after.answer(), Fate::On, &back, &["reply"])?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The client's port is in use towards the endpoint through a service when it asks the endpoint itself, and the other way
/// round: each is answered by the one it asked.
fn service_and_direct(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in [proto::TCP, proto::UDP] {
            let protocol = if proto == proto::TCP { Protocol::Tcp } else { Protocol::Udp };
            node.services(vec![plan.service(7, protocol, vec![plan.here(SHARED[1])])])?;
            let end = plan.here(SHARED[1]).address;
            for (into, out) in DOORS.map(|door| (Way::Arrive(door), Way::Leave)) {
                for order in [[plan.doors(7)[0], end], [end, plan.doors(7)[2]]] {
                    let client = knocker(node, plan, into);
                    let mut flows = Vec::new();
                    for asked in order {
                        let first = Packet::new(client, asked, Body::opening(proto));
                        let (fate, sent) = node.send(into, &first)?;
                        ensure!(
                            fate == Fate::On && sent.destination() == end && sent.src == client.ip(),
                            "{first}: {sent}"
                        );
                        flows.push((first, sent));
                    }
                    for (first, sent) in flows {
                        let answer = sent.answer();
                        let expected = answer.clone().from(first.destination()).to(client);
                        let (fate, back) = node.send(out, &answer)?;
                        ensure!(
                            fate == Fate::On && back == expected,
                            "{order:?} by {into:?}: {first} was answered with {back}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

fn hairpin(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![plan.here(PODS[0])])])?;
            for service in plan.doors(7) {
                let way = Way::FromPod(0);
                let client = knocker(node, plan, way);
                let first = Packet::new(client, service, Body::opening(proto));
                let ((fate, sent), counted) = node.counted(|node| node.send(way, &first))?;
                let source = sent.source();
                ensure!(
                    fate == Fate::Sent
                        && source.ip() == plan.node()
                        && sent.destination() == plan.here(PODS[0]).address,
                    "{first} is {fate:?} as {sent}, counted {counted:?}"
                );
                ensure!(counted.get("flow_new") == Some(&1), "{first}: counted {counted:?}");
                let answer = Packet { ttl: 64, ..sent.clone() }.answer();
                let back = answer.clone().from(service).to(client);
                let (fate, found) = node.send(way, &answer)?;
                ensure!(
                    fate == Fate::Sent && (found == back || found == back.clone().hop()),
                    "the answer {answer} is {fate:?} as {found}, not {back}"
                );
                let later = first.clone().with(Body::later(proto));
                let (fate, found) = node.send(way, &later)?;
                ensure!(fate == Fate::Sent && found.source() == source, "{later} is {fate:?} as {found}");
            }
        }
    }
    Ok(())
}

fn dsr(plan: Plan, protocol: Protocol, dsr: Dsr, there: bool) -> Service {
    let ends = vec![if there { plan.there(21) } else { plan.here(21) }];
    Service { dsr: Some(dsr), ..plan.service(7, protocol, ends) }
}

fn dsr_ipip(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            let service = plan.doors(7)[1];
            // Out, where the endpoint is elsewhere.
            node.services(vec![dsr(plan, protocol, Dsr::Ipip, true)])?;
            for door in DOORS {
                let way = Way::Arrive(door);
                let client = node.client(plan);
                for (body, counters) in [
                    (Body::opening(proto), ["flow_new", "encapsulated"]),
                    (Body::later(proto), ["flow_hit", "encapsulated"]),
                ] {
                    let packet = Packet::new(client, service, body);
                    let ((fate, sent), counted) = node.counted(|node| node.send(way, &packet))?;
                    let Body::Inside(inner) = &sent.body else {
                        anyhow::bail!("{way:?}: {packet} is {fate:?} as {sent}, counted {counted:?}")
                    };
                    ensure!(
                        fate == Fate::Sent
                            && (sent.src, sent.dst) == (plan.node(), plan.there(21).address.ip())
                            && (**inner == packet || **inner == packet.clone().hop()),
                        "{packet} is {fate:?} as {sent}"
                    );
                    ensure!(counted == counters.map(|name| (name, 1)).into(), "{packet}: counted {counted:?}");
                }
            }
            // In, where it is here. The sender chose, and the answer leaves under the service's address.
            node.services(vec![Service {
                ports: plan.service(7, protocol, vec![plan.here(21), plan.here(22), plan.there(21)]).ports,
                ..dsr(plan, protocol, Dsr::Ipip, false)
            }])?;
            // On a NodePort the address is the sender's.
            let sender = SocketAddr::new(plan.peer(), NODE_PORT + 7);
            for (end, service) in [(21, service), (22, service), (21, sender), (22, sender)] {
                for door in DOORS {
                    let client = node.client(plan);
                    let first = Packet::new(client, service, Body::opening(proto));
                    for (inner, flow) in [(first.clone(), "flow_new"), (first.with(Body::later(proto)), "flow_hit")] {
                        let ends = [plan.peer(), plan.pod(end)].map(|ip| SocketAddr::new(ip, 0));
                        let outer = Packet::new(ends[0], ends[1], Body::Inside(Box::new(inner.clone())));
                        let expected = inner.clone().to(plan.here(end).address);
                        node.expect(Way::Arrive(door), &outer, Fate::On, &expected, &["decapsulated", flow])?;
                        let answer = expected.answer();
                        node.expect(Way::Leave, &answer, Fate::On, &answer.clone().from(service), &["reply"])?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn dsr_l2(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![dsr(plan, protocol, Dsr::L2, true)])?;
            for door in DOORS {
                let client = node.client(plan);
                for body in [Body::opening(proto), Body::later(proto)] {
                    let frame = Packet::new(client, plan.doors(7)[1], body).framed();
                    let (fate, sent) = node.send_frame(Way::Arrive(door), &frame)?;
                    ensure!(
                        fate == Fate::Sent && sent.packet == frame.packet.clone().hop(),
                        "{frame} is {fate:?} as {sent}"
                    );
                    // Its hardware address is the program's to write, or the kernel's, when it is sent.
                    ensure!([PEER, frame.to].contains(&sent.to), "{frame} goes to {:02x?}", sent.to);
                }
            }
        }
    }
    Ok(())
}

fn dsr_not(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for kind in [Dsr::Ipip, Dsr::L2] {
            node.services(vec![dsr(plan, Protocol::Tcp, kind, false)])?;
            for ways in doors() {
                let client = knocker(node, plan, ways.0);
                converse(node, ways, client, plan.doors(7)[1], proto::TCP, &[plan.here(21).address])?;
            }
            // On a NodePort the address is one of this node's, which no other can take a plain packet for.
            node.services(vec![dsr(plan, Protocol::Tcp, kind, true)])?;
            for address in plan.doors(7).into_iter().step_by(2).take(if kind == Dsr::L2 { 2 } else { 1 }) {
                let first = Packet::new(node.client(plan), address, Body::opening(proto::TCP));
                away(node, Way::Arrive(Door::Card), plan, &first, plan.there(21).address)?;
            }
            // A pod's own client is answered here.
            let client = knocker(node, plan, Way::FromPod(0));
            let ways = (Way::FromPod(0), Way::ToPod(0));
            converse(node, ways, client, plan.doors(7)[1], proto::TCP, &[plan.there(21).address])?;
        }
    }
    Ok(())
}

fn dsr_foreign(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Tcp, Dsr::Ipip, false)])?;
        let wrap = |inner: Packet, to| {
            Packet::new(SocketAddr::new(plan.peer(), 0), SocketAddr::new(to, 0), Body::Inside(Box::new(inner)))
        };
        let client = node.client(plan);
        let service = Packet::new(client, plan.doors(7)[1], Body::opening(proto::TCP));
        let other = Packet::new(client, SocketAddr::new(plan.balancer(99), PORT), Body::opening(proto::TCP));
        for door in DOORS {
            // Somebody else's tunnel.
            for to in [plan.pod(21), plan.node()] {
                let tunnel = wrap(other.clone(), to);
                node.expect(Way::Arrive(door), &tunnel, Fate::On, &tunnel, &["passed_untranslated"])?;
            }
            // Not a pod of this node.
            let tunnel = wrap(service.clone(), plan.remote(21));
            node.expect(Way::Arrive(door), &tunnel, Fate::On, &tunnel, &["passed_untranslated"])?;
            // A pod of this node, which is no endpoint of the service.
            let wrong = wrap(service.clone(), plan.pod(PODS[0]));
            node.expect(Way::Arrive(door), &wrong, Fate::Dropped, &wrong, &["drop_decapsulate"])?;
        }
    }
    Ok(())
}

fn redirect(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Redirect)?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            let end = plan.here(PODS[1]);
            node.services(vec![plan.service(7, protocol, vec![end.clone()])])?;
            for door in DOORS {
                for (asked, flow) in [(plan.doors(7)[2], "flow_new"), (end.address, "direct_new")] {
                    let client = node.client(plan);
                    let first = Packet::new(client, asked, Body::opening(proto)).framed();
                    let ((fate, sent), counted) = node.counted(|node| node.send_frame(Way::Arrive(door), &first))?;
                    ensure!(
                        fate == Fate::Sent && sent.packet == first.packet.clone().to(end.address).hop(),
                        "{door:?}: {first} is {fate:?} as {sent}, counted {counted:?}"
                    );
                    ensure!(sent.to == pod_mac(PODS[1]), "{door:?}: {first} goes to {:02x?}", sent.to);
                    ensure!(counted.get(flow) == Some(&1), "{door:?}: {first}: counted {counted:?}");
                    let answer = first.packet.clone().to(end.address).answer();
                    let back = answer.clone().from(asked);
                    let (fate, found) = node.send(Way::FromPod(1), &answer)?;
                    ensure!(
                        (fate == Fate::Sent && found == back.clone().hop()) || (fate == Fate::On && found == answer),
                        "the answer {answer} is {fate:?} as {found}"
                    );
                    if fate == Fate::On {
                        let (fate, found) = node.send(Way::Leave, &answer)?;
                        ensure!(fate == Fate::On && found == back, "the answer {answer} leaves as {found}");
                    }
                }
            }
        }
        // A packet at the end of its life gets no further, and its sender hears of it.
        let dying = Packet { ttl: 1, ..Packet::new(node.client(plan), plan.doors(7)[2], Body::tcp(flag::SYN)) };
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(PODS[1])])])?;
        for door in DOORS {
            let (fate, out) = node.send(Way::Arrive(door), &dying)?;
            let told = matches!(out.body, Body::Error { kind, code, .. } if (kind, code) == plan.time_exceeded());
            ensure!(fate == Fate::On || (fate == Fate::Sent && told), "{door:?}: {dying} is {fate:?} as {out}");
        }
    }
    Ok(())
}

/// Verdicts of XDP.
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// With redirects, a known flow's frame goes from XDP to the pod before there is a socket buffer; but for what the pod's
/// interface could not take, or would take for broken.
fn frames(subject: &mut Subject) -> Result<()> {
    // "veth: allow enabling NAPI even without XDP"
    let takes = kernel()? >= (5, 13);
    let node = subject.node(Kind::Redirect)?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            let end = plan.here(PODS[0]);
            node.services(vec![plan.service(9, protocol, vec![end.clone()])])?;
            let asked = plan.doors(9)[2];
            let first = Packet::new(node.client(plan), asked, Body::opening(proto));
            node.send(Way::Arrive(Door::Card), &first)?;
            let known = first.with(Body::later(proto));
            let mtu = 1500 - usize::from(!plan.v4) * 40;
            let cases = [
                (known.clone(), true),
                (Packet { ttl: 1, ..known.clone() }, false),
                (known.clone().with(Body::later(proto).sized(mtu)), false),
            ];
            for program in ["xdp_service", "xdp_service_veth"] {
                for (packet, fits) in &cases {
                    let unfinished = program == "xdp_service_veth" && packet.looks_unfinished();
                    let wanted = if takes && *fits && !unfinished { REDIRECT } else { PASS };
                    let (verdict, out) = node.alone(program, &packet.clone().framed().bytes())?;
                    ensure!(verdict == wanted, "{program}: {packet}: {verdict} instead of {wanted}");
                    if verdict == REDIRECT {
                        let out = Frame::parse(&out).map_err(|wrong| anyhow!("{program}: {packet}: {wrong}"))?;
                        let (to, sent) = (out.to, out.packet);
                        ensure!(to == pod_mac(PODS[0]), "{program}: {packet} goes to {to:02x?}");
                        ensure!(sent == packet.clone().to(end.address).hop(), "{program}: {packet} is {sent}");
                    }
                }
            }
        }
    }
    Ok(())
}

fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next().context("a short version")?.context("not a version");
    Ok((next()?, next()?))
}
