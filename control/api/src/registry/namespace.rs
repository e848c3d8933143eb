//! Namespace: goes away only once its finalizer has seen it emptied.

use k8s_openapi::api::core::v1::Namespace;

use crate::defaults;
use crate::kind::{Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::table::cells;
use serde_json::json;

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
    default,
    validate: |_, _, _| {},
    selectable: &[("status.phase", &["status", "phase"])],
    columns: &[
        cells::NAME,
        cells::text("Status", "Phase: active, or terminating.", |object, _| object.str_at(&["status", "phase"]).into()),
        cells::AGE,
    ],
};

fn default(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        let labels = defaults::section(object.metadata_mut(), "labels");
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
    // On its way out the finalizer must not come back.
    if !object.is_terminating() {
        defaults::set(object.section_mut("spec"), "finalizers", json!(["kubernetes"]));
    }
    defaults::set(object.section_mut("status"), "phase", "Active");
}
