//! The read path: every object held once, parsed once, serialized once, whoever reads it.
//!
//! One task follows the store's watch and keeps, per kind, the current objects and their latest changes. Reads wait
//! until the cache has reached the store's revision, so they see every acknowledged write; watchers walk the changes
//! from where they are, and one that falls out of them gets `Expired`. The bytes are those of the store: nothing is
//! serialized again to be listed or watched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use bytes::Bytes;
use fairlead_api::{Kind, Object, Status};
use fairlead_store::{Batch, Range, Revision, Store, StoreError};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::encode::{self, key_prefix};
use crate::status::from_store;

mod feed;

pub use feed::{Feed, FeedBatch, Snapshot};

/// Most changes kept per kind.
const CHANGES: usize = 10_000;

/// A stored object as tree and as bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key in the store.
    pub key: Arc<str>,
    /// The tree.
    pub object: Arc<Object>,
    /// The same as JSON, resourceVersion included.
    pub bytes: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed.
    pub kind: &'static Kind,
    /// When in the store's order.
    pub revision: u64,
    /// When by the clock.
    pub committed: SystemTime,
    /// The state before; `None` if the object is new.
    pub before: Option<Arc<Entry>>,
    /// The state after; for a removed object its last state, with the revision of the removal.
    pub object: Arc<Entry>,
    /// True if the object is gone.
    pub removed: bool,
}

/// All objects, as of a revision close behind the store's.
#[derive(Debug)]
pub struct Cache {
    store: Arc<dyn Store>,
    shelves: Vec<Shelf>,
    applied: watch::Sender<u64>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Shelf {
    kind: &'static Kind,
    prefix: String,
    state: RwLock<State>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    changes: VecDeque<Arc<Change>>,
    /// Changes up to this revision are no longer all here.
    floor: u64,
}

/// One page of objects.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision it is true at.
    pub revision: u64,
}

impl Shelf {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    /// Reads the whole store. [`Cache::follow`] keeps it current afterwards.
    pub(crate) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let shelves = fairlead_api::registry::all().iter().map(|kind| Shelf {
            kind,
            prefix: key_prefix(kind, ""),
            state: RwLock::default(),
            latest: watch::Sender::new(0),
        });
        let cache = Self { store, shelves: shelves.collect(), applied: watch::Sender::new(0) };
        cache.reload().await?;
        Ok(cache)
    }

    /// Applies the store's changes until told to stop.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let follow = async {
            loop {
                match self.run().await {
                    Err(StoreError::Closed) | Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "the cache lost its place, reading the store again"),
                }
                if let Err(error) = self.reload().await {
                    tracing::error!(%error, "cannot read the store");
                    return;
                }
            }
        };
        shutdown.run_until_cancelled(follow).await;
    }

    async fn run(&self) -> Result<(), StoreError> {
        let mut batches = self.store.watch("/", Revision(self.revision())).await?;
        while let Some(batch) = batches.next().await {
            self.apply(batch?);
        }
        Ok(())
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let all = self.store.range(Range { prefix: "/".to_owned(), ..Range::default() }).await?;
        let revision = all.revision.get();
        let mut entries = all.entries.into_iter().peekable();
        let mut shelves: Vec<&Shelf> = self.shelves.iter().collect();
        shelves.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        for shelf in shelves {
            let mut objects = BTreeMap::new();
            while entries.next_if(|entry| *entry.key < *shelf.prefix).is_some() {}
            while let Some(entry) = entries.next_if(|entry| entry.key.starts_with(&shelf.prefix)) {
                if let Some(entry) = parse(&entry) {
                    objects.insert(entry.key.clone(), entry);
                }
            }
            let mut state = shelf.state.write().unwrap_or_else(PoisonError::into_inner);
            *state = State { objects, changes: VecDeque::new(), floor: revision };
        }
        self.publish(revision);
        Ok(())
    }

    fn apply(&self, batch: Batch) {
        let mut touched: Vec<(usize, u64)> = Vec::new();
        for event in batch.events {
            let Some(at) = self.shelves.iter().position(|shelf| event.key().starts_with(&shelf.prefix)) else {
                continue;
            };
            let shelf = &self.shelves[at];
            let revision = event.revision.get();
            let after = event.after.as_ref().and_then(parse);
            let mut state = shelf.state.write().unwrap_or_else(PoisonError::into_inner);
            let before = match &after {
                Some(entry) => state.objects.insert(entry.key.clone(), entry.clone()),
                None => state.objects.remove(event.key()),
            };
            let removed = after.is_none();
            let Some(object) = after.or_else(|| before.as_ref().map(|before| Arc::new(before.at(revision)))) else {
                continue;
            };
            let kind = shelf.kind;
            let change = Change { kind, revision, committed: event.committed, before, object, removed };
            state.changes.push_back(Arc::new(change));
            if state.changes.len() > CHANGES
                && let Some(oldest) = state.changes.pop_front()
            {
                state.floor = oldest.revision;
            }
            touched.push((at, revision));
        }
        // First the revision that is complete, then the wake-ups of those who wait for one kind.
        self.applied.send_replace(batch.revision.get());
        for (at, revision) in touched {
            self.shelves[at].latest.send_replace(revision);
        }
    }

    fn publish(&self, revision: u64) {
        self.applied.send_replace(revision);
        for shelf in &self.shelves {
            shelf.latest.send_replace(revision);
        }
    }

    /// The revision the cache has reached.
    pub fn revision(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Identity of the history that revisions belong to.
    pub fn store_id(&self) -> &str {
        self.store.id()
    }

    /// Waits until the cache holds every write acknowledged so far; answers the revision.
    pub(crate) async fn fresh(&self) -> Result<u64, Status> {
        let revision = self.store.revision().await.map_err(from_store)?.get();
        self.reach(revision).await
    }

    /// Waits until the cache has reached a revision.
    pub(crate) async fn reach(&self, revision: u64) -> Result<u64, Status> {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= revision).await;
        reached.map(|revision| *revision).map_err(|_| from_store(StoreError::Closed))
    }

    /// An object, as the cache has it.
    pub(crate) fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.shelf(kind)?.read().objects.get(encode::key(kind, namespace, name).as_str()).cloned()
    }

    /// The objects of a kind (of one namespace, if named), now or at a past revision.
    pub(crate) fn list(&self, kind: &'static Kind, namespace: &str, at: Option<u64>) -> Result<Page, Status> {
        // Read the mark first: the state is then at least as new, and may be newer only by changes not yet announced.
        let mut revision = self.revision();
        let Some(shelf) = self.shelf(kind) else { return Ok(Page { entries: Vec::new(), revision }) };
        let prefix = key_prefix(kind, namespace);
        let state = shelf.read();
        if let Some(newest) = state.changes.back() {
            revision = revision.max(newest.revision);
        }
        let current =
            state.objects.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        let current = current.take_while(|(key, _)| key.starts_with(&prefix));
        let Some(at) = at.filter(|at| *at < revision) else {
            return Ok(Page { entries: current.map(|(_, entry)| entry.clone()).collect(), revision });
        };
        if at < state.floor {
            return Err(expired(at, state.floor));
        }
        let mut past: BTreeMap<&str, Arc<Entry>> = current.map(|(key, entry)| (&**key, entry.clone())).collect();
        let later = state.changes.iter().rev().take_while(|change| change.revision > at);
        for change in later.filter(|change| change.object.key.starts_with(&prefix)) {
            match &change.before {
                Some(before) => past.insert(&change.object.key, before.clone()),
                None => past.remove(&*change.object.key),
            };
        }
        Ok(Page { entries: past.into_values().collect(), revision: at })
    }

    fn shelf(&self, kind: &'static Kind) -> Option<&Shelf> {
        self.shelves.iter().find(|shelf| std::ptr::eq(shelf.kind, kind) || shelf.kind == kind)
    }
}

impl Entry {
    /// Another tree in the place of an entry, not stored.
    pub(crate) fn of(current: &Self, object: Object) -> Self {
        let bytes = encode::bytes(&object);
        Self { key: current.key.clone(), object: Arc::new(object), bytes, revision: current.revision }
    }

    /// The same state under another revision: what a removed object looks like.
    pub(crate) fn at(&self, revision: u64) -> Self {
        let mut object = (*self.object).clone();
        object.metadata_mut().insert("resourceVersion".to_owned(), revision.to_string().into());
        let bytes = encode::bytes(&object);
        Self { key: self.key.clone(), object: Arc::new(object), bytes, revision }
    }
}

pub(crate) fn expired(asked: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {asked} ({oldest})"))
}

/// The tree of stored bytes. Bytes that are no JSON object are a bug or a damaged file; the object is left out alone.
pub(crate) fn parse(entry: &fairlead_store::Entry) -> Option<Arc<Entry>> {
    match serde_json::from_slice(&entry.value) {
        Ok(object) => Some(Arc::new(Entry {
            key: entry.key.clone(),
            object: Arc::new(object),
            bytes: entry.value.clone(),
            revision: entry.modified.get(),
        })),
        Err(error) => {
            tracing::error!(key = %entry.key, %error, "a stored object cannot be read");
            None
        }
    }
}
