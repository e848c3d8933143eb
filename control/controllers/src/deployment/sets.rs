//! A Deployment's ReplicaSets: which one is new, what a new one looks like, what their annotations say.

use std::cmp::Ordering;
use std::sync::Arc;

use fairlead_api::registry;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::sizes;
use crate::meta::{self, Map};

/// The number of a template in the Deployment's history.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers the same template had before it was rolled back to.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's size when the ReplicaSet was last sized.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That size plus surge.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The label that keeps ReplicaSets of one Deployment apart.
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that its ReplicaSets do not take over.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];

/// An annotation that is a number.
pub(super) fn number<T: std::str::FromStr>(object: &ObjectMeta, name: &str) -> Option<T> {
    meta::annotation(object, name)?.parse().ok()
}

/// The revision of a ReplicaSet or a Deployment, or 0.
pub(super) fn revision(object: &ObjectMeta) -> i64 {
    number(object, REVISION).unwrap_or(0)
}

/// Oldest first, then by name.
pub(super) fn by_age(one: &Arc<ReplicaSet>, other: &Arc<ReplicaSet>) -> Ordering {
    let age = |set: &ReplicaSet| (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone());
    age(one).cmp(&age(other))
}

/// True if the ReplicaSet was made of the Deployment's present template.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let of_set = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let of_deployment = deployment.spec.as_ref().map(|spec| &spec.template);
    match (of_set, of_deployment) {
        (Some(one), Some(other)) => without_hash(one) == without_hash(other),
        _ => false,
    }
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.remove(HASH);
    if metadata.annotations.as_ref().is_some_and(Map::is_empty) {
        metadata.annotations = None;
    }
    template
}

/// Splits the sets, oldest first, into the one of the present template and all others.
pub(super) fn split(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    let mut sets = sets.to_vec();
    sets.sort_by(by_age);
    let new = sets.iter().position(|set| same_template(set, deployment)).map(|at| sets.remove(at));
    (new, sets)
}

/// The revision that the present template must have: one more than any other's.
pub(super) fn next_revision(old: &[Arc<ReplicaSet>]) -> i64 {
    old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1
}

/// The hash that names a template. It depends on nothing but the template and the collisions so far.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    /// No vowels and no digits that look like letters, so that no hash is a word.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    if collisions > 0 {
        bytes.extend(collisions.to_le_bytes());
    }
    let sum = bytes.iter().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The annotations that hold the Deployment's size.
pub(super) fn size_annotations(deployment: &Deployment) -> Map {
    let goal = sizes::replicas(deployment);
    let most = goal.saturating_add(sizes::bounds(deployment).surge);
    Map::from([(DESIRED.to_owned(), goal.to_string()), (MAX.to_owned(), most.to_string())])
}

/// Annotations of the Deployment that its ReplicaSets carry too.
fn inherited(deployment: &Deployment) -> Map {
    let all = deployment.metadata.annotations.iter().flatten();
    all.filter(|(name, _)| !OWN.contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Annotations that the new ReplicaSet lacks; empty if none.
pub(super) fn missing_annotations(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> Map {
    let mut want = inherited(deployment);
    let present = self::revision(&set.metadata);
    if present < revision {
        want.insert(REVISION.to_owned(), revision.to_string());
        if present > 0 {
            let before = meta::annotation(&set.metadata, HISTORY).filter(|history| !history.is_empty());
            let history = before.map_or_else(|| present.to_string(), |before| format!("{before},{present}"));
            want.insert(HISTORY.to_owned(), history);
        }
    }
    want.retain(|name, value| meta::annotation(&set.metadata, name) != Some(value));
    want
}

/// The ReplicaSet of the present template, beside `others`.
pub(super) fn fresh(deployment: &Deployment, others: &[Arc<ReplicaSet>]) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut annotations = inherited(deployment);
    annotations.extend(size_annotations(deployment));
    annotations.insert(REVISION.to_owned(), next_revision(others).to_string());
    let all = others.iter().map(|set| sizes::wanted(set)).sum();
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::owned_by(&registry::DEPLOYMENT, &deployment.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(sizes::new_size(deployment, 0, all)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}

/// Old sets beyond the history limit that hold nothing, the oldest revisions first.
pub(super) fn beyond_history(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let Some(limit) = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return Vec::new() };
    let mut old: Vec<_> = old.iter().filter(|set| !meta::is_terminating(&set.metadata)).cloned().collect();
    old.sort_by(|one, other| revision(&one.metadata).cmp(&revision(&other.metadata)).then_with(|| by_age(one, other)));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let observed = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    let idle = |set: &ReplicaSet| {
        sizes::wanted(set) == 0 && sizes::actual(set) == 0 && observed(set) >= set.metadata.generation.unwrap_or(0)
    };
    old.truncate(surplus);
    old.retain(|set| idle(set));
    old
}
