//! Which pods go first when there are too many.
//!
//! In this order, each rule deciding only what the ones before left open: without a node; pending, then unknown; not
//! ready; with a lower `controller.kubernetes.io/pod-deletion-cost`; on a node with more pods of the same owner; ready
//! for a shorter time; with more restarts; younger; by UID. Times are compared by their order of magnitude, so that among
//! pods of about the same age those to go are a random choice and not the ones that happen to have started last.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{meta, pod};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods of `active` to remove.
pub(super) fn first_to_go(active: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for neighbour in related {
        *crowd.entry(pod::node(neighbour)).or_default() += 1;
    }
    let crowd_of = |one: &Pod| crowd.get(pod::node(one)).copied().unwrap_or(0);
    let mut ranked = active.to_vec();
    ranked.sort_by(|one, other| {
        state(one)
            .cmp(&state(other))
            .then_with(|| crowd_of(other).cmp(&crowd_of(one)))
            .then_with(|| magnitude(pod::ready_since(one), now).cmp(&magnitude(pod::ready_since(other), now)))
            .then_with(|| restarts(other).cmp(&restarts(one)))
            .then_with(|| magnitude(created(one), now).cmp(&magnitude(created(other), now)))
            .then_with(|| meta::uid(&one.metadata).cmp(meta::uid(&other.metadata)))
    });
    ranked.truncate(count);
    ranked
}

/// Has a node, how far it got, is ready, deletion cost: the smaller goes first.
fn state(one: &Pod) -> (bool, u8, bool, i32) {
    let phase = match pod::phase(one) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = meta::annotation(&one.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    (!pod::node(one).is_empty(), phase, pod::is_ready(one), cost)
}

/// The order of magnitude of an age; an unknown time counts as none.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let age = since.map_or(0, |since| now.as_nanosecond() - since.as_nanosecond());
    u128::try_from(age).ok().and_then(u128::checked_ilog2).map_or(0, |log| log + 1)
}

fn restarts(one: &Pod) -> i32 {
    let statuses = one.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

fn created(one: &Pod) -> Option<Timestamp> {
    one.metadata.creation_timestamp.as_ref().map(|time| time.0)
}
