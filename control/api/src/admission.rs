//! What upstream's built-in admission adds to objects, as far as it needs no look at the store.

use serde_json::{Map, Value, json};

use crate::defaults;
use crate::object::Object;

/// What every new pod gets: priority, and tolerations of a node that is briefly away.
pub fn pod(pod: &mut Object) {
    let spec = pod.section_mut("spec");
    defaults::set(spec, "priority", 0);
    defaults::set(spec, "preemptionPolicy", "PreemptLowerPriority");
    pod_tolerations(pod);
}

/// A pod stays for five minutes on a node that is not ready or not reachable, unless it says otherwise.
pub fn pod_tolerations(pod: &mut Object) {
    let spec = pod.section_mut("spec");
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        let Value::Array(tolerations) = tolerations else { return };
        if !tolerations.iter().filter_map(Value::as_object).any(|one| tolerates(one, taint)) {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

fn tolerates(toleration: &Map<String, Value>, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default();
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_once_and_not_over_the_pods_own() {
        let mut one = Object::default();
        pod(&mut one);
        let once = one.clone();
        pod(&mut one);
        assert_eq!(one, once);
        assert_eq!(one.at(&["spec", "tolerations"]).and_then(Value::as_array).map(Vec::len), Some(2));
        assert_eq!(one.at(&["spec", "priority"]), Some(&0.into()));
        let mut own = Object::from_typed(&json!({"spec": {"tolerations": [{"operator": "Exists"}]}})).expect("object");
        pod_tolerations(&mut own);
        assert_eq!(own.at(&["spec", "tolerations"]).and_then(Value::as_array).map(Vec::len), Some(1));
    }
}
