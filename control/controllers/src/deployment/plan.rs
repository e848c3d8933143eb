//! One turn of a Deployment, as a function of what is seen.
//!
//! A turn does one thing (make the new ReplicaSet, grow it, shrink the old ones, clean up) and writes the status; what
//! it changed wakes the next turn.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::status::{self, Condition};
use super::{sets, sizes};
use crate::meta::{self, Map};

/// What a turn sees.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) deployment: &'a Deployment,
    /// The ReplicaSets it controls.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// Their pods; only filled for `Recreate`.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Make the ReplicaSet of the present template.
    Create(Box<ReplicaSet>),
    /// Resize a ReplicaSet and note the Deployment's size on it.
    Scale { set: Arc<ReplicaSet>, to: i32, annotations: Map },
    /// Bring the new ReplicaSet's annotations and `minReadySeconds` up to date.
    Annotate { set: Arc<ReplicaSet>, annotations: Map, min_ready: i32 },
    /// Write the Deployment's revision.
    Revision(String),
    /// Forget an old ReplicaSet.
    Delete(Arc<ReplicaSet>),
    /// Write the status.
    Status(Box<DeploymentStatus>),
}

/// What a turn does, and when to look again if nothing changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) again: Option<Duration>,
}

/// Pure and total; no action when the Deployment is as it should be.
pub(super) fn plan(seen: &Seen) -> Plan {
    let deployment = seen.deployment;
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let (new, old) = sets::split(deployment, seen.sets);
    let mut turn = Turn { seen, new, old, actions: Vec::new(), condition: None };
    if meta::is_terminating(&deployment.metadata) {
        return turn.with_status(false);
    }
    if turn.annotate() {
        return turn.finish();
    }
    if spec.paused == Some(true) {
        turn.condition = status::pause(deployment, true);
        turn.resize();
        turn.clean_up();
        return turn.with_status(false);
    }
    turn.condition = status::pause(deployment, false).or_else(|| status::found(deployment, turn.new.as_deref()));
    if turn.is_resized() {
        turn.resize();
        return turn.with_status(false);
    }
    if sizes::is_recreate(deployment) {
        turn.recreate()
    } else {
        turn.roll()
    }
    turn.with_status(true)
}

struct Turn<'a> {
    seen: &'a Seen<'a>,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    actions: Vec<Action>,
    /// A condition that this turn brings about.
    condition: Option<Condition>,
}

impl Turn<'_> {
    /// Keeps revision and annotations in step. True if the new ReplicaSet had to be changed: the next turn goes on.
    fn annotate(&mut self) -> bool {
        let deployment = self.seen.deployment;
        let Some(new) = &self.new else { return false };
        let revision = sets::next_revision(&self.old).max(sets::revision(&new.metadata));
        if meta::annotation(&deployment.metadata, sets::REVISION) != Some(&revision.to_string()) {
            self.actions.push(Action::Revision(revision.to_string()));
        }
        let annotations = sets::missing_annotations(deployment, new, revision);
        let min_ready = |spec: Option<i32>| spec.unwrap_or(0);
        let wanted = min_ready(deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
        let present = min_ready(new.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
        if annotations.is_empty() && wanted == present {
            return false;
        }
        self.actions.push(Action::Annotate { set: new.clone(), annotations, min_ready: wanted });
        true
    }

    /// True if the Deployment's size changed since its ReplicaSets were sized.
    fn is_resized(&self) -> bool {
        let goal = sizes::replicas(self.seen.deployment);
        let active = self.seen.sets.iter().filter(|set| sizes::wanted(set) > 0);
        active.filter_map(|set| sets::number::<i32>(&set.metadata, sets::DESIRED)).any(|desired| desired != goal)
    }

    /// Carries a new size over to the ReplicaSets without moving the rollout.
    fn resize(&mut self) {
        let deployment = self.seen.deployment;
        let goal = sizes::replicas(deployment);
        let mut active = sizes::active(&self.old);
        active.extend(self.new.iter().filter(|set| sizes::wanted(set) > 0).cloned());
        let only = match &active[..] {
            [] => self.new.clone().or_else(|| self.old.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if let Some(only) = only {
            self.scale(&only, goal);
        } else if sizes::is_saturated(deployment, self.new.as_deref()) {
            for set in sizes::active(&self.old) {
                self.scale(&set, 0);
            }
        } else if !sizes::is_recreate(deployment) {
            for (set, to) in sizes::proportional(deployment, &active) {
                self.scale(&set, to);
            }
        }
    }

    fn roll(&mut self) {
        let deployment = self.seen.deployment;
        let Some(new) = self.new.clone() else { return self.create() };
        let present = sizes::wanted(&new);
        let all = present + self.old.iter().map(|set| sizes::wanted(set)).sum::<i32>();
        let size = sizes::new_size(deployment, present, all);
        if size != present {
            return self.scale(&new, size);
        }
        let sizes = sizes::old_sizes(deployment, &self.old, Some(&new));
        let old = self.old.clone();
        let changed = old.iter().zip(sizes).filter(|(set, size)| sizes::wanted(set) != *size);
        let mut moved = false;
        for (set, size) in changed {
            moved = true;
            self.scale(set, size);
        }
        if !moved && self.is_complete() {
            self.clean_up();
        }
    }

    fn recreate(&mut self) {
        let active = sizes::active(&self.old);
        if !active.is_empty() {
            for set in active {
                self.scale(&set, 0);
            }
            return;
        }
        if sizes::old_pods_run(&self.old, self.new.as_deref(), self.seen.pods) {
            return;
        }
        let goal = sizes::replicas(self.seen.deployment);
        match self.new.clone() {
            None => self.create(),
            Some(new) if sizes::wanted(&new) != goal => self.scale(&new, goal),
            Some(_) if self.is_complete() => self.clean_up(),
            Some(_) => {}
        }
    }

    fn create(&mut self) {
        let Some(set) = sets::fresh(self.seen.deployment, &self.old) else { return };
        let message = format!("Created new replica set {:?}", meta::name(&set.metadata));
        self.condition = Some(Condition::progressing("True", "NewReplicaSetCreated", message));
        let revision = sets::next_revision(&self.old).to_string();
        self.actions.push(Action::Create(Box::new(set)));
        if meta::annotation(&self.seen.deployment.metadata, sets::REVISION) != Some(&revision) {
            self.actions.push(Action::Revision(revision));
        }
    }

    /// Resizes a set unless it, and what is noted on it, is right already.
    fn scale(&mut self, set: &Arc<ReplicaSet>, to: i32) {
        let annotations = sets::size_annotations(self.seen.deployment);
        let noted = annotations.iter().all(|(name, value)| meta::annotation(&set.metadata, name) == Some(value));
        if sizes::wanted(set) != to || !noted {
            self.actions.push(Action::Scale { set: set.clone(), to, annotations });
        }
    }

    fn clean_up(&mut self) {
        let surplus = sets::beyond_history(self.seen.deployment, &self.old);
        self.actions.extend(surplus.into_iter().map(Action::Delete));
    }

    fn is_complete(&self) -> bool {
        let status = status::calculate(self.seen.deployment, self.new.as_deref(), self.seen.sets, self.seen.now);
        status::is_complete(self.seen.deployment, &status)
    }

    /// Adds the status, if it changed; `progress` judges whether the rollout moves.
    fn with_status(mut self, progress: bool) -> Plan {
        let Seen { deployment, sets, now, .. } = *self.seen;
        let mut status = status::calculate(deployment, self.new.as_deref(), sets, now);
        if let Some(condition) = self.condition.take() {
            status::set(&mut status, condition, now);
        }
        let again =
            if progress { status::judge(deployment, self.new.as_deref(), sets, &mut status, now) } else { None };
        if deployment.status.as_ref() != Some(&status) {
            self.actions.push(Action::Status(Box::new(status)));
        }
        Plan { again, ..self.finish() }
    }

    fn finish(self) -> Plan {
        Plan { actions: self.actions, again: None }
    }
}
