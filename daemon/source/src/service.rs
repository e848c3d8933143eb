//! A Service joined with its endpoints: what the data path programs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// One Service with all its ports and endpoints. Headless and ExternalName services have no addresses here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Whose it is.
    pub name: ServiceName,
    /// `spec.clusterIPs`, parsed; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of load balancers whose `ipMode` is VIP, and `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// In the order of `spec.ports`.
    pub ports: Vec<Port>,
}

/// One port of a Service with the endpoints behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
}
