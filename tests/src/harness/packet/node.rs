//! A node under test: its interfaces are there, its programs are run on packets as the kernel would run them.
//!
//! Every packet that arrives meets XDP first and, if that passes it on, tc. Nothing is sent: what a program redirects is
//! seen as it left the program.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairlead_datapath::{Config, Datapath, PodInterface};
use fairlead_source::Service;

use super::plan::Plan;
use super::{Frame, Mac, Packet};
use crate::harness::namespace::{Inhabitant, Namespace};
use crate::harness::sandbox::Sandbox;

/// The router's hardware address.
pub const GATEWAY: Mac = [2, 0, 0, 0, 0xfe, 0xfe];
/// The other node's.
pub const PEER: Mac = [2, 0, 0, 0, 0, 2];
/// The uplink's own.
pub const UPLINK: Mac = [2, 0, 0, 0, 0, 1];

/// `n` of the pods that have interfaces.
pub const PODS: [u16; 2] = [11, 12];

/// Ports that clients have.
const FIRST_PORT: u16 = 1100;
const PORTS: u32 = 31_000;

/// How long removed endpoints drain.
const DRAIN: Duration = Duration::from_secs(30);

/// By which program a packet comes into the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// XDP of a card, then tc.
    Card,
    /// XDP of a virtual interface, then tc.
    Veth,
    /// tc alone.
    Tc,
}

/// All of them.
pub const DOORS: [Door; 3] = [Door::Card, Door::Veth, Door::Tc];

/// Where a packet meets the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From outside, into the uplink.
    Arrive(Door),
    /// Out of the uplink.
    Leave,
    /// From a pod, by its place in [`PODS`].
    FromPod(usize),
    /// To a pod.
    ToPod(usize),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on the way it was going: to the host's stack, or out.
    On,
    /// It is sent out somewhere by the program.
    Sent,
    /// It is gone.
    Dropped,
}

/// What a node's surroundings are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Addresses of both families, and a default route.
    Usual,
    /// No IPv6 address, and no route but to the neighbours.
    Poor,
}

/// Counters that changed, with by how much.
pub type Counted = BTreeMap<&'static str, u64>;

/// A node.
pub struct Node {
    /// What is tested.
    pub datapath: Datapath,
    uplink: u32,
    pods: Vec<u32>,
    inside: Namespace,
    _others: Vec<Namespace>,
    _inhabitants: Vec<Inhabitant>,
    sandbox: Sandbox,
    ports: u32,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("uplink", &self.uplink).finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.inside.enter() {
            eprintln!("{error:#}");
        }
        if let Err(error) = fairlead_datapath::remove(&self.sandbox.bpffs()) {
            eprintln!("{error}");
        }
    }
}

impl Node {
    /// A node with an uplink and two pods, and a calling thread that lives in it.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(shape: Shape, configure: impl FnOnce(&mut Config)) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        inside.forward()?;
        inside.connect("up0", &outside, "wire")?;
        inside.hardware("up0", UPLINK)?;
        let mut others = vec![outside];
        let mut inhabitants = Vec::new();
        for n in PODS {
            let pod = Namespace::new()?;
            inside.connect(&format!("pod{n}"), &pod, "eth0")?;
            pod.hardware("eth0", pod_mac(n))?;
            inhabitants.push(pod.inhabit()?);
            others.push(pod);
        }
        for plan in Plan::BOTH {
            let (whole, net) = if plan.v4 { (32, 24) } else { (128, 64) };
            if plan.v4 || shape == Shape::Usual {
                inside.address("up0", plan.node(), net)?;
            }
            if shape == Shape::Usual {
                inside.route("up0", super::nowhere(plan.v4), 0, Some(plan.gateway()))?;
            }
            inside.route("up0", plan.remote(0), net, Some(plan.peer()))?;
            inside.neighbour("up0", plan.gateway(), GATEWAY)?;
            inside.neighbour("up0", plan.peer(), PEER)?;
            for n in PODS {
                inside.route(&format!("pod{n}"), plan.pod(n), whole, None)?;
                inside.neighbour(&format!("pod{n}"), plan.pod(n), pod_mac(n))?;
            }
        }
        inside.enter()?;

        let mut config = Config::new(sandbox.bpffs(), sandbox.cgroup());
        config.cluster_cidrs =
            Plan::BOTH.map(|plan| plan.networks().0.parse()).into_iter().collect::<Result<_, _>>()?;
        config.non_masquerade =
            Plan::BOTH.map(|plan| plan.networks().1.parse()).into_iter().collect::<Result<_, _>>()?;
        config.drain = DRAIN;
        // As much as the largest of the tests needs: there are several nodes, and virtual machines are small.
        (config.services, config.backends) = (1 << 12, 1 << 14);
        (config.slots, config.flows) = (1 << 20, 1 << 17);
        configure(&mut config);
        let mut datapath = Datapath::open(config).context("cannot open the data path")?;
        let uplink = datapath.attach_uplink("up0").context("cannot attach to the uplink")?.ifindex;
        datapath.sync_all(Vec::<fairlead_source::Service>::new())?;
        let mut pods = Vec::new();
        for n in PODS {
            let name = format!("pod{n}");
            let ifindex = nix::net::if_::if_nametoindex(name.as_str())?;
            let addresses = Plan::BOTH.map(|plan| plan.pod(n)).to_vec();
            datapath.attach_pod(&PodInterface { name, ifindex, addresses, mac: pod_mac(n), netns_cookie: 0 })?;
            pods.push(ifindex);
        }
        Ok(Self { datapath, uplink, pods, inside, _others: others, _inhabitants: inhabitants, sandbox, ports: 0 })
    }

    /// Where its maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.sandbox.bpffs().join("fairlead").join(format!("v{}", fairlead_abi::VERSION)).join("maps")
    }

    /// Lets the calling thread live here.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> Result<()> {
        self.inside.enter()
    }

    /// Puts these services, and no others, in force.
    ///
    /// # Errors
    /// One is refused.
    pub fn services(&mut self, services: Vec<Service>) -> Result<()> {
        let report = self.datapath.sync_all(services)?;
        ensure!(report.rejected.is_empty(), "refused: {:?}", report.rejected);
        Ok(())
    }

    /// Lets removed endpoints drain to the end.
    ///
    /// # Errors
    /// The data path's own.
    pub fn drained(&mut self) -> Result<()> {
        self.datapath.tick(Instant::now() + DRAIN + Duration::from_secs(1))?;
        Ok(())
    }

    /// A port that hardly any test of this node has had, below the host's ephemeral ones.
    pub fn port(&mut self) -> u16 {
        self.ports += 1;
        FIRST_PORT + (self.ports % PORTS) as u16
    }

    /// A client of the plan, address and port together such as no test has had.
    pub fn client(&mut self, plan: Plan) -> SocketAddr {
        let port = self.port();
        SocketAddr::new(plan.client(77 + (self.ports / PORTS) as u16), port)
    }

    /// Lets a packet go its way. What comes out has every checksum right.
    ///
    /// # Errors
    /// A program fails, does what it must not, or makes nonsense of the packet.
    pub fn send(&mut self, way: Way, packet: &Packet) -> Result<(Fate, Packet)> {
        let (fate, frame) = self.send_frame(way, &packet.clone().framed())?;
        Ok((fate, frame.packet))
    }

    /// The same for a frame.
    ///
    /// # Errors
    /// As there.
    pub fn send_frame(&mut self, way: Way, frame: &Frame) -> Result<(Fate, Frame)> {
        let (fate, bytes) = self.send_bytes(way, &frame.bytes()).with_context(|| format!("{way:?}: {frame}"))?;
        let out = match fate {
            Fate::Dropped => frame.clone(),
            _ => Frame::parse(&bytes)
                .map_err(|wrong| anyhow!("{way:?}: of {frame} came {fate:?} nonsense: {wrong}\n  {bytes:02x?}"))?,
        };
        Ok((fate, out))
    }

    /// The same for bytes that make sense to nobody else.
    ///
    /// # Errors
    /// A program fails, or does what it must not.
    pub fn send_bytes(&mut self, way: Way, bytes: &[u8]) -> Result<(Fate, Vec<u8>)> {
        match way {
            Way::Arrive(Door::Card) => self.xdp("xdp_service", bytes),
            Way::Arrive(Door::Veth) => self.xdp("xdp_service_veth", bytes),
            Way::Arrive(Door::Tc) => self.tc("tc_uplink_in", self.uplink, bytes),
            Way::Leave => self.tc("tc_uplink_out", self.uplink, bytes),
            Way::FromPod(pod) => self.tc("tc_from_pod", self.pods[pod], bytes),
            Way::ToPod(pod) => self.tc("tc_to_pod", self.pods[pod], bytes),
        }
    }

    /// One program on a packet at the uplink, and nothing behind it: its verdict, and what it left.
    ///
    /// # Errors
    /// It fails.
    pub fn alone(&mut self, program: &'static str, bytes: &[u8]) -> Result<(u32, Vec<u8>)> {
        Ok(self.datapath.run_on(program, self.uplink, bytes)?)
    }

    /// XDP, and tc behind it.
    fn xdp(&mut self, program: &'static str, bytes: &[u8]) -> Result<(Fate, Vec<u8>)> {
        let (verdict, out) = self.datapath.run_on(program, self.uplink, bytes)?;
        match verdict {
            1 => Ok((Fate::Dropped, out)),
            2 => self.tc("tc_uplink_in", self.uplink, &out),
            3 if program == "xdp_service" => Ok((Fate::Sent, out)),
            4 => Ok((Fate::Sent, out)),
            other => bail!("{program} said {other}"),
        }
    }

    fn tc(&mut self, program: &'static str, interface: u32, bytes: &[u8]) -> Result<(Fate, Vec<u8>)> {
        let (verdict, out) = self.datapath.run_on(program, interface, bytes)?;
        let fate = match verdict {
            // TC_ACT_UNSPEC and TC_ACT_OK.
            u32::MAX | 0 => Fate::On,
            2 => Fate::Dropped,
            7 => Fate::Sent,
            other => bail!("{program} said {other}"),
        };
        Ok((fate, out))
    }

    /// What was counted while something was done.
    ///
    /// # Errors
    /// Those of the doing.
    pub fn counted<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Counted)> {
        let before = self.datapath.counters()?;
        let done = work(self)?;
        let after = self.datapath.counters()?;
        let changed = after.into_iter().map(|(name, count)| (name, count - before.get(name).copied().unwrap_or(0)));
        Ok((done, changed.filter(|(_, count)| *count > 0).collect()))
    }

    /// Lets a packet go its way: this must become of it, it must look like this (what is sent on has made a hop), and
    /// these, each once and no others, must be counted.
    ///
    /// # Errors
    /// Something else happens.
    pub fn expect(
        &mut self,
        way: Way,
        packet: &Packet,
        fate: Fate,
        out: &Packet,
        counters: &[&'static str],
    ) -> Result<()> {
        let ((found_fate, found), counted) = self.counted(|node| node.send(way, packet))?;
        let right = fate == Fate::Dropped
            || found == *out
            || (fate == Fate::Sent && Packet { ttl: found.ttl + 1, ..found.clone() } == *out);
        ensure!(
            found_fate == fate && right,
            "{way:?}: {packet}\n  should be {fate:?} as {out}\n  but it is {found_fate:?} as {found}\n  counted: {counted:?}"
        );
        let expected: Counted = counters.iter().map(|name| (*name, 1)).collect();
        ensure!(
            counted == expected,
            "{way:?}: {packet}\n  is {fate:?} as {found}, which is right, but counted are {counted:?}, not {counters:?}"
        );
        Ok(())
    }

    /// Passes untouched and uncounted.
    ///
    /// # Errors
    /// It does not.
    pub fn untouched(&mut self, way: Way, packet: &Packet) -> Result<()> {
        self.expect(way, packet, Fate::On, packet, &[])
    }
}

/// The hardware address of a pod's own end.
pub fn pod_mac(n: u16) -> Mac {
    [2, 0, 0, 1, 0, n as u8]
}
