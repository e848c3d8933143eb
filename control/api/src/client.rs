//! The client trait: the one door through which controllers, scheduler and push reach the API.
//!
//! The API server implements it in process, along its own path (admission, validation, optimistic locking), so a loop
//! sees what an outside client would see and nothing more. Tests of loops use the same implementation over a memory
//! store, not a mock.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::kind::{Kind, Subresource};
use crate::object::Object;
use crate::selector::Selector;
use crate::status::Status;

/// Objects of one kind at one revision.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Sorted by namespace, then name.
    pub items: Vec<Arc<Object>>,
    /// The store's revision of this answer: where a watch goes on.
    pub revision: u64,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// New, or new to the selector.
    Added,
    /// Changed.
    Modified,
    /// Gone, or gone from the selector; the object is its last state.
    Deleted,
    /// No object: everything up to `revision` has been sent.
    Bookmark,
}

/// One step of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// The object after it; for `Bookmark` an object with nothing but a resourceVersion.
    pub object: Arc<Object>,
    /// The revision of the change.
    pub revision: u64,
}

/// Ordered, gapless events; ends with an error (`Expired` when the watcher fell behind the history kept).
pub type WatchStream = BoxStream<'static, Result<Event, Status>>;

/// A patch document.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
}

/// What to do with objects owned by the deleted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Delete the owner now, dependents afterwards.
    #[default]
    Background,
    /// Delete dependents first.
    Foreground,
    /// Keep dependents, without their owner reference.
    Orphan,
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds; `None` takes the kind's own default (a pod's `terminationGracePeriodSeconds`, else 0).
    pub grace_period_seconds: Option<i64>,
    /// `None` takes the kind's default, background.
    pub propagation: Option<Propagation>,
    /// Refuse with Conflict unless the object has this UID.
    pub uid: Option<String>,
    /// Refuse with Conflict unless the object has this resourceVersion.
    pub resource_version: Option<String>,
}

/// Access to the API. `namespace` is empty for cluster-scoped kinds and, in `list` and `watch`, for all namespaces.
#[async_trait]
pub trait Client: Send + Sync + 'static {
    /// The object, or NotFound.
    async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status>;

    /// The objects that the selector admits.
    async fn list(&self, kind: &'static Kind, namespace: &str, selector: &Selector) -> Result<List, Status>;

    /// Changes after `revision` (a [`List::revision`]) that the selector admits.
    async fn watch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        selector: &Selector,
        revision: u64,
    ) -> Result<WatchStream, Status>;

    /// Stores a new object; the answer is what was stored.
    async fn create(&self, kind: &'static Kind, object: Object) -> Result<Arc<Object>, Status>;

    /// Replaces an object, or through a subresource a part of it. A resourceVersion in the object must be current.
    async fn update(
        &self,
        kind: &'static Kind,
        object: Object,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status>;

    /// Applies a patch; retried inside while it names no resourceVersion.
    async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        patch: Patch,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status>;

    /// Deletes, or starts the deletion of, an object.
    async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), Status>;
}
