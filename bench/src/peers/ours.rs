//! Ours: the library of the node daemon, on a node of namespaces. One data path serves a pod whose sockets go through its
//! hooks, one whose sockets do not, and the outside.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use fairlead_datapath::{Config, Datapath, PodInterface, netns_cookie};
use fairlead_source::{Endpoint, Service};

use super::services::{CLUSTER, Spec};
use crate::rig::namespace::Namespace;
use crate::rig::node::{self, Node, Side};
use crate::stage::Stage;

/// A data path in force.
#[derive(Debug)]
pub(crate) struct Ours {
    /// Sockets of whoever is in it go through the hooks.
    pub(crate) cgroup: PathBuf,
    pub(crate) datapath: Datapath,
    bpffs: PathBuf,
    net: Namespace,
}

impl Ours {
    /// Loads and attaches the programs and puts the services in force.
    pub(crate) fn new(stage: &mut Stage, node: &Node, spec: Spec) -> Result<Self> {
        let place = stage.place(&format!("node-{}-{}", spec.services, spec.endpoints))?;
        let pods = [
            (Side::Pod.interface(), Some(node.side(Side::Pod)), Side::Pod.addresses()),
            (Side::Stranger.interface(), None, Side::Stranger.addresses()),
            (node::BACKEND, Some(node.backend()), (0..spec.local_endpoints() as u8).map(node::endpoint).collect()),
        ];
        let net = node.net.in_cgroup(None)?;
        let (datapath, uplink) = net.run(|| {
            let mut config = Config::new(&place.bpffs, &place.cgroup);
            config.cluster_cidrs = vec![CLUSTER.parse()?];
            // The measured service has three ports.
            config.services = config.services.max(spec.services + 16);
            config.backends = config.backends.max((spec.services + 16) * spec.endpoints);
            let mut datapath = Datapath::open(config)?;
            let uplink = datapath.attach_uplink(Side::Outside.interface())?;
            let mut interfaces = Vec::new();
            for (name, namespace, addresses) in pods {
                let cookie = |namespace: &Namespace| netns_cookie(Some(&namespace.path()));
                interfaces.push(PodInterface {
                    ifindex: nix::net::if_::if_nametoindex(name)?,
                    addresses: addresses.into_iter().map(IpAddr::V4).collect(),
                    mac: [0; 6],
                    netns_cookie: namespace.map(cookie).transpose()?.unwrap_or(0),
                    name: name.to_owned(),
                });
            }
            datapath.retain_pods(&interfaces)?;
            Ok((datapath, uplink))
        })?;
        stage
            .notes
            .insert("fairlead's uplink".to_owned(), format!("{} {}", uplink.mode, uplink.reason).trim().to_owned());
        let mut ours = Self { cgroup: place.cgroup, datapath, bpffs: place.bpffs, net };
        ours.sync(spec.all())?;
        Ok(ours)
    }

    fn sync(&mut self, services: Vec<Service>) -> Result<()> {
        let report = self.datapath.sync_all(services)?;
        let refused = report.rejected.first().map(|(name, reason)| format!("{name}: {reason}"));
        ensure!(refused.is_none(), "a service was refused: {}", refused.unwrap_or_default());
        Ok(())
    }

    /// Gives a service, which is not the measured one, another last endpoint.
    pub(crate) fn change(&mut self, spec: Spec, number: u32, turn: u32) -> Result<()> {
        let mut service = spec.service(number);
        if let Some(last) = service.ports.first_mut().and_then(|port| port.endpoints.last_mut()) {
            let other = spec.elsewhere(number + spec.services * (1 + turn % 2), spec.endpoints - 1);
            *last = Endpoint::local(other.into());
        }
        let name = service.name.clone();
        self.datapath.sync(vec![(name, Some(service))]).map(drop).context("a change was refused")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let removed = self.net.run(|| Ok(fairlead_datapath::remove(&self.bpffs)?));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}
