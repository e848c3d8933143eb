//! Namespace.

use k8s_openapi::api::core::v1::Namespace;

use crate::kind::{Kind, Naming, Scope, Subresource};

/// core/v1 Namespace.
pub static NAMESPACE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    naming: Naming::Label,
    subresources: &[Subresource::Status, Subresource::Finalize],
    connects: &[],
    schema: "io.k8s.api.core.v1.Namespace",
    types: super::types::<Namespace>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[("status.phase", &["status", "phase"])],
    columns: &[],
};
