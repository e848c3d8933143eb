//! From updates to maps and pods: applies what the source yields, in order, and acknowledges what is in force.
//!
//! A revision is acknowledged once the kernel's tables hold it. Trouble with the tables leaves the last good state in
//! force (`LAST-GOOD`): the revision stays unacknowledged and the services it touched are tried again with the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as Lock, PoisonError, RwLock};
use std::time::Duration;

use fairlead_datapath::{Datapath, SyncReport};
use fairlead_source::{Changes, Feed, ObjectName, Rejected, Service, ServiceName, Update, View};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::health::Health;
use super::hostport;
use super::pods::PodNetwork;

/// How long to wait before tables that refused a change are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// After a start, and after so many objects at once, memory is given back.
const MANY: usize = 1000;

/// The one writer of the view.
#[derive(Debug)]
pub(super) struct Engine {
    view: Arc<RwLock<View>>,
    datapath: Arc<Mutex<Datapath>>,
    health: Health,
    programmed: Arc<Lock<Programmed>>,
    /// Told after every change of services.
    services_changed: Arc<Notify>,
    /// Absent where pods are another's.
    pods: Option<Pods>,
}

/// Where pods go on a whole node.
#[derive(Debug)]
pub(super) struct Pods {
    pub(super) network: PodNetwork,
    pub(super) changes: mpsc::Sender<Changes>,
}

/// What became of the last writes, for status.
#[derive(Debug, Default)]
pub(super) struct Programmed {
    /// Nothing was written yet.
    pub(super) last: Option<Written>,
    /// Why the tables could not be written the last time.
    pub(super) failure: Option<String>,
}

/// One write of services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) services: usize,
    pub(super) steps: usize,
    pub(super) system_calls: usize,
}

/// What the tables still lack.
#[derive(Debug, Default)]
struct Owed {
    /// Nothing was ever written: the tables may hold an earlier daemon's services, so the first write is of all of them.
    begun: bool,
    /// The last write failed.
    refused: bool,
    services: BTreeSet<ServiceName>,
    /// Services made of pods' host ports, as they are wanted now.
    host_ports: BTreeMap<ServiceName, Arc<Service>>,
}

impl Engine {
    pub(super) fn new(shared: &Shared, pods: Option<Pods>) -> Self {
        Self {
            view: Arc::clone(&shared.view),
            datapath: Arc::clone(&shared.datapath),
            health: shared.health.clone(),
            programmed: Arc::clone(&shared.programmed),
            services_changed: Arc::clone(&shared.services_changed),
            pods,
        }
    }

    /// Runs until the feed ends.
    pub(super) async fn run(self, mut feed: Feed, shutdown: CancellationToken) {
        let mut owed = Owed::default();
        loop {
            let update = tokio::select! {
                update = feed.updates.recv() => update,
                () = shutdown.cancelled() => None,
                () = tokio::time::sleep(AGAIN), if owed.refused => {
                    self.retry(&mut owed, &feed).await;
                    continue;
                }
            };
            let Some(update) = update else { return };
            let is_large = !owed.begun || update.put.len() >= MANY;
            self.take(update, &mut owed, &feed).await;
            if is_large {
                // Nobody waits for it.
                drop(tokio::task::spawn_blocking(fairlead_datapath::give_memory_back));
            }
        }
    }

    async fn take(&self, update: Update, owed: &mut Owed, feed: &Feed) {
        let complete = update.complete;
        let changes = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            view.apply(update)
        };
        if !complete && changes == Changes::default() {
            return;
        }
        let mut rejected = changes.rejected.clone();
        owed.services.extend(changes.services.iter().cloned());
        if !changes.pods.is_empty() && self.pods.is_some() {
            self.owe_host_ports(owed);
        }
        let in_force = self.sync(owed).await;
        if changes.node {
            let node = self.view.read().unwrap_or_else(PoisonError::into_inner).node();
            self.health.look_at_node(node.as_deref());
        }
        if let Some(pods) = &self.pods {
            if changes.node {
                self.open_network(&pods.network).await;
            }
            // A kubelet that is gone takes its channel with it; the daemon is ending then.
            let _ = pods.changes.send(changes).await;
        }
        if let Some(report) = in_force {
            rejected.extend(report.rejected.into_iter().map(refused));
            if complete {
                feed.acknowledgements.give(self.revision(), rejected);
            }
        }
    }

    fn owe_host_ports(&self, owed: &mut Owed) {
        let wanted = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            let pods: Vec<_> = view.pods().collect();
            hostport::services(pods.iter().map(|pod| &**pod))
        };
        let names = owed.host_ports.keys().chain(wanted.keys());
        let changed = names.filter(|name| owed.host_ports.get(*name) != wanted.get(*name)).cloned();
        owed.services.extend(changed.collect::<Vec<_>>());
        owed.host_ports = wanted;
    }

    async fn retry(&self, owed: &mut Owed, feed: &Feed) {
        if let Some(report) = self.sync(owed).await {
            feed.acknowledgements.give(self.revision(), report.rejected.into_iter().map(refused).collect());
        }
    }

    /// Writes what is owed; `None` if the tables refused.
    async fn sync(&self, owed: &mut Owed) -> Option<SyncReport> {
        if owed.begun && owed.services.is_empty() {
            return Some(SyncReport::default());
        }
        self.health.queued();
        let changed: Vec<(ServiceName, Option<Arc<Service>>)> = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            if owed.begun {
                let now = |name: &ServiceName| owed.host_ports.get(name).cloned().or_else(|| view.service(name));
                owed.services.iter().map(|name| (name.clone(), now(name))).collect()
            } else {
                let all = view.services().chain(owed.host_ports.values().cloned());
                all.map(|service| (service.name.clone(), Some(service))).collect()
            }
        };
        let names: Vec<_> = changed.iter().map(|(name, _)| name.clone()).collect();
        let result = {
            let mut datapath = self.datapath.lock().await;
            if owed.begun {
                datapath.sync(changed)
            } else {
                datapath.sync_all(changed.into_iter().filter_map(|(_, service)| service).collect())
            }
        };
        match result {
            Ok(report) => {
                self.in_force(&names, &report, !owed.begun);
                *owed = Owed { begun: true, host_ports: std::mem::take(&mut owed.host_ports), ..Owed::default() };
                Some(report)
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(
                    error = reason,
                    services = names.len(),
                    "services could not be programmed; what was in force stays"
                );
                self.programmed.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(reason);
                owed.refused = true;
                None
            }
        }
    }

    /// Tells everybody who asks for it what is in force now.
    fn in_force(&self, names: &[ServiceName], report: &SyncReport, all: bool) {
        let written = Written { services: names.len(), steps: report.steps, system_calls: report.system_calls };
        tracing::debug!(
            services = written.services,
            steps = written.steps,
            system_calls = written.system_calls,
            "services in force"
        );
        for (name, reason) in &report.rejected {
            tracing::warn!(svc = %name, error = reason, "a service was refused");
        }
        {
            let mut programmed = self.programmed.lock().unwrap_or_else(PoisonError::into_inner);
            programmed.last = Some(written);
            programmed.failure = None;
        }
        {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            if all {
                self.health.look(&view);
            } else {
                names.iter().for_each(|name| self.health.look_at(name, view.service(name).as_deref()));
            }
        }
        self.health.updated();
        self.services_changed.notify_one();
    }

    async fn open_network(&self, network: &PodNetwork) {
        let cidr = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            view.node().and_then(|node| node.spec.as_ref()?.pod_cidr.clone())
        };
        let Some(cidr) = cidr else { return };
        match cidr.parse() {
            Ok(cidr) => {
                if let Err(error) = network.open(cidr).await {
                    tracing::error!(error = %chain(error.as_ref()), "the pod network cannot be opened");
                }
            }
            Err(_) => tracing::error!(cidr = %cidr, "the node's pod CIDR is no IPv4 network"),
        }
    }

    fn revision(&self) -> u64 {
        self.view.read().unwrap_or_else(PoisonError::into_inner).revision()
    }
}

fn refused((name, reason): (ServiceName, String)) -> Rejected {
    Rejected { object: ObjectName::Service(name.namespace, name.name), reason }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
