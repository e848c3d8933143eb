//! The arithmetic of a rollout: how large each ReplicaSet may be.

use std::cmp::Ordering;
use std::sync::Arc;

use fairlead_api::intstr::IntOrString as Amount;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sets;
use crate::meta;

/// Bounds of a rolling update, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Above the wanted number.
    pub(super) surge: i32,
    /// Below the wanted number.
    pub(super) unavailable: i32,
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// `spec.replicas` of a Deployment.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a ReplicaSet.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// `status.replicas` of a ReplicaSet.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// The bounds of a Deployment. Surge rounds up, unavailability down; were both zero nothing could ever move, so one
/// pod may then be missing.
pub(super) fn bounds(deployment: &Deployment) -> Bounds {
    if is_recreate(deployment) || replicas(deployment) == 0 {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    let total = replicas(deployment);
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), total, true);
    let unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), total, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Bounds { surge, unavailable: unavailable.min(total) }
}

/// A number or a percentage of `total`; 25 % where nothing is said.
fn resolve(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let value = match value {
        Some(IntOrString::Int(number)) => Amount::Int(i64::from(*number)),
        Some(IntOrString::String(text)) => Amount::String(text.clone()),
        None => Amount::String("25%".to_owned()),
    };
    let scaled = value.scaled(i64::from(total), up).unwrap_or(0);
    i32::try_from(scaled.max(0)).unwrap_or(i32::MAX)
}

/// The size of the new ReplicaSet (`present` now) beside ReplicaSets of `all` pods in total, itself included.
pub(super) fn new_size(deployment: &Deployment, present: i32, all: i32) -> i32 {
    let goal = replicas(deployment);
    if present >= goal || is_recreate(deployment) {
        return goal;
    }
    let most = goal.saturating_add(bounds(deployment).surge);
    let room = (most - all).max(0);
    present + room.min(goal - present)
}

/// New sizes of the old ReplicaSets, in their order: first pods that serve nobody go, then available ones as far as
/// enough stay available.
pub(super) fn old_sizes(deployment: &Deployment, old: &[Arc<ReplicaSet>], new: Option<&ReplicaSet>) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| wanted(set)).collect();
    let least = replicas(deployment) - bounds(deployment).unavailable;
    let (new_wanted, new_available) = new.map_or((0, 0), |set| (wanted(set), available(set)));
    let all = sizes.iter().sum::<i32>() + new_wanted;
    let mut may_go = all - least - (new_wanted - new_available);
    if may_go <= 0 {
        return sizes;
    }
    for (size, set) in sizes.iter_mut().zip(old) {
        let sick = (*size - available(set)).clamp(0, may_go);
        *size -= sick;
        may_go -= sick;
    }
    let available: i32 = old.iter().map(|set| available(set)).sum::<i32>() + new_available;
    let mut may_go = available - least;
    for size in &mut sizes {
        let healthy = (*size).min(may_go).max(0);
        *size -= healthy;
        may_go -= healthy;
    }
    sizes
}

/// True once the new ReplicaSet alone carries the Deployment.
pub(super) fn is_saturated(deployment: &Deployment, new: Option<&ReplicaSet>) -> bool {
    let goal = replicas(deployment);
    new.is_some_and(|set| {
        wanted(set) == goal && sets::number(&set.metadata, sets::DESIRED) == Some(goal) && available(set) == goal
    })
}

/// Sizes after a change of the Deployment's size in the middle of a rollout: every ReplicaSet that has pods gets its
/// share of the difference, and what rounding leaves goes to the first.
pub(super) fn proportional(deployment: &Deployment, active: &[Arc<ReplicaSet>]) -> Vec<(Arc<ReplicaSet>, i32)> {
    let goal = replicas(deployment);
    let allowed = if goal > 0 { goal + bounds(deployment).surge } else { 0 };
    let to_add = allowed - active.iter().map(|set| wanted(set)).sum::<i32>();
    let mut ordered = active.to_vec();
    ordered.sort_by(|one, other| {
        let age = sets::by_age(one, other);
        let age = if to_add > 0 { age.reverse() } else { age };
        wanted(other).cmp(&wanted(one)).then(age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(ordered.len());
    for set in ordered {
        let left = to_add - added;
        let share = match (wanted(&set), left.cmp(&0)) {
            (0, _) | (_, Ordering::Equal) => 0,
            (_, Ordering::Greater) => fraction(deployment, &set).min(left),
            (_, Ordering::Less) => fraction(deployment, &set).max(left),
        };
        added += share;
        sizes.push((set.clone(), wanted(&set) + share));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

/// What a ReplicaSet would gain or lose if it grew with its Deployment.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let goal = replicas(deployment);
    if goal == 0 {
        return -wanted(set);
    }
    let most = f64::from(goal + bounds(deployment).surge);
    let status = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = sets::number(&set.metadata, sets::MAX).filter(|max| *max > 0).unwrap_or(status);
    if before <= 0 {
        return 0;
    }
    let size = (f64::from(wanted(set)) * most / f64::from(before)).round();
    // Replica counts are far below 2^31, and `as` saturates.
    (size as i32) - wanted(set)
}

/// The sets that have pods, or shall have.
pub(super) fn active(sets: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    sets.iter().filter(|set| wanted(set) > 0).cloned().collect()
}

/// True if pods of other templates than the present one are still there.
pub(super) fn old_pods_run(
    old: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    pods: &[Arc<k8s_openapi::api::core::v1::Pod>],
) -> bool {
    let new = new.map(|set| meta::uid(&set.metadata));
    let of_old =
        |pod: &k8s_openapi::api::core::v1::Pod| meta::controller(&pod.metadata).map(|owner| owner.uid.as_str()) != new;
    old.iter().any(|set| actual(set) > 0) || pods.iter().any(|pod| of_old(pod) && !crate::pod::is_finished(pod))
}
