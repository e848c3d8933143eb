//! Service.

use k8s_openapi::api::core::v1::Service;

use crate::kind::{Kind, Naming, Scope, Subresource};

/// core/v1 Service.
pub static SERVICE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Label1035,
    subresources: &[Subresource::Status],
    connects: &[],
    schema: "io.k8s.api.core.v1.Service",
    types: super::types::<Service>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[("spec.clusterIP", &["spec", "clusterIP"]), ("spec.type", &["spec", "type"])],
    columns: &[],
};
