//! The garbage collector: objects whose owners are gone go too.
//!
//! - background (the default): the owner is gone, its dependents follow;
//! - foreground: the owner waits, marked by the finalizer `foregroundDeletion`, for dependents that block it;
//! - orphan: the owner waits, marked by `orphan`, until its dependents no longer name it.
//!
//! An owner counts as gone only when the API itself says that no object of that UID is there; a cache may be behind.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::{Patch, Propagation};
use fairlead_api::status::{Reason, Status};
use fairlead_api::{Kind, Object, registry};
use fairlead_informer::{AnyCache, Key, Queue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::claim;
use crate::r#loop::{Loop, Shared};
use crate::meta;
use crate::writer::Writer;

/// Objects worked on at the same time.
const WORKERS: usize = 8;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    for cache in shared.caches.every() {
        let (kind, queue, shared) = (cache.kind(), queue.clone(), shared.clone());
        cache.on_object(Box::new(move |key, object, present| {
            if present {
                if object.is_terminating() || object.owner_references().next().is_some() {
                    queue.add(Subject { kind, key: key.clone() });
                }
                return;
            }
            for (kind, dependent) in dependents(&shared, object.uid()) {
                queue.add(Subject { kind, key: Key::of(&dependent) });
            }
            for subject in owners(object).iter().filter_map(|owner| subject_of(owner, object.namespace())) {
                queue.add(subject);
            }
        }));
    }
    shared.spawn("garbage-collector", WORKERS, queue.clone(), GarbageLoop { shared: shared.clone(), queue });
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    kind: &'static Kind,
    key: Key,
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind.group, self.kind.kind, &self.key).hash(state);
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.qualified(), self.key)
    }
}

/// What a reference names; `None` for a kind that is not served, or that cannot be an owner there.
fn subject_of(owner: &OwnerReference, namespace: &str) -> Option<Subject> {
    let kind = registry::by_kind(&owner.api_version, &owner.kind)?;
    match (kind.is_namespaced(), namespace) {
        (true, "") => None,
        (true, namespace) => Some(Subject { kind, key: Key::new(namespace, &owner.name) }),
        (false, _) => Some(Subject { kind, key: Key::new("", &owner.name) }),
    }
}

fn owners(object: &Object) -> Vec<OwnerReference> {
    object.metadata().ok().and_then(|meta| meta.owner_references).unwrap_or_default()
}

fn dependents(shared: &Shared, uid: &str) -> Vec<(&'static Kind, Arc<Object>)> {
    let caches = shared.caches.every().iter();
    caches.flat_map(|cache| cache.dependents(uid).into_iter().map(|object| (cache.kind(), object))).collect()
}

/// What an owner is to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// There, or not for us to judge.
    Solid,
    /// Going, and waiting for its dependents to go first.
    Waiting,
    /// Gone.
    Absent,
}

/// What becomes of a dependent.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Keep it, but without the owners that are gone or going.
    Shed(Vec<OwnerReference>),
    /// Delete it; `true` waits for its own dependents.
    Delete {
        foreground: bool,
    },
}

/// Judges a dependent by its owners. `has_dependents` tells whether it owns something itself.
fn judge(owners: &[(OwnerReference, Owner)], has_dependents: bool) -> Verdict {
    let count = |state: Owner| owners.iter().filter(|(_, one)| *one == state).count();
    match (count(Owner::Solid), count(Owner::Waiting), owners.len()) {
        (_, _, 0) => Verdict::Keep,
        (0, waiting, _) => Verdict::Delete { foreground: waiting > 0 && has_dependents },
        (solid, _, all) if solid == all => Verdict::Keep,
        _ => {
            let solid = owners.iter().filter(|(_, one)| *one == Owner::Solid);
            Verdict::Shed(solid.map(|(owner, _)| owner.clone()).collect())
        }
    }
}

struct GarbageLoop {
    shared: Arc<Shared>,
    queue: Arc<Queue<Subject>>,
}

#[async_trait]
impl Loop for GarbageLoop {
    type Key = Subject;

    async fn reconcile(&self, subject: &Subject, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(object) = self.cache(subject).and_then(|cache| cache.object(&subject.key)) else { return Ok(None) };
        let meta = object.metadata().map_err(|error| Status::internal(format!("{subject} cannot be read: {error}")))?;
        if meta::is_terminating(&meta) {
            return self.release(subject, &meta, writer).await.map(|()| None);
        }
        let mut owners = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            owners.push((owner.clone(), self.state_of(owner, &subject.key.namespace).await?));
        }
        let has_dependents = !dependents(&self.shared, meta::uid(&meta)).is_empty();
        match judge(&owners, has_dependents) {
            Verdict::Keep => {}
            Verdict::Shed(solid) => claim::set_owners(writer, subject.kind, &meta, &solid).await?,
            Verdict::Delete { foreground } => {
                let propagation = match () {
                    () if has(&meta, ORPHAN) => Propagation::Orphan,
                    () if foreground || has(&meta, FOREGROUND) => Propagation::Foreground,
                    () => Propagation::Background,
                };
                writer.delete_as(subject.kind, &meta, Some(propagation)).await?;
            }
        }
        Ok(None)
    }
}

impl GarbageLoop {
    fn cache(&self, subject: &Subject) -> Option<&Arc<dyn AnyCache>> {
        self.shared.caches.of(subject.kind)
    }

    /// What the owner of an object in `namespace` is to it. Absence is believed only from the API itself.
    async fn state_of(&self, owner: &OwnerReference, namespace: &str) -> Result<Owner, Status> {
        let Some(subject) = subject_of(owner, namespace) else { return Ok(Owner::Solid) };
        let cached = self.cache(&subject).and_then(|cache| cache.object(&subject.key));
        let present = match cached.filter(|object| object.uid() == owner.uid) {
            Some(object) => Some(object),
            None => match self.shared.client.get(subject.kind, &subject.key.namespace, &subject.key.name).await {
                Ok(object) => Some(object).filter(|object| object.uid() == owner.uid),
                Err(status) if status.is(Reason::NotFound) => None,
                Err(status) => return Err(status),
            },
        };
        Ok(match present {
            None => Owner::Absent,
            Some(object) if object.is_terminating() && has_finalizer(&object, FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// Brings an owner that waits for its dependents nearer to its end.
    async fn release(&self, subject: &Subject, meta: &ObjectMeta, writer: &Writer) -> Result<(), Status> {
        let uid = meta::uid(meta);
        if has(meta, ORPHAN) {
            for (kind, dependent) in dependents(&self.shared, uid) {
                let mut owners = owners(&dependent);
                owners.retain(|owner| owner.uid != uid);
                let dependent = dependent
                    .metadata()
                    .map_err(|error| Status::internal(format!("a dependent of {subject} cannot be read: {error}")))?;
                claim::set_owners(writer, kind, &dependent, &owners).await?;
            }
            return remove_finalizer(subject, meta, ORPHAN, writer).await;
        }
        if !has(meta, FOREGROUND) {
            return Ok(());
        }
        let dependents = dependents(&self.shared, uid);
        let blocks = |object: &Object| {
            owners(object).iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        if !dependents.iter().any(|(_, object)| blocks(object)) {
            return remove_finalizer(subject, meta, FOREGROUND, writer).await;
        }
        for (kind, object) in dependents.iter().filter(|(_, object)| !object.is_terminating()) {
            self.queue.add(Subject { kind, key: Key::of(object) });
        }
        Ok(())
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

fn has_finalizer(object: &Object, finalizer: &str) -> bool {
    let finalizers = object.at(&["metadata", "finalizers"]).and_then(serde_json::Value::as_array);
    finalizers.into_iter().flatten().any(|one| one == finalizer)
}

async fn remove_finalizer(
    subject: &Subject,
    meta: &ObjectMeta,
    finalizer: &str,
    writer: &Writer,
) -> Result<(), Status> {
    let left: Vec<_> = meta.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
    let patch = json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "finalizers": left,
    }});
    writer.patch(subject.kind, &subject.key, Patch::Merge(patch), None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Owner::{Absent, Solid, Waiting};
        let keep = |names: &[&str]| Verdict::Shed(names.iter().map(|name| owner(name)).collect());
        let delete = |foreground| Verdict::Delete { foreground };
        type Row = (&'static [(&'static str, Owner)], bool, Verdict);
        let rows: [Row; 9] = [
            (&[], false, Verdict::Keep),
            (&[("a", Solid)], true, Verdict::Keep),
            (&[("a", Absent)], false, delete(false)),
            (&[("a", Absent)], true, delete(false)),
            (&[("a", Waiting)], false, delete(false)),
            (&[("a", Waiting)], true, delete(true)),
            (&[("a", Absent), ("b", Waiting)], true, delete(true)),
            (&[("a", Absent), ("b", Solid)], false, keep(&["b"])),
            (&[("a", Solid), ("b", Waiting), ("c", Solid)], true, keep(&["a", "c"])),
        ];
        for (owners, has_dependents, expected) in rows {
            let named: Vec<_> = owners.iter().map(|(name, state)| (owner(name), *state)).collect();
            assert_eq!(judge(&named, has_dependents), expected, "{owners:?}");
        }
    }

    #[test]
    fn only_kinds_served_can_be_judged() {
        let rows = [
            ("apps/v1", "ReplicaSet", "ns", true),
            ("apps/v1", "ReplicaSet", "", false),
            ("v1", "Node", "ns", true),
            ("x/v1", "Thing", "ns", false),
        ];
        for (version, kind, namespace, known) in rows {
            let owner = OwnerReference { api_version: version.into(), kind: kind.into(), ..owner("o") };
            assert_eq!(subject_of(&owner, namespace).is_some(), known, "{version} {kind} in {namespace:?}");
        }
    }

    fn owner(name: &str) -> OwnerReference {
        OwnerReference { name: name.to_owned(), uid: name.to_owned(), ..OwnerReference::default() }
    }
}
