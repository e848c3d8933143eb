//! Status and conditions of a Deployment, in the words clients know.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::sizes;
use crate::meta;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The rollout is over.
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// A condition before it has its times.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    type_: &'static str,
    status: String,
    reason: String,
    message: String,
}

impl Condition {
    pub(super) fn progressing(status: &str, reason: &str, message: String) -> Self {
        Self { type_: PROGRESSING, status: status.to_owned(), reason: reason.to_owned(), message }
    }
}

/// The condition that pausing or resuming brings, if it is news.
pub(super) fn pause(deployment: &Deployment, paused: bool) -> Option<Condition> {
    deadline(deployment)?;
    let reason = find(deployment.status.as_ref(), PROGRESSING).and_then(|condition| condition.reason.as_deref());
    match (paused, reason) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => None,
        (true, _) => Some(Condition::progressing("Unknown", PAUSED, "Deployment is paused".to_owned())),
        (false, Some(PAUSED)) => {
            Some(Condition::progressing("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned()))
        }
        (false, _) => None,
    }
}

/// The condition of a rollout that finds its ReplicaSet made already, if nothing was said of progress yet.
pub(super) fn found(deployment: &Deployment, new: Option<&ReplicaSet>) -> Option<Condition> {
    deadline(deployment)?;
    let message = format!("Found new replica set {:?}", meta::name(&new?.metadata));
    let silent = find(deployment.status.as_ref(), PROGRESSING).is_none();
    silent.then(|| Condition::progressing("True", "FoundNewReplicaSet", message))
}

/// The status for a ReplicaSet that could not be made, if it is news.
pub(super) fn create_failed(deployment: &Deployment, message: &str, now: Timestamp) -> Option<DeploymentStatus> {
    deadline(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    set(&mut status, Condition::progressing("False", "ReplicaSetCreateError", message.to_owned()), now);
    (deployment.status.as_ref() != Some(&status)).then_some(status)
}

/// Numbers and availability; other conditions are taken over.
pub(super) fn calculate(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    sets: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum::<i32>();
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let leaving = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0);
    let available = sum(sizes::available);
    let before = deployment.status.as_ref();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(sizes::actual)),
        updated_replicas: some(new.map_or(0, sizes::actual)),
        ready_replicas: some(sum(ready)),
        available_replicas: some(available),
        unavailable_replicas: some((sum(sizes::wanted) - available).max(0)),
        terminating_replicas: some(sum(leaving)),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: before.and_then(|status| status.conditions.clone()),
    };
    let least = sizes::replicas(deployment) - sizes::bounds(deployment).unavailable;
    let (value, reason, message) = if available >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let (value, reason, message) = (value.to_owned(), reason.to_owned(), message.to_owned());
    set(&mut status, Condition { type_: AVAILABLE, status: value, reason, message }, now);
    status
}

/// True once every replica is of the present template and available, and nothing else is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let goal = some(sizes::replicas(deployment));
    status.updated_replicas == goal && status.replicas == goal && status.available_replicas == goal
}

/// Judges progress: complete, moving, or too long without a move. Answers when the deadline will have to be looked at.
pub(super) fn judge(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    sets: &[Arc<ReplicaSet>],
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment);
    let before = find(deployment.status.as_ref(), PROGRESSING).and_then(|condition| condition.reason.as_deref());
    let was_done = before == Some(DONE) && status.replicas == status.updated_replicas;
    match deadline {
        None => drop_condition(status, PROGRESSING),
        Some(_) if was_done => {}
        Some(deadline) => {
            let subject = match new {
                Some(set) => format!("ReplicaSet {:?}", meta::name(&set.metadata)),
                None => format!("Deployment {:?}", meta::name(&deployment.metadata)),
            };
            if is_complete(deployment, status) {
                set(
                    status,
                    Condition::progressing("True", DONE, format!("{subject} has successfully progressed.")),
                    now,
                );
            } else if moved(deployment.status.as_ref(), status) {
                let news = Condition::progressing("True", "ReplicaSetUpdated", format!("{subject} is progressing."));
                touch(status, news, now);
            } else if remaining(status, deadline, now).is_some_and(|left| left.is_zero()) {
                let message = format!("{subject} has timed out progressing.");
                set(status, Condition::progressing("False", TIMED_OUT, message), now);
            }
        }
    }
    let failure = sets.iter().flat_map(|set| set.status.iter().flat_map(|status| status.conditions.iter().flatten()));
    match failure.clone().find(|condition| condition.type_ == REPLICA_FAILURE) {
        None => drop_condition(status, REPLICA_FAILURE),
        Some(condition) => {
            let (reason, message) = (condition.reason.clone().unwrap_or_default(), condition.message.clone());
            let (value, message) = (condition.status.clone(), message.unwrap_or_default());
            set(status, Condition { type_: REPLICA_FAILURE, status: value, reason, message }, now);
        }
    }
    // One second more, so that the deadline is over when it is looked at.
    remaining(status, deadline?, now).map(|left| left + Duration::from_secs(1))
}

/// Puts a condition in. One that only repeats status and reason leaves the old one as it is.
pub(super) fn set(status: &mut DeploymentStatus, condition: Condition, now: Timestamp) {
    let same = find(Some(status), condition.type_)
        .is_some_and(|old| old.status == condition.status && old.reason.as_deref() == Some(&condition.reason));
    if !same {
        touch(status, condition, now);
    }
}

/// Puts a condition in with a fresh update time; the transition time moves with the status alone.
fn touch(status: &mut DeploymentStatus, condition: Condition, now: Timestamp) {
    let now = meta::stamp(now);
    let since = find(Some(status), condition.type_)
        .filter(|old| old.status == condition.status)
        .and_then(|old| old.last_transition_time.clone());
    drop_condition(status, condition.type_);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: condition.type_.to_owned(),
        status: condition.status,
        reason: Some(condition.reason),
        message: Some(condition.message),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        last_update_time: Some(now),
    });
}

fn drop_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

fn find<'a>(status: Option<&'a DeploymentStatus>, type_: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// True if the new status is a step forward from the old one.
fn moved(before: Option<&DeploymentStatus>, after: &DeploymentStatus) -> bool {
    let empty = DeploymentStatus::default();
    let before = before.unwrap_or(&empty);
    let number = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

/// The progress deadline, unless it is the one that means none.
fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// How long a rollout may go on without a move; `None` if it is over or has failed already.
fn remaining(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> Option<Duration> {
    let condition = find(Some(status), PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(DONE | TIMED_OUT | PAUSED)) {
        return None;
    }
    let last = condition.last_update_time.as_ref()?.0.as_second();
    let left = last + i64::from(deadline) - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// Numbers in a status are left out when they are zero.
fn some(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
