//! The services of a run, the same ones for every peer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

use crate::rig::node;

/// Network of the pods.
pub(super) const CLUSTER: &str = "10.244.0.0/16";
/// Network of the services.
pub(super) const SERVICES: &str = "172.28.0.0/14";
const FIRST_VIP: u32 = 0xac1c_0001;
/// Where endpoints of services that nobody asks are.
const FIRST_ELSEWHERE: u32 = 0x0a80_0000;

/// How many services, with how many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spec {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

/// The ports of the service that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    /// TCP, answered.
    Echo,
    /// TCP, counted.
    Sink,
    /// UDP.
    Datagrams,
}

impl Measured {
    /// Of the service.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Echo => 80,
            Self::Sink => 5201,
            Self::Datagrams => 53,
        }
    }

    /// Of the endpoints.
    pub(crate) fn target(self) -> u16 {
        match self {
            Self::Echo | Self::Datagrams => node::PORTS.echo,
            Self::Sink => node::PORTS.sink,
        }
    }

    /// Of the node.
    pub(crate) fn node_port(self) -> u16 {
        match self {
            Self::Echo => 30_080,
            Self::Sink => 30_201,
            Self::Datagrams => 30_053,
        }
    }

    fn protocol(self) -> Protocol {
        if self == Self::Datagrams { Protocol::Udp } else { Protocol::Tcp }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Echo => "http",
            Self::Sink => "bulk",
            Self::Datagrams => "dns",
        }
    }
}

/// A port of a service, as the rules of kube-proxy know it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// `namespace/service:port`.
    pub(super) name: String,
    pub(super) vip: Ipv4Addr,
    /// `tcp` or `udp`.
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    pub(super) endpoints: Vec<SocketAddrV4>,
    pub(super) node_port: Option<u16>,
}

impl Spec {
    /// Endpoints of the service that is measured, all on the node.
    pub(crate) fn local_endpoints(self) -> u32 {
        self.endpoints
    }

    /// Address of the service that is measured.
    pub(crate) fn vip(self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_VIP + self.services - 1)
    }

    /// All services, the measured one last.
    pub(crate) fn all(self) -> Vec<Service> {
        (0..self.services).map(|number| self.service(number)).collect()
    }

    /// A service by its number.
    pub(crate) fn service(self, number: u32) -> Service {
        let is_measured = number + 1 == self.services;
        let ports = if is_measured {
            [Measured::Echo, Measured::Datagrams, Measured::Sink]
                .map(|what| {
                    let addresses = (0..self.endpoints).map(|end| {
                        let address = node::endpoint(u8::try_from(end).unwrap_or(u8::MAX));
                        SocketAddrV4::new(address, what.target())
                    });
                    port(what.name(), what.protocol(), what.port(), Some(what.node_port()), addresses)
                })
                .into()
        } else {
            let addresses = (0..self.endpoints).map(|end| self.elsewhere(number, end));
            vec![port(Measured::Echo.name(), Protocol::Tcp, Measured::Echo.port(), None, addresses)]
        };
        Service {
            name: ServiceName { namespace: format!("ns{}", number % 50), name: format!("svc{number}") },
            cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(FIRST_VIP + number))],
            ports,
            ..Service::default()
        }
    }

    /// An endpoint that does not exist.
    pub(crate) fn elsewhere(self, number: u32, end: u32) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(FIRST_ELSEWHERE + number * self.endpoints + end), node::PORTS.echo)
    }

    /// All ports of all services.
    pub(super) fn entries(self) -> Vec<Entry> {
        let of = |service: Service| {
            let name = service.name;
            let vip = service.cluster_ips.first().copied();
            service.ports.into_iter().filter_map(move |port| {
                let Some(IpAddr::V4(vip)) = vip else { return None };
                let v4 = |endpoint: Endpoint| match endpoint.address {
                    SocketAddr::V4(address) => Some(address),
                    SocketAddr::V6(_) => None,
                };
                Some(Entry {
                    name: format!("{}/{}:{}", name.namespace, name.name, port.name),
                    vip,
                    protocol: if port.protocol == Protocol::Udp { "udp" } else { "tcp" },
                    port: port.port,
                    endpoints: port.endpoints.into_iter().filter_map(v4).collect(),
                    node_port: port.node_port,
                })
            })
        };
        self.all().into_iter().flat_map(of).collect()
    }
}

fn port(
    name: &str,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
    addresses: impl Iterator<Item = SocketAddrV4>,
) -> Port {
    let endpoints = addresses.map(|address| Endpoint::local(address.into())).collect();
    Port { name: name.to_owned(), protocol, port, node_port, endpoints }
}

/// The names of chains: sixteen letters of a hash, as kube-proxy makes them.
pub(super) fn hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest[..10].iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16).map(|place| char::from(LETTERS[(bits >> (75 - 5 * place) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_service_stands_last_and_is_the_only_one_with_node_ports() {
        let spec = Spec { services: 100, endpoints: 2 };
        let entries = spec.entries();
        assert_eq!(entries.len(), 102);
        let last = &entries[99];
        assert_eq!((last.vip, last.port, last.node_port), (spec.vip(), 80, Some(30_080)));
        assert_eq!(last.endpoints[1], SocketAddrV4::new(node::endpoint(1), 8080));
        assert!(entries[..99].iter().all(|entry| entry.node_port.is_none() && entry.endpoints.len() == 2));
        let mut vips: Vec<_> = entries.iter().map(|entry| entry.vip).collect();
        vips.dedup();
        assert_eq!(vips.len(), 100);
    }

    #[test]
    fn a_hash_is_the_beginning_of_the_digest_in_base_32() {
        // `printf abc | sha256sum | xxd -r -p | base32` begins so.
        assert_eq!(hash("abc"), "XJ4BNP4PAHH6UQKB");
    }
}
