//! Endpoints.

use k8s_openapi::api::core::v1::Endpoints;

use crate::kind::{Kind, Naming, Scope};

/// core/v1 Endpoints.
pub static ENDPOINTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    types: super::types::<Endpoints>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[],
};
