//! One worker per pod: started when a pod is bound here or found in the runtime, told of every change, forgotten when
//! the pod is gone.
//!
//! Until the first complete state has come from the control plane nothing is started and nothing is ended: pods that
//! run go on. After it, a sandbox of ours whose pod is no longer wanted ends like any deleted pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fairlead_source::Changes;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::Context;
use crate::pod::PodName;
use crate::pod::worker::{Desired, Handle, Worker};
use crate::runtime::{self, Listing};

/// Events of one burst are gathered for this long before the runtime is asked.
const GATHER: Duration = Duration::from_millis(5);

/// The workers, and what is known of the runtime.
pub(crate) struct Dispatcher {
    context: Arc<Context>,
    workers: BTreeMap<String, (PodName, Handle)>,
    /// UIDs of pods that are gone here, but whose objects may still be listed.
    finished: BTreeSet<String>,
    tasks: JoinSet<(String, bool)>,
    listing: Listing,
    /// Something complete has come from the control plane.
    synced: bool,
    shutdown: CancellationToken,
}

impl Dispatcher {
    pub(crate) fn new(context: Arc<Context>, shutdown: CancellationToken) -> Self {
        Self {
            context,
            workers: BTreeMap::new(),
            finished: BTreeSet::new(),
            tasks: JoinSet::new(),
            listing: Listing::default(),
            synced: false,
            shutdown,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Changes>,
        mut happened: mpsc::Receiver<String>,
        mut alive: watch::Receiver<bool>,
    ) {
        self.relist().await;
        self.sync_all();
        let mut open = true;
        loop {
            let pause = if *alive.borrow_and_update() { runtime::RELIST.0 } else { runtime::RELIST.1 };
            tokio::select! {
                received = changes.recv(), if open => match received {
                    Some(changes) => self.changed(&changes),
                    None => open = false,
                },
                Some(id) = happened.recv() => {
                    tokio::time::sleep(GATHER).await;
                    let mut ids = BTreeSet::from([id]);
                    while let Ok(id) = happened.try_recv() {
                        ids.insert(id);
                    }
                    self.poke(&ids).await;
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                _ = alive.changed() => {}
                () = tokio::time::sleep(pause) => self.relist().await,
                () = self.shutdown.cancelled() => break,
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<(String, bool), tokio::task::JoinError>) {
        match ended {
            Ok((uid, gone)) => {
                self.workers.remove(&uid);
                if gone {
                    self.finished.insert(uid);
                }
            }
            Err(error) => warn!(error = %error, "a pod's worker ended unexpectedly"),
        }
    }

    /// Wakes the workers of these containers.
    async fn poke(&mut self, ids: &BTreeSet<String>) {
        if ids.iter().any(|id| !self.listing.owners.contains_key(id)) {
            self.relist().await;
        }
        let owners: BTreeSet<&String> = ids.iter().filter_map(|id| self.listing.owners.get(id)).collect();
        for (_, handle) in owners.iter().filter_map(|uid| self.workers.get(*uid)) {
            handle.poke.notify_one();
        }
    }

    /// Lists the runtime and wakes the workers of pods that changed.
    async fn relist(&mut self) {
        let listing = match runtime::list(&self.context.cri, &self.context.config).await {
            Ok(listing) => listing,
            Err(error) => {
                warn!(error = %error, "cannot list the runtime's pods");
                return;
            }
        };
        for (uid, (_, handle)) in &self.workers {
            let states = |listing: &Listing| listing.pods.get(uid).map(|(_, states)| states.clone());
            if states(&self.listing) != states(&listing) {
                handle.poke.notify_one();
            }
        }
        self.listing = listing;
        self.orphans();
    }

    /// Ends what runs here without an object.
    fn orphans(&mut self) {
        if !self.synced {
            return;
        }
        let orphans: Vec<PodName> = self
            .listing
            .pods
            .values()
            .map(|(name, _)| name.clone())
            .filter(|name| !self.workers.contains_key(&name.uid) && !self.finished.contains(&name.uid))
            .collect();
        for name in orphans {
            info!(pod = %name, uid = name.uid, "a pod runs here that is not wanted any more");
            let pod = Pod {
                metadata: ObjectMeta {
                    namespace: Some(name.namespace.clone()),
                    name: Some(name.name.clone()),
                    uid: Some(name.uid.clone()),
                    ..Default::default()
                },
                spec: Some(PodSpec::default()),
                status: None,
            };
            self.spawn(Arc::new(pod), Desired::Gone);
        }
    }

    fn changed(&mut self, changes: &Changes) {
        if !self.synced {
            self.sync_all();
        }
        for (namespace, name) in &changes.pods {
            self.sync(namespace, name);
        }
        let namespaces: BTreeSet<&String> =
            changes.config_maps.iter().chain(&changes.secrets).map(|(namespace, _)| namespace).collect();
        if !namespaces.is_empty() {
            for (name, handle) in self.workers.values() {
                if namespaces.contains(&name.namespace) {
                    handle.objects.notify_one();
                }
            }
        }
    }

    /// Takes in the whole desired state, once there is one.
    fn sync_all(&mut self) {
        let (revision, pods) = {
            let view = self.context.view();
            (view.revision(), view.pods().collect::<Vec<_>>())
        };
        if revision == 0 {
            return;
        }
        self.synced = true;
        for pod in pods {
            let name = PodName::of(&pod);
            self.sync(&name.namespace, &name.name);
        }
        self.orphans();
    }

    /// Brings the workers of one name in line with the desired state.
    fn sync(&mut self, namespace: &str, name: &str) {
        let pod = self.context.view().pod(namespace, name);
        let wanted = pod.as_ref().map(|pod| PodName::of(pod).uid);
        let mut known = HashMap::new();
        for (uid, (pod_name, handle)) in &self.workers {
            if pod_name.namespace == namespace && pod_name.name == name {
                known.insert(uid.clone(), handle.clone());
            }
        }
        for (uid, handle) in &known {
            if Some(uid) != wanted.as_ref() {
                handle.desired.send_replace(Desired::Gone);
            }
        }
        let (Some(pod), Some(uid)) = (pod, wanted) else { return };
        match known.get(&uid) {
            Some(handle) => {
                handle.desired.send_replace(Desired::Present(pod));
            }
            None if self.finished.contains(&uid) => {}
            None => self.spawn(pod.clone(), Desired::Present(pod)),
        }
    }

    fn spawn(&mut self, pod: Arc<Pod>, desired: Desired) {
        let name = PodName::of(&pod);
        let (sender, receiver) = watch::channel(desired);
        let handle = Handle { desired: sender, poke: Arc::new(Notify::new()), objects: Arc::new(Notify::new()) };
        let worker = Worker::new(self.context.clone(), pod);
        let (poke, objects) = (handle.poke.clone(), handle.objects.clone());
        let (uid, shutdown) = (name.uid.clone(), self.shutdown.clone());
        self.workers.insert(name.uid.clone(), (name, handle));
        self.tasks.spawn(async move { (uid, worker.run(receiver, poke, objects, shutdown).await) });
    }
}
