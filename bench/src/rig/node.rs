//! A node of namespaces: pods that ask, one that serves, and a machine outside, each on a link of its own.
//!
//! ```text
//!  pod ───────┐
//!  stranger ──┤ node ── backend (one process behind all endpoints)
//!  outside ───┘
//! ```
//!
//! Whoever asks has several addresses, because a pair of addresses has only so many ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::Result;

use super::agent::{Agent, Ports};
use super::namespace::Namespace;

/// Where endpoints listen.
pub const PORTS: Ports = Ports { echo: 8080, sink: 5201 };
/// Addresses of whoever asks.
const ADDRESSES: u8 = 8;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// A pod.
    Pod,
    /// A pod whose sockets no hook sees, as the guest of a virtual machine.
    Stranger,
    /// A machine that is no part of the cluster.
    Outside,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pod, Self::Stranger, Self::Outside];

    /// The node's interface towards it.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Pod => "pod0",
            Self::Stranger => "pod1",
            Self::Outside => "up0",
        }
    }

    /// Hardware address of the node's interface.
    pub fn gateway_mac(self) -> [u8; 6] {
        [2, 0, 0, 0, self as u8, 1]
    }

    /// The node's address on that interface.
    pub fn gateway(self) -> Ipv4Addr {
        self.network(1)
    }

    /// Its own addresses.
    pub fn addresses(self) -> Vec<Ipv4Addr> {
        (2..2 + ADDRESSES).map(|host| self.network(host)).collect()
    }

    fn network(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Pod => [10, 244, 1, host].into(),
            Self::Stranger => [10, 244, 2, host].into(),
            Self::Outside => [192, 0, 2, host].into(),
        }
    }
}

/// The node's interface towards the pod that serves.
pub const BACKEND: &str = "pod9";
/// Of whoever is behind a link, there.
pub const ETHERNET: &str = "eth0";

/// Address of an endpoint on this node.
pub fn endpoint(number: u8) -> Ipv4Addr {
    [10, 244, 9, 2 + number].into()
}

/// Where an endpoint is asked directly.
pub fn direct() -> SocketAddrV4 {
    SocketAddrV4::new(endpoint(0), PORTS.echo)
}

/// The network.
#[derive(Debug)]
pub struct Node {
    /// The node itself.
    pub net: Namespace,
    sides: [Namespace; 3],
    backend: Namespace,
    server: Agent,
}

impl Node {
    /// Everything is up, and the server answers.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn new(endpoints: u8, core: usize) -> Result<Self> {
        let net = Namespace::new()?;
        tune(&net)?;
        net.sysctl("ipv4/ip_forward", "1")?;
        let mut sides = Vec::new();
        for side in Side::ALL {
            let there = Namespace::new()?;
            tune(&there)?;
            link(&net, side.interface(), &there, side.gateway_mac(), side.gateway(), &side.addresses())?;
            sides.push(there);
        }
        let backend = Namespace::new()?;
        tune(&backend)?;
        let endpoints: Vec<Ipv4Addr> = (0..endpoints).map(endpoint).collect();
        link(&net, BACKEND, &backend, [2, 0, 0, 0, 9, 1], [10, 244, 9, 1].into(), &endpoints)?;
        let server = Agent::server(&backend, PORTS, core)?;
        let Ok(sides) = sides.try_into() else { anyhow::bail!("as many namespaces as sides") };
        Ok(Self { net, sides, backend, server })
    }

    /// The namespace of one side.
    pub fn side(&self, side: Side) -> &Namespace {
        &self.sides[side as usize]
    }

    /// The namespace of the pod that serves.
    pub fn backend(&self) -> &Namespace {
        &self.backend
    }

    /// A client on one side, in a cgroup if one is given.
    ///
    /// # Errors
    /// It does not start.
    pub fn client(&self, side: Side, cgroup: Option<&Path>, core: usize) -> Result<Agent> {
        Agent::client(self.side(side), cgroup, core)
    }

    /// Packets the pod that serves has received.
    ///
    /// # Errors
    /// The server is gone.
    pub fn received(&mut self) -> Result<u64> {
        self.server.received(ETHERNET)
    }
}

/// Connects a place with the node. Its way to everything is the node.
fn link(
    node: &Namespace,
    interface: &str,
    there: &Namespace,
    mac: [u8; 6],
    gateway: Ipv4Addr,
    addresses: &[Ipv4Addr],
) -> Result<()> {
    node.connect(interface, there, ETHERNET)?;
    node.hardware(interface, mac)?;
    node.address(interface, gateway, 24)?;
    for address in addresses {
        there.address(ETHERNET, *address, 24)?;
    }
    there.route(ETHERNET, Ipv4Addr::UNSPECIFIED, 0, Some(gateway))
}

/// What load needs: ports by the ten thousand, and room for whoever waits to be accepted.
fn tune(namespace: &Namespace) -> Result<()> {
    let settings = [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("core/somaxconn", "8192"),
        ("ipv4/tcp_max_syn_backlog", "8192"),
        ("ipv4/ip_local_port_range", "1024 65535"),
        ("ipv4/tcp_tw_reuse", "1"),
    ];
    settings.iter().try_for_each(|(name, value)| namespace.sysctl(name, value))
}
