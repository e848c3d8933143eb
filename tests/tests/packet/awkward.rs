//! Packets that are not plain: the same decision, and everything that is odd about them as it was.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, ensure};
use fairlead_source::Protocol;
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Finish, Frame, Packet, flag, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;
use crate::services::{PROTOCOLS, doors, knocker};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("options_and_extension_headers_stay", options),
    ("vlan_tags_stay", tags),
    ("every_size_is_translated", sizes),
    ("jumbo_frames_are_translated_in_several_buffers", jumbo),
    ("udp_without_a_checksum_stays_without", udp_without_checksum),
    ("an_unfinished_checksum_stays_unfinished", unfinished),
    ("a_wrong_checksum_is_not_made_right", wrong_checksum),
    ("fragments_are_translated_as_their_first_is", fragments),
    ("a_fragment_without_its_first_is_held", lost_first),
    ("counted_a_fragment_given_up_is_gone", given_up),
    ("protocols_without_ports_pass_untouched", foreign),
    ("frames_that_are_no_ip_pass_untouched", not_ip),
    ("counted_a_packet_cut_in_its_header_drops", cut),
    ("cut_and_garbled_frames_harm_nobody", garbled),
];

/// Odd forms of a packet.
fn odd(plan: Plan) -> Vec<fn(&mut Packet)> {
    if plan.v4 {
        vec![
            |packet| packet.options = vec![1, 1, 1, 0],
            |packet| packet.options = vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            |packet| packet.options = vec![1; 40],
            |packet| (packet.tos, packet.id, packet.df) = (0xb9, 0xffff, false),
        ]
    } else {
        vec![
            |packet| packet.extensions = vec![proto::HOP],
            |packet| packet.extensions = vec![proto::DESTINATION],
            |packet| packet.extensions = vec![proto::ROUTING],
            |packet| packet.extensions = vec![proto::AH],
            |packet| {
                packet.extensions = vec![proto::HOP, proto::DESTINATION, proto::ROUTING, proto::AH, proto::DESTINATION]
            },
            |packet| packet.tos = 0xb9,
        ]
    }
}

/// There and back through a service with one local endpoint, with the packet made odd in both directions.
fn through(
    node: &mut Node,
    (into, out): (Way, Way),
    plan: Plan,
    proto: u8,
    change: &dyn Fn(&mut Packet),
) -> Result<()> {
    let service = plan.doors(7)[1];
    let mut first = Packet::new(knocker(node, plan, into), service, Body::opening(proto).sized(24));
    change(&mut first);
    let end = plan.here(21).address;
    node.expect(into, &first, Fate::On, &first.clone().to(end), &["flow_new"])?;
    node.expect(into, &first, Fate::On, &first.clone().to(end), &["flow_hit"])?;
    let mut answer = first.clone().to(end).answer();
    change(&mut answer);
    node.expect(out, &answer, Fate::On, &answer.clone().from(service), &["reply"])
}

fn options(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for ways in doors() {
                for change in odd(plan) {
                    through(node, ways, plan, number(protocol), &change)?;
                }
            }
            // Sent away, too.
            node.services(vec![plan.service(7, protocol, vec![plan.there(21)])])?;
            for change in odd(plan) {
                let mut first = Packet::new(node.client(plan), plan.doors(7)[2], Body::opening(number(protocol)));
                change(&mut first);
                crate::forward::away(node, Way::Arrive(Door::Card), plan, &first, plan.there(21).address)?;
            }
        }
        // And masqueraded.
        for change in odd(plan) {
            for proto in [proto::TCP, plan.icmp()] {
                let from = SocketAddr::new(plan.pod(11), node.port());
                let mut first = Packet::new(from, SocketAddr::new(plan.client(9), 443), Body::opening(proto));
                change(&mut first);
                crate::source::out(node, plan, &first)?;
            }
        }
    }
    Ok(())
}

fn tags(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        for (into, out) in doors() {
            for tags in [vec![5], vec![100, 200]] {
                let client = knocker(node, plan, into);
                let first = Packet::new(client, plan.doors(7)[1], Body::opening(proto::TCP));
                let framed = |packet: &Packet| Frame { tags: tags.clone(), ..packet.clone().framed() };
                let (fate, sent) = node.send_frame(into, &framed(&first))?;
                let end = plan.here(21).address;
                ensure!(
                    fate == Fate::On && sent.tags == tags && sent.packet == first.clone().to(end),
                    "{into:?}: {first} tagged {tags:?} is {fate:?} as {sent}"
                );
                let answer = sent.packet.answer();
                let (fate, back) = node.send_frame(out, &framed(&answer))?;
                ensure!(
                    fate == Fate::On && back.tags == tags && back.packet == answer.clone().from(first.destination()),
                    "{out:?}: {answer} tagged {tags:?} is {fate:?} as {back}"
                );
            }
        }
    }
    Ok(())
}

fn sizes(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for (into, _) in doors() {
                // A test run's frames end with its page; what is longer is for the namespace tests.
                for size in [0, 1, 2, 3, 7, 1000, 1400, 1459, 1460, 3000, 3300] {
                    let packet =
                        Packet::new(knocker(node, plan, into), plan.doors(7)[0], Body::opening(proto).sized(size));
                    let expected = packet.clone().to(plan.here(21).address);
                    node.expect(into, &packet, Fate::On, &expected, &["flow_new"])?;
                }
                // Padded to the least an Ethernet frame has.
                let mut frame =
                    Packet::new(knocker(node, plan, into), plan.doors(7)[0], Body::opening(proto).sized(0)).framed();
                frame.padding = 60usize.saturating_sub(frame.bytes().len());
                let (fate, out) = node.send_frame(into, &frame)?;
                ensure!(
                    fate == Fate::On
                        && out.padding == frame.padding
                        && out.packet == frame.packet.clone().to(plan.here(21).address),
                    "{into:?}: {frame} with {} bytes of padding is {fate:?} as {out} with {}",
                    frame.padding,
                    out.padding
                );
            }
        }
    }
    Ok(())
}

/// A frame of more than a page, which only the `frags` variants of XDP see.
fn jumbo(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            let first = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(number(protocol)));
            node.send(Way::Arrive(Door::Card), &first)?;
            let large = first.clone().with(Body::later(number(protocol)).sized(8900));
            for program in ["xdp_service_frags", "xdp_service_veth_frags"] {
                let (verdict, out) = match node.alone(program, &large.clone().framed().bytes()) {
                    Ok(done) => done,
                    Err(_) if kernel()? < (5, 18) => {
                        println!("jumbo frames are left out: this kernel has no XDP on several buffers");
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                };
                let found = Frame::parse(&out).map_err(|wrong| anyhow!("{program}: {large}: {wrong}"))?;
                // SCTP's checksum moves by the length of the packet; whether XDP or tc does it is theirs to choose.
                let right = found.packet == large.clone().to(plan.here(21).address);
                let left = protocol == Protocol::Sctp && found.packet == large;
                ensure!(verdict == 2 && (right || left), "{program}: {large} is {verdict} as {found}");
            }
        }
    }
    Ok(())
}

/// The first two parts of the running kernel's version.
fn kernel() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|part| part.parse().ok());
    parts.next().zip(parts.next()).with_context(|| format!("a kernel's version: {release}"))
}

fn udp_without_checksum(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let plan = Plan { v4: true };
    node.services(vec![plan.service(7, Protocol::Udp, vec![plan.here(21)])])?;
    for ways in doors() {
        through(node, ways, plan, proto::UDP, &|packet| {
            if let Body::Udp { checked, .. } = &mut packet.body {
                *checked = false;
            }
        })?;
    }
    Ok(())
}

/// XDP behind a veth sees checksums that the sender left to hardware there is none of. (What tc gets of that kind is
/// marked in the socket buffer, which a test run has not: the namespace tests send such.)
fn unfinished(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for payload in [0, 1, 100, 1400] {
                let first =
                    Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto).sized(payload)).framed();
                for _ in 0..2 {
                    let bytes = first.finished(Finish::Offloaded);
                    let (verdict, out) = node.alone("xdp_service_veth", &bytes)?;
                    let found =
                        Frame::parse_finished(&out, Finish::Offloaded).map_err(|wrong| anyhow!("{first}: {wrong}"))?;
                    let expected = first.packet.clone().to(plan.here(21).address);
                    // A first packet may be left to tc.
                    ensure!(
                        verdict == 2 && (found.packet == expected || found.packet == first.packet),
                        "{first} is {verdict} as {found}"
                    );
                    if found.packet == first.packet {
                        node.send(Way::Arrive(Door::Veth), &first.packet)?;
                    }
                }
                let bytes = first.finished(Finish::Offloaded);
                let (_, out) = node.alone("xdp_service_veth", &bytes)?;
                let found =
                    Frame::parse_finished(&out, Finish::Offloaded).map_err(|wrong| anyhow!("{first}: {wrong}"))?;
                ensure!(found.packet == first.packet.clone().to(plan.here(21).address), "{first} is {found}");
            }
        }
    }
    Ok(())
}

/// Damage on the way must still be seen by the receiver.
fn wrong_checksum(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for (into, _) in doors() {
                let packet = Packet::new(knocker(node, plan, into), plan.doors(7)[0], Body::opening(number(protocol)));
                let mut bytes = packet.clone().framed().bytes();
                let last = bytes.len() - 1;
                bytes[last] ^= 0x40;
                let (fate, out) = node.send_bytes(into, &bytes)?;
                ensure!(fate == Fate::On && Frame::parse(&out).is_err(), "{into:?}: damage to {packet} was healed");
                let mut healed = out;
                healed[last] ^= 0x40;
                let found = Frame::parse(&healed).map_err(|wrong| anyhow!("{into:?}: {packet}: {wrong}"))?;
                ensure!(found.packet == packet.clone().to(plan.here(21).address), "{packet} became {found}");
            }
        }
    }
    Ok(())
}

fn fragments(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for (protocol, remote) in [(Protocol::Udp, false), (Protocol::Tcp, false), (Protocol::Udp, true)] {
            let end = if remote { plan.there(21) } else { plan.here(21) };
            node.services(vec![plan.service(7, protocol, vec![end.clone()])])?;
            for (into, out) in doors() {
                if remote && into == Way::FromPod(0) {
                    continue;
                }
                // After the first, in any order; again, as the datagrams that follow.
                for (id, order) in [(1, vec![0, 1, 2]), (2, vec![0, 2, 1]), (3, vec![0, 1, 2])] {
                    let client = knocker(node, plan, into);
                    let mut whole = Packet::new(client, plan.doors(7)[1], Body::opening(number(protocol)).sized(4000));
                    (whole.id, whole.df) = (id, false);
                    let pieces = whole.fragments(1400);
                    let found = order.iter().map(|i| node.send(into, &pieces[*i])).collect::<Result<Vec<_>>>()?;
                    let fate = if remote { Fate::Sent } else { Fate::On };
                    ensure!(found.iter().all(|(found, _)| *found == fate), "{into:?}: pieces of {whole}: {found:?}");
                    let joined = joined(&found)?;
                    ensure!(
                        joined.destination() == end.address && (remote || joined.source() == client),
                        "{into:?}: {whole} arrived as {joined}"
                    );
                    if remote {
                        continue;
                    }
                    let mut answer = joined.answer().with(Body::later(number(protocol)).sized(4000));
                    (answer.id, answer.df) = (id + 100, false);
                    let pieces = answer.fragments(1400);
                    let found = order.iter().map(|i| node.send(out, &pieces[*i])).collect::<Result<Vec<_>>>()?;
                    let back = self::joined(&found)?;
                    ensure!(
                        back.source() == plan.doors(7)[1] && back.destination() == client,
                        "{answer} came back as {back}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn joined(pieces: &[(Fate, Packet)]) -> Result<Packet> {
    let pieces: Vec<Packet> = pieces.iter().map(|(_, piece)| piece.clone()).collect();
    Packet::join(&pieces).map_err(|wrong| anyhow!("{wrong}"))
}

/// A piece that comes before its first is sent to where the daemon holds it. Where nobody does (there is no TUN device)
/// it is not known whose it is, so it goes on as it came, and is counted.
fn lost_first(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Udp, vec![plan.here(21)])])?;
        for door in DOORS {
            let way = Way::Arrive(door);
            let mut whole = Packet::new(node.client(plan), plan.doors(7)[1], Body::udp(4000));
            (whole.id, whole.df) = (77 + door as u32, false);
            let pieces = whole.fragments(1400);
            let ((fate, _), counted) = node.counted(|node| node.send(way, &pieces[1]))?;
            ensure!(
                (fate == Fate::Sent && counted.is_empty())
                    || (fate == Fate::On && counted == [("passed_untranslated", 1)].into()),
                "{way:?}: {} is {fate:?}, counted {counted:?}",
                pieces[1]
            );
            // It comes again, once the first is known.
            let found = [0, 1, 2].iter().map(|i| node.send(way, &pieces[*i])).collect::<Result<Vec<_>>>()?;
            let joined = joined(&found).context("after the first")?;
            ensure!(
                joined == Packet { fragment: None, ..whole.clone().to(plan.here(21).address) },
                "{whole} is {joined}"
            );
        }
        // Of a packet that is nobody's business, pieces go as they came.
        let mut other = Packet::new(node.client(plan), SocketAddr::new(plan.node(), 9), Body::udp(4000));
        (other.id, other.df) = (99, false);
        for piece in other.fragments(1400) {
            node.untouched(Way::Arrive(Door::Card), &piece)?;
        }
    }
    Ok(())
}

/// What the daemon gave up waiting for comes back to be counted.
fn given_up(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let mut whole = Packet::new(node.client(plan), plan.doors(7)[1], Body::udp(4000));
        whole.df = false;
        let mut frame = whole.fragments(1400)[1].clone().framed();
        frame.from[..2].copy_from_slice(&fairlead_abi::LOST_MAC);
        let ((verdict, _), counted) = node.counted(|node| node.alone("tc_fragment_back", &frame.bytes()))?;
        ensure!(verdict == 2 && counted == [("drop_fragment", 1)].into(), "{frame} is {verdict}, counted {counted:?}");
    }
    Ok(())
}

fn foreign(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        for (into, out) in doors() {
            let client = knocker(node, plan, into);
            for to in [plan.doors(7)[0], plan.doors(7)[2], plan.here(21).address] {
                for number in [proto::GRE, 50, 89, 253] {
                    let body = Body::Raw { proto: number, bytes: (0..40).collect() };
                    let packet = Packet::new(client, to, body);
                    for (way, packet) in [(into, packet.clone()), (out, Packet::new(to, client, packet.body.clone()))] {
                        let ((fate, found), counted) = node.counted(|node| node.send(way, &packet))?;
                        ensure!(fate == Fate::On && found == packet, "{way:?}: {packet} is {fate:?} as {found}");
                        let others = counted.keys().any(|name| *name != "passed_untranslated");
                        ensure!(!others, "{way:?}: {packet}: counted {counted:?}");
                    }
                }
            }
            // An echo to a service's address is nobody's.
            let echo = Packet::new(client, SocketAddr::new(plan.vip(7), 0), Body::echo(5));
            node.untouched(into, &echo)?;
        }
    }
    Ok(())
}

fn not_ip(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let [v4, v6] = Plan::BOTH;
    node.services(vec![
        v4.service(7, Protocol::Tcp, vec![v4.here(21)]),
        v6.service(8, Protocol::Tcp, vec![v6.here(21)]),
    ])?;
    let mut kinds = Vec::new();
    for kind in [0x0806u16, 0x88cc, 0x8863, 0x0001, 0xffff] {
        let mut frame = vec![0xff; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend((0..60).map(|i| i as u8));
        kinds.push(frame);
    }
    for (into, out) in doors() {
        for frame in &kinds {
            for way in [into, out] {
                let ((fate, found), counted) = node.counted(|node| node.send_bytes(way, frame))?;
                ensure!(
                    fate == Fate::On && found == *frame && counted.is_empty(),
                    "{way:?}: {frame:02x?} is {fate:?} as {found:02x?}, {counted:?}"
                );
            }
        }
    }
    Ok(())
}

/// The ports are there, the checksum is not.
fn cut(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![plan.service(7, Protocol::Tcp, vec![plan.here(21)])])?;
        for (into, _) in doors() {
            let frame = Packet::new(knocker(node, plan, into), plan.doors(7)[0], Body::tcp(flag::SYN)).framed();
            let bytes = frame.bytes();
            let ((fate, _), counted) = node.counted(|node| node.send_bytes(into, &bytes[..bytes.len() - 4]))?;
            ensure!(
                fate == Fate::Dropped && counted.get("drop_rewrite") == Some(&1),
                "{into:?}: {frame}, four bytes short, is {fate:?}, counted {counted:?}"
            );
        }
    }
    Ok(())
}

/// Frames cut at every length and with every byte of their headers spoilt: none crashes a program, none that is cut
/// is changed beyond its end, and none is answered by more than it was.
fn garbled(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        node.services(vec![
            plan.service(7, Protocol::Tcp, vec![plan.here(21)]),
            plan.service(8, Protocol::Udp, vec![plan.here(21)]),
        ])?;
        for (into, _) in doors() {
            let client = knocker(node, plan, into);
            let tcp = Packet::new(client, plan.doors(7)[1], Body::tcp(flag::SYN)).framed();
            let error = Packet::new(plan.here(21).address, client, Body::udp(30)).error(
                plan.gateway(),
                plan.too_big().0,
                plan.too_big().1,
                1400,
                40,
            );
            let mut fragment = Packet::new(client, plan.doors(8)[1], Body::udp(64));
            fragment.df = false;
            let mut extended = tcp.clone();
            match plan.v4 {
                true => extended.packet.options = vec![1; 8],
                false => extended.packet.extensions = vec![proto::HOP, proto::AH],
            }
            let mut tagged = tcp.clone();
            tagged.tags = vec![1, 2];
            for frame in [tcp, error.framed(), fragment.fragments(32)[0].clone().framed(), extended, tagged] {
                let bytes = frame.bytes();
                // A test run for tc takes no less than an IP header.
                let least = if plan.v4 { 34 } else { 54 };
                for len in 15..least {
                    let (verdict, out) = node.alone("xdp_service", &bytes[..len])?;
                    ensure!(verdict == 2 && out == bytes[..len], "{len} bytes of {frame} are {verdict}");
                }
                for len in least..bytes.len() {
                    let (_, out) = node.send_bytes(into, &bytes[..len])?;
                    ensure!(out.len() <= len + 128, "{into:?}: {len} bytes of {frame} became {}", out.len());
                }
                for at in 12..bytes.len().min(100) {
                    for bit in [0x01, 0x10, 0x80, 0xff] {
                        let mut bytes = bytes.clone();
                        bytes[at] ^= bit;
                        let (_, out) = node.send_bytes(into, &bytes)?;
                        ensure!(
                            out.len() <= bytes.len() + 128,
                            "{into:?}: byte {at} of {frame}: {} bytes came out",
                            out.len()
                        );
                    }
                }
            }
        }
    }
    Ok(())
}
