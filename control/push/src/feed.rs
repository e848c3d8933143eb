//! Where the world's changes come from: the store's commits, in one order over all kinds.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fairlead_api::{Kind, Object, Status, registry};
use futures::stream::BoxStream;

/// The kinds a node is told of.
pub fn kinds() -> [&'static Kind; 6] {
    [
        &registry::SERVICE,
        &registry::ENDPOINT_SLICE,
        &registry::NODE,
        &registry::POD,
        &registry::CONFIG_MAP,
        &registry::SECRET,
    ]
}

/// An object as stored: tree and bytes, both shared with whoever else reads it.
#[derive(Clone, Debug)]
pub struct Record {
    /// One of [`kinds`].
    pub kind: &'static Kind,
    /// The tree.
    pub object: Arc<Object>,
    /// The same as JSON, resourceVersion included.
    pub json: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
}

/// What a commit did to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object after it; for a removed one its last state.
    pub record: Record,
    /// True if the object is gone.
    pub removed: bool,
}

/// Everything one revision changed.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Which.
    pub revision: u64,
    /// When the store committed it, nanoseconds since the Unix epoch; 0 if unknown.
    pub committed_at: u64,
    /// What it did to objects of the [`kinds`]; possibly nothing.
    pub changes: Vec<Change>,
}

/// All objects at one revision, and the commits after it.
pub struct Opening {
    /// Identity of the store: another one starts a new history.
    pub store_id: String,
    /// The revision of `records`.
    pub revision: u64,
    /// Every object of the [`kinds`].
    pub records: Vec<Record>,
    /// What comes after, in order and without gaps; ends with an error if it cannot go on.
    pub commits: BoxStream<'static, Result<Commit, Status>>,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("revision", &self.revision).field("records", &self.records.len()).finish()
    }
}

/// The store's commits. The API server's cache implements it.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Opens the feed. Called again whenever the last stream ended.
    async fn open(&self) -> Result<Opening, Status>;
}
