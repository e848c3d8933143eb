//! Status of a ReplicaSet: what its pods add up to, and what went wrong with them.

use std::sync::Arc;
use std::time::Duration;

use fairlead_api::status::Status;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::{meta, pod};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Pods that could not be made or removed.
#[derive(Debug)]
pub(super) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(super) reason: &'static str,
    pub(super) error: Status,
}

/// The status, and when a ready pod will count as available.
pub(super) fn calculate(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    leaving: usize,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let labelled = |one: &Pod| {
        let labels = one.metadata.labels.as_ref();
        template.into_iter().flatten().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
    };
    let count = |of: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|one| of(one)).count());
    let status = ReplicaSetStatus {
        observed_generation: set.metadata.generation,
        replicas: number(active.len()).unwrap_or(0),
        fully_labeled_replicas: count(&labelled),
        ready_replicas: count(&pod::is_ready),
        available_replicas: count(&|one| pod::is_available(one, min_ready, now)),
        terminating_replicas: number(leaving),
        conditions: conditions(set, failure, now),
    };
    let pending = active.iter().filter_map(|one| pod::available_in(one, min_ready, now));
    (status, pending.filter(|left| !left.is_zero()).min())
}

/// Zero is left out, as clients expect.
fn number(count: usize) -> Option<i32> {
    i32::try_from(count).ok().filter(|count| *count != 0)
}

fn conditions(set: &ReplicaSet, failure: Option<&Failure>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    let before = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let (old, mut rest): (Vec<_>, Vec<_>) = before.into_iter().partition(|one| one.type_ == REPLICA_FAILURE);
    if let Some(failure) = failure {
        let same = old.into_iter().find(|one| one.status == "True" && one.reason.as_deref() == Some(failure.reason));
        rest.push(same.unwrap_or_else(|| ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.error.message.clone()),
            last_transition_time: Some(meta::stamp(now)),
        }));
    }
    (!rest.is_empty()).then_some(rest)
}
