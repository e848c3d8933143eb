//! Patch: reads, applies the document, writes as an update would; again if somebody else wrote in between.

use std::sync::Arc;

use fairlead_api::client::Patch;
use fairlead_api::kind::Subresource;
use fairlead_api::{Kind, Object, Status, decode, patch, scale};

use super::get;
use super::update::{self, RACES, STALE};
use super::write::Refused;
use crate::api::Api;
use crate::cache::Entry;

/// What a patch answers: the object, and the fields of the document that the kind does not have.
pub(crate) type Patched = (Arc<Entry>, Vec<String>);

/// Applies a patch to an object or a part of it. With `strict`, unknown fields are refused.
#[allow(clippy::too_many_arguments, reason = "the parts of the request, each of its own type")]
pub(crate) async fn patch(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    document: &Patch,
    subresource: Option<Subresource>,
    strict: bool,
    dry_run: bool,
) -> Result<Patched, Status> {
    for _ in 0..RACES {
        let current = get::get(api, kind, namespace, name).await?;
        let old = &*current.object;
        let (new, unknown) = match subresource {
            Some(Subresource::Scale) => scaled(kind, old, document)?,
            _ => {
                let patched = patch::apply(kind, old, document)?;
                decode::normalize(kind, patched).map_err(|why| patch::invalid_result(&text(document), &why))?
            }
        };
        if strict && !unknown.is_empty() {
            let why = format!("strict decoding error: {}", unknown.join(", "));
            return Err(patch::invalid_result(&text(document), &why));
        }
        check_identity(kind, name, old, &new)?;
        let pinned = new.resource_version() != old.resource_version();
        if pinned && !new.resource_version().is_empty() {
            return Err(Status::conflict(kind.plural, kind.group, name, STALE));
        }
        let part = subresource.filter(|part| *part != Subresource::Scale);
        match update::replace(api, kind, &current, new, part, dry_run).await {
            Err(Refused::Raced(_)) => {}
            other => return other.map(|entry| (entry, unknown)).map_err(|refused| update::status(kind, name, refused)),
        }
    }
    Err(Status::conflict(kind.plural, kind.group, name, STALE))
}

fn scaled(kind: &Kind, old: &Object, document: &Patch) -> Result<(Object, Vec<String>), Status> {
    let current = scale::get(kind, old).ok_or_else(|| Status::not_found(kind.plural, kind.group, old.name()))?;
    let patched = scale::decode(scale::patch(&current, document)?)?;
    Ok((scale::set(kind, old, &patched.object)?, patched.problems))
}

fn text(document: &Patch) -> Vec<u8> {
    let (Patch::Json(tree) | Patch::Merge(tree) | Patch::Strategic(tree)) = document;
    tree.to_string().into_bytes()
}

fn check_identity(kind: &Kind, name: &str, old: &Object, new: &Object) -> Result<(), Status> {
    if new.name() != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            new.name()
        )));
    }
    if new.namespace() != old.namespace() {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the URL ({})",
            new.namespace(),
            old.namespace()
        )));
    }
    if new.uid() != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
        return Err(Status::conflict(kind.plural, kind.group, name, &why));
    }
    Ok(())
}
