//! ReplicaSet.

use k8s_openapi::api::apps::v1::ReplicaSet;

use crate::kind::{Kind, Naming, Scope, Subresource};

/// apps/v1 ReplicaSet.
pub static REPLICA_SET: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status, Subresource::Scale],
    connects: &[],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    types: super::types::<ReplicaSet>,
    generation: true,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[("status.replicas", &["status", "replicas"])],
    columns: &[],
};
