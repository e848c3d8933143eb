//! The OpenAPI v3 documents: an index, and one document per group and version.
//!
//! Clients read them for three things: `explain` walks components by group, version and kind; `apply` takes merge keys
//! from them; `create` asks whether the server validates fields by looking for a `fieldValidation` parameter.

use serde_json::{Map, Value, json};

use crate::registry;

use super::merge_keys;

/// Makes generated components what clients expect: references beside descriptions become `allOf`, kinds carry their
/// group, version and kind, lists carry their merge keys.
pub(super) fn annotate(components: &mut Map<String, Value>) {
    for (name, schema) in components.iter_mut() {
        let Some(schema) = schema.as_object_mut() else { continue };
        wrap_references(schema);
        merge_keys::annotate(name, schema);
    }
    for kind in registry::all() {
        let Some(schema) = components.get_mut(kind.schema).and_then(Value::as_object_mut) else { continue };
        schema.remove("required");
        let gvk = json!([{"group": kind.group, "kind": kind.kind, "version": kind.version}]);
        schema.insert("x-kubernetes-group-version-kind".into(), gvk);
    }
}

/// A `$ref` may have no siblings in OpenAPI 3.0, so one with a description moves into `allOf`.
fn wrap_references(schema: &mut Map<String, Value>) {
    if schema.len() > 1
        && let Some(reference) = schema.remove("$ref")
    {
        schema.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    for (_, value) in schema.iter_mut() {
        match value {
            Value::Object(inner) => wrap_references(inner),
            Value::Array(list) => list.iter_mut().filter_map(Value::as_object_mut).for_each(wrap_references),
            _ => {}
        }
    }
}
