//! Deployment.

use k8s_openapi::api::apps::v1::Deployment;

use crate::kind::{Kind, Naming, Scope, Subresource};

/// apps/v1 Deployment.
pub static DEPLOYMENT: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status, Subresource::Scale],
    connects: &[],
    schema: "io.k8s.api.apps.v1.Deployment",
    types: super::types::<Deployment>,
    generation: true,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[],
};
