//! Lease.

use k8s_openapi::api::coordination::v1::Lease;

use crate::kind::{Kind, Naming, Scope};

/// coordination/v1 Lease.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    types: super::types::<Lease>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[],
};
