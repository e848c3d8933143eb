//! The world and the sessions that walk it: one task follows the feed, one task per node writes to its stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use fairlead_api::Status;
use fairlead_proto::push::v1;
use futures::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
use crate::service::NodeProgress;
use crate::session::{Input, Session};
use crate::world::{Touched, World};

/// Pause before a feed that ended is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// What the node says, as the transport yields it.
pub(crate) type Inbound = futures::stream::BoxStream<'static, Result<v1::NodeMessage, tonic::Status>>;
/// What the node is told.
pub(crate) type Outbound = mpsc::Sender<Result<v1::Update, tonic::Status>>;

/// Shared by the feed's task and all sessions.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    /// `None` until the feed has opened for the first time.
    world: RwLock<Option<World>>,
    seats: Mutex<BTreeMap<String, Seat>>,
}

/// A node's place in the hub. It outlives the stream, for the record.
#[derive(Debug, Default)]
struct Seat {
    /// Which stream of the node sits here: a later one sends the earlier one away.
    generation: u64,
    wake: Arc<Notify>,
    dismiss: CancellationToken,
    progress: NodeProgress,
}

impl Hub {
    /// Follows the feed, opening it again whenever it ends.
    pub(crate) async fn follow(&self, feed: &dyn Feed) {
        loop {
            if let Err(status) = self.follow_once(feed).await {
                tracing::warn!(error = %status.message, "the feed of the store's commits ended, opening it again");
            }
            tokio::time::sleep(REOPEN_AFTER).await;
        }
    }

    async fn follow_once(&self, feed: &dyn Feed) -> Result<(), Status> {
        let mut opening = feed.open().await?;
        let world = World::open(&opening);
        opening.records = Vec::new();
        *self.world.write().unwrap_or_else(PoisonError::into_inner) = Some(world);
        self.wake(&Touched { shared: true, ..Touched::default() });
        while let Some(commit) = opening.commits.next().await {
            let commit = commit?;
            let touched = match self.world.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
                Some(world) => world.apply(commit),
                None => Touched::default(),
            };
            self.wake(&touched);
        }
        Ok(())
    }

    /// Every node seen, and how far it is.
    pub(crate) fn progress(&self) -> BTreeMap<String, NodeProgress> {
        self.seats().iter().map(|(node, seat)| (node.clone(), seat.progress.clone())).collect()
    }

    /// Serves one stream until either side ends it.
    pub(crate) async fn serve(&self, node: String, inbound: Inbound, outbound: Outbound, shutdown: CancellationToken) {
        let (generation, wake, dismiss) = self.sit(&node);
        let stream = Stream { hub: self, node: &node, generation, wake, inbound, outbound: outbound.clone() };
        let ended = tokio::select! {
            ended = stream.run() => ended,
            () = dismiss.cancelled() => Err(tonic::Status::aborted("another stream of this node took over")),
            () = shutdown.cancelled() => Err(tonic::Status::unavailable("the control plane is shutting down")),
        };
        if let Err(status) = ended {
            tracing::info!(node, error = status.message(), "push session ended");
            // If there is no room for the last word the node learns of the end all the same.
            let _ = outbound.try_send(Err(status));
        } else {
            tracing::info!(node, "push session ended by the node");
        }
        self.note(&node, generation, |progress| progress.connected = false);
    }

    fn wake(&self, touched: &Touched) {
        let seats = self.seats();
        if touched.shared {
            seats.values().for_each(|seat| seat.wake.notify_one());
        } else {
            touched.nodes.iter().filter_map(|node| seats.get(node)).for_each(|seat| seat.wake.notify_one());
        }
    }

    fn sit(&self, node: &str) -> (u64, Arc<Notify>, CancellationToken) {
        let mut seats = self.seats();
        let seat = seats.entry(node.to_owned()).or_default();
        seat.dismiss.cancel();
        seat.generation += 1;
        seat.wake = Arc::default();
        seat.dismiss = CancellationToken::new();
        seat.progress.connected = true;
        (seat.generation, seat.wake.clone(), seat.dismiss.clone())
    }

    fn note(&self, node: &str, generation: u64, change: impl FnOnce(&mut NodeProgress)) {
        if let Some(seat) = self.seats().get_mut(node).filter(|seat| seat.generation == generation) {
            change(&mut seat.progress);
        }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<String, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
struct Stream<'a> {
    hub: &'a Hub,
    node: &'a str,
    generation: u64,
    wake: Arc<Notify>,
    inbound: Inbound,
    outbound: Outbound,
}

impl Stream<'_> {
    async fn run(mut self) -> Result<(), tonic::Status> {
        let mut session = Session::new(self.node);
        let mut outbox = VecDeque::new();
        let mut news = true;
        loop {
            let has_work = session.is_streaming() && (news || !outbox.is_empty());
            tokio::select! {
                message = self.inbound.next() => match message {
                    None => return Ok(()),
                    Some(message) => self.hear(&mut session, message?)?,
                },
                () = self.wake.notified() => news = true,
                permit = self.outbound.reserve(), if has_work => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if outbox.is_empty() {
                        // Before the world is read: what comes later wakes once more.
                        news = false;
                        outbox.extend(self.look(&mut session));
                    }
                    if let Some(update) = outbox.pop_front() {
                        permit.send(Ok(update));
                    }
                }
            }
        }
    }

    /// What is new in the world, if it is there yet.
    fn look(&self, session: &mut Session) -> Vec<v1::Update> {
        let world = self.hub.world.read().unwrap_or_else(PoisonError::into_inner);
        let Some(world) = world.as_ref() else { return Vec::new() };
        let effects = session.step(Input::Room(world));
        if !effects.send.is_empty() {
            self.hub.note(self.node, self.generation, |progress| progress.sent = session.sent());
        }
        effects.send
    }

    fn hear(&self, session: &mut Session, message: v1::NodeMessage) -> Result<(), tonic::Status> {
        let effects = session.step(Input::Message(message));
        if let Some((version, revision)) = effects.greeted {
            tracing::info!(node = self.node, version, rev = revision, "push session opened");
        }
        if let Some(ack) = effects.acknowledged {
            for rejected in &ack.rejected {
                let object = rejected.object.clone().unwrap_or_default();
                tracing::warn!(
                    node = self.node, rev = ack.revision, kind = ?object.kind(), namespace = object.namespace,
                    name = object.name, error = rejected.reason, "the node refuses an object"
                );
            }
            self.hub.note(self.node, self.generation, |progress| {
                progress.acknowledged = ack.revision;
                progress.rejected = ack.rejected.len();
            });
        }
        match effects.refuse {
            Some(why) => Err(tonic::Status::invalid_argument(why)),
            None => Ok(()),
        }
    }
}
