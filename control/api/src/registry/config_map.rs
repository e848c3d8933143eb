//! ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::kind::{Kind, Naming, Scope};
use crate::table::cells;

/// core/v1 ConfigMap.
pub static CONFIG_MAP: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.ConfigMap",
    types: super::types::<ConfigMap>,
    generation: false,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::integer("Data", "Number of entries, text and binary.", |object, _| {
            (cells::count(object, &["data"]) + cells::count(object, &["binaryData"])).into()
        }),
        cells::AGE,
    ],
};
