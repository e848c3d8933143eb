//! ConfigMap: keys and values.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::kind::{Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::{Check, names};
use serde_json::Value;

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
    validate,
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::integer("Data", "Number of entries, text and binary.", |object, _| {
            (cells::count(object, &["data"]) + cells::count(object, &["binaryData"])).into()
        }),
        cells::AGE,
    ],
};

/// As many bytes as all values may have together.
pub(super) const MAX_SIZE: usize = 1024 * 1024;

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "");
    let data = new.at(&["data"]).and_then(Value::as_object);
    let binary = new.at(&["binaryData"]).and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        check.field("data").key(key).named(key, names::config_key(key));
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            check.field("data").key(key).invalid(key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        check.field("binaryData").key(key).named(key, names::config_key(key));
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if size > MAX_SIZE {
        check.too_long(MAX_SIZE);
    }
    if let Some(old) = old {
        immutable(new, old, &["data", "binaryData"], &mut check);
    }
}

/// What `immutable: true` forbids, in a ConfigMap and in a Secret.
pub(super) fn immutable(new: &Object, old: &Object, fields: &[&str], check: &mut Check<'_>) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.at(&["immutable"]) != Some(&Value::Bool(true)) {
        return;
    }
    if new.at(&["immutable"]) != Some(&Value::Bool(true)) {
        check.field("immutable").forbidden(WHY);
    }
    for field in fields {
        if new.at(&[field]) != old.at(&[field]) {
            check.field(field).forbidden(WHY);
        }
    }
}
