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

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use serde_json::Value;

use super::cluster::program;
use super::dialogue::serve;
pub use super::guard::is_aside;
use super::guard::{Guard, PAUSE};
use super::manifest::{self, Manifests};
use super::namespace::Namespace;
use super::sandbox::Sandbox;
use crate::wait_for;

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How long a daemon may take to start or to act on a change.
const PROMPT: Duration = Duration::from_secs(30);

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
    fn alone(self) -> u8 {
        if self == Self::V4 { 32 } else { 128 }
    }

    /// Length of the prefix of the networks of hosts here.
    fn lan(self) -> u8 {
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
        let guard = Arc::new(Guard::start(sandbox.cgroup())?);
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

/// A node, with its daemon if one runs.
#[derive(Debug)]
pub struct Node {
    /// From 1 on.
    pub number: u8,
    /// `n1`, `n2` …
    pub name: String,
    /// Its own network namespace; what runs in it goes through its hooks.
    pub net: Namespace,
    /// By their order; addresses count from 11.
    pub pods: Vec<Pod>,
    /// State directory of the daemon.
    pub state: PathBuf,
    /// What the daemon says.
    pub log: PathBuf,
    wiring: Wiring,
    cgroup: PathBuf,
    daemon: Option<Child>,
    guard: Arc<Guard>,
}

/// A pod, with a server whose number is ten times the node's plus the last digit of its address.
#[derive(Debug)]
pub struct Pod {
    /// Number of its server.
    pub id: u8,
    /// Last part of its addresses.
    pub host: u8,
    /// Number of its node.
    pub node: u8,
    /// What runs in it goes through the node's hooks.
    pub net: Namespace,
    /// What runs in it does not, as the guest of a virtual machine.
    pub bypass: Namespace,
    /// The process by which the pod's namespace is found, as the pause process of a real one.
    pause: Child,
}

impl Pod {
    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        family.pod(self.node, self.host)
    }

    /// Its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        FAMILIES.map(|family| self.address(family))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.pause.kill();
        let _ = self.pause.wait();
    }
}

impl Node {
    /// Another pod.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_pod(&mut self, host: u8) -> Result<&Pod> {
        let net = Namespace::new()?;
        let link = format!("pod{host}");
        self.net.connect(&link, &net, "eth0")?;
        if self.wiring == Wiring::Bridged {
            self.net.enslave(&link, "cni0")?;
        }
        for family in FAMILIES {
            let (address, gateway) = (family.pod(self.number, host), family.gateway(self.number));
            if self.wiring == Wiring::Bridged {
                net.address("eth0", address, family.lan())?;
            } else {
                self.net.address(&link, gateway, family.alone())?;
                self.net.route(&link, address, family.alone(), None)?;
                net.address("eth0", address, family.alone())?;
                net.route("eth0", gateway, family.alone(), None)?;
            }
            net.route("eth0", family.everywhere(), 0, Some(gateway))?;
        }
        let (bypass, net) = (net.in_cgroup(None)?, net.in_cgroup(Some(&self.cgroup))?);
        let pause = net.run(|| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(PAUSE).stdin(Stdio::piped()).spawn().context("cannot start a pod's process")
        })?;
        let id = self.number * 10 + host % 10;
        let pod = Pod { id, host, node: self.number, net, bypass, pause };
        serve(&pod.net, id)?;
        self.pods.push(pod);
        self.pods.last().context("a pod was added")
    }

    /// Removes a pod, its interface and its processes.
    ///
    /// # Errors
    /// There is none of this address.
    pub fn remove_pod(&mut self, host: u8) -> Result<()> {
        let at = self.pods.iter().position(|pod| pod.host == host).context("no such pod")?;
        self.net.remove(&format!("pod{host}"))?;
        self.pods.remove(at);
        Ok(())
    }

    /// Starts the daemon with this source, for somebody who keeps its process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&self, source: &str, arguments: &[&str]) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program("fairlead")?);
        command
            .args(["node", "--proxy-only", "--node-name", &self.name, "--uplink", "eth0"])
            .args(["--source", source])
            .arg("--state-dir")
            .arg(&self.state)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .args(["--cluster-cidr", "10.244.0.0/16", "--cluster-cidr", "fd00:244::/48"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // The namespace alone, not the cgroup: a proxy's own sockets are nobody's clients.
        let child = self.net.in_cgroup(None)?.run(|| command.spawn().context("cannot start `fairlead node`"))?;
        self.guard.watch(&child, &self.state)?;
        Ok(child)
    }

    /// Hands the daemon's process over, to be ended by somebody who only borrows the node.
    pub fn take_daemon(&mut self) -> Option<Child> {
        self.daemon.take()
    }

    /// Takes the process of a daemon that [`Node::launch`] started.
    pub fn keep_daemon(&mut self, daemon: Child) {
        self.daemon = Some(daemon);
    }

    /// Waits until the daemon has written its tables.
    ///
    /// # Errors
    /// It does not.
    pub fn ready(&self) -> Result<()> {
        wait_for(&format!("the start of {}'s daemon", self.name), PROMPT, || {
            let ready = self.fact("ready")?;
            ensure!(ready == "True", "ready is {ready}");
            Ok(())
        })
        .with_context(|| self.said())
    }

    /// What the daemon says of itself under this name; empty if nothing.
    ///
    /// # Errors
    /// It does not answer.
    pub fn fact(&self, name: &str) -> Result<String> {
        let status: Value = serde_json::from_str(&self.ask(&["status", "-o", "json"])?)?;
        Ok(status[name].as_str().unwrap_or_default().to_owned())
    }

    /// The end of the daemon's log.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{} said:\n{}", self.name, lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// One HTTP request to the node itself: status and body.
    ///
    /// # Errors
    /// Nobody listens or the answer is none.
    pub fn http(&self, port: u16, path: &str) -> Result<(u16, String)> {
        self.net.in_cgroup(None)?.run(|| http(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path))
    }

    /// Whether the daemon runs.
    pub fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// Ends the daemon on the spot.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// `fairlead VERB…  --state-dir …` in the node's namespace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn fairlead(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("fairlead")?);
        command.args(arguments).arg("--state-dir").arg(&self.state).stdin(Stdio::null());
        self.net.in_cgroup(None)?.run(|| command.output().context("cannot start fairlead"))
    }

    /// The same; what it prints, if it ends well.
    ///
    /// # Errors
    /// It ends badly.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.fairlead(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("fairlead {} failed: {}{}", arguments.join(" "), text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// `fairlead down`: ends the daemon and removes what it made.
    ///
    /// # Errors
    /// It ends badly.
    pub fn down(&mut self) -> Result<()> {
        let done = self.ask(&["down"]);
        if let Some(mut daemon) = self.daemon.take() {
            let ended = wait_for("the end of the daemon", Duration::from_secs(5), || {
                daemon.try_wait()?.context("`fairlead down` left it running")
            });
            if ended.is_err() {
                daemon.kill()?;
                daemon.wait()?;
            }
            done.as_ref().map_err(|error| anyhow!("{error:#}"))?;
            ended?;
        }
        done.map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.state.join("bpf").exists() || self.daemon.is_some() {
            if let Err(error) = self.down() {
                eprintln!("{}: {error:#}", self.name);
            }
        }
        if let Ok(keep) = std::env::var("FAIRLEAD_KEEP_LOGS") {
            let _ = fs::copy(&self.log, Path::new(&keep).join(format!("{}.log", self.name)));
        }
    }
}

/// One HTTP request on a connection of its own: status and body.
///
/// # Errors
/// Nobody listens or the answer is none.
pub fn http(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(second))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status in the answer")?;
    Ok((status, answer))
}
