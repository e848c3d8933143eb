//! The scheduler at work: caches feed the picture of the cluster and the queue, one worker decides, binds run beside it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairlead_api::client::Client;
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{AnyCache, Cache, Change, Key, Queue, Recorder, Regarding};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bind::{bind, explain};
use crate::cluster::Cluster;
use crate::framework::decide;
use crate::request::Request;
use crate::waiting::Waiting;
use crate::{Config, NAME};

/// Binds under way at the same time; their writes share the store's commits.
const BINDS: usize = 64;

/// Runs until `shutdown`.
pub(crate) async fn run(config: Config, client: Arc<dyn Client>, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let scheduler = Arc::new(Scheduling {
        config,
        recorder: Recorder::start(&client, NAME, config.now, &tasks, &shutdown),
        pods: Cache::new(&registry::POD, &[]),
        queue: Queue::default(),
        state: Mutex::default(),
        binds: Arc::new(Semaphore::new(BINDS)),
        client,
    });
    let nodes: Arc<Cache<Node>> = Cache::new(&registry::NODE, &[]);
    nodes.on_change({
        let scheduler = scheduler.clone();
        move |change| scheduler.on_node(change)
    });
    scheduler.pods.on_change({
        let scheduler = scheduler.clone();
        move |change| scheduler.on_pod(change)
    });
    for cache in [nodes.clone() as Arc<dyn AnyCache>, scheduler.pods.clone()] {
        let (client, shutdown) = (scheduler.client.clone(), shutdown.clone());
        tasks.spawn(async move { cache.run(client, shutdown).await });
    }
    let work = async {
        // Deciding before all bound pods are counted would give their room away twice.
        nodes.settled(0).await;
        scheduler.pods.settled(0).await;
        loop {
            let key = scheduler.queue.next().await;
            scheduler.attempt(&key, &tasks).await;
            scheduler.queue.done(&key);
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
    tasks.close();
    tasks.wait().await;
}

struct Scheduling {
    config: Config,
    client: Arc<dyn Client>,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    queue: Queue<Key>,
    state: Mutex<State>,
    binds: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    waiting: Waiting,
    turn: usize,
}

impl Scheduling {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_node(&self, change: &Change<Node>) {
        let mut state = self.state();
        let opened = match &change.new {
            Some(node) => state.cluster.set_node(node),
            None => {
                state.cluster.remove_node(&change.key.name);
                false
            }
        };
        if opened {
            self.release(&mut state);
        }
    }

    fn on_pod(&self, change: &Change<Pod>) {
        let mut state = self.state();
        let mut freed = false;
        // Another pod of the same name, or none: the one before is gone.
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| new.metadata.uid != old.metadata.uid)
        {
            freed |= state.cluster.remove_pod(old.metadata.uid.as_deref().unwrap_or_default());
            state.waiting.forget(&change.key);
        }
        if let Some(pod) = &change.new {
            freed |= state.cluster.set_pod(pod);
            if is_ours(pod) {
                let news = change.old.as_ref().is_none_or(|old| old.spec != pod.spec);
                if news {
                    state.waiting.forget(&change.key);
                    self.queue.add(change.key.clone());
                }
            }
        }
        if freed {
            self.release(&mut state);
        }
    }

    fn release(&self, state: &mut State) {
        for (key, pause) in state.waiting.release(Instant::now()) {
            self.queue.add_after(key, pause);
        }
    }

    /// One pod: decides, assumes, and leaves the rest to a task of its own.
    async fn attempt(self: &Arc<Self>, key: &Key, tasks: &TaskTracker) {
        let Some(pod) = self.pods.get(key).filter(|pod| is_ours(pod)) else {
            self.state().waiting.forget(key);
            return;
        };
        let Ok(permit) = self.binds.clone().acquire_owned().await else { return };
        let request = Request::new(pod.clone());
        let uid = request.uid.clone();
        let decision = {
            let mut state = self.state();
            if state.cluster.is_placed(&uid) {
                return;
            }
            state.turn = state.turn.wrapping_add(1);
            let decision = decide(&state.cluster, &request, state.turn);
            match &decision {
                Ok(node) => state.cluster.assume(node, request),
                Err(_) => {
                    let pause = state.waiting.failed(key, &uid, true, Instant::now());
                    self.queue.add_after(key.clone(), pause);
                }
            }
            decision
        };
        let (this, key) = (self.clone(), key.clone());
        tasks.spawn(async move {
            match decision {
                Ok(node) => this.bind(&key, &pod, &node).await,
                Err(unfit) => this.refuse(&pod, &unfit.to_string()).await,
            }
            drop(permit);
        });
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) {
        match bind(self.client.as_ref(), pod, node).await {
            Ok(()) => {
                self.state().waiting.forget(key);
                self.recorder.normal(regarding(pod), "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(error) => self.unbound(key, pod, &error),
        }
    }

    /// The binding was refused: what was assumed is taken back, and the pod tried again unless it is gone.
    fn unbound(&self, key: &Key, pod: &Pod, error: &Status) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut state = self.state();
        if !state.cluster.forget(uid) {
            return;
        }
        self.release(&mut state);
        if error.is(Reason::NotFound) {
            return;
        }
        tracing::debug!(pod = %key, uid, error = %error, "binding refused, trying again");
        let pause = state.waiting.failed(key, uid, false, Instant::now());
        self.queue.add_after(key.clone(), pause);
    }

    async fn refuse(&self, pod: &Pod, message: &str) {
        self.recorder.warning(regarding(pod), "FailedScheduling", message);
        if let Err(error) = explain(self.client.as_ref(), pod, message, (self.config.now)()).await
            && !error.is(Reason::NotFound)
        {
            tracing::debug!(pod = ?pod.metadata.name, error = %error, "condition not written");
        }
    }
}

/// True for pods that wait for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn regarding(pod: &Pod) -> Regarding {
    Regarding::new(&registry::POD, &pod.metadata)
}
