//! The compiled programs under BPF_PROG_TEST_RUN: packet in, verdict, packet out, counters.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use fairlead_datapath::{Config, Datapath};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::harness::packet::{Frame, ICMP, TCP, UDP, check_at};
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::suite;

const PASS: u32 = 2;
const DROP: u32 = 1;
/// `TC_ACT_UNSPEC` as the test run reports it.
const NEXT: u32 = u32::MAX;

const SYN: u8 = 2;
const ACK: u8 = 16;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 50);
const NODE_PORT: u16 = 30_080;

struct Subject {
    datapath: Datapath,
    sandbox: Sandbox,
    next_port: u16,
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Err(error) = fairlead_datapath::remove(&self.sandbox.bpffs()) {
            eprintln!("{error}");
        }
    }
}

fn main() -> ExitCode {
    suite::run(
        Subject::new,
        &[
            ("load_every_program", load_every_program),
            ("a_packet_to_a_node_port_goes_to_an_endpoint_and_its_reply_back", to_and_fro),
            ("udp_without_a_checksum_stays_without", udp_without_checksum),
            ("an_unfinished_checksum_stays_unfinished", unfinished_checksum),
            ("what_is_not_ours_passes_untouched", untouched),
            ("fragments_and_options_pass_untouched", awkward),
            ("counted_a_cluster_ip_without_endpoints_drops", no_endpoints),
            ("a_removed_endpoint_keeps_its_connections_and_gets_no_new_ones", draining),
            ("one_client_port_through_two_services_is_answered_by_the_one_it_asked", two_services),
            ("pods_leave_behind_the_uplink_and_are_found_again", masquerade),
            ("counted_a_destination_without_a_free_port_drops", masquerade_full),
            ("random_packets_go_where_the_model_says", random),
        ],
    )
}

impl Subject {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        // A test run's packets come from the loopback interface, which is the uplink of this namespace.
        Namespace::new()?.enter()?;
        let mut config = Config::new(sandbox.bpffs(), sandbox.cgroup());
        config.node_addresses = vec![NODE];
        let mut datapath = Datapath::open(config).context("cannot open the data path")?;
        datapath.attach_uplink("lo")?;
        datapath.sync_all(Vec::new())?;
        Ok(Self { datapath, sandbox, next_port: 40_000 })
    }

    fn services(&mut self, services: Vec<Service>) -> Result<()> {
        let report = self.datapath.sync_all(services)?;
        ensure!(report.rejected.is_empty(), "{:?}", report.rejected);
        Ok(())
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Runs a program on a frame; the frame that comes out has right checksums.
    fn run(&mut self, program: &'static str, frame: Frame) -> Result<(u32, Frame)> {
        let (verdict, out) = self.datapath.run(program, &frame.bytes())?;
        let out = Frame::parse(&out).map_err(|wrong| anyhow::anyhow!("{program} on {frame:?}: {wrong}"))?;
        Ok((verdict, out))
    }

    fn counted(&mut self, counter: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<u64> {
        let before = self.datapath.counters()?[counter];
        work(self)?;
        Ok(self.datapath.counters()?[counter] - before)
    }
}

fn service(name: &str, vip: Ipv4Addr, port: u16, protocol: Protocol, node_port: Option<u16>, ends: &[u8]) -> Service {
    let endpoints = ends
        .iter()
        .map(|end| Endpoint {
            address: SocketAddr::from((Ipv4Addr::new(10, 244, 0, *end), 8080)),
            ready: true,
            serving: true,
            terminating: false,
            local: true,
        })
        .collect();
    Service {
        name: ServiceName { namespace: "default".into(), name: name.into() },
        cluster_ips: vec![IpAddr::V4(vip)],
        external_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        ports: vec![Port { name: String::new(), protocol, port, node_port, endpoints }],
    }
}

fn load_every_program(subject: &mut Subject) -> Result<()> {
    let frame = Frame { proto: UDP, src: (CLIENT, 1), dst: (POD, 2), flags: 0, payload: 4 };
    for (program, pass) in [
        ("xdp_service", PASS),
        ("xdp_service_veth", PASS),
        ("tc_uplink_in", NEXT),
        ("tc_uplink_out", NEXT),
        ("tc_from_pod", NEXT),
        ("tc_to_pod", NEXT),
    ] {
        let (verdict, out) = subject.run(program, frame)?;
        ensure!(verdict == pass && out == frame, "{program}: verdict {verdict}, {out:?}");
    }
    Ok(())
}

/// For each way in, the way out that belongs to it.
const DOORS: [(&str, &str, u32); 4] = [
    ("xdp_service", "tc_uplink_out", PASS),
    ("xdp_service_veth", "tc_uplink_out", PASS),
    ("tc_uplink_in", "tc_uplink_out", NEXT),
    ("tc_from_pod", "tc_to_pod", NEXT),
];

fn to_and_fro(subject: &mut Subject) -> Result<()> {
    subject.services(vec![
        service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), &[2, 3, 4]),
        service("udp", VIP, 53, Protocol::Udp, Some(NODE_PORT), &[5]),
    ])?;
    for (proto, payload) in [(TCP, 0), (TCP, 1400), (UDP, 0), (UDP, 33)] {
        for (into, out, pass) in DOORS {
            let client = (CLIENT, subject.port());
            let first = Frame { proto, src: client, dst: (NODE, NODE_PORT), flags: SYN, payload };
            let (verdict, sent) = subject.run(into, first)?;
            ensure!(verdict == pass, "{into}: verdict {verdict}");
            ensure!(sent.src == client && sent.dst.0.octets()[..3] == [10, 244, 0] && sent.dst.1 == 8080, "{sent:?}");
            ensure!(proto == TCP || sent.dst.0.octets()[3] == 5, "{sent:?}");
            // The second packet goes the same way.
            let (_, again) = subject.run(into, Frame { flags: ACK, ..first })?;
            ensure!(again.dst == sent.dst, "{again:?} after {sent:?}");
            let reply = Frame { proto, src: sent.dst, dst: client, flags: SYN | ACK, payload };
            let (verdict, back) = subject.run(out, reply)?;
            ensure!(verdict == NEXT && back.src == first.dst && back.dst == client, "{out}: {verdict} {back:?}");
        }
    }
    Ok(())
}

fn udp_without_checksum(subject: &mut Subject) -> Result<()> {
    subject.services(vec![service("udp", VIP, 53, Protocol::Udp, Some(NODE_PORT), &[5])])?;
    for (into, ..) in DOORS {
        let src = (CLIENT, subject.port());
        let mut bytes = Frame { proto: UDP, src, dst: (NODE, NODE_PORT), flags: 0, payload: 5 }.bytes();
        bytes[40..42].copy_from_slice(&[0, 0]);
        let (_, out) = subject.datapath.run(into, &bytes)?;
        ensure!(out[40..42] == [0, 0] && out[33] == 5, "{into}: {out:02x?}");
    }
    Ok(())
}

fn unfinished_checksum(subject: &mut Subject) -> Result<()> {
    subject.services(vec![service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), &[9])])?;
    let frame = Frame { proto: TCP, src: (CLIENT, subject.port()), dst: (NODE, NODE_PORT), flags: SYN, payload: 100 };
    let unfinished = |frame: Frame| {
        let mut bytes = frame.bytes();
        let (src, dst) = (frame.src.0.octets(), frame.dst.0.octets());
        let field = fairlead_packet::checksum::pseudo(src, dst, TCP, (bytes.len() - 34) as u16);
        bytes[34 + check_at(TCP)..][..2].copy_from_slice(&field.to_ne_bytes());
        bytes
    };
    let (_, out) = subject.datapath.run("xdp_service_veth", &unfinished(frame))?;
    let expected = unfinished(Frame { dst: (Ipv4Addr::new(10, 244, 0, 9), 8080), ..frame });
    ensure!(out[34..] == expected[34..], "{out:02x?}, expected {expected:02x?}");
    Ok(())
}

fn untouched(subject: &mut Subject) -> Result<()> {
    subject.services(vec![service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), &[2])])?;
    let tcp = Frame { proto: TCP, src: (CLIENT, 5555), dst: (NODE, NODE_PORT), flags: SYN, payload: 0 };
    let mut tagged = tcp.bytes();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut error = Frame { proto: ICMP, flags: 3, ..tcp }.bytes();
    error.extend(&tcp.bytes()[14..42]);
    let packets = [
        tagged,
        arp,
        error,
        tcp.bytes()[..40].to_vec(),
        Frame { dst: (NODE, 22), ..tcp }.bytes(),
        Frame { dst: (NODE, 64_000), ..tcp }.bytes(),
        Frame { proto: UDP, ..tcp }.bytes(),
        Frame { proto: ICMP, flags: 8, ..tcp }.bytes(),
        Frame { proto: ICMP, flags: 0, ..tcp }.bytes(),
    ];
    for (into, out, pass) in DOORS {
        for packet in &packets {
            for (program, pass) in [(into, pass), (out, NEXT)] {
                let (verdict, after) = subject.datapath.run(program, packet)?;
                ensure!(verdict == pass && after == *packet, "{program}: {verdict} {after:02x?} of {packet:02x?}");
            }
        }
    }
    Ok(())
}

fn awkward(subject: &mut Subject) -> Result<()> {
    subject.services(vec![service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), &[2])])?;
    let frame = Frame { proto: TCP, src: (CLIENT, 5556), dst: (NODE, NODE_PORT), flags: SYN, payload: 16 };
    let change = |at: usize, value: u8| {
        let mut bytes = frame.bytes();
        bytes[at] = value;
        bytes
    };
    for packet in [change(20, 0x20), change(21, 1), change(14, 0x46)] {
        for (into, _, pass) in DOORS {
            let mut after = Vec::new();
            let counted = subject.counted("passed_untranslated", |subject| {
                let (verdict, out) = subject.datapath.run(into, &packet)?;
                ensure!(verdict == pass, "{into}: verdict {verdict}");
                after = out;
                Ok(())
            })?;
            ensure!(after == packet && counted == 1, "{into}: {counted} {after:02x?}");
        }
    }
    Ok(())
}

fn no_endpoints(subject: &mut Subject) -> Result<()> {
    subject.services(vec![service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), &[])])?;
    for (into, verdict) in [("xdp_service", DROP), ("tc_from_pod", DROP + 1)] {
        let src = (POD, subject.port());
        let frame = Frame { proto: TCP, src, dst: (VIP, 80), flags: SYN, payload: 0 };
        let counted = subject.counted("drop_no_endpoint", |subject| {
            let (found, _) = subject.run(into, frame)?;
            ensure!(found == verdict, "{into}: verdict {found}");
            Ok(())
        })?;
        ensure!(counted == 1, "{into}: counted {counted}");
    }
    // On the node's own address the host's stack answers, as for any closed port.
    let frame = Frame { proto: TCP, src: (CLIENT, 5557), dst: (NODE, NODE_PORT), flags: SYN, payload: 0 };
    ensure!(subject.run("xdp_service", frame)? == (PASS, frame));
    Ok(())
}

fn draining(subject: &mut Subject) -> Result<()> {
    let three = |ends: &[u8]| {
        vec![
            service("tcp", VIP, 80, Protocol::Tcp, Some(NODE_PORT), ends),
            service("udp", VIP, 53, Protocol::Udp, Some(NODE_PORT), ends),
        ]
    };
    subject.services(three(&[2, 3, 4]))?;
    let mut flows = Vec::new();
    for proto in [TCP, UDP] {
        for _ in 0..60 {
            let src = (CLIENT, subject.port());
            let frame = Frame { proto, src, dst: (NODE, NODE_PORT), flags: SYN, payload: 0 };
            flows.push((frame, subject.run("xdp_service", frame)?.1.dst));
        }
    }
    subject.services(three(&[2, 4]))?;
    let gone = Ipv4Addr::new(10, 244, 0, 3);
    ensure!(flows.iter().any(|(_, end)| end.0 == gone), "nothing went to the endpoint that is removed");
    for (frame, end) in flows {
        let (_, out) = subject.run("xdp_service", Frame { flags: ACK, ..frame })?;
        let moves = frame.proto == UDP && end.0 == gone;
        ensure!(if moves { out.dst.0 != gone } else { out.dst == end }, "{frame:?} went to {end:?}, now {out:?}");
        // The same port for a new connection.
        let (_, new) = subject.run("xdp_service", frame)?;
        ensure!(new.dst.0 != gone, "a new connection to a removed endpoint: {new:?}");
    }
    Ok(())
}

fn two_services(subject: &mut Subject) -> Result<()> {
    for proto in [TCP, UDP] {
        subject.services(vec![service(
            "one",
            VIP,
            80,
            if proto == TCP { Protocol::Tcp } else { Protocol::Udp },
            Some(NODE_PORT),
            &[2],
        )])?;
        let client = (CLIENT, subject.port());
        for dst in [(VIP, 80), (NODE, NODE_PORT), (VIP, 80), (NODE, NODE_PORT)] {
            let (_, sent) = subject.run("tc_uplink_in", Frame { proto, src: client, dst, flags: SYN, payload: 0 })?;
            let answer = Frame { proto, src: sent.dst, dst: client, flags: ACK, payload: 0 };
            let (_, back) = subject.run("tc_uplink_out", answer)?;
            ensure!(back.src == dst, "{dst:?} was answered as {:?}", back.src);
        }
        // Straight to the endpoint from the same port, and through the service again.
        let end = (Ipv4Addr::new(10, 244, 0, 2), 8080);
        for dst in [end, (VIP, 80), end, (NODE, NODE_PORT)] {
            subject.run("xdp_service", Frame { proto, src: client, dst, flags: SYN, payload: 0 })?;
            let answer = Frame { proto, src: end, dst: client, flags: ACK, payload: 0 };
            let (_, back) = subject.run("tc_uplink_out", answer)?;
            ensure!(back.src == dst, "{dst:?} was answered as {:?}", back.src);
        }
    }
    Ok(())
}

fn masquerade(subject: &mut Subject) -> Result<()> {
    subject.services(Vec::new())?;
    for (into, pass) in [("xdp_service", PASS), ("xdp_service_veth", PASS), ("tc_uplink_in", NEXT)] {
        for (proto, flags, answer) in [(TCP, SYN, SYN | ACK), (UDP, 0, 0), (ICMP, 8, 0)] {
            let there = (CLIENT, if proto == ICMP { 0 } else { 443 });
            let frame = Frame { proto, src: (POD, subject.port()), dst: there, flags, payload: 7 };
            let (verdict, out) = subject.run("tc_uplink_out", frame)?;
            ensure!(verdict == NEXT && out.src.0 == Ipv4Addr::LOCALHOST && out.src.1 >= 61_000, "{frame:?}: {out:?}");
            ensure!(
                out.dst == frame.dst && subject.run("tc_uplink_out", frame)?.1 == out,
                "the second left differently"
            );
            let mut reply = Frame { src: there, dst: out.src, flags: answer, ..frame };
            let mut expected = Frame { dst: frame.src, ..reply };
            if proto == ICMP {
                (reply.src.1, reply.dst.1) = (out.src.1, 0);
                (expected.src.1, expected.dst.1) = (frame.src.1, 0);
            }
            let (verdict, back) = subject.run(into, reply)?;
            ensure!(verdict == pass && back == expected, "{into} on {reply:?}: {verdict} {back:?}");
        }
    }
    // Who asks a pod by its own address is answered by it.
    let asked = Frame { proto: UDP, src: (CLIENT, 7777), dst: (POD, 8080), flags: 0, payload: 0 };
    ensure!(subject.run("xdp_service", asked)? == (PASS, asked));
    let answer = Frame { src: asked.dst, dst: asked.src, ..asked };
    ensure!(subject.run("tc_uplink_out", answer)? == (NEXT, answer));
    // Pods of other nodes see each other as they are.
    let near = Frame { dst: (Ipv4Addr::new(10, 244, 9, 9), 80), ..answer };
    ensure!(subject.run("tc_uplink_out", near)? == (NEXT, near));
    Ok(())
}

fn masquerade_full(subject: &mut Subject) -> Result<()> {
    let there = (Ipv4Addr::new(203, 0, 113, 9), 443);
    let (mut left, mut dropped) = (std::collections::BTreeSet::new(), 0);
    let counted = subject.counted("drop_no_masquerade_port", |subject| {
        for port in 10_000..16_000 {
            let frame = Frame { proto: UDP, src: (POD, port), dst: there, flags: 0, payload: 0 };
            match subject.run("tc_uplink_out", frame)? {
                (2, _) => dropped += 1,
                (_, out) => ensure!(left.insert(out.src.1), "port {} was given twice", out.src.1),
            }
        }
        Ok(())
    })?;
    ensure!(
        left.len() > 4000 && dropped > 0 && counted == dropped,
        "{} left, {dropped} dropped, {counted}",
        left.len()
    );
    // Another destination has all ports to itself.
    let other = Frame { proto: UDP, src: (POD, 1), dst: (there.0, 444), flags: 0, payload: 0 };
    ensure!(subject.run("tc_uplink_out", other)?.0 == NEXT);
    Ok(())
}

/// A generator good enough for tests; the seed is printed when something fails.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Random services, changes and packets, against the rules in plain Rust: a flow keeps its endpoint while it may, a new
/// one gets an endpoint of the present set, a reply gets the address its client asked for, all else stays as it is.
fn random(subject: &mut Subject) -> Result<()> {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    random_from(subject, seed).with_context(|| format!("seed {seed}"))
}

fn random_from(subject: &mut Subject, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let mut ends: BTreeMap<(u8, u8), Vec<u8>> = BTreeMap::new();
    // Of a client's tuple: the endpoint. Of an endpoint's answer: whom the client asked.
    let mut flows: BTreeMap<(u8, Ipv4Addr, u16, Ipv4Addr, u16), u8> = BTreeMap::new();
    let mut replies: BTreeMap<(u8, u8, Ipv4Addr, u16), (Ipv4Addr, u16)> = BTreeMap::new();
    for round in 0..4000u32 {
        if round % 100 == 0 {
            ends.clear();
            let mut services = Vec::new();
            for id in 1..=6u8 {
                for (proto, protocol) in [(TCP, Protocol::Tcp), (UDP, Protocol::Udp)] {
                    let mut set: Vec<u8> = (1..=8).filter(|_| random.below(2) == 0).map(|end| id * 10 + end).collect();
                    set.sort_unstable();
                    let vip = Ipv4Addr::new(10, 96, 1, id);
                    let node_port = Some(30_000 + u16::from(id));
                    services.push(service(&format!("s{id}-{proto}"), vip, 80, protocol, node_port, &set));
                    ends.insert((proto, id), set);
                }
            }
            subject.services(services)?;
        }
        let (into, out, pass) = DOORS[random.below(4) as usize];
        let proto = if random.below(2) == 0 { TCP } else { UDP };
        let id = random.below(7) as u8 + 1;
        let client =
            (Ipv4Addr::new(198, 51, 100, random.below(3) as u8), 1000 + random.below(200) as u16 + 200 * u16::from(id));
        let at_node = random.below(2) == 0;
        let dst = if at_node { (NODE, 30_000 + u16::from(id)) } else { (Ipv4Addr::new(10, 96, 1, id), 80) };
        // One port talks to one address of a service: two would share the endpoint's view of the flow.
        let client = (client.0, client.1 + if at_node { 10_000 } else { 0 });
        let opening = random.below(3) == 0;
        let flags = if proto == UDP {
            0
        } else if opening {
            SYN
        } else {
            ACK
        };
        let frame = Frame { proto, src: client, dst, flags, payload: random.below(64) as usize };
        if into == "xdp_service_veth" && frame.looks_unfinished() {
            continue;
        }
        let (verdict, sent) = subject.run(into, frame)?;
        let flow = (proto, client.0, client.1, dst.0, dst.1);
        let set = ends.get(&(proto, id)).cloned().unwrap_or_default();
        let kept = flows.get(&flow).copied();
        let drop_verdict = if into.starts_with("xdp") { DROP } else { 2 };
        match kept {
            Some(end) if set.contains(&end) || (proto == TCP && !opening) => {
                ensure!(
                    verdict == pass && sent.dst == (Ipv4Addr::new(10, 244, 0, end), 8080),
                    "{frame:?} of {end}: {sent:?}"
                );
            }
            _ if set.is_empty() && (id == 7 || at_node) => {
                ensure!(verdict == pass && sent == frame, "{frame:?} became {verdict} {sent:?}");
                continue;
            }
            _ if set.is_empty() => {
                ensure!(verdict == drop_verdict, "{into} on {frame:?}: {verdict}");
                continue;
            }
            _ => {
                let end = sent.dst.0.octets()[3];
                ensure!(verdict == pass && set.contains(&end) && sent.dst.1 == 8080, "{frame:?}: {sent:?} of {set:?}");
                flows.insert(flow, end);
                replies.insert((proto, end, client.0, client.1), dst);
            }
        }
        ensure!(sent.src == frame.src && sent.payload == frame.payload, "{frame:?} became {sent:?}");
        let end = sent.dst.0.octets()[3];
        let Some(asked) = replies.get(&(proto, end, client.0, client.1)) else { bail!("no reply known for {sent:?}") };
        if into == "tc_from_pod" || out != "tc_to_pod" {
            let answer = Frame { src: sent.dst, dst: client, flags: ACK, ..frame };
            let (verdict, back) = subject.run(out, answer)?;
            ensure!(verdict == NEXT && back.src == *asked && back.dst == client, "{answer:?} became {back:?}");
        }
    }
    Ok(())
}
