//! Deployments: from a template and a number to ReplicaSets and their sizes.
//!
//! Each template the Deployment ever had is one ReplicaSet, named after a hash of it. A rollout moves replicas from the
//! old ones to the new one within the bounds of the strategy; the ReplicaSets' own loop makes the pods. Sizes are
//! computed from the ReplicaSets' status, so a rollout goes on wherever it was, whoever interrupted it.
//!
//! - [`mod@plan`]: one turn as a pure function. [`sizes`]: its arithmetic. [`sets`]: ReplicaSets, hashes, annotations.
//!   [`status`]: status and conditions.
//!
//! Rollback is the client's: `kubectl rollout undo` writes an old template into the Deployment.

mod plan;
mod sets;
mod sizes;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Patch;
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{Key, Queue, Recorder, Regarding};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use self::plan::{Action, Seen, plan};
use crate::claim::{self, Claim};
use crate::r#loop::{Loop, Shared};
use crate::meta;
use crate::writer::Writer;

/// Deployments worked on at the same time.
const WORKERS: usize = 5;

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    let caches = &shared.caches;
    caches.deployments.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    caches.replica_sets.on_change({
        let (queue, deployments) = (queue.clone(), caches.deployments.clone());
        move |change| {
            for set in change.old.iter().chain(&change.new) {
                match meta::controller(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => {
                        queue.add(Key::new(meta::namespace(&set.metadata), &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        for deployment in deployments.in_namespace(meta::namespace(&set.metadata)) {
                            queue.add(meta::key(&deployment.metadata));
                        }
                    }
                }
            }
        }
    });
    // The last pod of an old ReplicaSet lets a `Recreate` go on.
    caches.pods.on_change({
        let (queue, sets) = (queue.clone(), caches.replica_sets.clone());
        move |change| {
            let Some(pod) = change.old.as_ref().filter(|_| change.new.is_none()) else { return };
            let owner = meta::controller(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
            let set = owner.and_then(|owner| sets.get(&Key::new(meta::namespace(&pod.metadata), &owner.name)));
            if let Some(owner) = set.as_ref().and_then(|set| meta::controller(&set.metadata)) {
                queue.add(Key::new(meta::namespace(&pod.metadata), &owner.name));
            }
        }
    });
    let recorder = shared.recorder("deployment-controller");
    shared.spawn("deployment", WORKERS, queue, DeploymentLoop { shared: shared.clone(), recorder });
}

struct DeploymentLoop {
    shared: Arc<Shared>,
    recorder: Recorder,
}

#[async_trait]
impl Loop for DeploymentLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(deployment) = self.shared.caches.deployments.get(key) else { return Ok(None) };
        let Some(sets) = self.claimed(&deployment, writer).await? else { return Ok(None) };
        let pods = self.pods(&deployment, &sets);
        let seen = Seen { deployment: &deployment, sets: &sets, pods: &pods, now: self.shared.now() };
        let plan = plan(&seen);
        for action in plan.actions {
            self.apply(&deployment, action, writer).await?;
        }
        Ok(plan.again)
    }
}

impl DeploymentLoop {
    /// The Deployment's ReplicaSets; `None` if ownership had to be changed first, which brings the key back.
    async fn claimed(&self, deployment: &Deployment, writer: &Writer) -> Result<Option<Vec<Arc<ReplicaSet>>>, Status> {
        let Some(spec) = &deployment.spec else { return Ok(None) };
        let owner = &deployment.metadata;
        let mut ours = Vec::new();
        let mut changed = false;
        for set in self.shared.caches.replica_sets.in_namespace(meta::namespace(owner)) {
            match claim::claim(owner, &spec.selector, &set.metadata) {
                Claim::Ours => ours.push(set),
                Claim::Foreign => {}
                Claim::Adopt => {
                    changed = true;
                    let kinds = (&registry::DEPLOYMENT, &registry::REPLICA_SET);
                    claim::adopt(writer, kinds.0, owner, kinds.1, &set.metadata).await?;
                }
                Claim::Release => {
                    changed = true;
                    claim::release(writer, owner, &registry::REPLICA_SET, &set.metadata).await?;
                }
            }
        }
        Ok((!changed).then_some(ours))
    }

    /// The pods of the sets, which only `Recreate` has to know.
    fn pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<Arc<Pod>> {
        if !sizes::is_recreate(deployment) {
            return Vec::new();
        }
        sets.iter().flat_map(|set| self.shared.caches.pods.owned_by(meta::uid(&set.metadata))).collect()
    }

    async fn apply(&self, deployment: &Deployment, action: Action, writer: &Writer) -> Result<(), Status> {
        match action {
            Action::Create(set) => self.create(deployment, &set, writer).await,
            Action::Scale { set, to, annotations } => {
                let patch = json!({
                    "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": annotations},
                    "spec": {"replicas": to},
                });
                patch_set(writer, &set.metadata, patch).await?;
                self.scaled(deployment, &set.metadata, sizes::wanted(&set), to);
                Ok(())
            }
            Action::Annotate { set, annotations, min_ready } => {
                let patch = json!({
                    "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": annotations},
                    "spec": {"minReadySeconds": min_ready},
                });
                patch_set(writer, &set.metadata, patch).await
            }
            Action::Revision(revision) => {
                let patch = json!({"metadata": {"annotations": {sets::REVISION: revision}}});
                let key = meta::key(&deployment.metadata);
                writer.patch(&registry::DEPLOYMENT, &key, Patch::Merge(patch), None).await.map(drop)
            }
            Action::Delete(set) => writer.delete(&registry::REPLICA_SET, &set.metadata).await,
            Action::Status(status) => self.put_status(deployment, &status, writer).await,
        }
    }

    /// Creates the new ReplicaSet. A foreign one of the same name moves us to another name.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet, writer: &Writer) -> Result<(), Status> {
        let failed = match writer.create(&registry::REPLICA_SET, set).await {
            Ok(_) => {
                self.scaled(deployment, &set.metadata, 0, sizes::wanted(set));
                return Ok(());
            }
            Err(status) => status,
        };
        let key = meta::key(&set.metadata);
        if failed.is(Reason::AlreadyExists) {
            let there = self.shared.client.get(&registry::REPLICA_SET, &key.namespace, &key.name).await?;
            if there.controller_uid() == deployment.metadata.uid.as_deref()
                && there.typed::<ReplicaSet>().is_ok_and(|there| sets::same_template(&there, deployment))
            {
                return Err(failed);
            }
            let mut status = deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.put_status(deployment, &status, writer).await?;
            return Err(failed);
        }
        let message = format!("Failed to create new replica set {:?}: {failed}", key.name);
        self.recorder.warning(regarding(deployment), "ReplicaSetCreateError", &message);
        if let Some(status) = status::create_failed(deployment, &message, self.shared.now()) {
            self.put_status(deployment, &status, writer).await?;
        }
        Err(failed)
    }

    async fn put_status(
        &self,
        deployment: &Deployment,
        status: &DeploymentStatus,
        writer: &Writer,
    ) -> Result<(), Status> {
        writer.put_status(&registry::DEPLOYMENT, &deployment.metadata, status).await
    }

    fn scaled(&self, deployment: &Deployment, set: &ObjectMeta, from: i32, to: i32) {
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Greater => "up",
            std::cmp::Ordering::Less => "down",
            std::cmp::Ordering::Equal => return,
        };
        let message = format!("Scaled {direction} replica set {} from {from} to {to}", meta::name(set));
        self.recorder.normal(regarding(deployment), "ScalingReplicaSet", message);
    }
}

fn regarding(deployment: &Deployment) -> Regarding {
    Regarding::new(&registry::DEPLOYMENT, &deployment.metadata)
}

async fn patch_set(writer: &Writer, set: &ObjectMeta, patch: serde_json::Value) -> Result<(), Status> {
    writer.patch(&registry::REPLICA_SET, &meta::key(set), Patch::Merge(patch), None).await.map(drop)
}
