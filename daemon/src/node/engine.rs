//! From updates to maps and pods: applies what the source yields, in order, and acknowledges what is in force.
//!
//! A revision is acknowledged once the kernel's tables hold it. Trouble with the tables leaves the last good state in
//! force (`LAST-GOOD`): the revision stays unacknowledged and the services it touched are tried again with the next.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fairlead_datapath::{Datapath, SyncReport};
use fairlead_source::{Changes, Feed, ObjectName, Rejected, Service, ServiceName, Update, View};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::pods::PodNetwork;

/// How long to wait before tables that refused a change are tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The one writer of the view.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) view: Arc<RwLock<View>>,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) network: PodNetwork,
    pub(super) changes: mpsc::Sender<Changes>,
}

/// What the tables still lack.
#[derive(Debug, Default)]
struct Owed {
    /// Nothing was ever written: the tables may hold an earlier daemon's services, so the first write is of all of them.
    begun: bool,
    /// The last write failed.
    refused: bool,
    services: BTreeSet<ServiceName>,
}

impl Engine {
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
            self.take(update, &mut owed, &feed).await;
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
        let node_changed = changes.node;
        owed.services.extend(changes.services.iter().cloned());
        let in_force = self.sync(owed).await;
        if node_changed {
            self.open_network().await;
        }
        // A kubelet that is gone takes its channel with it; the daemon is ending then.
        let _ = self.changes.send(changes).await;
        if let Some(report) = in_force {
            rejected.extend(report.rejected.into_iter().map(refused));
            if complete {
                feed.acknowledgements.give(self.revision(), rejected);
            }
        }
    }

    async fn retry(&self, owed: &mut Owed, feed: &Feed) {
        if let Some(report) = self.sync(owed).await {
            feed.acknowledgements.give(self.revision(), report.rejected.into_iter().map(refused).collect());
        }
    }

    /// Writes what is owed; `None` if the tables refused.
    async fn sync(&self, owed: &mut Owed) -> Option<SyncReport> {
        let mut datapath = self.datapath.lock().await;
        let result = if owed.begun {
            if owed.services.is_empty() {
                return Some(SyncReport::default());
            }
            let wanted = {
                let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
                owed.services.iter().map(|name| (name.clone(), view.service(name).map(owned))).collect()
            };
            datapath.sync(wanted)
        } else {
            let all: Vec<Service> = {
                let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
                view.services().map(owned).collect()
            };
            datapath.sync_all(all)
        };
        match result {
            Ok(report) => {
                tracing::debug!(steps = report.steps, services = owed.services.len(), "services in force");
                *owed = Owed { begun: true, ..Owed::default() };
                Some(report)
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), services = owed.services.len(), "services could not be programmed; what was in force stays");
                owed.refused = true;
                None
            }
        }
    }

    async fn open_network(&self) {
        let cidr = {
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            view.node().and_then(|node| node.spec.as_ref()?.pod_cidr.clone())
        };
        let Some(cidr) = cidr else { return };
        match cidr.parse() {
            Ok(cidr) => {
                if let Err(error) = self.network.open(cidr).await {
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

fn owned(service: Arc<Service>) -> Service {
    Arc::unwrap_or_clone(service)
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
