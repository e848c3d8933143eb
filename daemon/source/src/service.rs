//! A Service joined with its endpoints: what the data path programs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// Namespace and name of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols a Service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One Service with all its ports and endpoints. Headless and ExternalName services do not come this far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Whose it is.
    pub name: ServiceName,
    /// `spec.clusterIPs`, parsed.
    pub cluster_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.externalIPs`; the data path answers on them only where the operator allows it.
    pub external_ips: Vec<IpAddr>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `loadBalancerSourceRanges`: empty lets everybody in. Hold for load balancer addresses and NodePorts.
    pub source_ranges: Vec<IpNet>,
    /// `healthCheckNodePort`, where `externalTrafficPolicy` is Local and the type LoadBalancer.
    pub health_check_node_port: Option<u16>,
    /// Direct server return, where the Service's annotation says something; `None`: as the node is configured.
    pub dsr: Option<Dsr>,
    /// In the order of `spec.ports`.
    pub ports: Vec<Port>,
}

/// How packets reach an endpoint on another node so that it answers the client itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dsr {
    /// They do not: the source is translated, and the answer comes back this way.
    #[default]
    Off,
    /// Encapsulated (IP in IP), to the endpoint's address.
    Ipip,
    /// By the hardware address of the endpoint's node, which must be on the link.
    L2,
}

/// A word that names no way of direct server return.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of off, ipip, l2")]
pub struct UnknownDsr(String);

impl std::str::FromStr for Dsr {
    type Err = UnknownDsr;

    fn from_str(text: &str) -> Result<Self, UnknownDsr> {
        match text {
            "off" => Ok(Self::Off),
            "ipip" => Ok(Self::Ipip),
            "l2" => Ok(Self::L2),
            other => Err(UnknownDsr(other.to_owned())),
        }
    }
}

impl std::fmt::Display for Dsr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Ipip => "ipip",
            Self::L2 => "l2",
        })
    }
}

/// One port of a Service with the endpoints behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// `spec.ports[].name`, possibly empty.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the ClusterIP.
    pub port: u16,
    /// Port on every node; `None` for ClusterIP services.
    pub node_port: Option<u16>,
    /// Sorted by address, no duplicates, both families.
    pub endpoints: Vec<Endpoint>,
}

/// Where a connection may go. Conditions as in EndpointSlice: see KEP-1672.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// Accepts new connections.
    pub ready: bool,
    /// Could accept connections, disregarding termination.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Hints (topology, `trafficDistribution`) leave it to clients of this node, or say nothing. Only what a `Local`
    /// policy does not decide heeds this.
    pub near: bool,
    /// Share of new connections relative to others, 0 to 256; 1 where the slice's annotation says nothing. 0: none while
    /// others have any.
    pub weight: u16,
}

impl Endpoint {
    /// A ready one on this node, of weight 1.
    pub fn local(address: SocketAddr) -> Self {
        Self { address, ready: true, serving: true, terminating: false, local: true, near: true, weight: 1 }
    }

    /// A ready one on another node, of weight 1.
    pub fn remote(address: SocketAddr) -> Self {
        Self { local: false, ..Self::local(address) }
    }
}
