//! Who belongs to whom: adoption and release of objects by selector and owner reference.
//!
//! An object with the right labels and no controller is adopted; one that we control but whose labels no longer match
//! is released. An owner that is going away adopts nothing more.

use fairlead_api::Kind;
use fairlead_api::client::Patch;
use fairlead_api::status::Status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::json;

use crate::meta;
use crate::writer::Writer;

/// What an object is to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Ours already.
    Ours,
    /// To be made ours.
    Adopt,
    /// No longer ours.
    Release,
    /// Somebody else's, or nobody's.
    Foreign,
}

/// What an object is to `owner`, which means objects by `selector`.
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = meta::selects(selector, object.labels.as_ref());
    match meta::controller(object) {
        Some(controller) if controller.uid != meta::uid(owner) => Claim::Foreign,
        Some(_) if matches => Claim::Ours,
        Some(_) if meta::is_terminating(owner) => Claim::Foreign,
        Some(_) => Claim::Release,
        None if matches && !meta::is_terminating(owner) && !meta::is_terminating(object) => Claim::Adopt,
        None => Claim::Foreign,
    }
}

/// Makes `object` (of `kind`) ours. Fails with Conflict if it changed meanwhile.
pub(crate) async fn adopt(
    writer: &Writer,
    owner_kind: &'static Kind,
    owner: &ObjectMeta,
    kind: &'static Kind,
    object: &ObjectMeta,
) -> Result<(), Status> {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.retain(|reference| reference.uid != meta::uid(owner));
    owners.push(meta::owned_by(owner_kind, owner));
    set_owners(writer, kind, object, &owners).await
}

/// Lets `object` go.
pub(crate) async fn release(
    writer: &Writer,
    owner: &ObjectMeta,
    kind: &'static Kind,
    object: &ObjectMeta,
) -> Result<(), Status> {
    let mut owners = object.owner_references.clone().unwrap_or_default();
    owners.retain(|reference| reference.uid != meta::uid(owner));
    set_owners(writer, kind, object, &owners).await
}

/// Replaces the owners of exactly this state of an object.
pub(crate) async fn set_owners(
    writer: &Writer,
    kind: &'static Kind,
    object: &ObjectMeta,
    owners: &[OwnerReference],
) -> Result<(), Status> {
    let patch = json!({"metadata": {
        "uid": object.uid,
        "resourceVersion": object.resource_version,
        "ownerReferences": owners,
    }});
    writer.patch(kind, &meta::key(object), Patch::Merge(patch), None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims() {
        let owner = json!({"name": "rs", "uid": "1"});
        let dying = json!({"name": "rs", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let ours =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "1", "controller": true}]);
        let theirs =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "2", "controller": true}]);
        let (web, api) = (json!({"app": "web"}), json!({"app": "api"}));
        let gone = "2026-01-01T00:00:00Z";
        let rows = [
            ("ours", &owner, json!({"labels": web, "ownerReferences": ours}), Claim::Ours),
            ("ours, relabelled", &owner, json!({"labels": api, "ownerReferences": ours}), Claim::Release),
            ("dying owner keeps quiet", &dying, json!({"labels": api, "ownerReferences": ours}), Claim::Foreign),
            ("theirs", &owner, json!({"labels": web, "ownerReferences": theirs}), Claim::Foreign),
            ("orphan", &owner, json!({"labels": web}), Claim::Adopt),
            ("dying orphan", &owner, json!({"labels": web, "deletionTimestamp": gone}), Claim::Foreign),
            ("orphan, dying owner", &dying, json!({"labels": web}), Claim::Foreign),
            ("other labels", &owner, json!({"labels": api}), Claim::Foreign),
        ];
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": web})).unwrap();
        for (what, owner, object, expected) in rows {
            let owner: ObjectMeta = serde_json::from_value(owner.clone()).unwrap();
            let object: ObjectMeta = serde_json::from_value(object).unwrap();
            assert_eq!(claim(&owner, &selector, &object), expected, "{what}");
        }
    }
}
