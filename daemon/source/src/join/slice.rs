//! What a slice says: whose endpoints, on which ports, in which condition, for whom and with which weight.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::check::{address, one_of, port, protocol, reachable};
use super::{PROXY_NAME, family};
use crate::service::{Protocol, ServiceName};

/// Label of a slice that names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a slice of a headless Service, which nobody proxies.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation of a slice: `10.244.1.5=3,10.244.1.6=0`.
pub(super) const WEIGHTS: &str = "fairlead.io/endpoint-weights";
/// What an endpoint without a weight has, and the most one may have.
const WEIGHT_DEFAULT: u16 = 1;
const WEIGHT_MOST: u16 = 256;

/// What one slice adds to its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Some endpoint is meant for a zone, so the node's own zone matters.
    pub(crate) has_zone_hints: bool,
    pub(super) is_ipv4: bool,
    pub(super) ports: Box<[(Box<str>, Protocol, u16)]>,
    endpoints: Box<[SliceEndpoint]>,
    /// Names of the endpoints' pods, of the slice's namespace, one after the other.
    pods: Box<str>,
    /// Whom endpoints are meant for, by their place; most say nothing.
    hints: Box<[(u32, Hint)]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceEndpoint {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) local: bool,
    pub(super) weight: u16,
    /// Bytes of its pod's name in [`Slice::pods`]; 0: it is none.
    pod: u16,
}

impl Slice {
    /// Its endpoints, with whom they are meant for.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&SliceEndpoint, Option<&Hint>)> {
        let mut hints = self.hints.iter().peekable();
        (0..).zip(&self.endpoints).map(move |(place, one)| {
            let hint = hints.next_if(|(of, _)| *of == place);
            (one, hint.map(|(_, hint)| hint))
        })
    }

    /// Addresses of endpoints on this node.
    pub(crate) fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().filter(|one| one.local).map(|one| one.address)
    }

    /// The address that a pod has here.
    pub(crate) fn address_of(&self, pod: &str) -> Option<IpAddr> {
        let mut start = 0;
        let mut named = self.endpoints.iter().map(|one| {
            let end = start + usize::from(one.pod);
            let name = self.pods.get(start..end).unwrap_or_default();
            start = end;
            (name, one.address)
        });
        named.find(|(name, _)| !pod.is_empty() && *name == pod).map(|(_, address)| address)
    }
}

/// Whom an endpoint is meant for; empty says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) nodes: Vec<String>,
    pub(super) zones: Vec<String>,
}

/// Reads a slice, with whose endpoints these are; `None` if it is no business of ours: of no Service, of a headless one, another proxy's, of names.
pub(crate) fn slice(slice: &EndpointSlice, node: &str) -> Result<Option<(ServiceName, Slice)>, String> {
    let Some(service) = owner(&slice.metadata) else { return Ok(None) };
    if one_of("addressType", Some(&slice.address_type), &["IPv4", "IPv6", "FQDN"])? == "FQDN" {
        return Ok(None);
    }
    let mut ports = Vec::new();
    for one in slice.ports.iter().flatten() {
        let protocol = protocol("ports[].protocol", one.protocol.as_deref())?;
        // A port without a number stands for all ports, which no Service can ask for.
        let Some(number) = one.port else { continue };
        ports.push((one.name.as_deref().unwrap_or_default().into(), protocol, port("ports[].port", number)?));
    }
    let weights = weights(&slice.metadata)?;
    let listed = slice.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Vec::with_capacity(listed.len());
    let mut pods = String::new();
    let mut hints = Vec::new();
    for one in listed {
        let Some(text) = one.addresses.first() else { continue };
        let address = reachable("endpoints[].addresses", text)?;
        if family(address) != slice.address_type {
            return Err(format!("endpoints[].addresses: `{text}` is not of addressType {}", slice.address_type));
        }
        let conditions = one.conditions.as_ref();
        let pod = pod(one).and_then(|name| Some((name, u16::try_from(name.len()).ok()?)));
        pods.push_str(pod.map_or("", |(name, _)| name));
        if let Some(hint) = hint(one) {
            hints.push((u32::try_from(endpoints.len()).map_err(|_| "endpoints: too many".to_owned())?, hint));
        }
        endpoints.push(SliceEndpoint {
            address,
            ready: conditions.and_then(|all| all.ready).unwrap_or(true),
            serving: conditions.and_then(|all| all.serving).unwrap_or(true),
            terminating: conditions.and_then(|all| all.terminating).unwrap_or(false),
            local: one.node_name.as_deref() == Some(node),
            weight: weights.get(&address).copied().unwrap_or(WEIGHT_DEFAULT),
            pod: pod.map_or(0, |(_, len)| len),
        });
    }
    let slice = Slice {
        has_zone_hints: hints.iter().any(|(_, hint)| !hint.zones.is_empty()),
        is_ipv4: slice.address_type == "IPv4",
        ports: ports.into(),
        endpoints: endpoints.into(),
        pods: pods.into(),
        hints: hints.into(),
    };
    Ok(Some((service, slice)))
}

/// The Service whose endpoints we are to use.
fn owner(metadata: &ObjectMeta) -> Option<ServiceName> {
    let labels = metadata.labels.as_ref()?;
    if labels.contains_key(PROXY_NAME) || labels.contains_key(HEADLESS) {
        return None;
    }
    let name = labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?.clone();
    Some(ServiceName { namespace: metadata.namespace.clone().unwrap_or_default(), name })
}

fn hint(endpoint: &Endpoint) -> Option<Hint> {
    let hints = endpoint.hints.as_ref()?;
    let hint = Hint {
        nodes: hints.for_nodes.iter().flatten().map(|one| one.name.clone()).collect(),
        zones: hints.for_zones.iter().flatten().map(|one| one.name.clone()).collect(),
    };
    (hint != Hint::default()).then_some(hint)
}

fn pod(endpoint: &Endpoint) -> Option<&str> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    target.name.as_deref()
}

/// The weights of the annotation. One for an address that the slice does not have is no error: endpoints come and go.
fn weights(metadata: &ObjectMeta) -> Result<BTreeMap<IpAddr, u16>, String> {
    let mut weights = BTreeMap::new();
    let field = format!("metadata.annotations[{WEIGHTS}]");
    let text = metadata.annotations.as_ref().and_then(|all| all.get(WEIGHTS));
    for entry in text.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some((left, right)) = entry.split_once('=') else {
            return Err(format!("{field}: `{entry}` is not ADDRESS=WEIGHT"));
        };
        let address = address(&field, left.trim())?;
        let weight = right.trim().parse().ok().filter(|weight| *weight <= WEIGHT_MOST);
        let Some(weight) = weight else {
            return Err(format!("{field}: the weight in `{entry}` is not between 0 and {WEIGHT_MOST}"));
        };
        if weights.insert(address, weight).is_some() {
            return Err(format!("{field}: {address} is there twice"));
        }
    }
    Ok(weights)
}
