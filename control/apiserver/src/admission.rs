//! Admission: what the cluster adds to an object and when it refuses one, between defaults and validation.

use fairlead_api::{Kind, Object, Status, registry};
use serde_json::{Value, json};

use crate::api::Api;

/// A new object: its namespace must be alive; a pod gets what every pod has.
pub(crate) async fn on_create(api: &Api, kind: &Kind, object: &mut Object) -> Result<(), Status> {
    if kind.is_namespaced() {
        check_namespace(api, kind, object).await?;
    }
    if kind.kind == "Pod" {
        complete_pod(object);
    }
    Ok(())
}

/// A changed object: a pod keeps what admission gave it; a namespace keeps its finalizers (`finalize` changes them).
pub(crate) fn on_update(kind: &Kind, old: &Object, object: &mut Object) {
    match kind.kind {
        "Pod" => complete_pod(object),
        "Namespace" => {
            let finalizers = old.at(&["spec", "finalizers"]).cloned().unwrap_or_else(|| json!([]));
            object.section_mut("spec").insert("finalizers".to_owned(), finalizers);
        }
        _ => {}
    }
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

/// What every pod has, and under which account it runs.
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
    fairlead_api::admission::pod(pod);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_is_completed_once() {
        let mut pod: Object = serde_json::from_value(json!({"spec": {"serviceAccountName": "x"}})).unwrap();
        complete_pod(&mut pod);
        assert_eq!(pod.str_at(&["spec", "serviceAccount"]), "x");
        let before = pod.clone();
        complete_pod(&mut pod);
        assert_eq!(pod, before);
    }
}
