//! The shell around a loop: workers take keys from its queue, let it reconcile them, and wait until the caches have
//! seen what it wrote. Whatever fails comes back with the key's back-off; nothing is retried inside.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Client;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{Queue, Recorder};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::caches::Caches;
use crate::writer::Writer;

/// What every loop stands on.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) caches: Caches,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// One loop: for a key, observe, plan, apply.
#[async_trait]
pub(crate) trait Loop: Send + Sync + 'static {
    type Key: Clone + Debug + Display + Eq + Hash + Send + Sync + 'static;

    /// Brings what the key names closer to what it should be. `Some` asks to look again after a while.
    async fn reconcile(&self, key: &Self::Key, writer: &Writer) -> Result<Option<Duration>, Status>;
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        client: Arc<dyn Client>,
        caches: Caches,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { config, client, caches, tasks, shutdown }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.config.now)()
    }

    /// A recorder of events in the name of `component`.
    pub(crate) fn recorder(&self, component: &'static str) -> Recorder {
        Recorder::start(&self.client, component, self.config.now, &self.tasks, &self.shutdown)
    }

    /// Starts the workers of a loop. They begin once every cache has its first list.
    pub(crate) fn spawn<L: Loop>(
        self: &Arc<Self>,
        name: &'static str,
        workers: usize,
        queue: Arc<Queue<L::Key>>,
        body: L,
    ) {
        let body = Arc::new(body);
        for _ in 0..workers {
            let (shared, queue, body) = (self.clone(), queue.clone(), body.clone());
            self.tasks.spawn(async move {
                let work = async {
                    for cache in shared.caches.every() {
                        cache.settled(0).await;
                    }
                    loop {
                        let key = queue.next().await;
                        turn(&shared, name, &queue, body.as_ref(), &key).await;
                        queue.done(&key);
                    }
                };
                tokio::select! {
                    () = shared.shutdown.cancelled() => {}
                    () = work => {}
                }
            });
        }
    }
}

async fn turn<L: Loop>(shared: &Arc<Shared>, name: &'static str, queue: &Queue<L::Key>, body: &L, key: &L::Key) {
    let writer = Writer::new(shared.clone());
    let outcome = body.reconcile(key, &writer).await;
    writer.settle().await;
    match outcome {
        Ok(again) => {
            queue.forget(key);
            if let Some(pause) = again {
                queue.add_after(key.clone(), pause);
            }
        }
        Err(status) => {
            match status.reason {
                Reason::Conflict | Reason::NotFound | Reason::AlreadyExists => {
                    tracing::debug!(controller = name, key = %key, error = %status, "state moved on, trying again");
                }
                _ => tracing::warn!(controller = name, key = %key, error = %status, "reconcile failed, trying again"),
            }
            queue.add_limited(key.clone());
        }
    }
}
