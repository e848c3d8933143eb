//! Node.

use k8s_openapi::api::core::v1::Node;

use crate::kind::{Kind, Naming, Scope, Subresource};

/// core/v1 Node.
pub static NODE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status],
    connects: &[],
    schema: "io.k8s.api.core.v1.Node",
    types: super::types::<Node>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[("spec.unschedulable", &["spec", "unschedulable"])],
    columns: &[],
};
