//! Endpoints: the older form of EndpointSlices, one object per Service, for clients that still read it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Key, Queue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::backends::{self, HEADLESS, Port};
use crate::r#loop::{Loop, Shared};
use crate::writer::{self, Writer};
use crate::{meta, pod};

/// Services worked on at the same time.
const WORKERS: usize = 5;
/// Addresses of one object; more are left out, and an annotation says so.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The label of the objects this loop writes.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    backends::watch(shared, &queue);
    shared.caches.endpoints.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    shared.spawn("endpoints", WORKERS, queue, EndpointsLoop { shared: shared.clone() });
}

struct EndpointsLoop {
    shared: Arc<Shared>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
    Delete(Arc<Endpoints>),
}

#[async_trait]
impl Loop for EndpointsLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let service = self.shared.caches.services.get(key);
        let pods = service.as_ref().and_then(|service| backends::pods(&self.shared, service));
        let present = self.shared.caches.endpoints.get(key);
        match plan(service.as_deref(), pods.as_deref(), present.as_ref()) {
            Some(Action::Create(fresh)) => writer.create(&registry::ENDPOINTS, &*fresh).await.map(drop)?,
            Some(Action::Update(changed)) => {
                writer.update(&registry::ENDPOINTS, writer::tree(&*changed)?, None).await.map(drop)?;
            }
            Some(Action::Delete(stale)) => writer.delete(&registry::ENDPOINTS, &stale.metadata).await?,
            None => {}
        }
        Ok(None)
    }
}

/// The write that makes the object say what the pods are, if one is needed. An object whose Service is gone goes too,
/// provided that this loop made it.
fn plan(service: Option<&Service>, pods: Option<&[Arc<Pod>]>, present: Option<&Arc<Endpoints>>) -> Option<Action> {
    let Some(service) = service else {
        let ours = present.filter(|present| {
            let labels = present.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|manager| manager == MANAGED_BY.1)
        });
        return ours.cloned().map(Action::Delete);
    };
    let (subsets, over) = subsets(service, pods?);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if backends::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let annotations = over.then(|| meta::Map::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let Some(present) = present else {
        let metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        };
        return Some(Action::Create(Box::new(Endpoints { metadata, subsets })));
    };
    let noted = meta::annotation(&present.metadata, OVER_CAPACITY).is_some();
    if present.subsets == subsets && present.metadata.labels.as_ref() == Some(&labels) && noted == over {
        return None;
    }
    let mut changed = Endpoints::clone(present);
    changed.subsets = subsets;
    changed.metadata.labels = Some(labels);
    let kept = changed.metadata.annotations.get_or_insert_default();
    kept.remove(OVER_CAPACITY);
    kept.extend(annotations.into_iter().flatten());
    Some(Action::Update(Box::new(changed)))
}

/// Addresses grouped by the ports they answer on, and whether some had to be left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    type Group = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut groups: BTreeMap<Vec<Port>, Group> = BTreeMap::new();
    let unready = backends::publishes_unready(service);
    let mut known: Vec<(IpAddr, &Pod)> = pods
        .iter()
        .filter(|one| unready || !meta::is_terminating(&one.metadata))
        .filter_map(|one| Some((pod::ip(one)?.parse().ok()?, &**one)))
        .collect();
    // What does not fit is what is not ready.
    known.sort_by_key(|(address, one)| (!pod::is_ready(one), *address));
    let over = known.len() > MOST;
    known.truncate(MOST);
    known.sort_by_key(|(address, one)| (*address, meta::uid(&one.metadata).to_owned()));
    for (address, one) in known {
        let ports = backends::ports(service, one);
        if ports.is_empty() && !backends::is_headless(service) {
            continue;
        }
        let (ready, waiting) = groups.entry(ports).or_default();
        let list = if unready || pod::is_ready(one) { ready } else { waiting };
        list.push(EndpointAddress {
            ip: address.to_string(),
            hostname: backends::hostname(service, one),
            node_name: Some(pod::node(one)).filter(|name| !name.is_empty()).map(str::to_owned),
            target_ref: Some(backends::reference(one)),
        });
    }
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subset = |(ports, (ready, waiting)): (Vec<Port>, Group)| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(waiting),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(to_wire).collect()),
    };
    (groups.into_iter().map(subset).collect(), over)
}

fn to_wire(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}
