//! Create.

use std::sync::Arc;

use fairlead_api::{Kind, Object, Status};
use jiff::Timestamp;

use super::write::{self, Refused};
use super::{meta, prepare};
use crate::admission;
use crate::allocate::{self, Allocation};
use crate::api::Api;
use crate::cache::Entry;

/// How often a generated name or an allocated address may turn out to be taken.
const ATTEMPTS: usize = 16;

/// Stores a new object; the answer is what was stored.
pub(crate) async fn create(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    mut object: Object,
    dry_run: bool,
) -> Result<Arc<Entry>, Status> {
    check_place(kind, namespace, &object)?;
    if !matches!(object.resource_version(), "" | "0") {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let generated = object.name().is_empty().then(|| object.str_at(&["metadata", "generateName"]).to_owned());
    let generated = generated.filter(|base| !base.is_empty());
    meta::on_create(&mut object, namespace, kind.generation, Timestamp::now());
    prepare::on_create(kind, &mut object);
    (kind.default)(&mut object);
    admission::on_create(api, kind, &mut object).await?;
    for attempt in 1.. {
        let mut draft = object.clone();
        if let Some(base) = &generated {
            draft.metadata_mut().insert("name".into(), meta::generate_name(base).into());
        }
        let allocation = Allocation { chosen: &object, current: None };
        allocate::fill(api, kind, &mut draft, &allocation).await?;
        let errors = kind.validate_all(&draft, None);
        if !errors.is_empty() {
            let shown = if generated.is_some() { object.str_at(&["metadata", "generateName"]) } else { draft.name() };
            return Err(Status::invalid(kind.kind, kind.group, shown, errors));
        }
        if dry_run && api.cache.get(kind, namespace, draft.name()).is_some() {
            return Err(Status::already_exists(kind.plural, kind.group, draft.name()));
        }
        let name = draft.name().to_owned();
        match write::put(api, kind, None, draft, dry_run).await {
            Ok(entry) => return Ok(entry),
            Err(Refused::Raced(_)) if generated.is_some() && attempt < ATTEMPTS => {}
            Err(Refused::Raced(_)) => return Err(Status::already_exists(kind.plural, kind.group, &name)),
            Err(Refused::Claimed(claim)) => allocate::refused(kind, &object, None, &claim, attempt < ATTEMPTS)?,
            Err(Refused::Failed(status)) => return Err(status),
        }
    }
    unreachable!("the loop above ends by returning")
}

/// The object must say what the URL says.
pub(crate) fn check_place(kind: &Kind, namespace: &str, object: &Object) -> Result<(), Status> {
    let (own, place) = (object.namespace(), if kind.is_namespaced() { namespace } else { "" });
    if !own.is_empty() && own != place {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({own:?} and {place:?})"
        )));
    }
    if kind.is_namespaced() && namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    Ok(())
}
