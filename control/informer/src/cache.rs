//! The last known state of one kind.
//!
//! A cache lists once, then follows the watch; it lists again only when the watch says `Expired`. Every object is
//! parsed once, when it changes, and shared from then on. Handlers run in the cache's own task, in the order of
//! revisions, and only put keys into queues.
//!
//! Invariant: after [`Cache::settled`] returns for the revision of a write, reads see that write.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::{Client, Event, EventType, WatchStream};
use fairlead_api::selector::Selector;
use fairlead_api::status::{Reason, Status};
use fairlead_api::{Kind, Object};
use futures::StreamExt;
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::key::Key;

/// How long to wait before a failed list or watch is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What a cache keeps of an object.
pub trait View: Sized + Send + Sync + 'static {
    /// Made once per change of the object.
    fn view(object: &Arc<Object>) -> Result<Self, serde_json::Error>;
}

impl<T: k8s_openapi::Resource + DeserializeOwned + Send + Sync + 'static> View for T {
    fn view(object: &Arc<Object>) -> Result<Self, serde_json::Error> {
        object.typed()
    }
}

/// The view for kinds of which only the tree is of interest.
#[derive(Debug)]
pub struct Raw(pub Arc<Object>);

impl View for Raw {
    fn view(object: &Arc<Object>) -> Result<Self, serde_json::Error> {
        Ok(Self(object.clone()))
    }
}

/// The values under which an index finds an object; none leaves it out.
pub type Index = fn(&Object, &mut Vec<String>);

/// The index every cache has: UIDs of all owners.
fn owners(object: &Object, values: &mut Vec<String>) {
    let uids = object.owner_references().filter_map(|owner| owner.get("uid")?.as_str());
    values.extend(uids.map(str::to_owned));
}

/// A change of one object: `old` is what the cache held, `new` what it holds now.
#[derive(Debug)]
pub struct Change<T> {
    /// Which object.
    pub key: Key,
    /// Before; `None` for a new object.
    pub old: Option<Arc<T>>,
    /// After; `None` for a deleted object.
    pub new: Option<Arc<T>>,
    /// The tree of `new`, or of the last state.
    pub object: Arc<Object>,
}

impl<T> Change<T> {
    /// The object after the change, or its last state.
    pub fn latest(&self) -> Option<&Arc<T>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

type Handler<T> = Box<dyn Fn(&Change<T>) + Send + Sync>;

struct Entry<T> {
    object: Arc<Object>,
    view: Arc<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), view: self.view.clone() }
    }
}

struct State<T> {
    entries: BTreeMap<Key, Entry<T>>,
    /// One map per index, the owners' first.
    indexes: Vec<FxHashMap<String, BTreeSet<Key>>>,
}

/// The objects of one kind.
pub struct Cache<T> {
    kind: &'static Kind,
    index: Vec<Index>,
    state: RwLock<State<T>>,
    handlers: RwLock<Vec<Handler<T>>>,
    /// The revision up to which everything has been seen; `None` before the first list.
    revision: watch::Sender<Option<u64>>,
}

impl<T> std::fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("kind", &self.kind).field("revision", &*self.revision.borrow()).finish()
    }
}

impl<T: View> Cache<T> {
    /// An empty cache with the owners' index and `extra` ones, which [`Cache::by_index`] numbers from 0.
    pub fn new(kind: &'static Kind, extra: &[Index]) -> Arc<Self> {
        let index: Vec<Index> = std::iter::once(owners as Index).chain(extra.iter().copied()).collect();
        let indexes = index.iter().map(|_| FxHashMap::default()).collect();
        Arc::new(Self {
            kind,
            index,
            state: RwLock::new(State { entries: BTreeMap::new(), indexes }),
            handlers: RwLock::default(),
            revision: watch::Sender::new(None),
        })
    }

    /// Calls `handler` for every change from now on. To be registered before the cache runs.
    pub fn on_change(&self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.read().entries.get(key).map(|entry| entry.view.clone())
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().entries.values().map(|entry| entry.view.clone()).collect()
    }

    /// The objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let state = self.read();
        let from = state.entries.range(Key::new(namespace, "")..);
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, entry)| entry.view.clone()).collect()
    }

    /// The objects that have an owner with this UID.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<T>> {
        self.find(0, uid).into_iter().map(|entry| entry.view).collect()
    }

    /// The objects that the extra index `number` has under `value`.
    pub fn by_index(&self, number: usize, value: &str) -> Vec<Arc<T>> {
        self.find(number + 1, value).into_iter().map(|entry| entry.view).collect()
    }

    fn find(&self, index: usize, value: &str) -> Vec<Entry<T>> {
        let state = self.read();
        let keys = state.indexes.get(index).and_then(|map| map.get(value));
        keys.into_iter().flatten().filter_map(|key| state.entries.get(key).cloned()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists, then follows the watch until it ends.
    async fn follow(&self, client: &dyn Client) -> Status {
        let seen = *self.revision.borrow();
        let revision = match seen {
            Some(revision) => revision,
            None => match client.list(self.kind, "", &Selector::all()).await {
                Ok(list) => {
                    self.replace(&list.items, list.revision);
                    list.revision
                }
                Err(status) => return status,
            },
        };
        match client.watch(self.kind, "", &Selector::all(), revision).await {
            Ok(stream) => self.drain(stream).await,
            Err(status) => status,
        }
    }

    async fn drain(&self, mut stream: WatchStream) -> Status {
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => self.apply(&event),
                Err(status) => return status,
            }
        }
        Status::new(Reason::Timeout, "the watch ended")
    }

    /// Takes over a fresh list: what is not in it is gone.
    fn replace(&self, items: &[Arc<Object>], revision: u64) {
        let fresh: BTreeSet<Key> = items.iter().map(|object| Key::of(object)).collect();
        let gone: Vec<(Key, Arc<Object>)> = {
            let state = self.read();
            let stale = state.entries.iter().filter(|(key, _)| !fresh.contains(key));
            stale.map(|(key, entry)| (key.clone(), entry.object.clone())).collect()
        };
        for (key, object) in gone {
            self.put(key, &object, false);
        }
        for object in items {
            self.put(Key::of(object), object, true);
        }
        self.revision.send_replace(Some(revision));
    }

    fn apply(&self, event: &Event) {
        match event.kind {
            EventType::Bookmark => {}
            EventType::Added | EventType::Modified => self.put(Key::of(&event.object), &event.object, true),
            EventType::Deleted => self.put(Key::of(&event.object), &event.object, false),
        }
        self.revision.send_modify(|seen| *seen = (*seen).max(Some(event.revision)));
    }

    fn put(&self, key: Key, object: &Arc<Object>, present: bool) {
        let entry = match present.then(|| T::view(object)).transpose() {
            Ok(view) => view.map(|view| Entry { object: object.clone(), view: Arc::new(view) }),
            Err(error) => {
                tracing::warn!(kind = ?self.kind, key = %key, error = %error, "object does not fit its kind, left out");
                return;
            }
        };
        let new = entry.as_ref().map(|entry| entry.view.clone());
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.replace(&self.index, &key, entry)
        };
        if old.as_ref().is_some_and(|old| new.is_some() && same_revision(&old.object, object)) {
            return;
        }
        let change = Change { key, old: old.map(|entry| entry.view), new, object: object.clone() };
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            handler(&change);
        }
    }
}

/// True for the same state of the same object, which a fresh list brings again.
fn same_revision(one: &Object, other: &Object) -> bool {
    !one.resource_version().is_empty() && one.resource_version() == other.resource_version() && one.uid() == other.uid()
}

impl<T> State<T> {
    fn replace(&mut self, index: &[Index], key: &Key, entry: Option<Entry<T>>) -> Option<Entry<T>> {
        let mut values = Vec::new();
        let old = match &entry {
            Some(entry) => self.entries.insert(key.clone(), entry.clone()),
            None => self.entries.remove(key),
        };
        for (map, values_of) in self.indexes.iter_mut().zip(index) {
            if let Some(old) = &old {
                values_of(&old.object, &mut values);
                for value in values.drain(..) {
                    if let Some(keys) = map.get_mut(&value) {
                        keys.remove(key);
                        if keys.is_empty() {
                            map.remove(&value);
                        }
                    }
                }
            }
            if let Some(new) = &entry {
                values_of(&new.object, &mut values);
                for value in values.drain(..) {
                    map.entry(value).or_default().insert(key.clone());
                }
            }
        }
        old
    }
}

/// Is told which object changed, its tree (the last one, if it is gone), and whether it is there.
pub type OnObject = Box<dyn Fn(&Key, &Arc<Object>, bool) + Send + Sync>;

/// A cache of whatever view: what the garbage collector and the shell of the loops need of it.
#[async_trait]
pub trait AnyCache: Send + Sync + std::fmt::Debug + 'static {
    /// The kind it holds.
    fn kind(&self) -> &'static Kind;
    /// The tree of one object.
    fn object(&self, key: &Key) -> Option<Arc<Object>>;
    /// The trees of the objects that have an owner with this UID.
    fn dependents(&self, uid: &str) -> Vec<Arc<Object>>;
    /// Calls `handler` for every change from now on.
    fn on_object(&self, handler: OnObject);
    /// Waits until everything up to `revision` has been seen; 0 waits for the first list.
    async fn settled(&self, revision: u64);
    /// Waits until the object with this UID is gone or terminating.
    async fn removed(&self, key: &Key, uid: &str);
    /// Feeds the cache until `shutdown`.
    async fn run(&self, client: Arc<dyn Client>, shutdown: CancellationToken);
}

#[async_trait]
impl<T: View> AnyCache for Cache<T> {
    fn kind(&self) -> &'static Kind {
        self.kind
    }

    fn object(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().entries.get(key).map(|entry| entry.object.clone())
    }

    fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        self.find(0, uid).into_iter().map(|entry| entry.object).collect()
    }

    fn on_object(&self, handler: OnObject) {
        self.on_change(move |change| handler(&change.key, &change.object, change.new.is_some()));
    }

    async fn settled(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        // The sender lives in `self`, so the wait can only end by its condition.
        let _ = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= revision)).await;
    }

    async fn removed(&self, key: &Key, uid: &str) {
        let mut seen = self.revision.subscribe();
        let gone = |object: Option<Arc<Object>>| object.is_none_or(|o| o.uid() != uid || o.is_terminating());
        let _ = seen.wait_for(|_| gone(self.object(key))).await;
    }

    async fn run(&self, client: Arc<dyn Client>, shutdown: CancellationToken) {
        loop {
            let status = tokio::select! {
                () = shutdown.cancelled() => return,
                status = self.follow(client.as_ref()) => status,
            };
            if matches!(status.reason, Reason::Expired | Reason::Gone) {
                tracing::debug!(kind = ?self.kind, "watch fell behind, listing again");
                self.revision.send_replace(None);
            } else {
                tracing::debug!(kind = ?self.kind, error = %status, "watch ended, resuming");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}
