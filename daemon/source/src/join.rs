//! The join of a Service with its EndpointSlices, in three pure steps.
//!
//! [`front`] and [`slice()`] read one object each and refuse it alone if it makes no sense; they keep what the data path
//! needs and nothing else. [`join`] puts a front and its slices together and cannot fail. The rules are those of
//! kube-proxy: ports meet by name and protocol, an endpoint counts with its first address only, and conditions not
//! given mean ready, serving, not terminating.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::service::{Endpoint, Port, Protocol, Service, ServiceName};

/// Label that gives a Service to another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// What `timeoutSeconds` of a client affinity is when nobody says.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// A Service without its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    cluster_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    affinity: Option<Duration>,
    internal_local: bool,
    external_local: bool,
    ports: Vec<FrontPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FrontPort {
    name: String,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
}

/// What one slice adds to its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Whose endpoints these are.
    pub(crate) service: ServiceName,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SliceEndpoint {
    address: IpAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
}

/// Reads a Service; `None` if it is no business of ours: headless, ExternalName, another proxy's.
pub(crate) fn front(service: &core::Service) -> Result<Option<Front>, String> {
    let Some(spec) = &service.spec else { return Ok(None) };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME)) || spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let texts = match spec.cluster_ips.as_deref() {
        Some(texts) if !texts.is_empty() => texts,
        _ => spec.cluster_ip.as_slice(),
    };
    if texts.iter().all(|text| text.is_empty() || text == "None") {
        return Ok(None);
    }
    let cluster_ips = texts.iter().map(|text| address("spec.clusterIPs", text)).collect::<Result<_, _>>()?;
    Ok(Some(Front {
        cluster_ips,
        external_ips: external_ips(service, spec)?,
        affinity: affinity(spec)?,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: spec.ports.iter().flatten().map(front_port).collect::<Result<_, _>>()?,
    }))
}

/// Reads a slice; `None` if it belongs to no Service or has no addresses we could send to.
pub(crate) fn slice(slice: &EndpointSlice, node: &str) -> Result<Option<Slice>, String> {
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let Some(service) = service.filter(|name| !name.is_empty()) else { return Ok(None) };
    if slice.address_type == "FQDN" {
        return Ok(None);
    }
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    let mut ports = Vec::new();
    for one in slice.ports.iter().flatten() {
        // A port without a number stands for all ports, which no Service can ask for.
        let Some(number) = one.port else { continue };
        let name = one.name.clone().unwrap_or_default();
        ports.push((name, protocol(one.protocol.as_deref())?, port("ports[].port", number)?));
    }
    let listed = slice.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Vec::with_capacity(listed.len());
    for one in listed {
        let Some(text) = one.addresses.first() else { continue };
        let address = address("endpoints[].addresses", text)?;
        if address.is_ipv4() != (slice.address_type == "IPv4") {
            return Err(format!("endpoints[].addresses: `{text}` is not of addressType {}", slice.address_type));
        }
        let conditions = one.conditions.as_ref();
        endpoints.push(SliceEndpoint {
            address,
            ready: conditions.and_then(|all| all.ready).unwrap_or(true),
            serving: conditions.and_then(|all| all.serving).unwrap_or(true),
            terminating: conditions.and_then(|all| all.terminating).unwrap_or(false),
            local: one.node_name.as_deref() == Some(node),
        });
    }
    Ok(Some(Slice { service: ServiceName { namespace, name: service.clone() }, ports, endpoints }))
}

/// The Service with the endpoints of its slices.
pub(crate) fn join<'a>(name: &ServiceName, front: &Front, slices: impl Iterator<Item = &'a Slice> + Clone) -> Service {
    let ports = front.ports.iter().map(|port| Port {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        node_port: port.node_port,
        endpoints: endpoints(port, slices.clone()),
    });
    Service {
        name: name.clone(),
        cluster_ips: front.cluster_ips.clone(),
        external_ips: front.external_ips.clone(),
        affinity: front.affinity,
        internal_local: front.internal_local,
        external_local: front.external_local,
        ports: ports.collect(),
    }
}

fn endpoints<'a>(port: &FrontPort, slices: impl Iterator<Item = &'a Slice>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for slice in slices {
        for (_, _, target) in
            slice.ports.iter().filter(|(name, proto, _)| *name == port.name && *proto == port.protocol)
        {
            endpoints.extend(slice.endpoints.iter().map(|one| Endpoint {
                address: SocketAddr::new(one.address, *target),
                ready: one.ready,
                serving: one.serving,
                terminating: one.terminating,
                local: one.local,
            }));
        }
    }
    endpoints.sort_unstable();
    // While an endpoint moves between slices it may be in two: its best conditions count, and local if either says so.
    endpoints.dedup_by(|next, kept| {
        let same = next.address == kept.address;
        if same {
            let local = next.local || kept.local;
            if rank(next) > rank(kept) {
                *kept = next.clone();
            }
            kept.local = local;
        }
        same
    });
    endpoints
}

fn rank(endpoint: &Endpoint) -> (bool, bool, bool) {
    (endpoint.ready, endpoint.serving, !endpoint.terminating)
}

fn external_ips(service: &core::Service, spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for one in ingress.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten() {
        // With `Proxy` the balancer itself terminates: such traffic must go there also from inside.
        if let Some(text) = one.ip.as_deref().filter(|_| one.ip_mode.as_deref() != Some("Proxy")) {
            addresses.push(address("status.loadBalancer.ingress[].ip", text)?);
        }
    }
    for text in spec.external_ips.iter().flatten() {
        addresses.push(address("spec.externalIPs", text)?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn affinity(spec: &core::ServiceSpec) -> Result<Option<Duration>, String> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Ok(None);
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client.and_then(|client| client.timeout_seconds) else { return Ok(Some(AFFINITY_DEFAULT)) };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(format!("spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not a positive number")),
    }
}

fn front_port(one: &core::ServicePort) -> Result<FrontPort, String> {
    Ok(FrontPort {
        name: one.name.clone().unwrap_or_default(),
        protocol: protocol(one.protocol.as_deref())?,
        port: port("spec.ports[].port", one.port)?,
        node_port: match one.node_port {
            None | Some(0) => None,
            Some(number) => Some(port("spec.ports[].nodePort", number)?),
        },
    })
}

fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("ports[].protocol: `{other}` is none of TCP, UDP, SCTP")),
    }
}

fn port(field: &str, number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{field}: {number} is not between 1 and 65535")),
    }
}

fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field}: `{text}` is not an IP address"))
}

#[cfg(test)]
mod tests;
