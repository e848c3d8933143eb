//! Pod networking: a pod's address, its veth pair and its routes; what CNI asks of a node.
//!
//! A pod has one interface with a /32 from the node's pod CIDR. Everything it sends goes to one link-local next hop with a
//! permanent neighbour entry, so no ARP is ever spoken; the host has one /32 route per pod. Forwarding is switched per
//! interface (the kernel asks the interface a packet came in by), never globally. Services and masquerade are not here but
//! in the data path's programs, which the daemon attaches to the host-side interface before the runtime hears of it.
//!
//! State is one small file per address under `Config::state_dir`, written before anything is made in the kernel and
//! removed after it is gone; [`Network::open`] compares the files with the interfaces that exist, so that a killed daemon
//! leaks neither.
#![forbid(unsafe_code)]

mod attach;
pub mod cni;
mod discover;
mod error;
mod ipam;
mod netlink;
mod netns;
mod sysctl;
mod uplink;
mod watch;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use ipnet::Ipv4Net;

pub use crate::discover::{Found, Search, discover};
pub use crate::error::NetworkError;
pub use crate::ipam::Attachment;
pub use crate::uplink::{check_cidr, default_uplink, forwards};
pub use crate::watch::{Changed, Watch};

use crate::ipam::Ipam;
use crate::netlink::{LinkInfo, Netlink};

/// What [`Network::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where addresses in use and changed sysctls are remembered.
    pub state_dir: PathBuf,
    /// The node's share of the cluster's pod addresses.
    pub pod_cidr: Ipv4Net,
    /// Of pod interfaces; the smallest of the uplinks' when absent.
    pub mtu: Option<u32>,
    /// Interfaces to the outside: pods' packets are forwarded from and to them.
    pub uplinks: Vec<String>,
    /// Source address of the host towards its pods, if it is one of the host's addresses.
    pub node_ip: Ipv4Addr,
}

/// A sandbox asking for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The runtime's identifier of the sandbox.
    pub container_id: String,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// Name of the interface inside, `eth0` as a rule.
    pub ifname: String,
    /// The pod's namespace, for logs and the interface's alias.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

/// An interface a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Name of the host's end.
    pub host_interface: String,
    /// Index of the host's end.
    pub ifindex: u32,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// Identity of the pod's network namespace; `None` where the kernel (before 5.14) does not tell.
    pub netns_cookie: Option<u64>,
    /// MTU of both ends.
    pub mtu: u32,
    /// Whose it is.
    pub attachment: Attachment,
}

/// The node's pod network. Cheap to clone; calls block for a few milliseconds, so async callers use a blocking thread.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    mtu: u32,
    ipam: Mutex<Ipam>,
}

impl Network {
    /// Takes over what an earlier run left: addresses whose interfaces still exist stay in use, the rest is released,
    /// interfaces nobody remembers are removed, and uplinks forward.
    pub fn open(config: Config) -> Result<Self, NetworkError> {
        let mut ipam = Ipam::open(&config.state_dir, config.pod_cidr)?;
        let owner = owner(&config.state_dir)?;
        let links = netlink::run(|netlink| async move { netlink.links().await })?;
        for gone in ipam.missing(&links) {
            tracing::info!(address = %gone.address, pod = %gone.pod(), "address released: its interface is gone");
            ipam.release(&gone.container_id, &gone.ifname)?;
        }
        let strays: Vec<LinkInfo> =
            links.iter().filter(|link| link.alias.starts_with(&owner) && !ipam.knows(&link.name)).cloned().collect();
        for stray in strays {
            tracing::warn!(interface = %stray.name, "interface removed: no address belongs to it");
            netlink::run(|netlink| async move { netlink.remove_link(&stray.name).await })?;
        }
        uplink::claim(&config.state_dir, &config.uplinks)?;
        uplink::claim_cidr(&config.state_dir, config.pod_cidr)?;
        let mtu = config.mtu.unwrap_or_else(|| uplink_mtu(&links, &config.uplinks));
        Ok(Self { inner: Arc::new(Inner { config, mtu, ipam: Mutex::new(ipam) }) })
    }

    /// Gives a sandbox its interface. Asked again for the same sandbox it makes what is missing, with the same address.
    pub fn add(&self, request: &Request) -> Result<PodInterface, NetworkError> {
        let attachment = self.ipam()?.allocate(request)?;
        let made = attach::make(
            &attachment,
            &attach::Settings {
                alias: format!("{}{}/{}", owner(&self.inner.config.state_dir)?, request.namespace, request.name),
                mtu: self.inner.mtu,
                source: self.source()?,
            },
        );
        match made {
            Ok(interface) => Ok(interface),
            Err(error) => {
                self.del(&request.container_id, &request.ifname)?;
                Err(error)
            }
        }
    }

    /// Takes a sandbox's interface and address back. Success when there is none.
    pub fn del(&self, container_id: &str, ifname: &str) -> Result<Option<Attachment>, NetworkError> {
        let attachment = self.ipam()?.find(container_id, ifname).cloned();
        remove_interface(container_id, ifname)?;
        self.ipam()?.release(container_id, ifname)?;
        Ok(attachment)
    }

    /// The interface of a sandbox as it is now; an error names what is missing.
    pub fn check(&self, container_id: &str, ifname: &str) -> Result<PodInterface, NetworkError> {
        let attachment = self.ipam()?.find(container_id, ifname).cloned();
        let attachment = attachment
            .ok_or_else(|| NetworkError::Unknown { container: container_id.to_owned(), ifname: ifname.to_owned() })?;
        attach::read(&attachment, self.inner.mtu)
    }

    /// What the network remembers for a sandbox.
    pub fn find(&self, container_id: &str, ifname: &str) -> Result<Option<Attachment>, NetworkError> {
        Ok(self.ipam()?.find(container_id, ifname).cloned())
    }

    /// Every pod's interface, for a daemon that has just started.
    pub fn list(&self) -> Result<Vec<PodInterface>, NetworkError> {
        let attachments = self.ipam()?.all();
        Ok(attachments
            .iter()
            .filter_map(|attachment| match attach::read(attachment, self.inner.mtu) {
                Ok(interface) => Some(interface),
                Err(error) => {
                    tracing::warn!(pod = %attachment.pod(), error = %error, "interface cannot be adopted");
                    None
                }
            })
            .collect())
    }

    /// Puts routes to pods back that are gone, and says to how many: with an address of the host the kernel removes every
    /// route that prefers it as its source.
    pub fn restore_routes(&self) -> Result<usize, NetworkError> {
        let (attachments, source) = (self.ipam()?.all(), self.source()?);
        netlink::run(|netlink| async move {
            let present = netlink.hosts().await?;
            let mut restored = 0;
            for attachment in attachments.iter().filter(|attachment| !present.contains(&attachment.address)) {
                // An interface that is not there yet, or no more, is somebody else's business.
                if let Some(link) = netlink.link(&attachment.host_interface()).await? {
                    netlink.route_to(attachment.address, link.index, source).await?;
                    restored += 1;
                }
            }
            Ok(restored)
        })
    }

    /// The node's address towards its pods, where it is one of this host's now.
    fn source(&self) -> Result<Option<Ipv4Addr>, NetworkError> {
        let node_ip = self.inner.config.node_ip;
        netlink::run(|netlink| async move { Ok(netlink.has_address(node_ip).await?.then_some(node_ip)) })
    }

    /// The node's pod addresses.
    pub fn pod_cidr(&self) -> Ipv4Net {
        self.inner.config.pod_cidr
    }

    /// MTU of pod interfaces.
    pub fn mtu(&self) -> u32 {
        self.inner.mtu
    }

    fn ipam(&self) -> Result<MutexGuard<'_, Ipam>, NetworkError> {
        self.inner.ipam.lock().map_err(|_| NetworkError::Poisoned)
    }
}

/// Removes a sandbox's interface where no daemon answers; its address is released when the next daemon starts.
pub fn remove_interface(container_id: &str, ifname: &str) -> Result<(), NetworkError> {
    let name = attach::host_name(container_id, ifname);
    netlink::run(|netlink| async move { netlink.remove_link(&name).await })
}

/// Brings up the loopback interface of the namespace at `netns`: all that CNI's `loopback` plugin does.
pub fn loopback_up(netns: &Path) -> Result<(), NetworkError> {
    netns::inside(netns, || netlink::run(|netlink| async move { netlink.up("lo").await }))
}

/// Undoes everything an instance with this state directory made: interfaces, routes, sysctls, state. Says what it removed.
pub fn remove_all(state_dir: &Path) -> Result<Vec<String>, NetworkError> {
    if !state_dir.exists() {
        return Ok(Vec::new());
    }
    let owner = owner(state_dir)?;
    let mut removed = netlink::run(|netlink: Netlink| async move {
        let mut removed = Vec::new();
        for link in netlink.links().await?.into_iter().filter(|link| link.alias.starts_with(&owner)) {
            netlink.remove_link(&link.name).await?;
            removed.push(format!("interface {}", link.name));
        }
        Ok(removed)
    })?;
    removed.extend(uplink::release(state_dir)?);
    std::fs::remove_dir_all(state_dir).map_err(|source| NetworkError::State { path: state_dir.to_owned(), source })?;
    Ok(removed)
}

/// How the aliases of an instance's interfaces begin: what makes them ours and nobody else's.
fn owner(state_dir: &Path) -> Result<String, NetworkError> {
    let path =
        std::path::absolute(state_dir).map_err(|source| NetworkError::State { path: state_dir.to_owned(), source })?;
    Ok(format!("fairlead {} ", path.display()))
}

fn uplink_mtu(links: &[LinkInfo], uplinks: &[String]) -> u32 {
    const ETHERNET: u32 = 1500;
    links.iter().filter(|link| uplinks.contains(&link.name)).map(|link| link.mtu).min().unwrap_or(ETHERNET)
}
