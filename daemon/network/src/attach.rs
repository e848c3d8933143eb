//! One pod's interface: the veth pair, its addresses, routes and switches.
//!
//! ```text
//!   pod namespace                               host
//!   eth0 ADDR/32, 0a:58:ADDR  ───── veth ─────  flrXXXXXXXX, 0e:58:ADDR
//!   default via 169.254.1.1 (permanent)         ADDR/32 (permanent neighbour)
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use crate::error::NetworkError;
use crate::ipam::Attachment;
use crate::netlink::End;
use crate::{PodInterface, netlink, netns, sysctl};

/// What every pod believes its router is. Nobody has the address: the permanent neighbour entry is all there is to it.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What is the same for all pods of a node, and the alias.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) source: Option<Ipv4Addr>,
}

/// Name of the host's end: stable for a sandbox, so that it can be found without any state.
pub(crate) fn host_name(container_id: &str, ifname: &str) -> String {
    // FNV-1a, folded to 40 bits: short enough for the kernel's 15 characters.
    let bytes = container_id.bytes().chain([0]).chain(ifname.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("flr{:010x}", (hash ^ (hash >> 40)) & 0xff_ffff_ffff)
}

/// MACs are set, not drawn: what is set no device manager replaces behind our back, and the address can be read off.
fn macs(address: Ipv4Addr) -> (Mac, Mac) {
    let [a, b, c, d] = address.octets();
    ([0x0e, 0x58, a, b, c, d], [0x0a, 0x58, a, b, c, d])
}

type Mac = [u8; 6];

/// Makes the interface, or what is missing of it.
pub(crate) fn make(attachment: &Attachment, settings: &Settings) -> Result<PodInterface, NetworkError> {
    let host = attachment.host_interface();
    let (host_mac, pod_mac) = macs(attachment.address);
    let namespace = File::open(&attachment.netns)
        .map_err(|source| NetworkError::Namespace { path: attachment.netns.clone(), source })?;
    let ifindex = netlink::run(|netlink| {
        let host = &host;
        async move {
            if netlink.link(host).await?.is_none() {
                let near = End { name: host, mac: host_mac };
                let far = End { name: &attachment.ifname, mac: pod_mac };
                netlink.add_veth(&near, &far, namespace.as_fd(), settings.mtu, &settings.alias).await?;
            }
            let link = netlink.link(host).await?.ok_or_else(|| missing(attachment))?;
            netlink.add_neighbour(link.index, attachment.address, pod_mac).await?;
            Ok(link.index)
        }
    })?;
    switch_host_end(&host)?;
    let cookie = netns::inside(&attachment.netns, || {
        netlink::run(|netlink| async move {
            netlink.up("lo").await?;
            let link = netlink.link(&attachment.ifname).await?.ok_or_else(|| missing(attachment))?;
            netlink.add_address(link.index, attachment.address).await?;
            netlink.up(&attachment.ifname).await?;
            netlink.add_neighbour(link.index, NEXT_HOP, host_mac).await?;
            netlink.route_default(NEXT_HOP, link.index).await
        })?;
        Ok(netns::cookie())
    })?;
    // The host's route comes last: with it the pod is reachable.
    netlink::run(|netlink| async move { netlink.route_to(attachment.address, ifindex, settings.source).await })?;
    Ok(PodInterface {
        host_interface: host,
        ifindex,
        address: attachment.address,
        mac: pod_mac,
        host_mac,
        netns_cookie: cookie,
        mtu: settings.mtu,
        attachment: attachment.clone(),
    })
}

/// The interface as it stands.
pub(crate) fn read(attachment: &Attachment, mtu: u32) -> Result<PodInterface, NetworkError> {
    let host = attachment.host_interface();
    let link = netlink::run(|netlink| {
        let host = &host;
        async move { netlink.link(host).await?.ok_or_else(|| missing(attachment)) }
    })?;
    let cookie = netns::inside(&attachment.netns, || Ok(netns::cookie()))?;
    let (host_mac, mac) = macs(attachment.address);
    Ok(PodInterface {
        host_interface: host,
        ifindex: link.index,
        address: attachment.address,
        mac,
        host_mac,
        netns_cookie: cookie,
        mtu: if link.mtu == 0 { mtu } else { link.mtu },
        attachment: attachment.clone(),
    })
}

/// Lets the host's end forward, and accept what the data path hands it.
///
/// A reply whose source the data path has turned back into a Service's or the node's own address comes in by this
/// interface: `accept_local` lets it pass, and reverse-path filtering has to be loose or off. The kernel takes the larger
/// of the interface's `rp_filter` and `all`'s, so where `all` is strict (1), loose (2) is what wins.
fn switch_host_end(host: &str) -> Result<(), NetworkError> {
    let all = sysctl::get("ipv4", "all", "rp_filter").unwrap_or_default();
    sysctl::set("ipv4", host, "rp_filter", if all == "0" { "0" } else { "2" })?;
    sysctl::set("ipv4", host, "forwarding", "1")?;
    sysctl::set("ipv4", host, "accept_local", "1")?;
    sysctl::set("ipv4", host, "send_redirects", "0")?;
    // Without IPv6 in the kernel there is nothing to switch off.
    if sysctl::get("ipv6", host, "disable_ipv6").is_ok() {
        sysctl::set("ipv6", host, "disable_ipv6", "1")?;
    }
    Ok(())
}

fn missing(attachment: &Attachment) -> NetworkError {
    NetworkError::Missing { interface: attachment.host_interface(), pod: attachment.pod(), address: attachment.address }
}
