//! What the runtime asks through the CNI plugin: pod interfaces, and the data path attached to each before the runtime
//! hears of it, so that a pod's first process already finds its Services.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use fairlead_datapath::Datapath;
use fairlead_network::cni::{self, Call, CniError, Code};
use fairlead_network::{Network, PodInterface};
use ipnet::Ipv4Net;
use tokio::sync::{Mutex, watch};

use super::engine::chain;

/// What the pod network needs once its addresses are known.
#[derive(Clone, Debug)]
pub(super) struct PodNetworkConfig {
    pub(super) state_dir: PathBuf,
    pub(super) conflist: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) pod_cidr: Option<Ipv4Net>,
    pub(super) mtu: Option<u32>,
    pub(super) uplinks: Vec<String>,
    pub(super) node_ip: Ipv4Addr,
}

/// The node's pod network, absent until the node knows its pod addresses.
#[derive(Clone, Debug)]
pub(super) struct PodNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: PodNetworkConfig,
    datapath: Arc<Mutex<Datapath>>,
    network: watch::Sender<Option<Network>>,
}

impl PodNetwork {
    pub(super) fn new(config: PodNetworkConfig, datapath: Arc<Mutex<Datapath>>) -> Self {
        Self { inner: Arc::new(Inner { config, datapath, network: watch::Sender::new(None) }) }
    }

    /// Opens the network with the addresses given on the command line or known from an earlier run, so that a node
    /// without its control plane still serves its pods.
    pub(super) async fn resume(&self) -> Result<()> {
        let remembered = std::fs::read_to_string(self.memory()).ok().and_then(|text| text.trim().parse().ok());
        match self.inner.config.pod_cidr.or(remembered) {
            Some(cidr) => self.open(cidr).await,
            None => Ok(()),
        }
    }

    /// Opens the network with these addresses, once, and tells the runtime that there is one.
    pub(super) async fn open(&self, cidr: Ipv4Net) -> Result<()> {
        if let Some(network) = self.now() {
            if network.pod_cidr() != cidr && self.inner.config.pod_cidr.is_none() {
                tracing::error!(have = %network.pod_cidr(), node = %cidr, "the node's pod CIDR changed, which takes `fairlead down` and `up`");
            }
            return Ok(());
        }
        let config = &self.inner.config;
        let settings = fairlead_network::Config {
            state_dir: config.state_dir.clone(),
            pod_cidr: cidr,
            mtu: config.mtu,
            uplinks: config.uplinks.clone(),
            node_ip: config.node_ip,
        };
        let (network, pods) = blocking(move || {
            let network = Network::open(settings)?;
            let pods = network.list()?;
            Ok((network, pods))
        })
        .await?;
        self.adopt(&pods).await?;
        std::fs::write(self.memory(), format!("{cidr}\n")).context("cannot remember the node's pod addresses")?;
        write_conflist(config)?;
        tracing::info!(cidr = %cidr, mtu = network.mtu(), pods = pods.len(), "pod network open");
        self.inner.network.send_replace(Some(network));
        Ok(())
    }

    /// The network, if it is open.
    pub(super) fn now(&self) -> Option<Network> {
        self.inner.network.borrow().clone()
    }

    /// Puts routes to pods back that are gone; how many.
    pub(super) async fn restore_routes(&self) -> Result<usize> {
        let Some(network) = self.now() else { return Ok(0) };
        blocking(move || network.restore_routes()).await
    }

    /// The pods that are there keep their programs, refreshed; what is left of others goes.
    async fn adopt(&self, pods: &[PodInterface]) -> Result<()> {
        let wanted: Vec<_> = pods.iter().map(to_datapath).collect();
        let mut datapath = self.inner.datapath.lock().await;
        datapath.retain_pods(&wanted).context("cannot forget pods that ended while no daemon ran")?;
        for pod in &wanted {
            datapath.attach_pod(pod).with_context(|| format!("cannot attach the data path to {}", pod.name))?;
        }
        Ok(())
    }

    fn memory(&self) -> PathBuf {
        self.inner.config.state_dir.join("pod-cidr")
    }

    /// Answers one call of the CNI plugin.
    pub(super) async fn answer(&self, call: &Call) -> Result<Vec<u8>, CniError> {
        let version = cni::version(&call.config)?;
        let request = cni::request(call)?;
        let network =
            self.now().ok_or_else(|| CniError::new(Code::TryAgain, "the node does not know its pod addresses yet"))?;
        match call.command.as_str() {
            "ADD" => {
                let wanted = request.clone();
                let made = network.clone();
                let interface = blocking(move || made.add(&wanted)).await.map_err(failed)?;
                let attached = self.inner.datapath.lock().await.attach_pod(&to_datapath(&interface));
                if let Err(error) = attached {
                    self.forget(network, request.container_id, request.ifname).await?;
                    let reason = chain(&error);
                    return Err(CniError::new(Code::Failed, format!("cannot attach the data path: {reason}")));
                }
                tracing::info!(pod = %interface.attachment.pod(), address = %interface.address, interface = %interface.host_interface, "pod attached");
                Ok(cni::result(&version, &interface))
            }
            "DEL" => {
                self.forget(network, request.container_id, request.ifname).await?;
                Ok(Vec::new())
            }
            _ => {
                blocking(move || network.check(&request.container_id, &request.ifname)).await.map_err(failed)?;
                Ok(Vec::new())
            }
        }
    }

    async fn forget(&self, network: Network, container: String, ifname: String) -> Result<(), CniError> {
        let known = network.find(&container, &ifname).map_err(|error| failed(error.into()))?;
        if let Some(attachment) = &known {
            let detached = self.inner.datapath.lock().await.detach_pod(&attachment.host_interface());
            detached.map_err(|error| {
                CniError::new(Code::TryAgain, format!("cannot detach the data path: {}", chain(&error)))
            })?;
        }
        blocking(move || network.del(&container, &ifname)).await.map_err(failed)?;
        if let Some(attachment) = known {
            tracing::info!(pod = %attachment.pod(), address = %attachment.address, "pod detached");
        }
        Ok(())
    }
}

/// The same interface in the data path's words.
fn to_datapath(pod: &PodInterface) -> fairlead_datapath::PodInterface {
    fairlead_datapath::PodInterface {
        name: pod.host_interface.clone(),
        ifindex: pod.ifindex,
        addresses: vec![IpAddr::V4(pod.address)],
        mac: pod.mac,
        netns_cookie: pod.netns_cookie.unwrap_or(0),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, fairlead_network::NetworkError> + Send + 'static,
) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await.context("work on the pod network was given up")??)
}

fn failed(error: anyhow::Error) -> CniError {
    CniError::new(Code::Failed, format!("{error:#}"))
}

/// The runtime reads the folder again when a file in it is written, but not when one appears there by a rename; and an
/// emptied file would be read as well. So an old one goes first, and the new text is one write.
fn write_conflist(config: &PodNetworkConfig) -> Result<()> {
    let text = crate::cni::conflist(&config.socket);
    let path = &config.conflist;
    match std::fs::read_to_string(path) {
        Ok(now) if now == text => return Ok(()),
        Ok(_) => std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?,
        Err(_) => {}
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
