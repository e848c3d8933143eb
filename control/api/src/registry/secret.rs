//! Secret.

use k8s_openapi::api::core::v1::Secret;

use crate::kind::{Kind, Naming, Scope};

/// core/v1 Secret.
pub static SECRET: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.Secret",
    types: super::types::<Secret>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[("type", &["type"])],
    columns: &[],
};
