//! Runs a round, and compares what comes out with what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairlead_source::{Protocol, Service};
use fairlead_tests::harness::packet::node::{Door, Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{NODE_PORT, PORT, Plan, number};
use fairlead_tests::harness::packet::{Body, Frame, Packet, flag, proto};
use fairlead_tests::model::{self, Answer, Group, Side, Site};

use super::events::{Dress, Event, Round, Stage, Who};
use crate::refuse::refusal;

/// Which event of a round went wrong.
#[derive(Debug)]
struct Place(usize);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}", self.0)
    }
}

/// The event at which a run failed.
pub(crate) fn place(error: &anyhow::Error) -> Option<usize> {
    error.downcast_ref::<Place>().map(|place| place.0)
}

/// A flow as the client sees it, and as it goes on.
#[derive(Clone, Debug)]
struct Flow {
    way: Way,
    first: Packet,
    sent: Packet,
    fate: Fate,
    /// Through a service: whose endpoint, of which life.
    chosen: Option<(Group, u32)>,
    /// A FIN or RST went by: the next SYN may be a new connection.
    ending: bool,
    /// Its client was told that its endpoint is gone.
    reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Draining,
    Gone,
}

/// Protocol, source, destination: a flow's packets before translation, or after.
pub(crate) type Tuple = (u8, SocketAddr, SocketAddr);

fn tuple(packet: &Packet) -> Tuple {
    (packet.proto(), packet.source(), packet.destination())
}

/// What flows left as on a node, of those that are no more, too: their entries rest in the table. A round has client ports
/// of its own, but those that were drawn for a flow may be any.
pub(crate) type Used = BTreeSet<Tuple>;

pub(crate) struct Judge<'a> {
    node: &'a mut Node,
    site: Site,
    services: Vec<Service>,
    round: u32,
    flows: BTreeMap<Tuple, Flow>,
    used: &'a mut Used,
    lives: BTreeMap<(Group, SocketAddr), (State, u32)>,
    affinity: BTreeMap<(IpAddr, Group), (SocketAddr, u32)>,
    packets: u64,
}

impl<'a> Judge<'a> {
    /// The number of packets that went right.
    pub(crate) fn run(node: &'a mut Node, round: &Round, used: &'a mut Used) -> Result<u64> {
        node.enter()?;
        node.services(Vec::new())?;
        node.drained()?;
        node.services(round.services.clone())?;
        let site = Site { node: Plan::BOTH.map(Plan::node).to_vec(), external_ips: true };
        let mut judge = Self {
            node,
            site,
            services: round.services.clone(),
            round: round.number,
            flows: BTreeMap::new(),
            used,
            lives: BTreeMap::new(),
            affinity: BTreeMap::new(),
            packets: 0,
        };
        judge.age(false);
        for (at, event) in round.events.iter().enumerate() {
            judge.event(event).with_context(|| format!("{event:?}")).context(Place(at))?;
        }
        Ok(judge.packets)
    }

    /// Endpoints come, drain, and are gone.
    fn age(&mut self, drained: bool) {
        let mut now = BTreeSet::new();
        for service in &self.services {
            for (index, v4) in [true, false].into_iter().flat_map(|v4| (0..service.ports.len()).map(move |i| (i, v4))) {
                let group = Group { service: service.name.clone(), port: index, v4 };
                now.extend(
                    model::alive(service, &service.ports[index], v4).into_iter().map(|end| (group.clone(), end)),
                );
            }
        }
        for (key, (state, _)) in &mut self.lives {
            match *state {
                State::Active if !now.contains(key) => *state = State::Draining,
                State::Draining if drained => *state = State::Gone,
                _ => {}
            }
        }
        for key in now {
            let life = self.lives.entry(key).or_insert((State::Active, 0));
            if life.0 == State::Gone {
                life.1 += 1;
            }
            life.0 = State::Active;
        }
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Change { service, endpoints } => {
                let changed = &mut self.services[*service];
                changed.ports[0].endpoints.clone_from(endpoints);
                let report = self.node.datapath.sync(vec![(changed.name.clone(), Some(changed.clone()))])?;
                ensure!(report.rejected.is_empty(), "{:?}", report.rejected);
                self.age(false);
                Ok(())
            }
            Event::Drained => {
                self.node.drained()?;
                self.age(true);
                Ok(())
            }
            Event::Ask { plan, service, address, who, door, stage, dress, size } => {
                let n = *service as u16 + 1;
                let port = &self.services[*service].ports[0];
                let to = match address {
                    0 => SocketAddr::new(plan.vip(n), PORT),
                    1 => SocketAddr::new(plan.balancer(n), PORT),
                    2 => SocketAddr::new(plan.node(), NODE_PORT + n),
                    _ => SocketAddr::new(plan.external(n), PORT),
                };
                let body = body(number(port.protocol), *stage).sized(*size);
                let packet = Packet::new(self.client(*plan, *who), to, body);
                self.ask(way(*who, *door, &packet), packet, *stage, *dress)
            }
            Event::Direct { plan, service, endpoint, who, door, stage } => {
                let port = &self.services[*service].ports[0];
                let local = port.endpoints.iter().filter(|end| end.local && end.address.is_ipv4() == plan.v4);
                let local: Vec<SocketAddr> = local.map(|end| end.address).collect();
                let Some(to) = local.get(*endpoint % local.len().max(1)) else { return Ok(()) };
                let body = body(number(port.protocol), *stage);
                let packet = Packet::new(self.client(*plan, *who), *to, body);
                self.untranslated(way(*who, *door, &packet), packet, *stage)
            }
            Event::Leave { plan, who, protocol, stage } => {
                let to = SocketAddr::new(plan.client(9), 443);
                let packet = Packet::new(self.client(*plan, *who), to, body(number(*protocol), *stage));
                self.untranslated(Way::Leave, packet, *stage)
            }
            Event::Answer { flow, door, stage } => {
                let Some(key) = self.flows.keys().nth(flow % self.flows.len().max(1)).copied() else { return Ok(()) };
                self.answer(key, *door, *stage)
            }
            Event::Stray { plan, who, door, address, protocol } => {
                let to = match address {
                    0 => SocketAddr::new(plan.vip(1), PORT + 1),
                    1 => SocketAddr::new(plan.vip(9), PORT),
                    2 => SocketAddr::new(plan.node(), NODE_PORT + 9),
                    _ => SocketAddr::new(plan.node(), 22),
                };
                let packet = Packet::new(self.client(*plan, *who), to, Body::opening(number(*protocol)));
                self.packets += 1;
                self.node.untouched(way(*who, *door, &packet), &packet)
            }
        }
    }

    /// Clients outside are of this round alone, by address; pods, by port.
    fn client(&self, plan: Plan, who: Who) -> SocketAddr {
        match who.pod {
            Some(pod) => {
                let port = 1024 + (self.round * 4 + u32::from(who.port)) % 28_000;
                SocketAddr::new(plan.pod(PODS[pod]), port as u16)
            }
            None => {
                let n = self.round * 4 + who.number;
                let ip = match plan.v4 {
                    true => IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n % 0x2_0000)),
                    false => IpAddr::V6(Ipv6Addr::from((0x2001_0db8_000d_u128 << 80) + u128::from(n))),
                };
                // One of the ports is of those the host itself uses, too.
                SocketAddr::new(ip, if who.port == 3 { 40_000 } else { 2000 + who.port })
            }
        }
    }

    fn state(&self, flow: &Flow) -> State {
        let Some((group, generation)) = &flow.chosen else { return State::Active };
        match self.lives.get(&(group.clone(), flow.sent.destination())) {
            Some((state, now)) if now == generation => *state,
            _ => State::Gone,
        }
    }

    /// A client's packet to a service.
    fn ask(&mut self, way: Way, packet: Packet, stage: Stage, dress: Dress) -> Result<()> {
        let key = tuple(&packet);
        let tcp = packet.proto() == proto::TCP;
        let opens = tcp && stage == Stage::Open;
        let (mut same, mut new, mut reset) = (None, true, false);
        if let Some(flow) = self.flows.get(&key) {
            let state = self.state(flow);
            let goes_on = match state {
                State::Active => true,
                State::Draining => tcp && !opens,
                State::Gone => false,
            };
            same = goes_on.then(|| flow.clone());
            new = !goes_on || (opens && flow.ending);
            // SCTP has connections as TCP, and no resets as it: either will do.
            if packet.proto() == proto::SCTP && state == State::Draining {
                (same, new) = (Some(flow.clone()), true);
            }
            if tcp && state == State::Gone && !opens {
                (new, reset) = (flow.reset, true);
            }
        }
        let side = if packet_side(way) == Side::Pod { Side::Pod } else { Side::Outside };
        let protocol = match packet.proto() {
            proto::TCP => Protocol::Tcp,
            proto::UDP => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        let answer = self.site.answer(&self.services, side, packet.src, packet.destination(), protocol);
        // What is answered is answered in the form it came in, piece by piece; that is for other tests.
        let whole = reset || (same.is_none() && !matches!(answer, Answer::Among { .. }));
        // A tag in the data keeps a frame from being sent out by the program: its VLAN's own interface meets it.
        let tagged = matches!(&answer, Answer::Among { set, .. } if set.iter().any(|end| elsewhere(end.ip())))
            || same.as_ref().is_some_and(|flow| flow.fate == Fate::Sent);
        // The CRC of an SCTP packet cannot be moved on a piece: how much follows is not known there.
        let sctp = packet.proto() == proto::SCTP && dress == Dress::Pieces;
        let dress = if whole || sctp || (tagged && dress == Dress::Tagged) { Dress::Plain } else { dress };

        self.packets += 1;
        let ((fate, found), counted) = self.node.counted(|node| deliver(node, way, &packet, dress))?;
        let shown = || format!("{way:?}: {packet}\n  is {fate:?} as {found}, counted {counted:?}");

        if reset && fate == Fate::Sent && found.destination() == packet.source() {
            ensure!(counted.contains_key("reset_endpoint_gone"), "{}", shown());
            refusal(Plan { v4: packet.src.is_ipv4() }, &packet, &found)?;
            self.flows.get_mut(&key).context("it is of a flow")?.reset = true;
            return Ok(());
        }
        if reset && stage == Stage::Reset && fate == Fate::Dropped {
            return Ok(());
        }
        // A connection that ended may be followed by one under the same tuple, to the same endpoint.
        let begins = new && (counted.contains_key("flow_new") || counted.contains_key("flow_moved"));
        if let Some(flow) = &same
            && !begins
            && fate == flow.fate
            && same_way(&found, &packet, flow)
        {
            ensure!(!counted.contains_key("flow_new"), "{}\n  though it is of {} > {}", shown(), flow.first, flow.sent);
            self.note(key, stage);
            return Ok(());
        }
        let before = same.map(|flow| format!("{} > {}", flow.first, flow.sent));
        ensure!(new, "{}\n  should go on as {before:?}, reset: {reset}", shown());
        if !matches!(answer, Answer::Among { .. }) {
            self.flows.remove(&key);
        }
        match answer {
            Answer::Nothing | Answer::Host => {
                ensure!(fate == Fate::On && found == packet, "{}\n  should be untouched: {answer:?}", shown());
            }
            Answer::Dropped(reason) => {
                ensure!(
                    fate == Fate::Dropped && counted.get(reason) == Some(&1),
                    "{}\n  should be {answer:?}",
                    shown()
                );
            }
            Answer::Refused if stage == Stage::Reset => {
                ensure!(fate == Fate::Dropped || !tcp, "{}\n  a reset must not be answered", shown());
            }
            Answer::Refused => {
                ensure!(
                    fate == Fate::Sent && counted.get("refused_no_endpoint") == Some(&1),
                    "{}\n  should be {answer:?}",
                    shown()
                );
                refusal(Plan { v4: packet.src.is_ipv4() }, &packet, &found).with_context(shown)?;
            }
            Answer::Among { ref group, ref set, local, affinity } => {
                let end = found.destination();
                let held = self.affinity.get(&(packet.src, group.clone())).copied().filter(|(end, generation)| {
                    affinity && self.lives.get(&(group.clone(), *end)) == Some(&(State::Active, *generation))
                });
                let right = match held {
                    Some((held, _)) if set.contains(&held) => end == held,
                    // Another of the service's addresses led the client there: this one may, unless its policy is Local.
                    Some((held, _)) if !local => end == held || set.contains(&end),
                    _ => set.contains(&end),
                };
                ensure!(right, "{}\n  should go to one of {set:?}, held at {held:?}", shown());
                self.begin(way, packet.clone(), fate, found.clone(), Some(group.clone())).with_context(shown)?;
                ensure!(
                    counted.contains_key("flow_new") != counted.contains_key("flow_moved"),
                    "{}\n  a new flow is counted as such, once",
                    shown()
                );
                if affinity {
                    let generation = self.lives[&(group.clone(), end)].1;
                    self.affinity.insert((packet.src, group.clone()), (end, generation));
                }
                self.note(key, stage);
            }
        }
        Ok(())
    }

    /// A new flow: under which source it may leave.
    fn begin(&mut self, way: Way, packet: Packet, fate: Fate, found: Packet, group: Option<Group>) -> Result<()> {
        let plan = Plan { v4: packet.src.is_ipv4() };
        let (end, source) = (found.destination(), found.source());
        let pod = packet_side(way) == Side::Pod;
        let away = match way {
            Way::Leave => true,
            _ if pod => end.ip() == packet.src,
            _ => elsewhere(end.ip()),
        };
        let sent_out = away && way != Way::Leave;
        ensure!(fate == if sent_out { Fate::Sent } else { Fate::On }, "towards {end} it is {fate:?}");
        let old = self.flows.remove(&tuple(&packet));
        let taken: BTreeSet<Tuple> = self.flows.values().map(|flow| tuple(&flow.sent)).collect();
        ensure!(!taken.contains(&tuple(&found)), "another flow leaves as {} > {end} already", source);
        if away {
            let allowed = source.port() >= 1024 && !(32_768..=60_999).contains(&source.port());
            ensure!(source.ip() == plan.node() && allowed, "it leaves from {source}");
        } else {
            ensure!(source.ip() == packet.src, "it leaves from {source}");
            let plain = (packet.proto(), packet.source(), end);
            let own = old.is_some_and(|old| tuple(&old.sent) == plain);
            ensure!(
                source == packet.source() || taken.contains(&plain) || (self.used.contains(&plain) && !own),
                "its port became {} for no reason",
                source.port()
            );
        }
        let expected = packet.clone().from(source).to(end);
        // Back to the pod itself there is no hop.
        let hop = sent_out && found == expected.clone().hop();
        ensure!(hop || (found == expected && (pod || !sent_out)), "something else changed");
        let generation = group.as_ref().map_or(0, |group| self.lives[&(group.clone(), end)].1);
        self.used.insert(tuple(&found));
        let flow = Flow {
            way,
            first: packet.clone(),
            sent: Packet { ttl: 64, ..found },
            fate,
            chosen: group.map(|group| (group, generation)),
            ending: false,
            reset: false,
        };
        self.flows.insert(tuple(&packet), flow);
        Ok(())
    }

    fn note(&mut self, key: Tuple, stage: Stage) {
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.ending |= matches!(stage, Stage::Fin | Stage::Reset);
        }
    }

    /// A packet to a pod's own address, or from a pod to somebody outside.
    fn untranslated(&mut self, way: Way, packet: Packet, stage: Stage) -> Result<()> {
        let key = tuple(&packet);
        self.packets += 1;
        let ((fate, found), counted) = self.node.counted(|node| node.send(way, &packet))?;
        let shown = || format!("{way:?}: {packet}\n  is {fate:?} as {found}, counted {counted:?}");
        match self.flows.get(&key).cloned() {
            Some(flow) if fate == flow.fate && same_way(&found, &packet, &flow) => {}
            Some(flow) if !flow.ending => bail!("{}\n  should go on as {} > {}", shown(), flow.first, flow.sent),
            _ => self.begin(way, packet.clone(), fate, found.clone(), None).with_context(shown)?,
        }
        self.note(key, stage);
        Ok(())
    }

    /// The other side of a flow says something.
    fn answer(&mut self, key: Tuple, door: Door, stage: Stage) -> Result<()> {
        let flow = self.flows[&key].clone();
        if self.state(&flow) == State::Gone || flow.reset {
            return Ok(());
        }
        let seen = Packet::new(flow.sent.destination(), flow.sent.source(), answering(flow.sent.proto(), stage));
        let told = seen.clone().from(flow.first.destination()).to(flow.first.source());
        let way = match flow.way {
            Way::FromPod(pod) if flow.fate == Fate::Sent => Way::FromPod(pod),
            Way::FromPod(pod) | Way::ToPod(pod) => Way::ToPod(pod),
            Way::Leave => arriving(door, &seen),
            Way::Arrive(_) if flow.fate == Fate::Sent => arriving(door, &seen),
            Way::Arrive(_) => Way::Leave,
        };
        self.packets += 1;
        let ((fate, found), counted) = self.node.counted(|node| node.send(way, &seen))?;
        let expected = if flow.way == Way::Leave { Fate::On } else { flow.fate };
        let hop = |packet: Packet| if expected == Fate::Sent { packet.hop() } else { packet };
        // Back to the pod itself, past the host: a bridge's way, and a router's.
        let hairpin = matches!(way, Way::FromPod(_)) && found == told;
        ensure!(
            fate == expected && (found == hop(told.clone()) || hairpin),
            "{way:?}: {seen}\n  in answer to {} > {}\n  is {fate:?} as {found}, counted {counted:?}\n  should be {expected:?} as {told}",
            flow.first,
            flow.sent
        );
        self.note(key, stage);
        Ok(())
    }
}

/// Whether a packet of a flow left as the flow does.
fn same_way(found: &Packet, packet: &Packet, flow: &Flow) -> bool {
    let expected = packet.clone().from(flow.sent.source()).to(flow.sent.destination());
    *found == expected || (flow.fate == Fate::Sent && *found == expected.hop())
}

/// An endpoint of another node.
fn elsewhere(end: IpAddr) -> bool {
    let plan = Plan { v4: end.is_ipv4() };
    !(0..=255).any(|n| plan.pod(n) == end)
}

fn packet_side(way: Way) -> Side {
    match way {
        Way::FromPod(_) | Way::ToPod(_) => Side::Pod,
        Way::Arrive(_) | Way::Leave => Side::Outside,
    }
}

fn way(who: Who, door: Door, packet: &Packet) -> Way {
    who.pod.map_or_else(|| arriving(door, packet), Way::FromPod)
}

/// Behind a veth one finished checksum in 65536 looks unfinished; such a packet takes another door.
fn arriving(door: Door, packet: &Packet) -> Way {
    Way::Arrive(if door == Door::Veth && packet.looks_unfinished() { Door::Tc } else { door })
}

fn body(proto: u8, stage: Stage) -> Body {
    match (proto, stage) {
        (proto::TCP, Stage::Open) => Body::tcp(flag::SYN),
        (proto::TCP, Stage::Fin) => Body::tcp(flag::FIN | flag::ACK),
        (proto::TCP, Stage::Reset) => Body::tcp(flag::RST),
        _ => Body::later(proto),
    }
}

fn answering(proto: u8, stage: Stage) -> Body {
    match (proto, stage) {
        (proto::TCP, Stage::Open) => Body::tcp(flag::SYN | flag::ACK),
        _ => body(proto, stage).sized(50),
    }
}

/// Sends a packet in an odd form; what came of it, in the plain form again.
fn deliver(node: &mut Node, way: Way, packet: &Packet, dress: Dress) -> Result<(Fate, Packet)> {
    let mut odd = packet.clone();
    let tcp = packet.proto() == proto::TCP;
    match dress {
        Dress::Options if packet.src.is_ipv4() => odd.options = vec![1, 1, 1, 0],
        Dress::Options => odd.extensions = vec![proto::HOP, proto::DESTINATION],
        Dress::Unchecked if packet.src.is_ipv4() => {
            if let Body::Udp { checked, .. } = &mut odd.body {
                *checked = false;
            }
        }
        // TCP flags stand behind what a piece of 16 bytes has.
        Dress::Pieces if packet.payload_len() > if tcp { 40 } else { 24 } => {
            odd.df = false;
            odd.id = 0x4000 | u32::from(packet.ports().0);
            let pieces = odd.fragments(if tcp { 32 } else { 16 });
            let found = pieces.iter().map(|piece| node.send(way, piece)).collect::<Result<Vec<_>>>()?;
            ensure!(found.iter().all(|(fate, _)| *fate == found[0].0), "the pieces of {odd} part: {found:?}");
            let parts: Vec<Packet> = found.iter().map(|(_, piece)| piece.clone()).collect();
            let joined = Packet::join(&parts).map_err(|wrong| anyhow!("of the pieces of {odd}: {wrong}"))?;
            return Ok((found[0].0, Packet { df: packet.df, id: packet.id, ..joined }));
        }
        Dress::Tagged => {
            let frame = Frame { tags: vec![7], ..packet.clone().framed() };
            let (fate, found) = node.send_frame(way, &frame)?;
            ensure!(fate != Fate::On || found.tags == frame.tags, "{frame} lost its tag: {found}");
            return Ok((fate, found.packet));
        }
        _ => {}
    }
    let (fate, mut found) = node.send(way, &odd)?;
    ensure!((&found.options, &found.extensions) == (&odd.options, &odd.extensions), "{odd} became {found}");
    (found.options, found.extensions) = (packet.options.clone(), packet.extensions.clone());
    if let (Body::Udp { checked, .. }, true) = (&mut found.body, packet.src.is_ipv4()) {
        ensure!(fate == Fate::Dropped || *checked == (dress != Dress::Unchecked), "{odd} became {found}");
        *checked = true;
    }
    Ok((fate, found))
}
