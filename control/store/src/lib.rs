//! The revisioned key-value store: one order of changes, durable before it is acknowledged, watchable from a revision.
//!
//! It sits between the API server, which writes through [`Store::txn`], and everything that follows state through
//! [`Store::watch`]. The model is etcd's: one revision counter, compare-and-commit transactions, watches from a
//! revision that end with [`StoreError::Expired`] once history is gone. A committed transaction moves the revision by
//! one, whatever the number of its operations.
//!
//! Invariant `MONOTONIC`: revisions never go back, also across a restart; a watch is ordered, gapless, unique and
//! resumable, or it ends with `Expired`.
//!
//! - [`txn`]: what is written, and under which conditions.
//! - [`index`]: current values in memory, so that reads and watches touch no disk.
//! - [`watch`]: the bounded history behind watches.
//! - [`backend`]: the embedded implementation, its commit queue, and where it keeps its data (redb, or memory).
//!
//! It knows nothing of Kubernetes: keys are text, values are bytes with an optional place for the revision.
#![forbid(unsafe_code)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub mod backend;
mod error;
pub mod index;
pub mod revision;
pub mod txn;
pub mod watch;

pub use backend::{Embedded, memory, open};
pub use error::StoreError;
pub use revision::Revision;
pub use txn::{Compare, Op, Outcome, Txn, Value};
pub use watch::{Batch, Event, WatchStream};

/// A value with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Arc<str>,
    /// The bytes as written, the revision filled in.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
}

/// What a range read asks for: keys with a prefix, in order.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Every key of the answer begins with it.
    pub prefix: String,
    /// Keys after this one only: where the page before ended.
    pub after: Option<String>,
    /// At most so many entries; 0 for all.
    pub limit: usize,
    /// The state at this revision; `None` for the latest.
    pub at: Option<Revision>,
}

/// The answer to a range read.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// How many more entries the range has after these.
    pub remaining: usize,
    /// The revision the answer is true at.
    pub revision: Revision,
}

/// A revisioned store. Nothing here assumes that reads are in memory: the methods are as an etcd client would have them.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Identity of this history, random at creation: revisions of another id mean nothing here.
    fn id(&self) -> &str;

    /// The latest committed revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The current entry of a key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Entries under a prefix, now or at a past revision that history still covers.
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Performs all operations at one new revision if every compare holds, else none. Answers once durable.
    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Every change under a prefix after a revision, in order.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets history up to a revision; watches and reads from before it answer `Expired`.
    async fn compact(&self, to: Revision) -> Result<(), StoreError>;
}
