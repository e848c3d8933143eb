//! A joined Service to what the tables should hold for it: addresses to answer on, and endpoints behind them.
//!
//! The rules of who may get which endpoint are kube-proxy's (`CategorizeEndpoints`); `docs/services.md` tells where we
//! differ. Everything here is a function of the Service and of what [`Site`] says about the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairlead_abi::{ServiceKey, ServiceValue, V4, V6};
use fairlead_source::{Dsr, Endpoint, Port, Service};
use ipnet::IpNet;

use crate::tables::protocol_number;

#[cfg(test)]
mod tests;

/// What of the node decides where a Service answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Every address of the node.
    pub addresses: Vec<IpAddr>,
    /// Those on which NodePorts answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// NodePorts answer processes of this node on the loopback addresses, too.
    pub loopback: bool,
    /// Services answer on their external IPs.
    pub external_ips: bool,
    /// Direct server return, where a Service does not say.
    pub dsr: Dsr,
}

/// Where a Service answers: a key of the table of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Of `SERVICES4`.
    V4(ServiceKey<V4>),
    /// Of `SERVICES6`.
    V6(ServiceKey<V6>),
}

impl Key {
    /// The key of an address and port.
    pub fn new(addr: IpAddr, port: u16, proto: u8) -> Self {
        let port = port.to_be_bytes();
        match addr {
            IpAddr::V4(addr) => Self::V4(ServiceKey { addr: addr.octets(), port, proto, pad: 0 }),
            IpAddr::V6(addr) => Self::V6(ServiceKey { addr: addr.octets(), port, proto, pad: 0 }),
        }
    }

    /// Its address and port.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::V4(key) => (Ipv4Addr::from(key.addr), u16::from_be_bytes(key.port)).into(),
            Self::V6(key) => (Ipv6Addr::from(key.addr), u16::from_be_bytes(key.port)).into(),
        }
    }

    /// Its IP protocol.
    pub fn proto(&self) -> u8 {
        match self {
            Self::V4(key) => key.proto,
            Self::V6(key) => key.proto,
        }
    }
}

/// An endpoint of a set, with its share of new connections. Equal shares are all 1.
pub type Member = (SocketAddr, u16);

/// What a group belongs to, whatever its addresses: a port of a Service, of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// `spec.ports[].name`.
    pub port: String,
    /// IP protocol.
    pub proto: u8,
    /// Of IPv6.
    pub ipv6: bool,
}

/// One port of a Service in one family, as the tables see it. Sets are sorted by address, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Which port it is.
    pub label: Label,
    /// Where it answers, with the flags of each address.
    pub keys: Vec<(Key, u32)>,
    /// Endpoints for everybody on the ClusterIP.
    pub internal: Vec<Member>,
    /// Endpoints for clients on this node and pods on external addresses.
    pub cluster: Vec<Member>,
    /// Endpoints for clients from outside; empty, too, where none is expected.
    pub ring: Vec<Member>,
    /// Endpoints of any set that run on this node; sorted.
    pub local: Vec<SocketAddr>,
    /// There is an endpoint that could be used, were it not for a policy.
    pub has_endpoints: bool,
    /// Seconds of session affinity; 0: none.
    pub affinity: u32,
    /// Networks of this family whose clients may use the keys with source ranges.
    pub ranges: Vec<IpNet>,
    /// Packets of other nodes come encapsulated to the endpoints here.
    pub decapsulate: bool,
}

/// What a Service needs: one item per port and family that has an address.
pub fn wants(service: &Service, site: &Site) -> Vec<Want> {
    let families = [false, true];
    service.ports.iter().flat_map(|port| families.map(|ipv6| want(service, port, site, ipv6))).flatten().collect()
}

fn want(service: &Service, port: &Port, site: &Site, ipv6: bool) -> Option<Want> {
    let proto = protocol_number(port.protocol);
    let dsr = service.dsr.unwrap_or(site.dsr);
    let keys = keys(service, port, site, ipv6, proto, dsr);
    if keys.is_empty() {
        return None;
    }
    let endpoints: Vec<&Endpoint> =
        port.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv6() == ipv6).collect();
    let cluster = usable(&endpoints, Scope::Cluster);
    let local = usable(&endpoints, Scope::Local);
    let is_external = |flags: u32| flags & ServiceValue::EXTERNAL != 0;
    let inside = keys.iter().any(|(_, flags)| !is_external(*flags));
    let external = keys.iter().any(|(_, flags)| is_external(*flags));
    let outside = keys.iter().any(|(_, flags)| is_external(*flags) && flags & ServiceValue::SOCKETS_ONLY == 0);
    let decapsulate = keys.iter().any(|(_, flags)| flags & ServiceValue::DSR_IPIP != 0);
    let ring = match (service.external_local, dsr) {
        (true, _) => local.clone(),
        // The endpoint's node must come to the same choice, wherever it is.
        (false, Dsr::L2) => usable(&endpoints, Scope::Everywhere),
        (false, _) => cluster.clone(),
    };
    let mut here: Vec<_> = endpoints.iter().filter(|end| end.local).map(|end| end.address).collect();
    here.sort_unstable();
    here.dedup();
    Some(Want {
        label: Label { port: port.name.clone(), proto, ipv6 },
        keys,
        internal: if !inside {
            Vec::new()
        } else if service.internal_local {
            local
        } else {
            cluster.clone()
        },
        cluster: if external { cluster } else { Vec::new() },
        ring: if outside { ring } else { Vec::new() },
        local: here,
        has_endpoints: endpoints.iter().any(|end| end.ready || end.serving && end.terminating),
        affinity: service.affinity.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        ranges: service.source_ranges.iter().filter(|net| net.addr().is_ipv6() == ipv6).map(IpNet::trunc).collect(),
        decapsulate,
    })
}

/// Where a port answers, each address once: the first of these rules that names it.
fn keys(service: &Service, port: &Port, site: &Site, ipv6: bool, proto: u8, dsr: Dsr) -> Vec<(Key, u32)> {
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    let external = ServiceValue::EXTERNAL | flag(service.external_local, ServiceValue::EXTERNAL_LOCAL);
    let ranges = flag(!service.source_ranges.is_empty(), ServiceValue::SOURCE_RANGES);
    let direct = match dsr {
        Dsr::Off => 0,
        Dsr::Ipip => ServiceValue::DSR_IPIP,
        Dsr::L2 => ServiceValue::DSR_L2,
    };
    let mut keys: Vec<(Key, u32)> = Vec::new();
    let mut put = |addr: IpAddr, port: u16, flags: u32| {
        let key = Key::new(addr, port, proto);
        if addr.is_ipv6() == ipv6 && !keys.iter().any(|(other, _)| *other == key) {
            keys.push((key, flags));
        }
    };
    for addr in &service.cluster_ips {
        put(*addr, port.port, flag(service.internal_local, ServiceValue::INTERNAL_LOCAL));
    }
    let own = |addr: &IpAddr| flag(site.addresses.contains(addr), ServiceValue::NODE_ADDRESS);
    for addr in &service.load_balancer_ips {
        put(*addr, port.port, external | ranges | direct | own(addr));
    }
    for addr in service.external_ips.iter().filter(|_| site.external_ips) {
        put(*addr, port.port, external | direct | own(addr));
    }
    // NodePorts answer in the families that the Service has; one made up for host ports has no address to tell by.
    let has_family = service.cluster_ips.is_empty() || service.cluster_ips.iter().any(|addr| addr.is_ipv6() == ipv6);
    if let Some(node_port) = port.node_port.filter(|_| has_family) {
        // Another node has the NodePort under an address of its own: it can tell what is meant by what comes out of an
        // encapsulated packet, but not by a bare one.
        let direct = direct & ServiceValue::DSR_IPIP;
        for addr in &site.node_port_addresses {
            put(*addr, node_port, external | ranges | direct | ServiceValue::NODE_ADDRESS);
        }
        if site.loopback {
            let only = ServiceValue::EXTERNAL | ServiceValue::NODE_ADDRESS | ServiceValue::SOCKETS_ONLY;
            put(Ipv4Addr::LOCALHOST.into(), node_port, only);
            put(Ipv6Addr::LOCALHOST.into(), node_port, only);
        }
    }
    keys
}

/// Whose endpoints count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Those that hints leave to this node.
    Cluster,
    /// Those on this node.
    Local,
    /// All, whatever hints say.
    Everywhere,
}

/// Ready endpoints; without any, those that still serve while they end (KEP-1669).
fn usable(endpoints: &[&Endpoint], scope: Scope) -> Vec<Member> {
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let mut found: Vec<Member> = endpoints
            .iter()
            .filter(|end| wanted(end) && (end.local || scope != Scope::Local))
            .map(|end| (end.address, end.weight))
            .collect();
        found.sort_unstable();
        found.dedup_by_key(|(address, _)| *address);
        found
    };
    let mut found = pick(&|end| end.ready && (end.near || scope != Scope::Cluster));
    if found.is_empty() && scope == Scope::Cluster {
        // Hints never leave a node without any.
        found = pick(&|end| end.ready);
    }
    if found.is_empty() {
        found = pick(&|end| end.serving && end.terminating);
    }
    shares(found)
}

/// Weights in lowest terms; those of weight 0 only if there are no others.
fn shares(mut members: Vec<Member>) -> Vec<Member> {
    if members.iter().any(|(_, weight)| *weight > 0) {
        members.retain(|(_, weight)| *weight > 0);
    }
    let divisor = members.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight));
    for (_, weight) in &mut members {
        *weight = weight.checked_div(divisor).unwrap_or(1);
    }
    members
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}
