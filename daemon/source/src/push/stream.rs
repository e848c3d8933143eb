//! One stream after the other: greet, hand on what comes, acknowledge, and come back when it ends.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use fairlead_proto::push::v1;
use fairlead_proto::push::v1::push_client::PushClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{decode, describe};
use crate::pause;
use crate::source::{Acknowledgement, Contact, FeedWriter};

/// Messages to the control plane that may wait; acknowledgements merge before they come here.
const OUTBOUND: usize = 4;

/// The streams of one source.
#[derive(Debug)]
pub(super) struct Streams {
    node: String,
    version: String,
    client: PushClient<Channel>,
    feed: FeedWriter,
    /// Where the next stream goes on.
    resume: Resume,
}

/// The last revision acknowledged, and of which store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resume {
    revision: u64,
    store_id: String,
}

/// Why a stream is over.
enum End {
    /// Nobody reads updates any more.
    Unread,
    /// Contact is lost.
    Lost(String),
}

/// What of the current stream decides on acknowledgements.
#[derive(Debug, Default)]
struct Progress {
    store_id: String,
    /// First and last complete revision handed on.
    complete: Option<(u64, u64)>,
    /// In the midst of a snapshot.
    in_snapshot: bool,
}

impl Progress {
    /// Takes note of a message; true if it begins a snapshot.
    fn note(&mut self, message: &v1::Update) -> bool {
        let first = message.snapshot && !self.in_snapshot;
        self.in_snapshot = message.snapshot && !message.complete;
        if self.store_id != message.store_id {
            self.store_id.clone_from(&message.store_id);
            self.complete = None;
        }
        if message.complete {
            let start = self.complete.map_or(message.revision, |(start, _)| start);
            self.complete = Some((start, message.revision));
        }
        first
    }

    /// True if this stream has told of the revision: one of an earlier stream may belong to another store.
    fn told(&self, revision: u64) -> bool {
        self.complete.is_some_and(|(start, last)| (start..=last).contains(&revision))
    }
}

impl Streams {
    pub(super) fn new(node: String, version: String, client: PushClient<Channel>, feed: FeedWriter) -> Self {
        Self { node, version, client, feed, resume: Resume::default() }
    }

    /// Runs until nobody reads the updates.
    pub(super) async fn run(mut self) {
        let chance = RandomState::new();
        let mut failures = 0;
        loop {
            let mut progress = Progress::default();
            let End::Lost(reason) = self.stream(&mut progress).await else { return };
            if progress.complete.is_some() {
                failures = 0;
            }
            if self.lost(&reason) {
                tracing::warn!(
                    node = self.node,
                    rev = self.resume.revision,
                    error = reason,
                    "contact with the control plane is lost, going on with what is known"
                );
            }
            let mut hasher = chance.build_hasher();
            hasher.write_u32(failures);
            tokio::time::sleep(pause::pause(failures, hasher.finish())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// One stream, to its end.
    async fn stream(&mut self, progress: &mut Progress) -> End {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let hello = v1::node_message::Body::Hello(v1::Hello {
            node: self.node.clone(),
            version: self.version.clone(),
            revision: self.resume.revision,
            store_id: self.resume.store_id.clone(),
        });
        if outbound.send(v1::NodeMessage { body: Some(hello) }).await.is_err() {
            return End::Lost("the stream ended before it began".to_owned());
        }
        let mut updates = match self.client.sync(ReceiverStream::new(messages)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return End::Lost(describe(&status)),
        };
        loop {
            let acknowledgements = self.feed.acknowledgements.clone();
            tokio::select! {
                message = updates.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(end) = self.hand_on(message, progress).await {
                            return end;
                        }
                    }
                    Ok(None) => return End::Lost("the control plane ended the stream".to_owned()),
                    Err(status) => return End::Lost(describe(&status)),
                },
                given = acknowledgements.take() => {
                    if let Some(ack) = self.acknowledge(given, progress)
                        && outbound.send(v1::NodeMessage { body: Some(v1::node_message::Body::Ack(ack)) }).await.is_err()
                    {
                        return End::Lost("the control plane reads no more acknowledgements".to_owned());
                    }
                }
                () = self.feed.updates.closed() => return End::Unread,
            }
        }
    }

    async fn hand_on(&mut self, message: v1::Update, progress: &mut Progress) -> Result<(), End> {
        let first = progress.note(&message);
        let update = decode::update(message, first);
        if self.feed.contact.send_if_modified(|contact| set(contact, Contact::Up)) {
            tracing::info!(
                node = self.node,
                rev = update.revision,
                snapshot = update.snapshot,
                "in contact with the control plane"
            );
        }
        self.feed.updates.send(update).await.map_err(|_| End::Unread)
    }

    fn acknowledge(&mut self, given: Acknowledgement, progress: &Progress) -> Option<v1::Ack> {
        if !progress.told(given.revision) {
            return None;
        }
        self.resume = Resume { revision: given.revision, store_id: progress.store_id.clone() };
        let rejected = given.rejected.into_iter().filter_map(decode::rejected).collect();
        Some(v1::Ack { revision: given.revision, rejected })
    }

    /// True if contact was there until now, or never was tried.
    fn lost(&self, reason: &str) -> bool {
        let mut news = false;
        self.feed.contact.send_if_modified(|contact| {
            news = !matches!(contact, Contact::Lost(_));
            set(contact, Contact::Lost(reason.to_owned()))
        });
        news
    }
}

fn set(contact: &mut Contact, to: Contact) -> bool {
    let changed = *contact != to;
    *contact = to;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(store: &str, revision: u64, snapshot: bool, complete: bool) -> v1::Update {
        v1::Update { revision, snapshot, complete, store_id: store.into(), ..v1::Update::default() }
    }

    #[test]
    fn only_what_this_stream_told_is_acknowledged() {
        let mut progress = Progress::default();
        assert!(progress.note(&message("a", 20, true, false)));
        assert!(!progress.told(20), "half a snapshot is no revision");
        assert!(!progress.note(&message("a", 20, true, true)));
        assert!(progress.told(20));
        assert!(!progress.note(&message("a", 25, false, true)));
        assert!(progress.told(20) && progress.told(25));
        assert!(!progress.told(19) && !progress.told(500), "those belong to an earlier stream");
        assert!(progress.note(&message("b", 3, true, true)), "another store, another snapshot");
        assert!(progress.told(3) && !progress.told(20));
    }
}
