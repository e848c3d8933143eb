//! JSON merge patch, RFC 7386: null removes, objects merge, anything else replaces.

use serde_json::{Map, Value};

/// Applies `changes` to `tree`.
pub fn apply(tree: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *tree = changes.clone();
        return;
    };
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    let Value::Object(map) = tree else { return };
    for (field, change) in changes {
        if change.is_null() {
            map.remove(field);
        } else {
            apply(map.entry(field.as_str()).or_insert(Value::Null), change);
        }
    }
}
