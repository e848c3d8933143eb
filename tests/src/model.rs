//! kube-proxy's rules in plain Rust: who may get which endpoint. Written from the documentation of Services, without a
//! look at the code under test, for tests to compare with.
//!
//! The rules: an endpoint takes clients while it is ready and topology hints leave it to this node; without any such,
//! those that still serve while they end do (KEP-1669). A policy of Local asks the same of this node's endpoints alone,
//! whatever the hints. Inside clients are bound by the internal policy, and only on the ClusterIP; outside clients by the
//! external one, and only elsewhere. Source ranges come first, on addresses of load balancers and on NodePorts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Outside of the cluster.
    Outside,
    /// In a pod of this node.
    Pod,
}

/// What the rules need to know of the node.
#[derive(Clone, Debug)]
pub struct Site {
    /// Addresses on which NodePorts answer.
    pub node: Vec<IpAddr>,
    /// External IPs answer.
    pub external_ips: bool,
}

/// One port of a Service in one family: what has endpoints and affinities of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The Service.
    pub service: ServiceName,
    /// Which of its ports.
    pub port: usize,
    /// IPv4.
    pub v4: bool,
}

/// What the rules say to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No service is there.
    Nothing,
    /// One of these.
    Among {
        /// Whose they are.
        group: Group,
        /// Not empty.
        set: BTreeSet<SocketAddr>,
        /// This node's alone, by policy.
        local: bool,
        /// The service has session affinity.
        affinity: bool,
    },
    /// There is nobody: refused.
    Refused,
    /// There is nobody, and the address is the node's own: its stack answers.
    Host,
    /// Dropped, and counted as this.
    Dropped(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    Balancer,
    External,
    NodePort,
}

impl Site {
    /// What a client gets that asks there.
    pub fn answer(
        &self,
        services: &[Service],
        side: Side,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Answer {
        let found = services.iter().find_map(|service| {
            service.ports.iter().enumerate().find_map(|(index, port)| {
                let kind = (port.protocol == protocol).then(|| self.kind(service, port, to)).flatten()?;
                Some((service, index, port, kind))
            })
        });
        let Some((service, index, port, kind)) = found else { return Answer::Nothing };
        let bound = matches!(kind, Kind::Balancer | Kind::NodePort) && !service.source_ranges.is_empty();
        if bound && !service.source_ranges.iter().any(|range| range.contains(&client)) {
            return Answer::Dropped("drop_source_range");
        }
        let local = match kind {
            Kind::Cluster => service.internal_local,
            _ => service.external_local && side == Side::Outside,
        };
        let v4 = to.is_ipv4();
        let set = usable(port, v4, local);
        let anybody = !usable(port, v4, false).is_empty() || !usable(port, v4, true).is_empty();
        match (set.is_empty(), anybody, kind) {
            (false, ..) => {
                let group = Group { service: service.name.clone(), port: index, v4 };
                Answer::Among { group, set, local, affinity: service.affinity.is_some() }
            }
            (true, true, _) => Answer::Dropped("drop_no_local_endpoint"),
            (true, false, Kind::NodePort) => Answer::Host,
            (true, false, _) => Answer::Refused,
        }
    }

    fn kind(&self, service: &Service, port: &Port, to: SocketAddr) -> Option<Kind> {
        let (ip, number) = (to.ip(), to.port());
        let here = number == port.port;
        let family = service.cluster_ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        if here && service.cluster_ips.contains(&ip) {
            Some(Kind::Cluster)
        } else if here && service.load_balancer_ips.contains(&ip) {
            Some(Kind::Balancer)
        } else if here && self.external_ips && service.external_ips.contains(&ip) {
            Some(Kind::External)
        } else if port.node_port == Some(number) && family && self.node.contains(&ip) {
            Some(Kind::NodePort)
        } else {
            None
        }
    }
}

/// Endpoints that take new clients.
pub fn usable(port: &Port, v4: bool, local: bool) -> BTreeSet<SocketAddr> {
    let mine = || port.endpoints.iter().filter(move |end| end.address.is_ipv4() == v4 && (end.local || !local));
    let ready: Vec<&Endpoint> = mine().filter(|end| end.ready && (end.near || local)).collect();
    let chosen = if ready.is_empty() { mine().filter(|end| end.serving && end.terminating).collect() } else { ready };
    // A weight of zero means none while others have any.
    let weighty = chosen.iter().any(|end| end.weight > 0);
    chosen.into_iter().filter(|end| end.weight > 0 || !weighty).map(|end| end.address).collect()
}

/// Endpoints that somebody may get, whoever, of a Service with external addresses: connections to these go on.
pub fn alive(service: &Service, port: &Port, v4: bool) -> BTreeSet<SocketAddr> {
    let mut all = usable(port, v4, false);
    if service.internal_local || service.external_local {
        all.extend(usable(port, v4, true));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(last: u8) -> Endpoint {
        Endpoint::local(([10, 244, 0, last], 8080).into())
    }

    fn port(endpoints: Vec<Endpoint>) -> Port {
        Port { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: Some(30_080), endpoints }
    }

    fn last(set: BTreeSet<SocketAddr>) -> Vec<String> {
        set.into_iter().map(|address| address.ip().to_string().rsplit('.').next().unwrap_or_default().into()).collect()
    }

    #[test]
    fn the_rules_of_the_documentation() {
        let leaving = Endpoint { ready: false, terminating: true, ..end(1) };
        let remote = Endpoint { local: false, ..end(2) };
        assert_eq!(last(usable(&port(vec![leaving.clone(), remote.clone()]), true, false)), ["2"]);
        assert_eq!(last(usable(&port(vec![leaving.clone(), remote.clone()]), true, true)), ["1"]);
        let far = Endpoint { near: false, ..end(3) };
        assert_eq!(last(usable(&port(vec![far.clone(), remote.clone()]), true, false)), ["2"]);
        assert_eq!(last(usable(&port(vec![far, remote.clone()]), true, true)), ["3"]);
        let idle = Endpoint { weight: 0, ..end(4) };
        assert_eq!(last(usable(&port(vec![idle.clone()]), true, false)), ["4"]);
        assert_eq!(last(usable(&port(vec![idle, remote]), true, false)), ["2"]);
    }
}
