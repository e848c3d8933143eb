//! The one trait behind which desired state comes in, and the line back on which it is acknowledged.
//!
//! A source runs as tasks of the daemon's tree. What it yields goes through a bounded channel: a reader that falls
//! behind holds the source up, and the source's peer coalesces. Acknowledgements never wait: they merge in a cell of one.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::update::{Rejected, Update};

/// Updates that may wait for their reader.
const UPDATES_WAITING: usize = 16;

/// Where desired state comes from.
pub trait Source: Send {
    /// Starts yielding, until `shutdown`. All work happens in tasks of `tasks`.
    fn start(self: Box<Self>, tasks: &TaskTracker, shutdown: CancellationToken) -> Feed;
}

/// The receiving end of a source.
#[derive(Debug)]
pub struct Feed {
    /// Pieces of snapshots and deltas, in order, without gaps. Ends after shutdown.
    pub updates: mpsc::Receiver<Update>,
    /// Whether the source's peer is there, for status and the log.
    pub contact: watch::Receiver<Contact>,
    /// The line back.
    pub acknowledgements: Acknowledgements,
}

/// The source's own end of a [`Feed`].
#[derive(Debug)]
pub struct FeedWriter {
    /// Where updates go.
    pub updates: mpsc::Sender<Update>,
    /// Where changes of contact go.
    pub contact: watch::Sender<Contact>,
    /// What came back.
    pub acknowledgements: Acknowledgements,
}

/// Both ends of a feed.
pub fn feed() -> (FeedWriter, Feed) {
    let (update_sender, updates) = mpsc::channel(UPDATES_WAITING);
    let (contact_sender, contact) = watch::channel(Contact::None);
    let acknowledgements = Acknowledgements::default();
    let writer =
        FeedWriter { updates: update_sender, contact: contact_sender, acknowledgements: acknowledgements.clone() };
    (writer, Feed { updates, contact, acknowledgements })
}

/// Whether a source has its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Not yet tried.
    None,
    /// In contact.
    Up,
    /// Lost or refused, for this reason; tried again.
    Lost(String),
}

/// The node's state holds everything up to a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Up to here.
    pub revision: u64,
    /// Refused alone.
    pub rejected: Vec<Rejected>,
}

impl Acknowledgement {
    /// Logs what was refused, for sources that have nobody to tell.
    pub(crate) fn log(&self) {
        for one in &self.rejected {
            tracing::warn!(object = %one.object, error = one.reason, "refused; its last good form stays, if it had one");
        }
    }
}

/// A cell for the latest acknowledgement; an older one not yet sent merges into it.
#[derive(Clone, Debug, Default)]
pub struct Acknowledgements {
    cell: Arc<AckCell>,
}

#[derive(Debug, Default)]
struct AckCell {
    latest: Mutex<Option<Acknowledgement>>,
    given: Notify,
}

impl Acknowledgements {
    /// Says that the node's state holds everything up to `revision`, except what was rejected.
    pub fn give(&self, revision: u64, rejected: Vec<Rejected>) {
        let mut latest = self.cell.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = latest.get_or_insert_default();
        merged.revision = revision;
        merged.rejected.retain(|old| rejected.iter().all(|new| new.object != old.object));
        merged.rejected.extend(rejected);
        drop(latest);
        self.cell.given.notify_one();
    }

    /// The next acknowledgement. For the source alone: there is one taker.
    pub async fn take(&self) -> Acknowledgement {
        loop {
            let taken = self.cell.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
            match taken {
                Some(acknowledgement) => return acknowledgement,
                None => self.cell.given.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::ObjectName;

    #[tokio::test]
    async fn acknowledgements_merge_until_taken() {
        let acknowledgements = Acknowledgements::default();
        let bad = |name: &str, reason: &str| Rejected {
            object: ObjectName::Service("default".into(), name.into()),
            reason: reason.into(),
        };
        acknowledgements.give(3, vec![bad("a", "old"), bad("b", "old")]);
        acknowledgements.give(4, vec![bad("a", "new")]);
        let taken = acknowledgements.take().await;
        assert_eq!(taken, Acknowledgement { revision: 4, rejected: vec![bad("b", "old"), bad("a", "new")] });
        acknowledgements.give(5, Vec::new());
        assert_eq!(acknowledgements.take().await.revision, 5);
    }
}
