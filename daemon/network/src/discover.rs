//! Which interfaces lead to pods, where somebody else made them.
//!
//! A pod's interface is a veth whose other end is in another namespace, or whatever the kernel's routes say leads to an
//! endpoint of this node; behind a bridge, the port at which the bridge has learnt the endpoint's hardware address.
//! Where the operator names interfaces, those are taken and no others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::NetworkError;
use crate::netlink::{self, Kind, LinkInfo, Netlink};

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Interfaces to the outside: never a pod's.
    pub uplinks: Vec<String>,
    /// Names of pods' interfaces, with `*` and `?`; empty: every veth that leads to another namespace, and whatever
    /// leads to `endpoints`.
    pub patterns: Vec<String>,
    /// Endpoints that are said to be on this node.
    pub endpoints: Vec<IpAddr>,
}

/// An interface that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Which of the endpoints it leads to.
    pub addresses: Vec<IpAddr>,
    /// Hardware address of what is behind it, where a neighbour entry tells; else zero.
    pub mac: [u8; 6],
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) address: IpAddr,
    /// Where packets leave: for a bridge, its port.
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
}

/// Looks. Blocks for a few milliseconds.
pub fn discover(search: &Search) -> Result<Vec<Found>, NetworkError> {
    netlink::run(|netlink| async move {
        let links = netlink.links().await?;
        let paths = paths(&netlink, &links, &search.endpoints).await?;
        Ok(choose(search, &links, &paths))
    })
}

/// How each endpoint is reached that is not the host itself.
async fn paths(netlink: &Netlink, links: &[LinkInfo], endpoints: &[IpAddr]) -> Result<Vec<Path>, NetworkError> {
    let mut paths = Vec::new();
    if endpoints.is_empty() {
        return Ok(paths);
    }
    let neighbours = netlink.neighbours().await?;
    let bridged = netlink.bridged().await?;
    for address in endpoints {
        let Some(hop) = netlink.route_of(*address).await? else { continue };
        let next = hop.gateway.unwrap_or(*address);
        let mac = neighbours.get(&(hop.ifindex, next)).copied();
        let bridge = links.iter().any(|link| link.index == hop.ifindex && link.kind == Kind::Bridge);
        // A bridge that has not learnt the address yet tells by an event once it has.
        let port =
            if bridge { mac.and_then(|mac| bridged.get(&(hop.ifindex, mac)).copied()) } else { Some(hop.ifindex) };
        paths.extend(port.map(|ifindex| Path { address: *address, ifindex, mac: mac.unwrap_or_default() }));
    }
    Ok(paths)
}

/// Picks pods' interfaces, by name.
fn choose(search: &Search, links: &[LinkInfo], paths: &[Path]) -> Vec<Found> {
    let mut found = BTreeMap::new();
    for link in links {
        let reached: Vec<&Path> = paths.iter().filter(|path| path.ifindex == link.index).collect();
        let chosen = if search.patterns.is_empty() {
            (link.kind == Kind::Veth && link.elsewhere) || !reached.is_empty()
        } else {
            search.patterns.iter().any(|pattern| matches(pattern, &link.name))
        };
        if !chosen || link.name == "lo" || search.uplinks.contains(&link.name) {
            continue;
        }
        let addresses = reached.iter().map(|path| path.address).collect();
        let mac = reached.iter().map(|path| path.mac).find(|mac| *mac != [0; 6]).unwrap_or_default();
        found.insert(link.name.clone(), Found { name: link.name.clone(), ifindex: link.index, addresses, mac });
    }
    found.into_values().collect()
}

/// Whether a name fits a pattern in which `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| fits(rest, &name[skip..])),
            ([b'?', rest @ ..], [_, name @ ..]) => fits(rest, name),
            ([wanted, rest @ ..], [found, name @ ..]) => wanted == found && fits(rest, name),
            ([], []) => true,
            _ => false,
        }
    }
    // An interface's name has at most 15 characters, so the search cannot run away.
    fits(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32, kind: Kind, elsewhere: bool) -> LinkInfo {
        LinkInfo { name: name.to_owned(), index, mtu: 1500, mac: [0; 6], alias: String::new(), kind, elsewhere }
    }

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| found.name.as_str()).collect()
    }

    fn links() -> Vec<LinkInfo> {
        vec![
            link("lo", 1, Kind::Other, false),
            link("eth0", 2, Kind::Veth, true),
            link("veth-a", 3, Kind::Veth, true),
            link("pair", 4, Kind::Veth, false),
            link("tap7", 5, Kind::Other, false),
            link("br0", 6, Kind::Bridge, false),
        ]
    }

    #[test]
    fn veths_into_other_namespaces_and_what_leads_to_endpoints() {
        let address = "10.1.0.7".parse().unwrap();
        let search = Search { uplinks: vec!["eth0".to_owned()], ..Search::default() };
        let mac = [2, 0, 0, 0, 0, 7];
        let found = choose(&search, &links(), &[Path { address, ifindex: 5, mac }]);
        assert_eq!(names(&found), ["tap7", "veth-a"]);
        assert_eq!((found[0].addresses.as_slice(), found[0].mac), ([address].as_slice(), mac));
        assert!(found[1].addresses.is_empty());
    }

    #[test]
    fn an_uplink_or_the_host_itself_is_no_pod_whatever_routes_say() {
        let address = "10.1.0.7".parse().unwrap();
        let search = Search { uplinks: vec!["eth0".to_owned()], patterns: vec!["*".to_owned()], ..Search::default() };
        let found = choose(&search, &links(), &[Path { address, ifindex: 2, mac: [0; 6] }]);
        assert_eq!(names(&found), ["br0", "pair", "tap7", "veth-a"]);
    }

    #[test]
    fn patterns_are_exact_but_for_their_wildcards() {
        for (pattern, name, fits) in [
            ("cali*", "cali12", true),
            ("cali*", "cali", true),
            ("cali*", "xcali", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("*a*b", "xaxxb", true),
            ("lxc", "lxc1", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
