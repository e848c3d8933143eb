//! ServiceAccount: whom a pod acts as.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::kind::{Kind, Naming, Scope};
use crate::table::cells;

/// core/v1 ServiceAccount.
pub static SERVICE_ACCOUNT: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    types: super::types::<ServiceAccount>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::integer("Secrets", "Number of secrets that pods of this account may use.", |object, _| {
            cells::count(object, &["secrets"]).into()
        }),
        cells::AGE,
    ],
};
