//! `autoscaling/v1` Scale: the view of a workload that says how many.

use serde_json::{Value, json};

use crate::decode::Decoded;
use crate::kind::{Kind, Subresource};
use crate::object::Object;
use crate::schema;
use crate::selector::Selector;
use crate::status::{FieldError, Status};

/// The Scale of an object; `None` if its kind has none.
pub fn get(kind: &Kind, object: &Object) -> Option<Object> {
    if !kind.has(Subresource::Scale) {
        return None;
    }
    let mut metadata = json!({"name": object.name()});
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&["spec", "replicas"])},
        "status": {"replicas": number(&["status", "replicas"])},
    });
    if let Ok(Some(selector)) = Selector::from_label_selector(object.at(&["spec", "selector"])) {
        scale["status"]["selector"] = selector.labels_text().into();
    }
    Object::from_typed(&scale).ok()
}

/// Reads a tree as a Scale.
pub fn decode(tree: Value) -> Result<Decoded, Status> {
    let root = schema::lookup("io.k8s.api.autoscaling.v1.Scale").expect("the Scale type is compiled in");
    let (mut object, problems) = crate::decode::normalize_as(root, tree)
        .map_err(|why| Status::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}")))?;
    object.0.insert("apiVersion".to_owned(), "autoscaling/v1".into());
    object.0.insert("kind".to_owned(), "Scale".into());
    Ok(Decoded { object, problems })
}

/// Applies a merge, strategic or JSON patch to a Scale; a Scale has no lists, so the first two are the same.
pub fn patch(scale: &Object, patch: &crate::client::Patch) -> Result<Value, Status> {
    use crate::client::Patch;
    let flat = match patch {
        Patch::Strategic(changes) => Patch::Merge(changes.clone()),
        other => other.clone(),
    };
    crate::patch::apply_untyped(scale, &flat)
}

/// The object with the Scale's replicas and, if the Scale names one, its resourceVersion.
pub fn set(kind: &Kind, object: &Object, scale: &Object) -> Result<Object, Status> {
    let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("Scale", "autoscaling", object.name(), vec![error]));
    }
    let uid = scale.uid();
    if !uid.is_empty() && uid != object.uid() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object.uid());
        return Err(Status::conflict(kind.plural, kind.group, object.name(), &why));
    }
    let mut changed = object.clone();
    changed.section_mut("spec").insert("replicas".to_owned(), replicas.into());
    match scale.resource_version() {
        "" => {}
        version => {
            changed.metadata_mut().insert("resourceVersion".to_owned(), version.into());
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Patch;
    use crate::registry::{DEPLOYMENT, POD};

    fn deployment() -> Object {
        Object::from_typed(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "5"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2},
        }))
        .expect("object")
    }

    #[test]
    fn there_and_back() {
        let scale = get(&DEPLOYMENT, &deployment()).expect("has one");
        assert_eq!(scale.at(&["spec", "replicas"]), Some(&3.into()));
        assert_eq!(scale.at(&["status", "replicas"]), Some(&2.into()));
        assert_eq!(scale.str_at(&["status", "selector"]), "a=b");
        let patched = patch(&scale, &Patch::Strategic(json!({"spec": {"replicas": 5}}))).expect("patches");
        let scale = decode(patched).expect("decodes").object;
        let changed = set(&DEPLOYMENT, &deployment(), &scale).expect("sets");
        assert_eq!(changed.at(&["spec", "replicas"]), Some(&5.into()));
        assert_eq!(changed.resource_version(), "5");
        assert_eq!(get(&POD, &deployment()), None);
    }

    #[test]
    fn refuses_nonsense() {
        let scale = |tree: Value| decode(tree).expect("decodes").object;
        let error = set(&DEPLOYMENT, &deployment(), &scale(json!({"spec": {"replicas": -1}}))).expect_err("negative");
        assert!(error.is(crate::Reason::Invalid));
        let error = set(&DEPLOYMENT, &deployment(), &scale(json!({"metadata": {"uid": "x"}}))).expect_err("uid");
        assert!(error.is(crate::Reason::Conflict));
        assert!(decode(json!({"spec": {"replicas": "many"}})).is_err());
    }
}
