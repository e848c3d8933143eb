//! The node's interfaces to the outside, and the pod network as a whole: what has to change once per node, remembered so
//! that `down` puts it back.
//!
//! The kernel forwards a packet when the interface it came in by says so. Replies to pods come in by an uplink, hence its
//! switch; the global one would turn on forwarding for interfaces that are none of our business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::{ipam, netlink, sysctl};

/// What was changed on the host, written before the change.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Claims {
    /// Uplink → its `forwarding` before us.
    forwarding: BTreeMap<String, String>,
    /// Networks we closed with an unreachable route.
    networks: Vec<Ipv4Net>,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("host.json")
}

fn load(state_dir: &Path) -> Claims {
    std::fs::read(file(state_dir)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save(state_dir: &Path, claims: &Claims) -> Result<(), NetworkError> {
    ipam::write_atomically(&file(state_dir), claims)
}

/// Turns forwarding on for each uplink.
pub(crate) fn claim(state_dir: &Path, uplinks: &[String]) -> Result<(), NetworkError> {
    let mut claims = load(state_dir);
    for uplink in uplinks {
        let now = sysctl::get("ipv4", uplink, "forwarding").map_err(|_| NetworkError::NoUplink(uplink.clone()))?;
        claims.forwarding.entry(uplink.clone()).or_insert(now);
    }
    save(state_dir, &claims)?;
    uplinks.iter().try_for_each(|uplink| sysctl::set("ipv4", uplink, "forwarding", "1"))
}

/// Closes the pod network: an address without a pod answers "unreachable" instead of leaving by the default route.
pub(crate) fn claim_cidr(state_dir: &Path, network: Ipv4Net) -> Result<(), NetworkError> {
    let mut claims = load(state_dir);
    let ours = claims.networks.contains(&network);
    // The route comes first: a claim on a route that another owns would make `release` remove theirs. A crash in between
    // leaves a route that no claim names, which only the same network's next owner would ask about.
    let new = netlink::run(|netlink| async move { netlink.add_unreachable(network).await })?;
    if !new && !ours {
        return Err(NetworkError::CidrInUse(network));
    }
    if !ours {
        claims.networks.push(network);
        save(state_dir, &claims)?;
    }
    Ok(())
}

/// Refuses pod addresses that somebody else on this machine routes already, before anything is made. An instance that has
/// its network keeps it.
pub fn check_cidr(state_dir: &Path, cluster: Ipv4Net) -> Result<(), NetworkError> {
    if !load(state_dir).networks.is_empty() {
        return Ok(());
    }
    match netlink::run(|netlink| async move { netlink.routes_inside(cluster).await })? {
        true => Err(NetworkError::CidrInUse(cluster)),
        false => Ok(()),
    }
}

/// Puts everything back as it was.
pub(crate) fn release(state_dir: &Path) -> Result<Vec<String>, NetworkError> {
    let claims = load(state_dir);
    let mut undone = Vec::new();
    for network in claims.networks {
        netlink::run(|netlink| async move { netlink.remove_unreachable(network).await })?;
        undone.push(format!("route {network}"));
    }
    for (uplink, before) in claims.forwarding {
        if sysctl::get("ipv4", &uplink, "forwarding").is_ok_and(|now| now != before) {
            sysctl::set("ipv4", &uplink, "forwarding", &before)?;
            undone.push(format!("forwarding of {uplink}"));
        }
    }
    Ok(undone)
}

/// Whether the kernel forwards what comes in by an interface; `None` for one that does not exist.
pub fn forwards(interface: &str) -> Option<bool> {
    sysctl::get("ipv4", interface, "forwarding").ok().map(|value| value != "0")
}

/// The interface of the default route, if there is one.
pub fn default_uplink() -> Result<Option<String>, NetworkError> {
    netlink::run(|netlink| async move {
        let Some(index) = netlink.default_interface().await? else { return Ok(None) };
        let links = netlink.links().await?;
        Ok(links.into_iter().find(|link| link.index == index).map(|link| link.name))
    })
}
