//! Update: replaces an object, or through a subresource a part of it.

use std::sync::Arc;

use fairlead_api::kind::Subresource;
use fairlead_api::{Kind, Object, Status, registry};
use serde_json::Value;

use super::write::{self, Refused};
use super::{get, meta, prepare};
use crate::admission;
use crate::allocate::{self, Allocation};
use crate::api::Api;
use crate::cache::Entry;

/// Races that a write without a resourceVersion sits out before it gives up.
pub(crate) const RACES: usize = 64;
/// What clients match on to read again and retry.
pub(crate) const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Replaces an object. A resourceVersion or UID in `new` must be current.
pub(crate) async fn update(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    new: Object,
    subresource: Option<Subresource>,
    dry_run: bool,
) -> Result<Arc<Entry>, Status> {
    if new.name() != name && !new.name().is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            new.name()
        )));
    }
    super::create::check_place(kind, namespace, &new)?;
    for _ in 0..RACES {
        let current = get::get(api, kind, namespace, name).await?;
        let pinned = check_version(kind, &current.object, &new)?;
        match replace(api, kind, &current, new.clone(), subresource, dry_run).await {
            Err(Refused::Raced(_)) if !pinned => {}
            other => return other.map_err(|refused| status(kind, name, refused)),
        }
    }
    Err(Status::conflict(kind.plural, kind.group, name, STALE))
}

/// Writes `new` over `current`: merges, defaults, admits, validates, stores.
pub(crate) async fn replace(
    api: &Api,
    kind: &'static Kind,
    current: &Entry,
    new: Object,
    subresource: Option<Subresource>,
    dry_run: bool,
) -> Result<Arc<Entry>, Refused> {
    let old = &*current.object;
    let mut object = prepare::on_update(kind, subresource, old, new);
    meta::on_update(&mut object, old);
    (kind.default)(&mut object);
    if subresource.is_none() {
        admission::on_update(kind, old, &mut object);
    }
    for attempt in 1.. {
        let mut draft = object.clone();
        let allocation = Allocation { chosen: &object, current: Some(old) };
        allocate::fill(api, kind, &mut draft, &allocation).await.map_err(Refused::Failed)?;
        if kind.generation {
            meta::count_generation(&mut draft, old);
        }
        let errors = kind.validate_all(&draft, Some(old));
        if !errors.is_empty() {
            return Err(Refused::Failed(Status::invalid(kind.kind, kind.group, draft.name(), errors)));
        }
        if is_finished(kind, &draft) {
            write::remove(api, kind, current, dry_run).await?;
            return Ok(Arc::new(Entry::of(current, draft)));
        }
        if draft == *old {
            return Ok(Arc::new(current.clone()));
        }
        match write::put(api, kind, Some(current), draft, dry_run).await {
            Err(Refused::Claimed(claim)) => {
                allocate::refused(kind, &object, Some(old), &claim, attempt < 16).map_err(Refused::Failed)?;
            }
            other => return other,
        }
    }
    unreachable!("the loop above ends by returning")
}

/// `pods/binding`: gives a pod its node, once.
pub(crate) async fn bind(
    api: &Api,
    namespace: &str,
    name: &str,
    binding: &Object,
    dry_run: bool,
) -> Result<Arc<Entry>, Status> {
    let kind = &registry::POD;
    let node = binding.str_at(&["target", "name"]);
    if node.is_empty() || !matches!(binding.str_at(&["target", "kind"]), "" | "Node") {
        let causes = vec![fairlead_api::status::FieldError::required("target.name", "")];
        return Err(Status::invalid("Binding", "", name, causes));
    }
    for _ in 0..RACES {
        let current = get::get(api, kind, namespace, name).await?;
        let old = &current.object;
        check_version(kind, old, binding)?;
        let refuse = |why: &str| Status::conflict("pods/binding", "", name, why);
        if old.is_terminating() {
            return Err(refuse(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let bound = old.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(refuse(&format!("pod {name} is already assigned to node {bound:?}")));
        }
        let mut object = (**old).clone();
        object.section_mut("spec").insert("nodeName".to_owned(), node.into());
        if let Some(Value::Object(annotations)) = binding.at(&["metadata", "annotations"]) {
            let all = object.metadata_mut().entry("annotations").or_insert_with(|| Value::Object(Default::default()));
            if let Value::Object(all) = all {
                all.extend(annotations.clone());
            }
        }
        scheduled(&mut object);
        match write::put(api, kind, Some(&current), object, dry_run).await {
            Err(Refused::Raced(_)) => {}
            other => return other.map_err(|refused| status(kind, name, refused)),
        }
    }
    Err(Status::conflict(kind.plural, kind.group, name, STALE))
}

/// Condition PodScheduled=True.
fn scheduled(pod: &mut Object) {
    let now = meta::rfc3339(jiff::Timestamp::now());
    let condition = serde_json::json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    let conditions = pod.section_mut("status").entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(conditions) = conditions {
        conditions.retain(|one| one["type"] != "PodScheduled");
        conditions.push(condition);
    }
}

/// Checks UID and resourceVersion where the client names them; true if it names the version.
fn check_version(kind: &Kind, current: &Object, new: &Object) -> Result<bool, Status> {
    if !new.uid().is_empty() && new.uid() != current.uid() {
        let why =
            format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), current.uid());
        return Err(Status::conflict(kind.plural, kind.group, current.name(), &why));
    }
    let version = new.resource_version();
    if version.is_empty() || version == "0" {
        return Ok(false);
    }
    if version != current.resource_version() {
        return Err(Status::conflict(kind.plural, kind.group, current.name(), STALE));
    }
    Ok(true)
}

/// True once nothing keeps an object whose deletion was asked for.
pub(crate) fn is_finished(kind: &Kind, object: &Object) -> bool {
    let waits = object.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0) > 0;
    let content = kind.kind == "Namespace"
        && object.at(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    object.is_terminating() && !waits && !content && meta::finalizers(object).is_empty()
}

/// What a client is told when a write was refused.
pub(crate) fn status(kind: &Kind, name: &str, refused: Refused) -> Status {
    match refused {
        Refused::Raced(None) => Status::not_found(kind.plural, kind.group, name),
        Refused::Raced(Some(_)) | Refused::Claimed(_) => Status::conflict(kind.plural, kind.group, name, STALE),
        Refused::Failed(status) => status,
    }
}
