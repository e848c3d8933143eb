//! EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::kind::{Kind, Naming, Scope};

/// discovery/v1 EndpointSlice.
pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    types: super::types::<EndpointSlice>,
    generation: true,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[],
};
