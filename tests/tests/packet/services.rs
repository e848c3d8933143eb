//! Which addresses a Service answers on, and for whom.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use fairlead_source::{Port, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{NODE_PORT, PORT, Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;

use crate::{Kind, Subject};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("every_address_of_a_service_leads_to_its_endpoint_and_back", every_address),
    ("external_ips_answer_where_they_are_allowed", external_ips),
    ("node_ports_answer_on_allowed_addresses_alone", node_port_networks),
    ("every_port_of_a_service_has_its_own_endpoints", several_ports),
    ("both_families_of_a_service_answer", dual_stack),
    ("source_ranges_bind_balancer_and_node_port", source_ranges),
    ("what_is_no_service_passes_untouched", no_service),
    ("a_loopback_port_is_not_for_packets", loopback),
];

pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// A way in, and the way out that belongs to it.
pub(crate) fn doors() -> Vec<(Way, Way)> {
    let outside = DOORS.map(|door| (Way::Arrive(door), Way::Leave));
    outside.into_iter().chain([(Way::FromPod(0), Way::ToPod(0))]).collect()
}

/// Who knocks there, on a port of its own.
pub(crate) fn knocker(node: &mut Node, plan: Plan, way: Way) -> SocketAddr {
    match way {
        Way::FromPod(pod) | Way::ToPod(pod) => SocketAddr::new(plan.pod(PODS[pod]), node.port()),
        Way::Arrive(_) | Way::Leave => node.client(plan),
    }
}

/// A conversation through a service that goes to a local endpoint, every packet as it must be; the endpoint.
pub(crate) fn converse(
    node: &mut Node,
    (into, out): (Way, Way),
    client: SocketAddr,
    service: SocketAddr,
    proto: u8,
    ends: &[SocketAddr],
) -> Result<SocketAddr> {
    let first = Packet::new(client, service, Body::opening(proto));
    let ((fate, sent), counted) = node.counted(|node| node.send(into, &first))?;
    let end = sent.destination();
    ensure!(
        fate == Fate::On && ends.contains(&end) && sent == first.clone().to(end),
        "{into:?}: {first} is {fate:?} as {sent}, not to one of {ends:?}; counted: {counted:?}"
    );
    ensure!(counted == [("flow_new", 1)].into(), "{into:?}: {first} became {sent}, and counted are {counted:?}");
    node.expect(out, &sent.answer(), Fate::On, &sent.answer().from(service), &["reply"])?;
    for body in [Body::later(proto), Body::opening(proto)] {
        let later = first.clone().with(body);
        node.expect(into, &later, Fate::On, &later.clone().to(end), &["flow_hit"])?;
    }
    let more = sent.clone().with(Body::later(proto)).answer();
    node.expect(out, &more, Fate::On, &more.clone().from(service), &["reply"])?;
    Ok(end)
}

fn every_address(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let ends = [plan.here(21), plan.here(22)];
            node.services(vec![plan.service(7, protocol, ends.to_vec())])?;
            let ends = ends.map(|end| end.address);
            for ways in doors() {
                for service in plan.doors(7) {
                    let client = knocker(node, plan, ways.0);
                    converse(node, ways, client, service, number(protocol), &ends)
                        .with_context(|| format!("{protocol:?} to {service}"))?;
                }
            }
        }
    }
    Ok(())
}

fn external_ips(subject: &mut Subject) -> Result<()> {
    for kind in [Kind::Plain, Kind::Bare] {
        let node = subject.node(kind)?;
        for plan in Plan::BOTH {
            let external = SocketAddr::new(plan.external(7), PORT);
            let service = plan.service(7, Protocol::Tcp, vec![plan.here(21)]);
            node.services(vec![Service { external_ips: vec![external.ip()], ..service }])?;
            for ways in doors() {
                let client = knocker(node, plan, ways.0);
                if kind == Kind::Plain {
                    converse(node, ways, client, external, proto::TCP, &[plan.here(21).address])?;
                } else {
                    node.untouched(ways.0, &Packet::new(client, external, Body::opening(proto::TCP)))?;
                }
            }
        }
    }
    Ok(())
}

fn node_port_networks(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Bare)?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Udp, vec![plan.here(21)])])?;
        let [vip, _, node_port] = plan.doors(7);
        for ways in doors() {
            let client = knocker(node, plan, ways.0);
            node.untouched(ways.0, &Packet::new(client, node_port, Body::udp(3)))?;
            converse(node, ways, client, vip, proto::UDP, &[plan.here(21).address])?;
        }
    }
    Ok(())
}

fn several_ports(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let mut service = plan.service(7, Protocol::Tcp, vec![plan.here(21)]);
        service.ports[0].name = "web".into();
        let names =
            [("dns", Protocol::Udp, 53, 22), ("dns-tcp", Protocol::Tcp, 53, 23), ("metrics", Protocol::Tcp, 9100, 24)];
        for (name, protocol, port, end) in names {
            let node_port = Some(NODE_PORT + 100 + end);
            service.ports.push(Port { name: name.into(), protocol, port, node_port, endpoints: vec![plan.here(end)] });
        }
        node.services(vec![service.clone()])?;
        for port in &service.ports {
            let addresses = [
                SocketAddr::new(plan.vip(7), port.port),
                SocketAddr::new(plan.balancer(7), port.port),
                SocketAddr::new(plan.node(), port.node_port.context("each has one")?),
            ];
            for ways in doors() {
                for address in addresses {
                    let client = knocker(node, plan, ways.0);
                    converse(node, ways, client, address, number(port.protocol), &[port.endpoints[0].address])?;
                }
            }
        }
    }
    Ok(())
}

fn dual_stack(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let [v4, v6] = Plan::BOTH;
    let mut service = v4.service(7, Protocol::Tcp, vec![v4.here(21), v6.here(22)]);
    service.cluster_ips.push(v6.vip(7));
    service.load_balancer_ips.push(v6.balancer(7));
    node.services(vec![service])?;
    for (plan, end) in [(v4, 21), (v6, 22)] {
        for ways in doors() {
            for address in plan.doors(7) {
                let client = knocker(node, plan, ways.0);
                converse(node, ways, client, address, proto::TCP, &[plan.here(end).address])?;
            }
        }
    }
    // NodePorts answer only for the families that the Service has.
    node.services(vec![v4.service(7, Protocol::Tcp, vec![v4.here(21)])])?;
    for (way, _) in doors() {
        let client = knocker(node, v6, way);
        node.untouched(way, &Packet::new(client, v6.doors(7)[2], Body::opening(proto::TCP)))?;
    }
    Ok(())
}

fn source_ranges(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let (all, few) = if plan.v4 { (24, 26) } else { (64, 124) };
            let net = |address: IpAddr, len: u8| ipnet::IpNet::new(address, len).map(|net| net.trunc());
            let service = plan.service(7, protocol, vec![plan.here(21)]);
            let [vip, balancer, node_port] = plan.doors(7);
            let end = [plan.here(21).address];
            for (ranges, inside) in [
                (vec![net(plan.client(0), all)?], true),
                (vec![net(plan.vip(0), all)?, net(plan.client(77), few)?], true),
                (vec![net(plan.client(200), few)?], false),
                (vec![net(Plan { v4: !plan.v4 }.client(0), 8)?], false),
            ] {
                node.services(vec![Service { source_ranges: ranges, ..service.clone() }])?;
                for ways in DOORS.map(|door| (Way::Arrive(door), Way::Leave)) {
                    for address in [balancer, node_port] {
                        let client = knocker(node, plan, ways.0);
                        if inside {
                            converse(node, ways, client, address, number(protocol), &end)?;
                        } else {
                            let packet = Packet::new(client, address, Body::opening(number(protocol)));
                            node.expect(ways.0, &packet, Fate::Dropped, &packet, &["drop_source_range"])?;
                        }
                    }
                    let client = knocker(node, plan, ways.0);
                    converse(node, ways, client, vip, number(protocol), &end)?;
                }
                // A pod is a client as others are.
                let client = knocker(node, plan, Way::FromPod(0));
                let packet = Packet::new(client, balancer, Body::opening(number(protocol)));
                node.expect(Way::FromPod(0), &packet, Fate::Dropped, &packet, &["drop_source_range"])?;
            }
        }
    }
    Ok(())
}

fn no_service(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        let at = SocketAddr::new;
        for (way, _) in doors() {
            let client = knocker(node, plan, way);
            for (address, proto) in [
                (at(plan.vip(7), PORT + 1), proto::TCP),
                (at(plan.vip(7), PORT), proto::UDP),
                (at(plan.vip(8), PORT), proto::TCP),
                (at(plan.node(), 22), proto::TCP),
                (at(plan.node(), PORT), proto::TCP),
                (at(plan.node(), NODE_PORT + 8), proto::TCP),
                (at(plan.node(), 5353), proto::UDP),
                (at(plan.node(), 0), plan.icmp()),
                (at(plan.client(9), 443), proto::TCP),
            ] {
                node.untouched(way, &Packet::new(client, address, Body::opening(proto)))?;
                node.untouched(way, &Packet::new(client, address, Body::later(proto)))?;
            }
        }
        // What the host itself sends and gets.
        for proto in [proto::TCP, proto::UDP, proto::SCTP, plan.icmp()] {
            let host = Packet::new(at(plan.node(), 33_000), at(plan.client(9), 443), Body::opening(proto));
            node.untouched(Way::Leave, &host)?;
            for door in DOORS {
                node.untouched(Way::Arrive(door), &host.answer())?;
            }
        }
    }
    Ok(())
}

/// A packet from outside never has a loopback address; one that does is not looked at.
fn loopback(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for (plan, lo) in Plan::BOTH.into_iter().zip(["127.0.0.1", "::1"]) {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        let to = SocketAddr::new(lo.parse()?, NODE_PORT + 7);
        for door in [Door::Card, Door::Veth, Door::Tc] {
            let client = node.client(plan);
            node.untouched(Way::Arrive(door), &Packet::new(client, to, Body::opening(proto::TCP)))?;
        }
    }
    Ok(())
}
