//! The one step that reaches the store: a put or a delete, with the claims that go with it.

use std::sync::Arc;

use fairlead_api::{Kind, Object, Status};
use fairlead_store::{Entry as Stored, Outcome, Revision, Txn, Value};

use crate::allocate;
use crate::api::Api;
use crate::cache::Entry;
use crate::encode;
use crate::status::from_store;

/// Why a write did not happen.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another write came first: the object is not what it was read as.
    Raced(Option<Stored>),
    /// An address or a port that the object wants is taken.
    Claimed(String),
    /// Anything else.
    Failed(Status),
}

/// Puts an object: a new one, or one that replaces `current`. With `dry_run` nothing is stored.
pub(crate) async fn put(
    api: &Api,
    kind: &'static Kind,
    current: Option<&Entry>,
    mut object: Object,
    dry_run: bool,
) -> Result<Arc<Entry>, Refused> {
    let key = encode::key(kind, object.namespace(), object.name());
    if dry_run {
        let revision = current.map_or(0, |current| current.revision);
        let bytes = encode::bytes(&object);
        return Ok(Arc::new(Entry { key: key.into(), object: Arc::new(object), bytes, revision }));
    }
    let txn = Txn::default().expect(&key, current.map(|current| Revision(current.revision)));
    let txn = txn.put(&key, encode::stamped(&object));
    let txn = claims(txn, kind, current.map(|current| &*current.object), Some(&object));
    let written = commit(api, &key, txn).await?;
    let Some(stored) = written.into_iter().next() else {
        return Err(Refused::Failed(Status::internal("a put answered without an entry")));
    };
    let revision = stored.modified.get();
    object.metadata_mut().insert("resourceVersion".to_owned(), revision.to_string().into());
    Ok(Arc::new(Entry { key: stored.key, object: Arc::new(object), bytes: stored.value, revision }))
}

/// Removes an object.
pub(crate) async fn remove(api: &Api, kind: &'static Kind, current: &Entry, dry_run: bool) -> Result<(), Refused> {
    if dry_run {
        return Ok(());
    }
    let txn = Txn::default().expect(&*current.key, Some(Revision(current.revision))).delete(&*current.key);
    commit(api, &current.key, claims(txn, kind, Some(&current.object), None)).await.map(drop)
}

/// Adds what the object takes and gives back of the cluster's addresses and ports: in the same transaction, so that
/// neither a race nor a crash can give one of them twice or lose it.
fn claims(mut txn: Txn, kind: &Kind, before: Option<&Object>, after: Option<&Object>) -> Txn {
    let of = |object: Option<&Object>| object.map(|object| allocate::claims(kind, object)).unwrap_or_default();
    let (before, after_claims) = (of(before), of(after));
    for claim in after_claims.difference(&before) {
        let owner = after.map(|object| format!("{}/{}", object.namespace(), object.name())).unwrap_or_default();
        txn = txn.expect(claim, None).put(claim, Value::plain(owner));
    }
    for claim in before.difference(&after_claims) {
        txn = txn.delete(claim);
    }
    txn
}

async fn commit(api: &Api, key: &str, txn: Txn) -> Result<Vec<Stored>, Refused> {
    match api.store.txn(txn).await {
        Ok(Outcome::Committed { written, .. }) => Ok(written),
        Ok(Outcome::Conflict { key: lost, current }) if lost == key => Err(Refused::Raced(current)),
        Ok(Outcome::Conflict { key: lost, .. }) => Err(Refused::Claimed(lost)),
        Err(error) => Err(Refused::Failed(from_store(error))),
    }
}
