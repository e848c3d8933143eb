//! What happens in a round: services to begin with, then events. All of it is values, so that a round can be run again
//! with some of it left out.

use std::fmt;
use std::time::Duration;

use fairlead_source::{Endpoint, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, PODS};
use fairlead_tests::harness::packet::plan::Plan;

/// A generator good enough for tests.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Less than `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Services, and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Names the clients of this round apart from all others.
    pub(crate) number: u32,
    pub(crate) services: Vec<Service>,
    pub(crate) events: Vec<Event>,
}

/// What a client's packet looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Open,
    Data,
    Fin,
    Reset,
}

/// What is odd about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dress {
    Plain,
    /// IPv4 options or IPv6 extension headers.
    Options,
    Tagged,
    Pieces,
    /// UDP over IPv4 without a checksum.
    Unchecked,
}

/// One client of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// The pod at this place in `PODS`; `None`: somebody outside.
    pub(crate) pod: Option<usize>,
    pub(crate) number: u32,
    pub(crate) port: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A service gets other endpoints.
    Change { service: usize, endpoints: Vec<Endpoint> },
    /// Removed endpoints have drained.
    Drained,
    /// A client asks a service, on one of its addresses.
    Ask { plan: Plan, service: usize, address: usize, who: Who, door: Door, stage: Stage, dress: Dress, size: usize },
    /// A client outside asks an endpoint itself.
    Direct { plan: Plan, service: usize, endpoint: usize, who: Who, door: Door, stage: Stage },
    /// A pod asks somebody outside the cluster.
    Leave { plan: Plan, who: Who, protocol: Protocol, stage: Stage },
    /// Somebody answers: on which of the flows there are.
    Answer { flow: usize, door: Door, stage: Stage },
    /// A client asks where nobody is.
    Stray { plan: Plan, who: Who, door: Door, address: usize, protocol: Protocol },
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

impl Round {
    pub(crate) fn new(random: &mut Random, number: u32) -> Self {
        let services: Vec<Service> = (1..=4).map(|n| service(random, n)).collect();
        let events = (0..100).map(|_| event(random, &services)).collect();
        Self { number, services, events }
    }
}

fn service(random: &mut Random, n: u16) -> Service {
    let protocol = random.pick(&PROTOCOLS);
    let [v4, v6] = Plan::BOTH;
    let mut service = v4.service(n, protocol, endpoints(random, n));
    service.cluster_ips.push(v6.vip(n));
    service.load_balancer_ips.push(v6.balancer(n));
    service.external_ips = Plan::BOTH.map(|plan| plan.external(n)).to_vec();
    service.internal_local = random.once_in(3);
    service.external_local = random.once_in(3);
    service.affinity = random.once_in(3).then_some(Duration::from_secs(10_800));
    if random.once_in(4) {
        // Some of the clients of every round, and some pods.
        let nets = ["198.18.0.0/15", "10.244.0.8/30", "2001:db8:d::/48", "fd00:10:244::/124", "192.0.2.0/24"];
        service.source_ranges =
            nets.iter().filter(|_| random.once_in(2)).map(|net| net.parse().expect("a network")).collect();
    }
    service
}

/// Endpoints of both families in every condition.
fn endpoints(random: &mut Random, n: u16) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for plan in Plan::BOTH {
        let mut mine = Vec::new();
        for i in 0..6 {
            if random.once_in(2) {
                continue;
            }
            let mut end = match i {
                0 => plan.here(PODS[0]),
                1..=2 => plan.here(16 + n * 8 + i),
                _ => plan.there(16 + n * 8 + i),
            };
            (end.ready, end.serving, end.terminating) = match random.below(8) {
                0 => (false, true, true),
                1 => (false, false, true),
                2 => (false, false, false),
                _ => (true, true, false),
            };
            end.near = !random.once_in(4);
            end.weight = random.pick(&[1, 1, 1, 1, 3, 0]);
            mine.push(end);
        }
        // Hints that would leave nobody are no hints; and they are about ready ones alone.
        let hinted = mine.iter().any(|end| end.ready && end.near && end.weight > 0);
        mine.iter_mut().for_each(|end| end.near |= !hinted || !end.ready);
        all.extend(mine);
    }
    all.sort();
    all
}

fn who(random: &mut Random) -> Who {
    let pod = random.once_in(4).then(|| random.below(2) as usize);
    Who { pod, number: random.below(3) as u32, port: random.below(4) as u16 }
}

fn stage(random: &mut Random) -> Stage {
    match random.below(12) {
        0..=4 => Stage::Open,
        5 => Stage::Fin,
        6 => Stage::Reset,
        _ => Stage::Data,
    }
}

fn event(random: &mut Random, services: &[Service]) -> Event {
    let plan = random.pick(&Plan::BOTH);
    let service = random.below(services.len() as u64) as usize;
    let door = random.pick(&DOORS);
    match random.below(100) {
        0..=3 => Event::Change { service, endpoints: endpoints(random, service as u16 + 1) },
        4 => Event::Drained,
        5..=9 => {
            let who = Who { pod: None, ..who(random) };
            Event::Direct { plan, service, endpoint: random.below(6) as usize, who, door, stage: stage(random) }
        }
        10..=17 => {
            let who = Who { pod: Some(random.below(2) as usize), ..who(random) };
            Event::Leave { plan, who, protocol: random.pick(&PROTOCOLS), stage: stage(random) }
        }
        18..=21 => Event::Stray {
            plan,
            who: who(random),
            door,
            address: random.below(4) as usize,
            protocol: random.pick(&PROTOCOLS),
        },
        22..=49 => Event::Answer { flow: random.below(1000) as usize, door, stage: stage(random) },
        _ => {
            let dress = match random.below(16) {
                0 => Dress::Options,
                1 => Dress::Tagged,
                2 => Dress::Pieces,
                3 => Dress::Unchecked,
                _ => Dress::Plain,
            };
            let (address, size) = (random.below(4) as usize, random.below(64) as usize);
            Event::Ask { plan, service, address, who: who(random), door, stage: stage(random), dress, size }
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for service in &self.services {
            writeln!(
                f,
                "  {} {:?} internal local {} external local {} affinity {} ranges {:?}",
                service.name,
                service.ports[0].protocol,
                service.internal_local,
                service.external_local,
                service.affinity.is_some(),
                service.source_ranges
            )?;
            list(f, &service.ports[0].endpoints)?;
        }
        for event in &self.events {
            match event {
                Event::Change { service, endpoints } => {
                    writeln!(f, "  Change {}", self.services[*service].name)?;
                    list(f, endpoints)?;
                }
                other => writeln!(f, "  {other:?}")?,
            }
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, endpoints: &[Endpoint]) -> fmt::Result {
    for end in endpoints {
        let flags = [
            (end.ready, "ready"),
            (end.serving, "serving"),
            (end.terminating, "terminating"),
            (end.local, "local"),
            (end.near, "near"),
        ];
        let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        writeln!(f, "    {} weight {} {}", end.address, end.weight, flags.join(" "))?;
    }
    Ok(())
}
