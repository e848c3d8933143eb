//! The embedded store: an index and a history in memory, a commit queue, and a log that makes commits durable.
//!
//! One thread owns the log. It takes everything that waits in the queue, decides each transaction against the state
//! the ones before it leave, makes all of them durable with ONE write, publishes them to the index and the history, and
//! only then answers. So the price of a sync is shared by all who wait for it, and nothing is acknowledged or visible
//! that a crash could take back.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};

use crate::index::Index;
use crate::watch::{Batch, History, Keep, WatchStream, page};
use crate::{Entry, Outcome, Page, Range, Revision, Store, StoreError, Txn};

mod commit;
mod memory;
mod redb;

/// Transactions that may wait for the disk before writers wait for the queue.
const QUEUE: usize = 4096;
/// Events a watcher is given at once.
const STRIDE: usize = 1024;

/// Opens the store in a file, made if it is not there.
pub fn open(path: impl AsRef<Path>) -> Result<Embedded, StoreError> {
    Embedded::start(redb::RedbLog::open(path.as_ref())?, Keep::default())
}

/// A store that lives as long as the process, for tests of what is built on stores.
pub fn memory() -> Embedded {
    Embedded::start(memory::MemoryLog, Keep::default()).expect("a memory log has nothing that could fail to load")
}

/// What a log finds when it is opened.
#[derive(Debug, Default)]
struct Loaded {
    id: String,
    revision: Revision,
    index: Index,
}

/// Makes commits durable.
trait Log: Send + 'static {
    /// Reads everything that was committed.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Writes all changes of a group, or none; durable when it returns.
    fn commit(&mut self, group: &commit::Group) -> Result<(), StoreError>;
}

/// The embedded store.
#[derive(Debug)]
pub struct Embedded {
    id: String,
    shared: Arc<Shared>,
    /// `None` once the store is being closed.
    queue: Option<mpsc::Sender<commit::Request>>,
    committer: Option<JoinHandle<()>>,
}

/// What the commit thread publishes.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    latest: watch::Sender<Revision>,
}

#[derive(Debug)]
struct State {
    index: Index,
    history: History,
    revision: Revision,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while the lock was held cannot leave a half-published state behind: publishing does not panic.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Embedded {
    fn start(mut log: impl Log, keep: Keep) -> Result<Self, StoreError> {
        let Loaded { id, revision, index } = log.load()?;
        let state = State { index, history: History::new(revision, keep), revision };
        let shared = Arc::new(Shared { state: RwLock::new(state), latest: watch::Sender::new(revision) });
        let (queue, requests) = mpsc::channel(QUEUE);
        let publish = shared.clone();
        let committer = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || commit::run(log, requests, &publish))
            .map_err(|error| StoreError::Disk {
                action: "start the commit thread for",
                path: "the store".into(),
                detail: error.to_string(),
            })?;
        Ok(Self { id, shared, queue: Some(queue), committer: Some(committer) })
    }
}

impl Drop for Embedded {
    /// Lets the commit thread finish, so that the file is free once the store is gone.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the commit thread panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    fn id(&self) -> &str {
        &self.id
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.read().revision)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.shared.read().index.get(key))
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let state = self.shared.read();
        match range.at {
            Some(at) if at > state.revision => Err(StoreError::Future { asked: at, latest: state.revision }),
            Some(at) if at < state.revision => state.history.rewind(&state.index, &range, at),
            _ => Ok(page(&state.index, &range, state.revision)),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(commit::Request { txn, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.shared.read().history.after(after, 1)?;
        let cursor = Cursor {
            shared: Arc::downgrade(&self.shared),
            latest: self.shared.latest.subscribe(),
            prefix: prefix.to_owned(),
            position: after,
        };
        let batches = futures::stream::unfold(Some(cursor), |cursor| async move {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(batch) => Some((Ok(batch), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(batches.boxed())
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let to = to.min(state.revision);
        state.history.forget(to);
        Ok(())
    }
}

/// A watcher's place in the history. It holds no queue and does not keep the store alive.
struct Cursor {
    shared: std::sync::Weak<Shared>,
    latest: watch::Receiver<Revision>,
    prefix: String,
    position: Revision,
}

impl Cursor {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            // Mark first, read then: a commit in between wakes the wait below at once.
            let latest = *self.latest.borrow_and_update();
            if latest > self.position {
                return self.read();
            }
            self.latest.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    fn read(&mut self) -> Result<Batch, StoreError> {
        let shared = self.shared.upgrade().ok_or(StoreError::Closed)?;
        let state = shared.read();
        let mut events = state.history.after(self.position, STRIDE)?;
        // A full stride may not be the end; less is all there is.
        self.position = match events.last() {
            Some(last) if events.len() >= STRIDE => last.revision,
            _ => state.revision.max(self.position),
        };
        events.retain(|event| event.key().starts_with(&self.prefix));
        Ok(Batch { revision: self.position, events })
    }
}

#[cfg(test)]
mod tests;
