//! Walking the changes of some kinds in order.

use std::sync::Arc;

use fairlead_api::{Kind, Status};
use fairlead_store::StoreError;
use tokio::sync::watch;

use super::{Cache, Change, Entry, expired};
use crate::status::from_store;

/// The objects of some kinds at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The revision it is true at.
    pub revision: u64,
    /// In the order of the kinds asked for, then of the keys.
    pub items: Vec<(&'static Kind, Arc<Entry>)>,
}

/// Some changes, and how far they bring the reader.
#[derive(Clone, Debug)]
pub struct FeedBatch {
    /// Nothing up to this revision is outstanding.
    pub revision: u64,
    /// In the order of revisions; may be empty.
    pub changes: Vec<Arc<Change>>,
}

/// A position in the changes of some kinds. It holds no queue: a slow reader costs nothing.
#[derive(Debug)]
pub struct Feed {
    cache: Arc<Cache>,
    shelves: Vec<usize>,
    position: u64,
    wake: watch::Receiver<u64>,
}

impl Cache {
    /// All objects of some kinds, at one revision.
    pub async fn snapshot(self: &Arc<Self>, kinds: &[&'static Kind]) -> Result<Snapshot, Status> {
        let revision = self.fresh().await?;
        let mut items = Vec::new();
        for kind in kinds {
            // What is newer than the mark is undone, so that all kinds stand at the same revision.
            let page = self.list(kind, "", Some(revision))?;
            items.extend(page.entries.into_iter().map(|entry| (*kind, entry)));
        }
        Ok(Snapshot { revision, items })
    }

    /// The changes of some kinds after a revision.
    pub fn subscribe(self: &Arc<Self>, kinds: &[&'static Kind], after: u64) -> Result<Feed, Status> {
        let places = self.shelves.iter().enumerate().filter(|(_, shelf)| kinds.contains(&shelf.kind));
        let shelves: Vec<usize> = places.map(|(at, _)| at).collect();
        let wake = match shelves[..] {
            [one] => self.shelves[one].latest.subscribe(),
            _ => self.applied.subscribe(),
        };
        let feed = Feed { cache: self.clone(), shelves, position: after, wake };
        feed.collect(after)?;
        Ok(feed)
    }
}

impl Feed {
    /// The next changes. Cancel-safe.
    pub async fn next(&mut self) -> Result<FeedBatch, Status> {
        loop {
            self.wake.borrow_and_update();
            let batch = self.advance()?;
            if !batch.changes.is_empty() || (self.shelves.len() > 1 && batch.revision > 0) {
                return Ok(batch);
            }
            self.wake.changed().await.map_err(|_| from_store(StoreError::Closed))?;
        }
    }

    /// The changes there are right now, possibly none; the revision says how far the reader is.
    pub fn advance(&mut self) -> Result<FeedBatch, Status> {
        let revision = self.cache.revision();
        if revision <= self.position {
            return Ok(FeedBatch { revision: 0, changes: Vec::new() });
        }
        let changes = self.collect(revision)?;
        self.position = revision;
        Ok(FeedBatch { revision, changes })
    }

    /// How far the reader is.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn collect(&self, up_to: u64) -> Result<Vec<Arc<Change>>, Status> {
        let mut changes = Vec::new();
        for at in &self.shelves {
            let state = self.cache.shelves[*at].read();
            if self.position < state.floor {
                return Err(expired(self.position, state.floor));
            }
            let start = state.changes.partition_point(|change| change.revision <= self.position);
            let new = state.changes.range(start..).take_while(|change| change.revision <= up_to);
            changes.extend(new.cloned());
        }
        if self.shelves.len() > 1 {
            changes.sort_by_key(|change| change.revision);
        }
        Ok(changes)
    }
}
