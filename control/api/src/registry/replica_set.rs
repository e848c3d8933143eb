//! ReplicaSet: so many pods of one template.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::workload;
use crate::kind::{Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::Check;

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
    default: workload::default_replicas,
    validate,
    selectable: &[("status.replicas", &["status", "replicas"])],
    columns: &[
        cells::NAME,
        cells::integer("Desired", "How many pods there should be.", |object, _| {
            cells::number(object, &["spec", "replicas"])
        }),
        cells::integer("Current", "How many pods there are.", |object, _| {
            cells::number(object, &["status", "replicas"])
        }),
        cells::integer("Ready", "How many of them are ready.", |object, _| {
            cells::number(object, &["status", "readyReplicas"])
        }),
        cells::AGE,
        cells::wide("Containers", "Names of the template's containers.", |object, _| cells::containers(object, "name")),
        cells::wide("Images", "Images of the template's containers.", |object, _| cells::containers(object, "image")),
        cells::wide("Selector", "Which pods belong to it.", |object, _| cells::selector(object, &["spec", "selector"])),
    ],
};

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "spec");
    workload::validate(new, old, "invalid label selector: empty selector is invalid for replicaset", &mut check);
}
