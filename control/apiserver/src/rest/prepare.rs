//! What each kind keeps from its writers: status on ordinary writes, everything else on writes of a subresource.

use fairlead_api::kind::Subresource;
use fairlead_api::{Kind, Object, registry};
use serde_json::json;

/// A new object begins with the status of its kind, whatever the client sent. A node brings its own.
pub(crate) fn on_create(kind: &Kind, object: &mut Object) {
    if !kind.has(Subresource::Status) || *kind == registry::NODE {
        return;
    }
    // Defaults fill in what a kind begins with.
    let status = if kind.kind == "ReplicaSet" { json!({"replicas": 0}) } else { json!({}) };
    object.0.insert("status".to_owned(), status);
}

/// The object to store when a client writes `new` over `current`, through a subresource or not.
pub(crate) fn on_update(kind: &Kind, subresource: Option<Subresource>, current: &Object, new: Object) -> Object {
    let take = |field: &str, mut base: Object, from: &Object| {
        match from.0.get(field) {
            Some(value) => base.0.insert(field.to_owned(), value.clone()),
            None => base.0.remove(field),
        };
        base
    };
    match subresource {
        None if kind.has(Subresource::Status) => take("status", new, current),
        None => new,
        Some(Subresource::Status) => {
            let mut base = take("status", current.clone(), &new);
            // A node and a pod annotate themselves along with their status.
            if matches!(kind.kind, "Node" | "Pod") {
                let annotations = new.at(&["metadata", "annotations"]).filter(|value| value.is_object());
                if let Some(annotations) = annotations {
                    base.metadata_mut().insert("annotations".to_owned(), annotations.clone());
                }
            }
            base
        }
        Some(Subresource::Finalize) => {
            let mut base = current.clone();
            let finalizers = new.at(&["spec", "finalizers"]).cloned().unwrap_or_else(|| json!([]));
            base.section_mut("spec").insert("finalizers".to_owned(), finalizers);
            base
        }
        // These two do not carry an object of the kind; their own paths translate them.
        Some(Subresource::Scale | Subresource::Binding) => new,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn object(tree: Value) -> Object {
        serde_json::from_value(tree).unwrap()
    }

    #[test]
    fn spec_and_status_have_writers_of_their_own() {
        let current = object(json!({"spec": {"x": 1}, "status": {"y": 1}}));
        let new = object(json!({"spec": {"x": 2}, "status": {"y": 2}}));
        let kind = &registry::DEPLOYMENT;
        let plain = on_update(kind, None, &current, new.clone());
        assert_eq!(plain, object(json!({"spec": {"x": 2}, "status": {"y": 1}})));
        let status = on_update(kind, Some(Subresource::Status), &current, new);
        assert_eq!(status, object(json!({"spec": {"x": 1}, "status": {"y": 2}, })));
    }
}
