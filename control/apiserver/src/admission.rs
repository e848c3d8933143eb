//! Admission: what the cluster adds to an object and when it refuses one, between defaults and validation.

use fairlead_api::{Kind, Object, Status, registry};
use serde_json::{Value, json};

use crate::api::Api;

/// Seconds for which a pod tolerates a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;
/// What keeps a namespace until its content is gone.
const CONTENT: &str = "kubernetes";

/// A new object: its namespace must be alive; a pod gets what every pod has.
pub(crate) async fn on_create(api: &Api, kind: &Kind, object: &mut Object) -> Result<(), Status> {
    if kind.is_namespaced() {
        check_namespace(api, kind, object).await?;
    }
    match kind.kind {
        "Pod" => complete_pod(object),
        "Namespace" => {
            let finalizers = object.section_mut("spec").entry("finalizers").or_insert_with(|| json!([]));
            if finalizers.as_array().is_none_or(Vec::is_empty) {
                *finalizers = json!([CONTENT]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// A changed object: a pod keeps what admission gave it; a namespace keeps its finalizers (`finalize` changes them).
pub(crate) fn on_update(kind: &Kind, old: &Object, object: &mut Object) -> Result<(), Status> {
    match kind.kind {
        "Pod" => complete_pod(object),
        "Namespace" => {
            let finalizers = old.at(&["spec", "finalizers"]).cloned().unwrap_or_else(|| json!([]));
            object.section_mut("spec").insert("finalizers".to_owned(), finalizers);
        }
        _ => {}
    }
    Ok(())
}

async fn check_namespace(api: &Api, kind: &Kind, object: &Object) -> Result<(), Status> {
    let name = object.namespace();
    api.cache.fresh().await?;
    let Some(namespace) = api.cache.get(&registry::NAMESPACE, "", name) else {
        return Err(Status::not_found("namespaces", "", name));
    };
    // Events tell how the namespace ends, so they may still come.
    let terminating =
        namespace.object.is_terminating() || namespace.object.str_at(&["status", "phase"]) == "Terminating";
    if terminating && kind.kind != "Event" {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let shown = if object.name().is_empty() { object.str_at(&["metadata", "generateName"]) } else { object.name() };
        return Err(Status::forbidden(kind.plural, kind.group, shown, &why));
    }
    Ok(())
}

/// Service account, priority, and tolerations of the two taints that every node may get.
fn complete_pod(pod: &mut Object) {
    let spec = pod.section_mut("spec");
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .filter_map(|field| spec.get(*field).and_then(Value::as_str))
        .find(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    for field in ["serviceAccountName", "serviceAccount"] {
        spec.insert(field.to_owned(), account.as_str().into());
    }
    spec.entry("priority").or_insert_with(|| json!(0));
    spec.entry("preemptionPolicy").or_insert_with(|| json!("PreemptLowerPriority"));
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(tolerations) = tolerations else { return };
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|one| {
            let key = one["key"].as_str().unwrap_or_default();
            let effect = one["effect"].as_str().unwrap_or_default();
            (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_is_completed_once() {
        let mut pod: Object = serde_json::from_value(json!({"spec": {"serviceAccountName": "x"}})).unwrap();
        complete_pod(&mut pod);
        assert_eq!(pod.str_at(&["spec", "serviceAccount"]), "x");
        assert_eq!(pod.at(&["spec", "tolerations"]).unwrap().as_array().unwrap().len(), 2);
        let before = pod.clone();
        complete_pod(&mut pod);
        assert_eq!(pod, before);
        let all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let mut pod: Object = serde_json::from_value(all).unwrap();
        complete_pod(&mut pod);
        assert_eq!(pod.at(&["spec", "tolerations"]).unwrap().as_array().unwrap().len(), 1);
    }
}
