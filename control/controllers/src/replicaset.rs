//! ReplicaSets: a number of pods with the right labels.
//!
//! Pods are adopted, released, made and removed until as many are active as wanted. New pods come in batches that
//! double while the API accepts them, so that a quota or a broken template costs one refused request and not a
//! thousand. Which pods go first is in [`rank`].

mod rank;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Cache, Key, Queue, Recorder, Regarding};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::status::Failure;
use crate::claim::{self, Claim};
use crate::r#loop::{Loop, Shared};
use crate::writer::Writer;
use crate::{meta, pod};

/// ReplicaSets worked on at the same time.
const WORKERS: usize = 5;
/// Pods made or removed in one turn.
const BURST: usize = 500;

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    let caches = &shared.caches;
    caches.replica_sets.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    caches.pods.on_change({
        let (queue, sets) = (queue.clone(), caches.replica_sets.clone());
        move |change| {
            for pod in change.old.iter().chain(&change.new) {
                wake(&queue, &sets, pod);
            }
        }
    });
    let recorder = shared.recorder("replicaset-controller");
    shared.spawn("replicaset", WORKERS, queue, ReplicaSetLoop { shared: shared.clone(), recorder });
}

/// Wakes the pod's ReplicaSet, or, for an orphan, all that might adopt it.
fn wake(queue: &Queue<Key>, sets: &Cache<ReplicaSet>, pod: &Pod) {
    let namespace = meta::namespace(&pod.metadata);
    match meta::controller(&pod.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => queue.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for set in sets.in_namespace(namespace) {
                let selector = set.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|selector| meta::selects(selector, pod.metadata.labels.as_ref())) {
                    queue.add(meta::key(&set.metadata));
                }
            }
        }
    }
}

/// What a turn does to the pods.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
}

/// Compares the active pods with the number wanted. `related` are the active pods of all ReplicaSets of the same owner,
/// which tell how crowded a node is.
fn plan(set: &ReplicaSet, active: &[Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) -> Plan {
    if meta::is_terminating(&set.metadata) {
        return Plan::default();
    }
    let wanted = usize::try_from(wanted(set)).unwrap_or(0);
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST);
    Plan { create: 0, delete: rank::first_to_go(active, related, surplus, now) }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

struct ReplicaSetLoop {
    shared: Arc<Shared>,
    recorder: Recorder,
}

#[async_trait]
impl Loop for ReplicaSetLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(set) = self.shared.caches.replica_sets.get(key) else { return Ok(None) };
        let Some(pods) = self.claimed(&set, writer).await? else { return Ok(None) };
        let now = self.shared.now();
        let (active, rest): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod::is_active(pod));
        let plan = plan(&set, &active, &self.related(&set), now);
        let failure = self.apply(&set, plan, writer).await;
        let leaving = rest.iter().filter(|pod| meta::is_terminating(&pod.metadata) && !pod::is_finished(pod)).count();
        let (status, again) = status::calculate(&set, &active, leaving, failure.as_ref(), now);
        if set.status.as_ref() != Some(&status) {
            writer.put_status(&registry::REPLICA_SET, &set.metadata, &status).await?;
        }
        match failure {
            Some(failure) => Err(failure.error),
            None => Ok(again),
        }
    }
}

impl ReplicaSetLoop {
    /// The set's pods; `None` if ownership had to be changed first, which brings the key back.
    async fn claimed(&self, set: &ReplicaSet, writer: &Writer) -> Result<Option<Vec<Arc<Pod>>>, Status> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let owner = &set.metadata;
        let mut ours = Vec::new();
        let mut changed = false;
        let caches = &self.shared.caches;
        let owned = caches.pods.owned_by(meta::uid(owner));
        for pod in owned.into_iter().chain(caches.orphaned_pods(meta::namespace(owner))) {
            match claim::claim(owner, &spec.selector, &pod.metadata) {
                Claim::Ours => ours.push(pod),
                Claim::Adopt if pod::is_finished(&pod) => {}
                Claim::Adopt => {
                    changed = true;
                    claim::adopt(writer, &registry::REPLICA_SET, owner, &registry::POD, &pod.metadata).await?;
                }
                Claim::Release => {
                    changed = true;
                    claim::release(writer, owner, &registry::POD, &pod.metadata).await?;
                }
                Claim::Foreign => {}
            }
        }
        Ok((!changed).then_some(ours))
    }

    /// Active pods of all ReplicaSets that share this one's owner.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let caches = &self.shared.caches;
        let siblings = match meta::controller(&set.metadata) {
            Some(owner) => caches.replica_sets.owned_by(&owner.uid),
            None => Vec::new(),
        };
        let uids = siblings.iter().map(|sibling| meta::uid(&sibling.metadata));
        let uids = uids.chain(siblings.is_empty().then(|| meta::uid(&set.metadata)));
        uids.flat_map(|uid| caches.pods.owned_by(uid)).filter(|pod| pod::is_active(pod)).collect()
    }

    async fn apply(&self, set: &ReplicaSet, plan: Plan, writer: &Writer) -> Option<Failure> {
        let mut batch = 1;
        let mut left = plan.create;
        while left > 0 {
            let size = batch.min(left);
            let made = join_all((0..size).map(|_| self.create(set, writer))).await;
            if let Some(error) = made.into_iter().find_map(Result::err) {
                return Some(Failure { reason: "FailedCreate", error });
            }
            left -= size;
            batch *= 2;
        }
        let gone = join_all(plan.delete.iter().map(|pod| self.delete(set, pod, writer))).await;
        gone.into_iter().find_map(Result::err).map(|error| Failure { reason: "FailedDelete", error })
    }

    async fn create(&self, set: &ReplicaSet, writer: &Writer) -> Result<(), Status> {
        let created = writer.create(&registry::POD, &fresh(set)).await;
        match &created {
            Ok(pod) => self.recorder.normal(regarding(set), "SuccessfulCreate", format!("Created pod: {}", pod.name())),
            Err(error) => self.recorder.warning(regarding(set), "FailedCreate", format!("Error creating: {error}")),
        }
        created.map(drop)
    }

    async fn delete(&self, set: &ReplicaSet, pod: &Pod, writer: &Writer) -> Result<(), Status> {
        let name = meta::name(&pod.metadata);
        let deleted = writer.delete(&registry::POD, &pod.metadata).await;
        match &deleted {
            Ok(()) => self.recorder.normal(regarding(set), "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(error) => {
                self.recorder.warning(regarding(set), "FailedDelete", format!("Error deleting pod {name}: {error}"));
            }
        }
        deleted
    }
}

/// A pod of the set's template.
fn fresh(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta::name(&set.metadata))),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![meta::owned_by(&registry::REPLICA_SET, &set.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn regarding(set: &ReplicaSet) -> Regarding {
    Regarding::new(&registry::REPLICA_SET, &set.metadata)
}
