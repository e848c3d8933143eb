//! How a report meets the stored object: the node's fields win, everybody else's stay.

use fairlead_api::Object;
use serde_json::{Map, Value};

/// Conditions that a node sets itself: where a report lacks one, it is gone. Others' conditions stay.
const OWN_CONDITIONS: [&str; 11] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodResizePending",
    "PodResizeInProgress",
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "CgroupV2Unavailable",
];
/// Fields of a status that others write: the attach-detach controller, the resource claim controller.
const FOREIGN_FIELDS: [&str; 2] = ["volumesAttached", "resourceClaimStatuses"];
/// Metadata that is the server's.
const SERVER_METADATA: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp", "managedFields"];

/// Adds the reported labels and annotations. Those that others set stay, and so does the whole spec: taints and
/// cordoning are not the node's to change once it is registered.
pub(super) fn metadata(stored: &mut Object, reported: &Object) {
    for field in ["labels", "annotations"] {
        let Some(Value::Object(reported)) = reported.at(&["metadata", field]) else { continue };
        if reported.is_empty() {
            continue;
        }
        let metadata = stored.metadata_mut();
        let merged = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(merged) = merged {
            merged.extend(reported.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
}

/// Replaces the status by the reported one, keeping what others wrote into it.
pub(super) fn status(stored: &mut Object, reported: &Object) {
    let old = stored.section_mut("status");
    let Some(Value::Object(new)) = reported.0.get("status") else { return };
    let mut new = new.clone();
    for field in FOREIGN_FIELDS {
        if let (Some(value), false) = (old.get(field), new.contains_key(field)) {
            new.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(Value::Array(others)) = old.get("conditions") {
        let conditions = new.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(conditions) = conditions {
            let kept: Vec<Value> = others.iter().filter(|old| is_foreign(old, conditions)).cloned().collect();
            conditions.extend(kept);
        }
    }
    if new.get("conditions").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        new.remove("conditions");
    }
    *old = new;
}

/// The reported object with the stored one's metadata, as far as that is the server's.
pub(super) fn replaced(stored: &Object, reported: &Object) -> Object {
    let mut object = reported.clone();
    let Some(Value::Object(kept)) = stored.0.get("metadata") else { return object };
    let metadata = object.metadata_mut();
    for field in SERVER_METADATA {
        match kept.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    for (field, value) in kept {
        metadata.entry(field).or_insert_with(|| value.clone());
    }
    object
}

fn is_foreign(old: &Value, reported: &[Value]) -> bool {
    let kind = old.get("type").and_then(Value::as_str).unwrap_or_default();
    !OWN_CONDITIONS.contains(&kind) && reported.iter().all(|new| new.get("type") != old.get("type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn others_conditions_and_fields_stay_and_the_nodes_own_are_replaced() {
        let mut stored = object(json!({"status": {
            "phase": "Pending", "volumesAttached": ["v"], "hostIP": "old",
            "conditions": [
                {"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"},
                {"type": "example.com/gate", "status": "True"},
            ],
        }}));
        let reported =
            object(json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        status(&mut stored, &reported);
        let expected = json!({"status": {
            "phase": "Running", "volumesAttached": ["v"],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}],
        }});
        assert_eq!(stored, object(expected));
    }

    #[test]
    fn labels_of_others_stay() {
        let mut stored = object(json!({
            "metadata": {"labels": {"user": "mine", "kubernetes.io/arch": "old"}}, "spec": {"taints": [{"key": "t"}]},
        }));
        let reported = object(json!({"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}, "spec": {}}));
        metadata(&mut stored, &reported);
        let expected = json!({
            "metadata": {"labels": {"user": "mine", "kubernetes.io/arch": "amd64"}}, "spec": {"taints": [{"key": "t"}]},
        });
        assert_eq!(stored, object(expected));
    }

    #[test]
    fn a_replaced_object_keeps_the_servers_metadata() {
        let stored =
            object(json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}}}));
        let reported = object(json!({"metadata": {"name": "n", "generation": 3}, "spec": {"renewTime": "now"}}));
        let expected = json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": {"renewTime": "now"},
        });
        assert_eq!(replaced(&stored, &reported), object(expected));
    }
}
