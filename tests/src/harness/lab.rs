//! A network of nodes, pods and clients made of network namespaces, each node with a daemon of its own.
//!
//! ```text
//!  client 1   client 2 …   (their way to LoadBalancer addresses is node 1, node 2 …)
//!     └────┬─────┘
//!        switch ──── node 1 ── pods, each on a link of its own
//!           ├─────── node 2 ── pods likewise
//!           └─────── node 3 ── a bridge ── pods, as other CNIs do it
//! ```
//!
//! Everything has an address of each family. A pod's sockets go through the hooks of its node; [`Pod::bypass`] is the same
//! pod for sockets that do not.

mod node;

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use super::dialogue::serve;
use super::guard::{self, Guard};
use super::manifest::{self, Manifests};
use super::namespace::Namespace;
use super::sandbox::Sandbox;

pub use self::node::{Node, Pod, http};

/// What `main` of a test with a lab calls first: true in a process beside the test, once the test has ended. Those stand
/// for its pods, and one cleans up after it.
pub fn is_aside() -> bool {
    let is_pause = std::env::args().nth(1).as_deref() == Some(node::PAUSE);
    if is_pause {
        let _ = std::io::stdin().read(&mut [0]);
    }
    is_pause || guard::is_guard()
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A family, and the addresses everybody has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from(v4)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(v6)),
        }
    }

    /// Of a node, on the switch.
    pub fn node(self, node: u8) -> IpAddr {
        self.pick([192, 0, 2, node], [0x2001, 0xdb8, 0, 0, 0, 0, 0, node.into()])
    }

    /// Of a client outside, on the switch.
    pub fn client(self, client: u8) -> IpAddr {
        let host = 100 + client;
        self.pick([192, 0, 2, host], [0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()])
    }

    /// Of a pod.
    pub fn pod(self, node: u8, pod: u8) -> IpAddr {
        self.pick([10, 244, node, pod], [0xfd00, 0x244, 0, node.into(), 0, 0, 0, pod.into()])
    }

    /// Of a node, as its pods' gateway.
    pub fn gateway(self, node: u8) -> IpAddr {
        self.pod(node, 1)
    }

    /// A ClusterIP.
    pub fn cluster_ip(self, service: u16) -> IpAddr {
        let [high, low] = service.to_be_bytes();
        self.pick([10, 96, high, low], [0xfd00, 0x96, 0, 0, 0, 0, 0, service])
    }

    /// A load balancer's address.
    pub fn load_balancer(self, service: u8) -> IpAddr {
        self.pick([198, 51, 100, service], [0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, service.into()])
    }

    /// Length of the prefix of a network for one host alone.
    pub fn alone(self) -> u8 {
        if self == Self::V4 { 32 } else { 128 }
    }

    /// Length of the prefix of the networks of hosts here.
    pub fn lan(self) -> u8 {
        if self == Self::V4 { 24 } else { 64 }
    }

    fn everywhere(self) -> IpAddr {
        self.pick([0; 4], [0; 8])
    }
}

/// How a node's pods hang on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Each on a link of its own, with a route.
    Routed,
    /// On a bridge.
    Bridged,
}

/// The whole network.
#[derive(Debug)]
pub struct Lab {
    /// From 1 on: `nodes[0]` is node 1.
    pub nodes: Vec<Node>,
    /// `clients[0]` is client 1; its way to services is node 1.
    pub clients: Vec<Namespace>,
    /// What all daemons read.
    pub manifests: Manifests,
    /// The switch; its ports are named after nodes and clients: `n1`, `c1`.
    pub switch: Namespace,
    guard: Arc<Guard>,
    // Last: the others are in it.
    sandbox: Sandbox,
}

impl Lab {
    /// Nodes of these kinds, with as many pods each and as many clients as nodes. No daemon runs yet.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(nodes: &[Wiring], pods: u8) -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        let manifests = Manifests::new(sandbox.dir().join("manifests"))?;
        let switch = Namespace::new()?;
        switch.bridge("lan")?;
        let numbers = 1..=u8::try_from(nodes.len())?;
        let clients: Vec<Namespace> = numbers.clone().map(|number| outside(&switch, number)).collect::<Result<_>>()?;
        // Outside the cgroup that it is to remove.
        let guard = Arc::new(Guard::start(&sandbox)?);
        // Before any thread enters a cgroup below.
        sandbox.enter()?;
        let mut lab = Self { nodes: Vec::new(), clients, manifests, switch, guard, sandbox };
        for (number, wiring) in numbers.zip(nodes) {
            let node = lab.node(number, *wiring, pods)?;
            lab.nodes.push(node);
        }
        lab.connect_pod_networks()?;
        Ok(lab)
    }

    /// A node by its number, from 1 on.
    pub fn at(&self, number: u8) -> &Node {
        &self.nodes[usize::from(number) - 1]
    }

    /// The same, to be changed.
    pub fn at_mut(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    /// A client by its number, from 1 on.
    pub fn client(&self, number: u8) -> &Namespace {
        &self.clients[usize::from(number) - 1]
    }

    /// Starts the daemons of all nodes and waits for them.
    ///
    /// # Errors
    /// One does not come up.
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        self.write_nodes()?;
        let source = self.source();
        for node in &mut self.nodes {
            node.daemon = Some(node.launch(&source, arguments)?);
        }
        self.nodes.iter().try_for_each(Node::ready)
    }

    /// Writes the manifests of all nodes.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_nodes(&self) -> Result<()> {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| manifest::node(&node.name, &FAMILIES.map(|family| family.node(node.number))))
            .collect();
        self.manifests.put("nodes", &nodes)
    }

    /// Starts the daemon of one node and waits for it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_one(&mut self, number: u8, arguments: &[&str]) -> Result<()> {
        let source = self.source();
        let node = self.at_mut(number);
        node.daemon = Some(node.launch(&source, arguments)?);
        node.ready()
    }

    /// Where daemons get their desired state unless they are told otherwise.
    pub fn source(&self) -> String {
        format!("file:{}", self.manifests.dir().display())
    }

    /// A folder that goes with the lab.
    pub fn dir(&self) -> &Path {
        self.sandbox.dir()
    }

    fn node(&self, number: u8, wiring: Wiring, pods: u8) -> Result<Node> {
        let name = format!("n{number}");
        let cgroup = self.sandbox.threaded(&name)?;
        let net = Namespace::new()?;
        net.forward()?;
        self.switch.connect(&name, &net, "eth0")?;
        self.switch.enslave(&name, "lan")?;
        for family in FAMILIES {
            net.address("eth0", family.node(number), family.lan())?;
        }
        if wiring == Wiring::Bridged {
            net.bridge("cni0")?;
            // Its own, as CNIs do it: otherwise it has the lowest of its ports', which changes as pods come and go, and
            // whoever knows the old one talks to nobody for seconds.
            net.hardware("cni0", [2, 0, 0, 0, 0, number])?;
            for family in FAMILIES {
                net.address("cni0", family.gateway(number), family.lan())?;
            }
        }
        let state = self.sandbox.dir().join(&name);
        fs::create_dir(&state)?;
        let log = self.sandbox.dir().join(format!("{name}.log"));
        let (net, guard) = (net.in_cgroup(Some(&cgroup))?, Arc::clone(&self.guard));
        let mut node = Node { number, name, net, pods: Vec::new(), wiring, cgroup, state, log, daemon: None, guard };
        for pod in 0..pods {
            node.add_pod(11 + pod)?;
        }
        Ok(node)
    }

    /// Routes between the nodes, as a routing CNI makes them, and an answering server on each node.
    fn connect_pod_networks(&self) -> Result<()> {
        for node in &self.nodes {
            serve(&node.net, node.number)?;
            for other in self.nodes.iter().filter(|other| other.number != node.number) {
                for family in FAMILIES {
                    let net = family.pod(other.number, 0);
                    node.net.route("eth0", net, family.lan(), Some(family.node(other.number)))?;
                }
            }
        }
        Ok(())
    }
}

/// A client outside, with an answering server of number 100 and more.
fn outside(switch: &Namespace, number: u8) -> Result<Namespace> {
    let client = Namespace::new()?;
    let port = format!("c{number}");
    switch.connect(&port, &client, "eth0")?;
    switch.enslave(&port, "lan")?;
    for family in FAMILIES {
        client.address("eth0", family.client(number), family.lan())?;
        let node = family.node(number);
        client.route("eth0", family.load_balancer(0), family.lan(), Some(node))?;
        client.route("eth0", family.cluster_ip(0), if family == Family::V4 { 16 } else { 64 }, Some(node))?;
    }
    serve(&client, 100 + number)?;
    Ok(client)
}
