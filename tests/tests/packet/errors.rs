//! ICMP errors: those that come by are translated with the packet they quote, and those that are due are sent.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use fairlead_source::{Dsr, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, flag, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;

pub(crate) const CASES: &[Case<Subject>] = &[
    ("an_error_about_an_answer_reaches_its_endpoint_here", to_local_endpoint),
    ("an_error_about_an_answer_reaches_its_endpoint_elsewhere", to_remote_endpoint),
    ("an_error_of_the_far_side_reaches_the_client", to_client),
    ("an_endpoints_own_error_shows_the_service", from_endpoint),
    ("an_error_about_a_masqueraded_packet_reaches_its_pod", to_masqueraded),
    ("errors_reach_pods_whose_packets_are_translated_and_come_from_them", pods),
    ("errors_about_nothing_of_ours_pass_untouched", foreign),
    ("counted_what_does_not_fit_encapsulated_is_answered_too_big", too_big),
    ("counted_an_error_on_the_encapsulated_way_reaches_the_client", encapsulated_too_big),
    ("counted_a_packet_at_the_end_of_its_life_is_answered", time_exceeded),
];

/// Errors of a family: type, code, and the four bytes behind.
fn errors(plan: Plan) -> [(u8, u8, u32); 3] {
    let mtu = if plan.v4 { 1400 } else { 1300 };
    let ((big, big_code), (port, port_code), (time, time_code)) =
        (plan.too_big(), plan.port_unreachable(), plan.time_exceeded());
    [(big, big_code, mtu), (port, port_code, 0), (time, time_code, 0)]
}

/// How much of the packet an error quotes behind its IP header: the least, and all.
const QUOTED: [usize; 2] = [8, 1000];

const PROTOS: [(Protocol, u8); 3] =
    [(Protocol::Tcp, proto::TCP), (Protocol::Udp, proto::UDP), (Protocol::Sctp, proto::SCTP)];

/// Lets an error about `seen` go its way: it must become the same error about `told`, from `by` or one of `others`, to
/// whom `told` came from.
#[allow(clippy::too_many_arguments, reason = "each is a different part of one sentence")]
fn translated(
    node: &mut Node,
    way: Way,
    plan: Plan,
    seen: &Packet,
    told: &Packet,
    by: IpAddr,
    shown: &[IpAddr],
    fate: Fate,
) -> Result<()> {
    for (kind, code, rest) in errors(plan) {
        for keep in QUOTED {
            let error = seen.error(by, kind, code, rest, keep);
            let ((found_fate, found), counted) = node.counted(|node| node.send(way, &error))?;
            // UDP's and TCP's checksums stand in what is quoted whole, so that the quote must be right to the byte.
            let right = shown.iter().any(|shown| {
                let mut expected = told.error(*shown, kind, code, rest, keep);
                same_crc(&mut expected, &found);
                found == expected || (fate == Fate::Sent && found == expected.hop())
            });
            if found_fate != fate || !right {
                let told_by = told.error(shown[0], kind, code, rest, keep);
                bail!(
                    "{way:?}: {error}\n  about {seen}\n  is {found_fate:?} as {found}\n  should be {fate:?} as {told_by}\n  about {told}\n  counted {counted:?}\n  in   {:02x?}\n  out  {:02x?}\n  want {:02x?}",
                    error.bytes(),
                    found.bytes(),
                    told_by.bytes()
                );
            }
            ensure!(counted == [("icmp_error", 1)].into(), "{way:?}: {error} about {seen}: counted {counted:?}");
        }
    }
    Ok(())
}

/// The CRC of a quoted SCTP packet may be anything: its receiver goes by the verification tag (RFC 9260 §10).
fn same_crc(expected: &mut Packet, found: &Packet) {
    let (Body::Error { quote, .. }, Body::Error { quote: other, .. }) = (&mut expected.body, &found.body) else {
        return;
    };
    let (next, start) = if quote[0] >> 4 == 4 { (quote[9], 20) } else { (quote[6], 40) };
    if next == proto::SCTP && quote.len() == other.len() && quote.len() >= start + 12 {
        quote[start + 8..start + 12].copy_from_slice(&other[start + 8..start + 12]);
    }
}

/// A flow through a service: the client's packet, and as what it left.
fn flow(node: &mut Node, way: Way, from: SocketAddr, service: SocketAddr, proto: u8) -> Result<(Packet, Packet)> {
    let first = Packet::new(from, service, Body::opening(proto));
    let (fate, sent) = node.send(way, &first)?;
    ensure!(fate != Fate::Dropped, "{first} is dropped");
    Ok((first, Packet { ttl: 64, ..sent }))
}

fn to_local_endpoint(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for door in DOORS {
                for service in plan.doors(7) {
                    let way = Way::Arrive(door);
                    let from = node.client(plan);
                    let (first, sent) = flow(node, way, from, service, proto)?;
                    let answer = sent.answer().with(Body::later(proto).sized(500));
                    let seen = answer.clone().from(first.destination()).to(from);
                    for by in [plan.gateway(), from.ip()] {
                        translated(node, way, plan, &seen, &answer, by, &[by], Fate::On)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn to_remote_endpoint(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            node.services(vec![plan.service(7, protocol, vec![plan.there(21)])])?;
            for door in DOORS {
                let way = Way::Arrive(door);
                let from = node.client(plan);
                let (first, sent) = flow(node, way, from, plan.doors(7)[1], proto)?;
                let answer = sent.answer().with(Body::later(proto).sized(500));
                let seen = answer.clone().from(first.destination()).to(from);
                translated(
                    node,
                    way,
                    plan,
                    &seen,
                    &answer,
                    plan.gateway(),
                    &[plan.gateway(), plan.node()],
                    Fate::Sent,
                )?;
                // The client itself: the endpoint knows it as the node.
                translated(node, way, plan, &seen, &answer, from.ip(), &[plan.node()], Fate::Sent)?;
            }
        }
    }
    Ok(())
}

fn to_client(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            node.services(vec![plan.service(7, protocol, vec![plan.there(21)])])?;
            for door in DOORS {
                let way = Way::Arrive(door);
                let from = node.client(plan);
                let (first, sent) = flow(node, way, from, plan.doors(7)[1], proto)?;
                let told = first.clone().with(Body::later(proto).sized(500));
                let seen = sent.clone().with(Body::later(proto).sized(500));
                // A router between the nodes, and the endpoint itself, which hides behind the service.
                let service = first.dst;
                translated(
                    node,
                    way,
                    plan,
                    &seen,
                    &told,
                    plan.peer(),
                    &[plan.peer(), plan.node(), service],
                    Fate::Sent,
                )?;
                translated(node, way, plan, &seen, &told, sent.dst, &[service], Fate::Sent)?;
            }
        }
    }
    Ok(())
}

fn from_endpoint(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for service in plan.doors(7) {
                let from = node.client(plan);
                let (first, sent) = flow(node, Way::Arrive(Door::Card), from, service, proto)?;
                translated(node, Way::Leave, plan, &sent, &first, sent.dst, &[service.ip()], Fate::On)?;
                // The node itself, on the way to the pod, is nobody to hide.
                translated(node, Way::Leave, plan, &sent, &first, plan.node(), &[plan.node()], Fate::On)?;
            }
        }
    }
    Ok(())
}

fn to_masqueraded(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for proto in [proto::TCP, proto::UDP, proto::SCTP, plan.icmp()] {
            for door in DOORS {
                let from = SocketAddr::new(plan.pod(PODS[0]), node.port());
                let to = SocketAddr::new(plan.client(9), 443);
                let first = Packet::new(from, to, Body::opening(proto));
                let sent = crate::source::out(node, plan, &first)?;
                for by in [plan.gateway(), to.ip()] {
                    translated(node, Way::Arrive(door), plan, &sent, &first, by, &[by], Fate::On)?;
                }
                // The pod's own, about the answer.
                let answer = sent.answer();
                let seen = if proto == plan.icmp() { first.answer() } else { answer.clone().to(from) };
                translated(node, Way::Leave, plan, &seen, &answer, from.ip(), &[plan.node()], Fate::On)?;
            }
        }
    }
    Ok(())
}

fn pods(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            for end in [plan.here(21), plan.there(21)] {
                node.services(vec![plan.service(7, protocol, vec![end.clone()])])?;
                let from = SocketAddr::new(plan.pod(PODS[0]), node.port());
                let (first, sent) = flow(node, Way::FromPod(0), from, plan.doors(7)[0], proto)?;
                let service = first.dst;
                translated(node, Way::ToPod(0), plan, &sent, &first, end.address.ip(), &[service], Fate::On)?;
                translated(node, Way::ToPod(0), plan, &sent, &first, plan.gateway(), &[plan.gateway()], Fate::On)?;
                let answer = sent.answer();
                let seen = answer.clone().from(first.destination()).to(from);
                translated(node, Way::FromPod(0), plan, &seen, &answer, from.ip(), &[from.ip()], Fate::On)?;
            }
        }
    }
    Ok(())
}

fn foreign(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        let host = SocketAddr::new(plan.node(), 33_000);
        let about = Packet::new(host, SocketAddr::new(plan.client(9), 443), Body::tcp(flag::ACK));
        for (kind, code, rest) in errors(plan) {
            for keep in QUOTED {
                for door in DOORS {
                    node.untouched(Way::Arrive(door), &about.error(plan.gateway(), kind, code, rest, keep))?;
                }
                node.untouched(Way::Leave, &about.answer().error(plan.node(), kind, code, rest, keep))?;
            }
        }
        // Other messages of ICMP: redirects, neighbour discovery, timestamps.
        for kind in if plan.v4 { [5, 13] } else { [135, 136] } {
            let body = Body::Error { kind, code: 0, rest: 0, quote: about.bytes() };
            node.untouched(Way::Arrive(Door::Card), &Packet::new(SocketAddr::new(plan.gateway(), 0), host, body))?;
        }
    }
    Ok(())
}

fn dsr(plan: Plan, protocol: Protocol) -> Service {
    Service { dsr: Some(Dsr::Ipip), ..plan.service(7, protocol, vec![plan.there(21)]) }
}

fn too_big(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, proto) in PROTOS {
            node.services(vec![dsr(plan, protocol)])?;
            let header = if plan.v4 { 20 } else { 40 };
            for door in DOORS {
                let way = Way::Arrive(door);
                let from = node.client(plan);
                let (first, _) = flow(node, way, from, plan.doors(7)[1], proto)?;
                let empty = first.clone().with(Body::later(proto).sized(0)).bytes().len();
                let sized = |len: usize| first.clone().with(Body::later(proto).sized(len - empty));
                // Fits to the byte.
                let most = sized(1500 - header);
                let (fate, out) = node.send(way, &most)?;
                ensure!(fate == Fate::Sent && matches!(out.body, Body::Inside(_)), "{most} is {fate:?} as {out}");
                ensure!(out.bytes().len() == 1500, "{} bytes", out.bytes().len());
                // SCTP's chunks are padded to four bytes.
                let more = sized(1500 - header + 4);
                let ((fate, out), counted) = node.counted(|node| node.send(way, &more))?;
                let Body::Error { kind, code, rest, quote } = &out.body else { bail!("{more} is {fate:?} as {out}") };
                ensure!(
                    fate == Fate::Sent
                        && (*kind, *code) == plan.too_big()
                        && *rest as usize == 1500 - header
                        && out.dst == from.ip()
                        && more.bytes().starts_with(quote),
                    "{more} is {fate:?} as {out}"
                );
                ensure!(out.src == first.dst || out.src == plan.node(), "{out}");
                ensure!(counted.get("too_big") == Some(&1), "{more}: counted {counted:?}");
                // IPv4 that might be fragmented is answered alike: nothing would cut it on the way out.
                if plan.v4 {
                    let loose = Packet { df: false, ..more };
                    let (fate, out) = node.send(way, &loose)?;
                    let told = matches!(out.body, Body::Error { kind, code, .. } if (kind, code) == plan.too_big());
                    ensure!(fate == Fate::Sent && told, "{loose} is {fate:?} as {out}");
                }
            }
        }
    }
    Ok(())
}

/// A router between the nodes cannot pass the encapsulated packet on; the client hears of it, with what is left to it.
fn encapsulated_too_big(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![dsr(plan, Protocol::Tcp)])?;
        for door in DOORS {
            let way = Way::Arrive(door);
            let from = node.client(plan);
            let (first, sent) = flow(node, way, from, plan.doors(7)[1], proto::TCP)?;
            let (kind, code) = plan.too_big();
            let error = sent.error(plan.gateway(), kind, code, 1400, 500);
            let ((fate, out), counted) = node.counted(|node| node.send(way, &error))?;
            let Body::Error { kind, code, rest, quote } = &out.body else { bail!("{error} is {fate:?} as {out}") };
            let left = 1400 - if plan.v4 { 20 } else { 40 };
            ensure!(
                fate == Fate::Sent && (*kind, *code) == plan.too_big() && *rest == left && out.dst == from.ip(),
                "{error} is {fate:?} as {out}, {rest} of {left}, counted {counted:?}"
            );
            let quoted = Packet::parse(quote).ok().context("the quote is no packet")?;
            ensure!(quoted.source() == from && quoted.destination() == first.destination(), "{quoted} is quoted");
            ensure!(counted.get("icmp_error") == Some(&1), "{error}: counted {counted:?}");
        }
    }
    Ok(())
}

fn time_exceeded(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for kind in [Dsr::Off, Dsr::Ipip, Dsr::L2] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let service = Service { dsr: Some(kind), ..plan.service(7, protocol, vec![plan.there(21)]) };
                node.services(vec![service])?;
                for door in DOORS {
                    let from = node.client(plan);
                    let packet = Packet::new(from, plan.doors(7)[1], Body::opening(number(protocol)));
                    let dying = Packet { ttl: 1, ..packet };
                    let ((fate, out), counted) = node.counted(|node| node.send(Way::Arrive(door), &dying))?;
                    let told =
                        matches!(out.body, Body::Error { kind, code, .. } if (kind, code) == plan.time_exceeded());
                    ensure!(
                        fate == Fate::Sent && told && out.dst == from.ip() && counted.get("time_exceeded") == Some(&1),
                        "{kind:?} by {door:?}: {dying} is {fate:?} as {out}, counted {counted:?}"
                    );
                }
            }
        }
    }
    Ok(())
}
