//! A directory of manifests as a source: what stands in its files is what is desired.
//!
//! Every `*.yaml`, `*.yml` and `*.json` directly in the directory counts, hidden files do not. Of the objects in them
//! Services, EndpointSlices and this node's Node count; others are left out. The directory is watched, and looked
//! through now and then besides, since a watch can miss things (network file systems, a directory replaced).
//!
//! `manifest` reads one file's text, `folder` keeps what each file said last, and `desired` makes one state of all
//! of them and of two states an update. A file being written is left alone until it stands still; an object or a file
//! that cannot be read leaves what it said before in force (`LAST-GOOD`), as does a directory that is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::desired::Told;
use self::folder::{Folder, Looked};
use crate::source::{Contact, Feed, FeedWriter, Source, feed};
use crate::update::Update;

mod desired;
mod folder;
mod manifest;

/// The one kind of access that changes a file.
const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);
/// After a sign of change, others are waited for this long: files are often changed together.
const GATHER: Duration = Duration::from_millis(50);
/// How soon files that did not stand still are looked at again.
const UNSETTLED: Duration = Duration::from_millis(30);
/// How often the directory is looked through without a sign of change.
const RESCAN: Duration = Duration::from_secs(10);
/// The same without a watch, or without the directory.
const POLL: Duration = Duration::from_secs(1);

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be looked into.
    #[error("cannot read the directory of manifests {path} (does it exist?)")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A directory of manifests, not yet started.
#[derive(Debug)]
pub struct File {
    directory: PathBuf,
    node: String,
}

impl File {
    /// Makes sure that the directory is there. `node` is the name under which a Node object is our own.
    ///
    /// # Errors
    /// It is not there, is no directory, or may not be read.
    pub fn open(directory: PathBuf, node: &str) -> Result<Self, FileError> {
        match std::fs::read_dir(&directory) {
            Ok(_) => Ok(Self { directory, node: node.to_owned() }),
            Err(source) => Err(FileError::Read { path: directory, source }),
        }
    }
}

impl Source for File {
    fn start(self: Box<Self>, tasks: &TaskTracker, shutdown: CancellationToken) -> Feed {
        let (writer, feed) = feed();
        let watched = Watched {
            directory: self.directory.clone(),
            changed: Arc::new(Notify::new()),
            watcher: None,
            tasks: tasks.clone(),
            feed: writer,
        };
        let folder = Folder::new(self.directory, self.node);
        tasks.spawn(async move { shutdown.run_until_cancelled(watched.run(folder)).await });
        feed
    }
}

/// The task that looks and tells.
struct Watched {
    directory: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    tasks: TaskTracker,
    feed: FeedWriter,
}

impl Watched {
    /// Runs until nobody reads the updates.
    async fn run(mut self, mut folder: Folder) {
        let mut told = Told::default();
        let mut identity = None;
        // What the files say has to be told: at first, and when one of them says something else.
        let mut owed = true;
        loop {
            if self.watcher.is_none() {
                self.watch();
            }
            // Reading thousands of files takes seconds.
            let looking = self.tasks.spawn_blocking(move || {
                let looked = folder.look();
                (folder, looked)
            });
            let looked = match looking.await {
                Ok((back, looked)) => {
                    folder = back;
                    looked
                }
                Err(error) => {
                    tracing::error!(error = %error, "the directory of manifests is not followed any more");
                    return;
                }
            };
            let pause = match looked {
                Ok(Looked { identity: now, settled, changed }) => {
                    owed |= changed;
                    if identity.replace(now).is_some_and(|before| before != now) {
                        // Another directory under the same name: the watch is on the one that was.
                        self.watch();
                    }
                    // The first thing told is complete, or services of before a restart would be removed meanwhile.
                    if owed && (settled || told.is_begun()) {
                        owed = false;
                        if let Some(update) = told.update(folder.desired())
                            && self.tell(update).await.is_err()
                        {
                            return;
                        }
                    }
                    if settled { if self.watcher.is_some() { RESCAN } else { POLL } } else { UNSETTLED }
                }
                Err(error) => {
                    self.lost(&error);
                    POLL
                }
            };
            if self.wait(pause).await.is_err() {
                return;
            }
        }
    }

    fn watch(&mut self) {
        let changed = self.changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an event, too.
            if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(access) if access != WRITTEN)) {
                changed.notify_one();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watcher = match watching {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::debug!(error = %error, "the directory of manifests cannot be watched; it is read every second");
                None
            }
        };
    }

    async fn tell(&self, update: Update) -> Result<(), Unread> {
        let up = self.feed.contact.send_if_modified(|contact| std::mem::replace(contact, Contact::Up) != Contact::Up);
        if up {
            tracing::info!(directory = %self.directory.display(), objects = update.put.len(), "manifests read");
        }
        self.feed.updates.send(update).await.map_err(|_| Unread)
    }

    fn lost(&mut self, error: &std::io::Error) {
        self.watcher = None;
        let reason = format!("cannot read {}: {error}", self.directory.display());
        let news = self.feed.contact.send_if_modified(|contact| {
            let lost = Contact::Lost(reason.clone());
            std::mem::replace(contact, lost.clone()) != lost
        });
        if news {
            tracing::warn!(error = reason, "the directory of manifests is gone, going on with what is known");
        }
    }

    /// Waits for a sign of change, at most for the pause; logs meanwhile what is refused.
    async fn wait(&self, pause: Duration) -> Result<(), Unread> {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = self.changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    return Ok(());
                }
                () = tokio::time::sleep_until(until) => return Ok(()),
                given = self.feed.acknowledgements.take() => given.log(),
                () = self.feed.updates.closed() => return Err(Unread),
            }
        }
    }
}

/// Nobody reads updates any more.
struct Unread;

/// The part of a path that names the file.
fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests;
