//! Watch: events of the objects that a selector means, from a revision on.

use std::collections::VecDeque;
use std::sync::Arc;

use fairlead_api::selector::Selector;
use fairlead_api::{EventType, Kind, Status};

use super::options::WatchOptions;
use crate::api::Api;
use crate::cache::{Cache, Change, Entry, Feed};

/// What a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// An object came, changed or went.
    Event { event: EventType, entry: Arc<Entry>, revision: u64 },
    /// Everything up to this revision has been told; `initial` marks the end of the objects there were at the start.
    Bookmark { revision: u64, initial: bool },
}

/// A watch in progress.
#[derive(Debug)]
pub(crate) struct Watching {
    feed: Feed,
    namespace_prefix: String,
    selector: Selector,
    queue: VecDeque<Told>,
}

/// Begins a watch.
pub(crate) async fn watch(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    options: &WatchOptions,
) -> Result<Watching, Status> {
    let cache: &Arc<Cache> = &api.cache;
    let namespace_prefix = crate::encode::key_prefix(kind, namespace);
    let selector = options.selector.clone();
    let mut queue = VecDeque::new();
    let after = match options.after {
        Some(after) if after > 0 && !options.initial_events => after,
        named => {
            match named {
                Some(0) => {}
                Some(revision) => drop(cache.reach(revision).await?),
                None => drop(cache.fresh().await?),
            }
            let page = cache.list(kind, namespace, None)?;
            let present = page.entries.into_iter().filter(|entry| selector.matches(&entry.object));
            queue.extend(present.map(|entry| Told::Event { event: EventType::Added, revision: entry.revision, entry }));
            if options.initial_events && options.bookmarks {
                queue.push_back(Told::Bookmark { revision: page.revision, initial: true });
            }
            page.revision
        }
    };
    let feed = cache.subscribe(&[kind], after)?;
    Ok(Watching { feed, namespace_prefix, selector, queue })
}

impl Watching {
    /// The next thing to tell. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Told, Status> {
        loop {
            if let Some(told) = self.queue.pop_front() {
                return Ok(told);
            }
            let batch = self.feed.next().await?;
            self.fill(&batch.changes);
        }
    }

    /// Tells what is already there, then how far that goes.
    pub(crate) fn bookmark(&mut self) -> Result<Told, Status> {
        let batch = self.feed.advance()?;
        self.fill(&batch.changes);
        self.queue.push_back(Told::Bookmark { revision: self.feed.position(), initial: false });
        self.queue.pop_front().ok_or_else(|| Status::internal("a bookmark was queued just now"))
    }

    fn fill(&mut self, changes: &[Arc<Change>]) {
        let ours = changes.iter().filter(|change| change.object.key.starts_with(&self.namespace_prefix));
        self.queue.extend(ours.filter_map(|change| translate(change, &self.selector)));
    }
}

/// What a change is to a watcher with a selector: an object can come into it and go out of it without being created
/// or deleted.
fn translate(change: &Change, selector: &Selector) -> Option<Told> {
    let was = change.before.as_ref().is_some_and(|before| selector.matches(&before.object));
    let is = !change.removed && selector.matches(&change.object.object);
    let (event, entry) = match (was, is) {
        (false, false) => return None,
        (false, true) => (EventType::Added, change.object.clone()),
        (true, true) => (EventType::Modified, change.object.clone()),
        (true, false) if change.removed => (EventType::Deleted, change.object.clone()),
        (true, false) => {
            // Its last state that the selector meant, under the revision at which that ended.
            let before = change.before.as_ref()?;
            (EventType::Deleted, Arc::new(before.at(change.revision)))
        }
    };
    Some(Told::Event { event, entry, revision: change.revision })
}
