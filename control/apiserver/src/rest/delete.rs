//! Delete: at once, or by asking first whoever has to let go.
//!
//! A pod that runs gets a deadline and stays until its node reports it gone (a delete with grace period 0). Any
//! object with finalizers, and a namespace with content, stays until the last of them is taken away by an update.

use std::sync::Arc;

use fairlead_api::client::{DeleteOptions, Propagation};
use fairlead_api::{Kind, Object, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::update::{self, RACES, STALE};
use super::write::{self, Refused};
use super::{get, meta};
use crate::api::Api;
use crate::cache::Entry;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What became of a delete.
#[derive(Clone, Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Entry>),
    /// It stays for now, marked.
    Marked(Arc<Entry>),
}

/// Deletes an object, or starts its deletion.
pub(crate) async fn delete(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    dry_run: bool,
) -> Result<Deleted, Status> {
    if let Some(seconds) = options.grace_period_seconds.filter(|seconds| *seconds < 0) {
        let why = format!("gracePeriodSeconds must be at least 0, not {seconds}");
        return Err(Status::bad_request(why));
    }
    if kind.kind == "Namespace" && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(Status::forbidden(kind.plural, kind.group, name, "this namespace may not be deleted"));
    }
    for _ in 0..RACES {
        let current = get::get(api, kind, namespace, name).await?;
        check_preconditions(kind, &current.object, options)?;
        let done = match plan(kind, &current.object, options, Timestamp::now()) {
            Step::Remove => write::remove(api, kind, &current, dry_run).await.map(|()| Deleted::Gone(current)),
            Step::Keep => return Ok(Deleted::Marked(current)),
            Step::Mark(object) => write::put(api, kind, Some(&current), object, dry_run).await.map(Deleted::Marked),
        };
        match done {
            Err(Refused::Raced(_)) => {}
            other => return other.map_err(|refused| update::status(kind, name, refused)),
        }
    }
    Err(Status::conflict(kind.plural, kind.group, name, STALE))
}

/// What a delete does to an object.
#[derive(Debug, PartialEq)]
enum Step {
    Remove,
    Mark(Object),
    /// Everything asked for has been asked for before.
    Keep,
}

fn plan(kind: &Kind, current: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut object = current.clone();
    let grace = grace(kind, current, options);
    let mut finalizers = meta::finalizers(current);
    if let Some(propagation) = options.propagation {
        finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        }
        meta::set_finalizers(&mut object, finalizers);
    }
    let metadata = object.metadata_mut();
    let before = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    // A deadline can be brought nearer, never put off.
    if before.is_none_or(|before| grace < before) {
        let deadline = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
        metadata.insert("deletionTimestamp".to_owned(), meta::rfc3339(deadline).into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        if kind.generation {
            meta::bump_generation(&mut object);
        }
    }
    if kind.kind == "Namespace" {
        object.section_mut("status").insert("phase".to_owned(), "Terminating".into());
    }
    if update::is_finished(kind, &object) {
        Step::Remove
    } else if object == *current {
        Step::Keep
    } else {
        Step::Mark(object)
    }
}

/// Seconds until a pod may be killed; 0 for what runs nowhere.
fn grace(kind: &Kind, object: &Object, options: &DeleteOptions) -> i64 {
    if kind.kind != "Pod" {
        return 0;
    }
    let ended = matches!(object.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    if object.str_at(&["spec", "nodeName"]).is_empty() || ended {
        return 0;
    }
    let own = || object.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
    options.grace_period_seconds.unwrap_or_else(own)
}

fn check_preconditions(kind: &Kind, current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let refuse = |what: &str, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Status::conflict(kind.plural, kind.group, current.name(), &why)
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != current.uid()) {
        return Err(refuse("UID", uid, current.uid()));
    }
    match options.resource_version.as_deref() {
        Some(version) if version != current.resource_version() => {
            Err(refuse("ResourceVersion", version, current.resource_version()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::registry::{DEPLOYMENT, NAMESPACE, POD};
    use serde_json::json;

    use super::*;

    fn step(kind: &Kind, object: Value, options: &DeleteOptions) -> Step {
        plan(kind, &serde_json::from_value(object).unwrap(), options, Timestamp::UNIX_EPOCH)
    }

    fn marked(step: Step) -> Object {
        match step {
            Step::Mark(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_running_pod_gets_its_deadline() {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "a", "terminationGracePeriodSeconds": 20}});
        let object = marked(step(&POD, pod.clone(), &DeleteOptions::default()));
        assert_eq!(object.str_at(&["metadata", "deletionTimestamp"]), "1970-01-01T00:00:20Z");
        let again = serde_json::to_value(&object).unwrap();
        assert_eq!(step(&POD, again.clone(), &DeleteOptions::default()), Step::Keep);
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert_eq!(step(&POD, again, &now), Step::Remove);
        let waiting = json!({"metadata": {}, "spec": {}});
        assert_eq!(step(&POD, waiting, &DeleteOptions::default()), Step::Remove);
    }

    #[test]
    fn finalizers_and_propagation_keep_an_object() {
        let plain = json!({"metadata": {}});
        let options = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let foreground = marked(step(&DEPLOYMENT, plain.clone(), &options(Propagation::Foreground)));
        assert_eq!(meta::finalizers(&foreground), [FOREGROUND]);
        assert_eq!(step(&DEPLOYMENT, plain, &options(Propagation::Background)), Step::Remove);
        let held = json!({"metadata": {"finalizers": ["example.com/x"]}});
        assert!(marked(step(&DEPLOYMENT, held, &DeleteOptions::default())).is_terminating());
    }

    #[test]
    fn a_namespace_stays_until_it_is_finalized() {
        let full = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let object = marked(step(&NAMESPACE, full, &DeleteOptions::default()));
        assert_eq!(object.str_at(&["status", "phase"]), "Terminating");
        assert!(!update::is_finished(&NAMESPACE, &object));
    }
}
