//! Traffic from a client to the endpoints of a service, through a node that a peer has programmed.
//!
//! Inside, the client is a pod and asks the service's own address; outside, it is a machine that is no part of the cluster
//! and asks a port of the node.

mod changing;
mod live;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::options::{Options, Peer};
use crate::peers::services::{Measured, Spec};
use crate::peers::{Proxy, Rig};
use crate::results::{Better, Cell};
use crate::rig::agent::{Flows, Sources, Times};
use crate::rig::node::{self, Side};
use crate::stage::Stage;
use crate::workload::{Case, Figure, Sample, Workload};

pub(crate) use changing::Changing;
pub(crate) use live::Live;

/// Connections under way at a time.
const AT_ONCE: usize = 32;
/// Streams, where there are many.
const STREAMS: usize = 16;
/// For datagrams that are under way when the sender is done.
const UNDER_WAY: Duration = Duration::from_millis(2);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rate,
    Connect,
    Exchange,
    Stream(usize),
    Datagrams(Flows),
}

/// Traffic of one kind from one place.
#[derive(Debug)]
pub(crate) struct Traffic {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    is_outside: bool,
}

const fn figure(name: &'static str, unit: &'static str, better: Better) -> Figure {
    Figure { name, unit, better }
}

const TIMES: [Figure; 2] = [figure("p50", "µs", Better::Lower), figure("p99", "µs", Better::Lower)];

impl Traffic {
    /// All kinds, from inside and from outside.
    pub(crate) fn all() -> Vec<Self> {
        let of = |name, title, kind, is_outside| Self { name, title, kind, is_outside };
        vec![
            of("connect-rate", "New TCP connections per second", Kind::Rate, false),
            of("connect-time", "Time of a TCP connect()", Kind::Connect, false),
            of("exchange", "A byte there and back on a held connection", Kind::Exchange, false),
            of("stream", "One TCP stream", Kind::Stream(1), false),
            of("streams", "Sixteen TCP streams", Kind::Stream(STREAMS), false),
            of("udp-held", "UDP packets of one flow per second", Kind::Datagrams(Flows::Held(1)), false),
            of("udp-new", "UDP packets per second, each a new flow", Kind::Datagrams(Flows::New), false),
            of("outside-connect-rate", "From outside: new TCP connections per second", Kind::Rate, true),
            of("outside-connect-time", "From outside: time of a TCP connect()", Kind::Connect, true),
            of("outside-exchange", "From outside: a byte there and back on a held connection", Kind::Exchange, true),
            of("outside-stream", "From outside: one TCP stream", Kind::Stream(1), true),
            of(
                "outside-udp-held",
                "From outside: UDP packets of one flow per second",
                Kind::Datagrams(Flows::Held(1)),
                true,
            ),
            of(
                "outside-udp-new",
                "From outside: UDP packets per second, each a new flow",
                Kind::Datagrams(Flows::New),
                true,
            ),
        ]
    }

    /// Where a peer's client is; `None` if this traffic does not concern the peer.
    fn side(&self, peer: Peer) -> Option<Side> {
        let is_datagrams = matches!(self.kind, Kind::Datagrams(_));
        match (peer, self.is_outside) {
            (Peer::FairleadXdp, true) => Some(Side::Outside),
            (Peer::FairleadXdp, false) => None,
            (Peer::FairleadSocket | Peer::FairleadPacket, true) => None,
            // Frames are nothing that socket hooks see.
            (Peer::FairleadSocket, false) => (!is_datagrams).then_some(Side::Pod),
            (Peer::FairleadPacket, false) => Some(Side::Stranger),
            (_, true) => Some(Side::Outside),
            (_, false) => Some(Side::Pod),
        }
    }

    fn what(&self) -> Measured {
        match self.kind {
            Kind::Rate | Kind::Connect | Kind::Exchange => Measured::Echo,
            Kind::Stream(_) => Measured::Sink,
            Kind::Datagrams(_) => Measured::Datagrams,
        }
    }

    fn sample(&self, rig: &mut Rig, route: &Route, from: Sources, time: Duration) -> Result<Sample> {
        let to = route.address(rig, self.what());
        let (core, side) = (route.core, route.side);
        match self.kind {
            Kind::Rate => {
                let rate = rig.client(core, side)?.rate(to, from, AT_ONCE, time)?;
                ensure!(rate.done > 0, "all {} connections failed", rate.failed);
                Ok(Sample { failures: rate.failed, ..Sample::from(rate.per_second()) })
            }
            Kind::Connect => Ok(times(rig.client(core, side)?.connect(to, time)?)),
            Kind::Exchange => Ok(times(rig.client(core, side)?.exchange(to, time)?)),
            Kind::Stream(streams) => {
                let rate = rig.client(core, side)?.stream(to, streams, time)?;
                Ok(Sample::from(rate.per_second() * 8.0 / 1e9))
            }
            Kind::Datagrams(flows) => {
                let before = rig.node.received()?;
                let gateway = side.gateway_mac();
                let sent = rig.client(core, side)?.datagrams(node::ETHERNET, gateway, to, from, flows, time)?;
                std::thread::sleep(UNDER_WAY);
                let received = rig.node.received()? - before;
                ensure!(received > 0, "none of {} datagrams arrived", sent.done);
                let figure = received as f64 / sent.time.as_secs_f64();
                Ok(Sample { failures: sent.done.saturating_sub(received), ..Sample::from(figure) })
            }
        }
    }
}

/// How a cell is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) peer: Peer,
    pub(crate) side: Side,
    pub(crate) spec: Spec,
    core: usize,
}

impl Route {
    pub(crate) fn of(stage: &Stage, cell: &Cell, side: Side) -> Result<Self> {
        let Ok(peer) = Peer::from_str(&cell.peer, false) else { bail!("no peer is called {}", cell.peer) };
        let endpoints = cell.endpoints.unwrap_or(stage.options.endpoints);
        // Without services of its own it is measured on the smallest node.
        let services = cell.services.unwrap_or(1);
        Ok(Self { peer, side, spec: Spec { services, endpoints }, core: stage.core })
    }

    pub(crate) fn address(&self, rig: &Rig, what: Measured) -> std::net::SocketAddrV4 {
        if self.peer.is_direct() { rig.endpoint(what) } else { rig.address(self.side, what) }
    }

    pub(crate) fn rig<'a>(&self, stage: &'a mut Stage) -> Result<&'a mut Rig> {
        stage.rig(Proxy::of(self.peer), self.spec)
    }
}

/// A place to start from in the sources of a side, so that no sample meets the ports of the one before.
pub(crate) fn sources(stage: &mut Stage, side: Side) -> Sources {
    Sources { addresses: side.addresses(), first: stage.draw.below(1 << 32) }
}

fn times(times: Times) -> Sample {
    let figures = times.percentiles.map(|nanoseconds| nanoseconds as f64 / 1000.0).to_vec();
    Sample { figures, histogram: Some(times.histogram), failures: 0 }
}

/// Cells of these peers, those with services once for each number of them, held against the direct way.
pub(crate) fn cases(options: &Options, concerns: impl Fn(Peer) -> bool) -> Vec<Case> {
    let direct = options.peers.contains(&Peer::Direct).then(|| Cell::bare(Peer::Direct.name()));
    let mut cases = Vec::new();
    for peer in options.peers.iter().copied().filter(|peer| concerns(*peer)) {
        let cells = match peer {
            Peer::Direct | Peer::DirectCt | Peer::DirectTc => vec![Cell::bare(peer.name())],
            _ => {
                let with = |services| Cell::with_services(peer.name(), services, options.endpoints);
                options.services().into_iter().map(with).collect()
            }
        };
        cases.extend(cells.into_iter().map(|cell| Case { cell, reference: direct.clone(), baseline: None }));
    }
    cases
}

/// Programs the node of a cell, unless that is not wanted, and sees that its client is there.
pub(crate) fn prepare(stage: &mut Stage, cell: &Cell, side: Side) -> Result<()> {
    let route = Route::of(stage, cell, side)?;
    if let Some(refusal) = cell.services.and_then(|services| stage.options.refusal(route.peer, services)) {
        bail!(refusal);
    }
    let core = stage.core;
    route.rig(stage)?.client(core, side).map(drop)
}

impl Workload for Traffic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn figures(&self) -> &'static [Figure] {
        const RATE: [Figure; 1] = [figure("", "conn/s", Better::Higher)];
        const BITS: [Figure; 1] = [figure("", "Gbit/s", Better::Higher)];
        const PACKETS: [Figure; 1] = [figure("", "packets/s", Better::Higher)];
        match self.kind {
            Kind::Rate => &RATE,
            Kind::Connect | Kind::Exchange => &TIMES,
            Kind::Stream(_) => &BITS,
            Kind::Datagrams(_) => &PACKETS,
        }
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        cases(options, |peer| self.side(peer).is_some())
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let Ok(peer) = Peer::from_str(&cell.peer, false) else { bail!("no peer is called {}", cell.peer) };
        prepare(stage, cell, self.side(peer).context("this traffic does not concern it")?)
    }

    fn run(&mut self, stage: &mut Stage, cell: &Cell, time: Duration) -> Result<Sample> {
        let Ok(peer) = Peer::from_str(&cell.peer, false) else { bail!("no peer is called {}", cell.peer) };
        let side = self.side(peer).context("this traffic does not concern it")?;
        let (route, from) = (Route::of(stage, cell, side)?, sources(stage, side));
        let rig = route.rig(stage)?;
        let sample = self.sample(rig, &route, from, time);
        rig.settle()?;
        sample
    }
}
