//! Who brings traffic to the endpoints of services: every peer programs the same ones into a node of its own.
//!
//! Rules are what kube-proxy writes in each of its modes, down to the order of chains; ours are put in force through the
//! library that the node daemon uses. The service that is measured stands last.

pub(crate) mod change;
mod conntrack;
mod empty;
mod iptables;
mod ipvs;
mod nftables;
mod ours;
mod program;
pub(crate) mod services;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use anyhow::{Context, Result};

use crate::options::Peer;
use crate::rig::agent::Agent;
use crate::rig::node::{self, Node, Side};
use crate::stage::Stage;
use empty::Empty;
pub(crate) use ours::Ours;
pub(crate) use program::{find as find_program, version as version_of};
use services::{Measured, Spec};

/// Who programs a node. Several peers are served by one node of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Proxy {
    /// Nobody.
    None,
    /// Nobody, but connections are tracked.
    Conntrack,
    /// Nobody, but there are programs that do nothing.
    Empty,
    /// kube-proxy, iptables mode, on the older tables.
    Iptables,
    /// The same on nftables.
    IptablesNft,
    /// kube-proxy, nftables mode.
    Nftables,
    /// kube-proxy, IPVS mode.
    Ipvs,
    /// We.
    Ours,
}

impl Proxy {
    /// Who programs the node of a peer.
    pub(crate) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Direct => Self::None,
            Peer::DirectCt => Self::Conntrack,
            Peer::DirectTc => Self::Empty,
            Peer::Iptables => Self::Iptables,
            Peer::IptablesNft => Self::IptablesNft,
            Peer::Nftables => Self::Nftables,
            Peer::Ipvs => Self::Ipvs,
            Peer::FairleadDirect | Peer::FairleadSocket | Peer::FairleadPacket | Peer::FairleadXdp => Self::Ours,
        }
    }
}

/// A node, programmed, and whoever asks it.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) spec: Spec,
    pub(crate) node: Node,
    clients: BTreeMap<Side, Agent>,
    /// Attached as long as it is there.
    _empty: Option<Empty>,
    // After the clients, which may be in its cgroup.
    pub(crate) ours: Option<Ours>,
}

impl Rig {
    /// Makes the node and has it programmed.
    pub(crate) fn new(stage: &mut Stage, proxy: Proxy, spec: Spec) -> Result<Self> {
        let node = Node::new(u8::try_from(spec.local_endpoints())?, stage.core)?;
        let empty = (proxy == Proxy::Empty).then(|| Empty::new(&node)).transpose()?;
        let ours = match proxy {
            Proxy::None | Proxy::Empty => None,
            Proxy::Conntrack => iptables::program(&node, Spec { services: 1, ..spec }, iptables::Tables::Legacy)
                .map(|()| None)
                .context("tracking connections takes the NAT table")?,
            Proxy::Iptables => iptables::program(&node, spec, iptables::Tables::Legacy).map(|()| None)?,
            Proxy::IptablesNft => iptables::program(&node, spec, iptables::Tables::Nft).map(|()| None)?,
            Proxy::Nftables => nftables::program(&node, spec).map(|()| None)?,
            Proxy::Ipvs => ipvs::program(&node, spec).map(|()| None)?,
            Proxy::Ours => Some(Ours::new(stage, &node, spec)?),
        };
        Ok(Self { proxy, spec, node, clients: BTreeMap::new(), _empty: empty, ours })
    }

    /// The client on one side.
    pub(crate) fn client(&mut self, stage_core: usize, side: Side) -> Result<&mut Agent> {
        let cgroup = self.ours.as_ref().filter(|_| side == Side::Pod).map(|ours| ours.cgroup.as_path());
        match self.clients.entry(side) {
            std::collections::btree_map::Entry::Occupied(there) => Ok(there.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                Ok(free.insert(self.node.client(side, cgroup, stage_core)?))
            }
        }
    }

    /// The client on one side, which is there, and our data path, to be used at the same time.
    pub(crate) fn parts(&mut self, side: Side) -> Result<(&mut Agent, Option<&mut Ours>)> {
        Ok((self.clients.get_mut(&side).context("there is no client")?, self.ours.as_mut()))
    }

    /// Where whoever is on one side asks the service for what is measured.
    pub(crate) fn address(&self, side: Side, what: Measured) -> SocketAddrV4 {
        if side == Side::Outside {
            SocketAddrV4::new(Side::Outside.gateway(), what.node_port())
        } else {
            SocketAddrV4::new(self.spec.vip(), what.port())
        }
    }

    /// Where an endpoint is asked for it.
    pub(crate) fn endpoint(&self, what: Measured) -> SocketAddrV4 {
        SocketAddrV4::new(node::endpoint(0), what.target())
    }

    /// Forgets connections that are over, so that a sample does not pay for those before it. Ours forgets by itself.
    pub(crate) fn settle(&self) -> Result<()> {
        match self.proxy {
            Proxy::None | Proxy::Empty | Proxy::Ours => Ok(()),
            _ => self.node.net.run(conntrack::flush),
        }
    }
}
