//! What a Service says of itself: addresses, ports and policies.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;

use super::check::{address, one_of, optional_port, peculiarity, port, protocol, reachable};
use super::{PROXY_NAME, family};
use crate::service::{Dsr, Protocol};

/// Annotation of a Service for direct server return.
pub(super) const DSR: &str = "fairlead.io/dsr";
/// What `timeoutSeconds` of a client affinity is when nobody says, and the most it may be.
pub(super) const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);
const AFFINITY_MOST: i32 = 86_400;

/// A Service without its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) load_balancer_ips: Vec<IpAddr>,
    pub(super) external_ips: Vec<IpAddr>,
    pub(super) affinity: Option<Duration>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) health_check_node_port: Option<u16>,
    pub(super) dsr: Option<Dsr>,
    pub(super) ports: Vec<FrontPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrontPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

impl Front {
    /// A family without a ClusterIP has nothing: no NodePort, no outside address, no endpoints.
    pub(super) fn has_family(&self, is_ipv4: bool) -> bool {
        self.cluster_ips.iter().any(|ip| ip.is_ipv4() == is_ipv4)
    }
}

/// Reads a Service; `None` if it is no business of ours: headless, ExternalName, another proxy's.
pub(crate) fn front(service: &core::Service) -> Result<Option<Front>, String> {
    let Some(spec) = &service.spec else { return Ok(None) };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME)) {
        return Ok(None);
    }
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let kind = one_of("spec.type", spec.type_.as_deref(), &kinds)?;
    if kind == "ExternalName" {
        return Ok(None);
    }
    let cluster_ips = cluster_ips(spec)?;
    if cluster_ips.is_empty() {
        return Ok(None);
    }
    let policies = ["Cluster", "Local"];
    let internal = one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &policies)?;
    let external = one_of("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &policies)?;
    let mut front = Front {
        cluster_ips,
        load_balancer_ips: load_balancer_ips(service)?,
        external_ips: external_ips(spec)?,
        affinity: affinity(spec)?,
        internal_local: internal == "Local",
        external_local: external == "Local",
        source_ranges: source_ranges(spec)?,
        health_check_node_port: optional_port("spec.healthCheckNodePort", spec.health_check_node_port)?,
        dsr: dsr(service)?,
        ports: ports(spec)?,
    };
    if !(front.external_local && kind == "LoadBalancer") {
        front.health_check_node_port = None;
    }
    let has = [front.has_family(false), front.has_family(true)];
    front.load_balancer_ips.retain(|ip| has[usize::from(ip.is_ipv4())]);
    front.external_ips.retain(|ip| has[usize::from(ip.is_ipv4())]);
    // There are tens of thousands of these, and they do not grow.
    for addresses in [&mut front.cluster_ips, &mut front.load_balancer_ips, &mut front.external_ips] {
        addresses.shrink_to_fit();
    }
    front.source_ranges.shrink_to_fit();
    front.ports.shrink_to_fit();
    Ok(Some(front))
}

/// At most one address per family, in the order of `ipFamilies`; none if the Service is headless.
fn cluster_ips(spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for name in families {
        one_of("spec.ipFamilies", Some(name), &["IPv4", "IPv6"])?;
    }
    one_of(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    )?;
    let texts = match spec.cluster_ips.as_deref() {
        Some(texts) if !texts.is_empty() => texts,
        _ => spec.cluster_ip.as_slice(),
    };
    if texts.iter().all(|text| text.is_empty() || text == "None") {
        return Ok(Vec::new());
    }
    let addresses = texts.iter().map(|text| reachable("spec.clusterIPs", text)).collect::<Result<Vec<_>, _>>()?;
    if let Some(one) = spec.cluster_ip.as_deref().filter(|one| !one.is_empty())
        && one.parse() != Ok(addresses[0])
    {
        return Err(format!("spec.clusterIP: `{one}` is not the first of clusterIPs, {}", addresses[0]));
    }
    if let [first, second, ..] = addresses[..]
        && (addresses.len() > 2 || first.is_ipv4() == second.is_ipv4())
    {
        return Err(format!("spec.clusterIPs: {} are not one address per family", texts.join(", ")));
    }
    for (address, name) in addresses.iter().zip(families) {
        if family(*address) != name {
            return Err(format!("spec.clusterIPs: `{address}` is not of the family {name} that spec.ipFamilies says"));
        }
    }
    Ok(addresses)
}

fn load_balancer_ips(service: &core::Service) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for one in balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten() {
        let field = "status.loadBalancer.ingress[].ip";
        let Some(text) = one.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        let mode = one_of("status.loadBalancer.ingress[].ipMode", one.ip_mode.as_deref(), &["VIP", "Proxy"])?;
        // With `Proxy` the balancer itself terminates: such traffic must go there also from inside. An address that
        // nobody elsewhere can reach is the balancer's affair and no reason to refuse the Service.
        let address = address(field, text)?;
        if mode == "VIP" && peculiarity(address).is_none() {
            addresses.push(address);
        }
    }
    Ok(unique(addresses))
}

fn external_ips(spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let texts = spec.external_ips.iter().flatten();
    Ok(unique(texts.map(|text| reachable("spec.externalIPs", text)).collect::<Result<_, _>>()?))
}

fn unique(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn affinity(spec: &core::ServiceSpec) -> Result<Option<Duration>, String> {
    let field = "spec.sessionAffinity";
    if one_of(field, spec.session_affinity.as_deref(), &["None", "ClientIP"])? == "None" {
        return Ok(None);
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client.and_then(|client| client.timeout_seconds) else { return Ok(Some(AFFINITY_DEFAULT)) };
    match u64::try_from(seconds) {
        Ok(positive) if (1..=AFFINITY_MOST).contains(&seconds) => Ok(Some(Duration::from_secs(positive))),
        _ => Err(format!("{field}Config.clientIP.timeoutSeconds: {seconds} is not between 1 and {AFFINITY_MOST}")),
    }
}

/// Both families, truncated to their networks. Blanks around a range are let pass, as the API server does.
fn source_ranges(spec: &core::ServiceSpec) -> Result<Vec<IpNet>, String> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let read = texts.map(|text| match text.trim().parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => Err(format!("spec.loadBalancerSourceRanges: `{text}` is not a CIDR such as 192.0.2.0/24")),
    });
    let mut ranges = read.collect::<Result<Vec<_>, _>>()?;
    ranges.sort_unstable();
    ranges.dedup();
    Ok(ranges)
}

fn dsr(service: &core::Service) -> Result<Option<Dsr>, String> {
    let annotations = service.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(DSR)) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| format!("metadata.annotations[{DSR}]: {error}"))
}

fn ports(spec: &core::ServiceSpec) -> Result<Vec<FrontPort>, String> {
    let mut ports: Vec<FrontPort> = Vec::new();
    for one in spec.ports.iter().flatten() {
        let next = FrontPort {
            name: one.name.clone().unwrap_or_default(),
            protocol: protocol("spec.ports[].protocol", one.protocol.as_deref())?,
            port: port("spec.ports[].port", one.port)?,
            node_port: optional_port("spec.ports[].nodePort", one.node_port)?,
        };
        if ports.iter().any(|port| port.name == next.name) {
            return Err(match next.name.as_str() {
                "" => "spec.ports[].name: several ports need a name each".to_owned(),
                name => format!("spec.ports[].name: `{name}` is there twice"),
            });
        }
        let same = |port: &&FrontPort| port.protocol == next.protocol;
        if ports.iter().filter(same).any(|port| port.port == next.port) {
            return Err(format!("spec.ports[].port: {}/{} is there twice", next.port, next.protocol));
        }
        if let Some(number) = next.node_port
            && ports.iter().filter(same).any(|port| port.node_port == Some(number))
        {
            return Err(format!("spec.ports[].nodePort: {number}/{} is there twice", next.protocol));
        }
        ports.push(next);
    }
    Ok(ports)
}
