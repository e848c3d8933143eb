//! From a Service, its pods and its slices to writes of slices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::registry;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::MANAGED_BY;
use crate::backends::{self, HEADLESS, Port};
use crate::caches::SERVICE_NAME;
use crate::meta::{self, Map};
use crate::pod;

/// Endpoints of one slice.
const MOST: usize = 100;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// A family of addresses; a slice holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    IPv4,
    IPv6,
}

/// Endpoints under what they are known by: the pod's UID and its address.
type Wanted = BTreeMap<(String, String), Endpoint>;

/// Pure; no action when the slices say what the pods are. `pods` come with the zone of their node.
pub(super) fn plan(
    service: &Service,
    pods: &[(Arc<Pod>, Option<String>)],
    slices: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let families = families(service);
    let mut actions = Vec::new();
    for slice in slices {
        if !families.iter().any(|family| slice.address_type == format!("{family:?}")) {
            actions.push(Action::Delete(slice.clone()));
        }
    }
    for family in families {
        let mut groups: BTreeMap<Vec<Port>, Wanted> = BTreeMap::new();
        for (one, zone) in pods {
            if let Some(endpoint) = endpoint(service, one, zone.as_deref(), family) {
                let name = (meta::uid(&one.metadata).to_owned(), endpoint.addresses.concat());
                groups.entry(backends::ports(service, one)).or_default().insert(name, endpoint);
            }
        }
        let present: Vec<_> =
            slices.iter().filter(|slice| slice.address_type == format!("{family:?}")).cloned().collect();
        actions.extend(plan_family(service, family, groups, &present));
    }
    actions
}

fn plan_family(
    service: &Service,
    family: Family,
    mut groups: BTreeMap<Vec<Port>, Wanted>,
    present: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let labels = labels(service);
    let mut drafts: Vec<Draft> = Vec::new();
    for slice in present {
        let ports = ports_of(slice);
        let group = groups.get_mut(&ports);
        drafts.push(Draft::keep(slice, ports, group));
    }
    for (ports, left) in groups {
        let mut left: Vec<Endpoint> = left.into_values().collect();
        // Slices that are written anyway come first, then the fullest ones, so that few are written and few stay thin.
        let mut open: Vec<&mut Draft> =
            drafts.iter_mut().filter(|draft| draft.ports == ports && draft.endpoints.len() < MOST).collect();
        open.sort_by_key(|draft| (!draft.is_changed(), usize::MAX - draft.endpoints.len()));
        for draft in open {
            let room = (MOST - draft.endpoints.len()).min(left.len());
            draft.endpoints.extend(left.drain(..room));
        }
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(MOST));
            drafts.push(Draft { slice: None, ports: ports.clone(), endpoints: std::mem::replace(&mut left, rest) });
        }
    }
    if drafts.iter().all(|draft| draft.endpoints.is_empty()) {
        let slice = drafts.into_iter().find_map(|draft| draft.slice);
        let actions = placeholder(service, family, slice.as_ref(), &labels);
        let surplus = present.iter().filter(|one| slice.as_ref().is_none_or(|kept| !Arc::ptr_eq(one, kept)));
        return actions.into_iter().chain(surplus.cloned().map(Action::Delete)).collect();
    }
    drafts.into_iter().filter_map(|draft| draft.into_action(service, family, &labels)).collect()
}

/// The one empty slice of a Service without pods.
fn placeholder(service: &Service, family: Family, slice: Option<&Arc<EndpointSlice>>, labels: &Map) -> Option<Action> {
    let draft = Draft { slice: slice.cloned(), ports: Vec::new(), endpoints: Vec::new() };
    let Some(slice) = slice else { return Some(Action::Create(Box::new(draft.fresh(service, family, labels)))) };
    let is_empty = slice.endpoints.as_ref().is_none_or(Vec::is_empty);
    let right = is_empty && ports_of(slice).is_empty() && slice.metadata.labels.as_ref() == Some(labels);
    (!right).then(|| draft.update(slice, labels))
}

/// A slice as it shall be.
struct Draft {
    slice: Option<Arc<EndpointSlice>>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

impl Draft {
    /// The slice with those of its endpoints that are still wanted, which are thereby placed.
    fn keep(slice: &Arc<EndpointSlice>, ports: Vec<Port>, wanted: Option<&mut Wanted>) -> Self {
        let mut endpoints = Vec::new();
        if let Some(wanted) = wanted {
            for old in slice.endpoints.iter().flatten() {
                let uid = old.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
                endpoints.extend(wanted.remove(&(uid, old.addresses.concat())));
            }
        }
        Self { slice: Some(slice.clone()), ports, endpoints }
    }

    fn is_changed(&self) -> bool {
        let present = self.slice.as_ref().and_then(|slice| slice.endpoints.as_deref()).unwrap_or_default();
        self.slice.is_none() || present != self.endpoints
    }

    fn into_action(self, service: &Service, family: Family, labels: &Map) -> Option<Action> {
        match &self.slice {
            None => Some(Action::Create(Box::new(self.fresh(service, family, labels)))),
            Some(slice) if self.endpoints.is_empty() => Some(Action::Delete(slice.clone())),
            Some(slice) if self.is_changed() || slice.metadata.labels.as_ref() != Some(labels) => {
                Some(self.update(slice, labels))
            }
            Some(_) => None,
        }
    }

    fn update(&self, slice: &EndpointSlice, labels: &Map) -> Action {
        let mut slice = slice.clone();
        slice.metadata.labels = Some(labels.clone());
        slice.endpoints = Some(self.endpoints.clone());
        slice.ports = Some(self.ports.iter().map(to_wire).collect());
        Action::Update(Box::new(slice))
    }

    fn fresh(&self, service: &Service, family: Family, labels: &Map) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", meta::name(&service.metadata))),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels.clone()),
                owner_references: Some(vec![meta::owned_by(&registry::SERVICE, &service.metadata)]),
                ..ObjectMeta::default()
            },
            address_type: format!("{family:?}"),
            endpoints: Some(self.endpoints.clone()),
            ports: Some(self.ports.iter().map(to_wire).collect()),
        }
    }
}

fn families(service: &Service) -> Vec<Family> {
    let named = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<Family> = named.map(|name| if name == "IPv6" { Family::IPv6 } else { Family::IPv4 }).collect();
    if families.is_empty() { vec![Family::IPv4] } else { families }
}

/// The pod as an endpoint; `None` while it has no address of the family.
fn endpoint(service: &Service, one: &Pod, zone: Option<&str>, family: Family) -> Option<Endpoint> {
    let status = one.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses = listed.chain(status.pod_ip.as_deref());
    let address = addresses
        .find(|text| text.parse().is_ok_and(|address: IpAddr| address.is_ipv4() == (family == Family::IPv4)))?;
    let serving = pod::is_ready(one);
    let terminating = meta::is_terminating(&one.metadata);
    let ready = backends::publishes_unready(service) || (serving && !terminating);
    let node = Some(pod::node(one)).filter(|name| !name.is_empty());
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backends::hostname(service, one),
        hints: if ready { hints(service, node, zone) } else { None },
        node_name: node.map(str::to_owned),
        target_ref: Some(backends::reference(one)),
        zone: zone.map(str::to_owned),
        ..Endpoint::default()
    })
}

/// Whom `trafficDistribution` means an endpoint for: those of its zone, and of its node before them.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref())?;
    let node = node.filter(|_| wanted == "PreferSameNode");
    let zone = zone.filter(|_| ["PreferSameNode", "PreferSameZone", "PreferClose"].contains(&wanted));
    (node.is_some() || zone.is_some()).then(|| EndpointHints {
        for_nodes: node.map(|name| vec![ForNode { name: name.to_owned() }]),
        for_zones: zone.map(|name| vec![ForZone { name: name.to_owned() }]),
    })
}

fn labels(service: &Service) -> Map {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if backends::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn to_wire(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let ports = slice.ports.iter().flatten();
    ports
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_default(),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}
