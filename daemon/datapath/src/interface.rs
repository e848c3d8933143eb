//! What the kernel says of interfaces. Asked over netlink, so it is always of the caller's network namespace; sysfs
//! shows the namespace of whoever mounted it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::DatapathError;
use crate::netlink::Netlink;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its index.
    pub(crate) ifindex: u32,
    /// What made it, where that is not hardware: veth, bond, vlan, bridge …
    pub(crate) kind: Option<String>,
    /// The longest IP packet it takes, in bytes.
    pub(crate) mtu: u32,
    /// Its hardware address; zero where it has none of six bytes.
    pub(crate) mac: [u8; 6],
    /// Its addresses, the oldest first, without those of a link; the ones to be used no more, or not for long, last.
    pub(crate) addresses: Vec<IpAddr>,
}

/// All interfaces by name.
pub(crate) fn interfaces() -> Result<BTreeMap<String, Interface>, DatapathError> {
    let failed = |source| DatapathError::Io { action: "list", path: "the network interfaces".into(), source };
    let netlink = Netlink::open(NETLINK_ROUTE).map_err(failed)?;
    let mut addresses = addresses(&netlink).map_err(failed)?;
    let links = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(failed)?;
    let link = |message| match message {
        RouteNetlinkMessage::NewLink(link) => {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?;
            let ifindex = link.header.index;
            let addresses = addresses.remove(&ifindex).unwrap_or_default();
            Some((name, Interface { ifindex, kind: kind(&link), mtu: mtu(&link), mac: mac(&link), addresses }))
        }
        _ => None,
    };
    Ok(links.into_iter().filter_map(link).collect())
}

fn kind(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        }),
        _ => None,
    })
}

fn mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or_default()
}

fn mac(link: &LinkMessage) -> [u8; 6] {
    let bytes = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    bytes.unwrap_or_default()
}

fn addresses(netlink: &Netlink) -> io::Result<BTreeMap<u32, Vec<IpAddr>>> {
    let mut found: BTreeMap<u32, Vec<(bool, u32, IpAddr)>> = BTreeMap::new();
    for message in netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        if !matches!(message.header.scope, AddressScope::Universe | AddressScope::Site) {
            continue;
        }
        let (mut local, mut address) = (None, None);
        // The kernel's name for temporary addresses of IPv6 is that of secondary ones.
        let passing = AddressHeaderFlags::Deprecated | AddressHeaderFlags::Secondary;
        let mut is_passing = message.header.flags.intersects(passing);
        let mut created = 0;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(addr) => local = Some(*addr),
                AddressAttribute::Address(addr) => address = Some(*addr),
                AddressAttribute::Flags(flags) => {
                    is_passing |= flags.intersects(AddressFlags::Deprecated | AddressFlags::Secondary);
                }
                AddressAttribute::CacheInfo(info) => created = info.cstamp,
                _ => {}
            }
        }
        // Of a point-to-point link the latter is the peer's.
        if let Some(addr) = local.or(address) {
            found.entry(message.header.index).or_default().push((is_passing, created, addr));
        }
    }
    let in_order = |all: Vec<(bool, u32, IpAddr)>| {
        // IPv6 addresses are listed newest first; what was made in one moment has one time.
        let (mut all, six): (Vec<_>, Vec<_>) = all.into_iter().partition(|(.., addr)| addr.is_ipv4());
        all.extend(six.into_iter().rev());
        all.sort_by_key(|(is_passing, created, addr)| (addr.is_ipv6(), *is_passing, *created));
        all.into_iter().map(|(.., addr)| addr).collect()
    };
    Ok(found.into_iter().map(|(index, all)| (index, in_order(all))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_and_shows_no_address_of_the_host_alone() {
        let all = interfaces().unwrap();
        let lo = &all["lo"];
        assert_eq!(lo.ifindex, nix::net::if_::if_nametoindex("lo").unwrap());
        assert!(!lo.addresses.iter().any(IpAddr::is_loopback), "{lo:?}");
    }
}
