//! The bounded history that watches and reads of the past are answered from.
//!
//! A watcher holds a position, not a queue: it reads the history from where it is, and a slow one costs nothing but
//! the risk of finding that its place is gone (`Expired`). Every event carries the value before it, so the state at any
//! revision in the history is the present with the later events undone.

use std::collections::VecDeque;
use std::time::SystemTime;

use futures::stream::BoxStream;

use crate::{Entry, Page, Range, Revision, StoreError, index::Index};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When in the store's order. Several keys of one transaction share it.
    pub revision: Revision,
    /// When by the clock.
    pub committed: SystemTime,
    /// The value before; `None` for a new key.
    pub before: Option<Entry>,
    /// The value after; `None` for a removed key.
    pub after: Option<Entry>,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", |entry| &entry.key)
    }
}

/// Some steps of a watch: whole transactions, and how far they bring the watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Nothing up to this revision is outstanding.
    pub revision: Revision,
    /// In order; may be empty when only other keys changed.
    pub events: Vec<Event>,
}

/// Batches in order, until an error ends it.
pub type WatchStream = BoxStream<'static, Result<Batch, StoreError>>;

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// At most so many events.
    pub events: usize,
    /// At most so many bytes of values.
    pub bytes: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { events: 10_000, bytes: 64 << 20 }
    }
}

/// The latest events, oldest first.
#[derive(Debug)]
pub struct History {
    events: VecDeque<Event>,
    bytes: usize,
    /// The revision of the youngest event that is gone: what follows it is complete.
    floor: Revision,
    keep: Keep,
}

impl History {
    /// An empty history that begins after `floor`.
    pub fn new(floor: Revision, keep: Keep) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor, keep }
    }

    /// Adds an event, younger than all before it, and drops what no longer fits.
    pub fn push(&mut self, event: Event) {
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > self.keep.events || self.bytes > self.keep.bytes {
            let Some(oldest) = self.events.front().map(|event| event.revision) else { break };
            self.forget(oldest);
        }
    }

    /// Drops everything up to a revision, that revision included, so no transaction is ever kept in part.
    pub fn forget(&mut self, to: Revision) {
        while let Some(event) = self.events.pop_front_if(|event| event.revision <= to) {
            self.bytes -= weight(&event);
        }
        self.floor = self.floor.max(to);
    }

    /// Events after a revision, or `Expired` if some of them are gone. About `limit` at most, whole transactions only.
    pub fn after(&self, revision: Revision, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.check(revision)?;
        let start = self.events.partition_point(|event| event.revision <= revision);
        let mut end = self.events.len().min(start.saturating_add(limit.max(1)));
        while end < self.events.len() && self.events[end].revision == self.events[end - 1].revision {
            end += 1;
        }
        Ok(self.events.range(start..end).cloned().collect())
    }

    /// The state at a past revision: `index` with the later events undone.
    pub fn rewind(&self, index: &Index, range: &Range, at: Revision) -> Result<Page, StoreError> {
        self.check(at)?;
        let mut past = Index::default();
        for entry in index.range(&range.prefix, None) {
            past.put(entry);
        }
        let later = self.events.iter().rev().take_while(|event| event.revision > at);
        for event in later.filter(|event| event.key().starts_with(&range.prefix)) {
            match &event.before {
                Some(before) => past.put(before.clone()),
                None => past.remove(event.key()),
            };
        }
        Ok(page(&past, range, at))
    }

    fn check(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.floor {
            return Err(StoreError::Expired { asked: revision, oldest: self.floor });
        }
        Ok(())
    }
}

/// One page of a range.
pub fn page(index: &Index, range: &Range, revision: Revision) -> Page {
    let mut rest = index.range(&range.prefix, range.after.as_deref());
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let entries: Vec<Entry> = rest.by_ref().take(limit).collect();
    Page { entries, remaining: rest.count(), revision }
}

fn weight(event: &Event) -> usize {
    // The value before is shared with the event that wrote it, or with nothing any more: count both, roughly.
    let of = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len() + entry.key.len());
    of(&event.before) + of(&event.after)
}
