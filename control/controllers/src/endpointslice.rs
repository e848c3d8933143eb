//! EndpointSlices: the pods of a Service, in pieces of at most a hundred.
//!
//! Endpoints stay in the slice they are in, so a change of one pod rewrites one slice and nodes are told of that one
//! alone. Pods whose named ports differ stand in different slices. A Service without pods keeps one empty slice.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Key, Queue};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use self::plan::{Action, plan};
use crate::r#loop::{Loop, Shared};
use crate::writer::{self, Writer};
use crate::{backends, meta, pod};

/// Services worked on at the same time.
const WORKERS: usize = 5;

/// The label that says whose a slice is, and that it is ours.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
/// The label of a node that becomes an endpoint's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    backends::watch(shared, &queue);
    shared.caches.slices.on_change({
        let queue = queue.clone();
        move |change| {
            if let Some(slice) = change.latest().filter(|slice| is_ours(slice)) {
                let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(crate::caches::SERVICE_NAME));
                queue.add(Key::new(&change.key.namespace, service.cloned().unwrap_or_default()));
            }
        }
    });
    // A node that moves to another zone takes its endpoints along.
    shared.caches.nodes.on_change({
        let (queue, services) = (queue.clone(), shared.caches.services.clone());
        move |change| {
            if change.old.as_deref().and_then(zone) != change.new.as_deref().and_then(zone) {
                services.all().iter().for_each(|service| queue.add(meta::key(&service.metadata)));
            }
        }
    });
    shared.spawn("endpointslice", WORKERS, queue, SliceLoop { shared: shared.clone() });
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE)
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|manager| manager == MANAGED_BY.1)
}

struct SliceLoop {
    shared: Arc<Shared>,
}

#[async_trait]
impl Loop for SliceLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let caches = &self.shared.caches;
        let Some(service) = caches.services.get(key).filter(|one| !meta::is_terminating(&one.metadata)) else {
            return Ok(None);
        };
        let Some(pods) = backends::pods(&self.shared, &service) else { return Ok(None) };
        let slices = caches.slices_of_service(&key.namespace, &key.name).into_iter();
        let slices: Vec<_> = slices.filter(|slice| is_ours(slice) && !meta::is_terminating(&slice.metadata)).collect();
        let zone_of = |node: &str| zone(caches.nodes.get(&Key::new("", node))?.as_ref()).cloned();
        let pods: Vec<_> = pods
            .into_iter()
            .map(|one| {
                let zone = zone_of(pod::node(&one));
                (one, zone)
            })
            .collect();
        for action in plan(&service, &pods, &slices) {
            match action {
                Action::Create(slice) => drop(writer.create(&registry::ENDPOINT_SLICE, &*slice).await?),
                Action::Update(slice) => {
                    drop(writer.update(&registry::ENDPOINT_SLICE, writer::tree(&*slice)?, None).await?);
                }
                Action::Delete(slice) => writer.delete(&registry::ENDPOINT_SLICE, &slice.metadata).await?,
            }
        }
        Ok(None)
    }
}
