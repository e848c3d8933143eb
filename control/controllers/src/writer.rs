//! Writes of one turn of a loop. The writer remembers them, and [`Writer::settle`] waits until the caches show them:
//! that is what keeps a loop from acting on a state older than its own writes.

use std::sync::{Arc, Mutex, PoisonError};

use fairlead_api::client::{DeleteOptions, Patch, Propagation};
use fairlead_api::kind::Subresource;
use fairlead_api::status::{Reason, Status};
use fairlead_api::{Kind, Object};
use fairlead_informer::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::json;

use crate::r#loop::Shared;

enum Write {
    /// An object of this kind was stored at this revision.
    Stored(&'static Kind, u64),
    /// The object with this UID was asked to go.
    Deleted(&'static Kind, Key, String),
}

/// The client of one turn.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    writes: Mutex<Vec<Write>>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, writes: Mutex::default() }
    }

    pub(crate) async fn create<T: Serialize>(&self, kind: &'static Kind, typed: &T) -> Result<Arc<Object>, Status> {
        let stored = self.shared.client.create(kind, tree(typed)?).await?;
        Ok(self.stored(kind, stored))
    }

    pub(crate) async fn update(
        &self,
        kind: &'static Kind,
        object: Object,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status> {
        let stored = self.shared.client.update(kind, object, subresource).await?;
        Ok(self.stored(kind, stored))
    }

    pub(crate) async fn patch(
        &self,
        kind: &'static Kind,
        key: &Key,
        patch: Patch,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status> {
        let stored = self.shared.client.patch(kind, &key.namespace, &key.name, patch, subresource).await?;
        Ok(self.stored(kind, stored))
    }

    /// Replaces the status of exactly this object, whatever it was.
    pub(crate) async fn put_status<T: Serialize>(
        &self,
        kind: &'static Kind,
        meta: &ObjectMeta,
        status: &T,
    ) -> Result<(), Status> {
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": meta.uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        self.patch(kind, &crate::meta::key(meta), Patch::Json(patch), Some(Subresource::Status)).await.map(drop)
    }

    /// Deletes exactly this object; that it is gone already, or replaced by another, is as good.
    pub(crate) async fn delete(&self, kind: &'static Kind, meta: &ObjectMeta) -> Result<(), Status> {
        self.delete_with(kind, meta, DeleteOptions::default()).await
    }

    /// Deletes exactly this object, leaving what becomes of its dependents to `propagation`.
    pub(crate) async fn delete_as(
        &self,
        kind: &'static Kind,
        meta: &ObjectMeta,
        propagation: Option<Propagation>,
    ) -> Result<(), Status> {
        self.delete_with(kind, meta, DeleteOptions { propagation, ..DeleteOptions::default() }).await
    }

    /// Deletes exactly this object without waiting for a node to let go of it.
    pub(crate) async fn delete_now(&self, kind: &'static Kind, meta: &ObjectMeta) -> Result<(), Status> {
        self.delete_with(kind, meta, DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() }).await
    }

    async fn delete_with(&self, kind: &'static Kind, meta: &ObjectMeta, options: DeleteOptions) -> Result<(), Status> {
        let key = crate::meta::key(meta);
        let uid = crate::meta::uid(meta).to_owned();
        let options = DeleteOptions { uid: Some(uid.clone()), ..options };
        match self.shared.client.delete(kind, &key.namespace, &key.name, options).await {
            Ok(()) => {
                self.remember(Write::Deleted(kind, key, uid));
                Ok(())
            }
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Waits until the caches have seen every write of this turn.
    pub(crate) async fn settle(self) {
        let writes = self.writes.into_inner().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match write {
                Write::Stored(kind, revision) => {
                    if let Some(cache) = self.shared.caches.of(kind) {
                        cache.settled(revision).await;
                    }
                }
                Write::Deleted(kind, key, uid) => {
                    if let Some(cache) = self.shared.caches.of(kind) {
                        cache.removed(&key, &uid).await;
                    }
                }
            }
        }
    }

    fn stored(&self, kind: &'static Kind, object: Arc<Object>) -> Arc<Object> {
        if let Ok(revision) = object.resource_version().parse() {
            self.remember(Write::Stored(kind, revision));
        }
        object
    }

    fn remember(&self, write: Write) {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).push(write);
    }
}

/// The tree of a typed object.
pub(crate) fn tree<T: Serialize>(typed: &T) -> Result<Object, Status> {
    Object::from_typed(typed)
        .map_err(|error| Status::internal(format!("an object could not be written as JSON: {error}")))
}
