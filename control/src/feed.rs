//! Push follows the API server's cache: the same trees and bytes that lists and watches are made of.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use fairlead_api::{Kind, Status};
use fairlead_apiserver::cache::{Cache, Entry, FeedBatch};
use fairlead_push::{Change, Commit, Feed, Opening, Record, kinds};
use futures::StreamExt;

/// The cache as push's feed.
#[derive(Debug)]
pub(crate) struct CacheFeed(pub(crate) Arc<Cache>);

#[async_trait]
impl Feed for CacheFeed {
    async fn open(&self) -> Result<Opening, Status> {
        let kinds = kinds();
        let snapshot = self.0.snapshot(&kinds).await?;
        let feed = self.0.subscribe(&kinds, snapshot.revision)?;
        let records = snapshot.items.iter().map(|(kind, entry)| record(kind, entry)).collect();
        let batches = futures::stream::unfold(Some(feed), |feed| async move {
            let mut feed = feed?;
            match feed.next().await {
                Ok(batch) => Some((commits(batch).into_iter().map(Ok).collect(), Some(feed))),
                Err(status) => Some((vec![Err(status)], None)),
            }
        });
        let commits = batches.flat_map(futures::stream::iter).boxed();
        let store_id = self.0.store_id().to_owned();
        Ok(Opening { store_id, revision: snapshot.revision, records, commits })
    }
}

fn record(kind: &'static Kind, entry: &Arc<Entry>) -> Record {
    Record { kind, object: entry.object.clone(), json: entry.bytes.clone(), revision: entry.revision }
}

/// One commit per revision that changed something.
fn commits(batch: FeedBatch) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    for change in batch.changes {
        let one = Change { record: record(change.kind, &change.object), removed: change.removed };
        match commits.last_mut().filter(|last| last.revision == change.revision) {
            Some(last) => last.changes.push(one),
            None => {
                let committed = change.committed.duration_since(UNIX_EPOCH).unwrap_or_default();
                let committed_at = u64::try_from(committed.as_nanos()).unwrap_or(u64::MAX);
                commits.push(Commit { revision: change.revision, committed_at, changes: vec![one] });
            }
        }
    }
    commits
}
