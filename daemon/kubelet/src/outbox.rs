//! The way up: what the node observed, kept until the control plane has taken it.
//!
//! Of a pod's statuses, of the node's and of its lease only the latest waits; events wait in a bounded line, and a
//! repeated one merges with its first. A call that fails is made again with growing delays, so nothing is lost while the
//! control plane is away, and nothing piles up.

mod event;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fairlead_source::{Outcome, Report, Reporter};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, ObjectReference, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use event::Kind;
use event::Recorder;

use crate::pod::PodName;

/// Reports per call.
const BATCH: usize = 64;
/// Events that may wait; then the oldest go.
const EVENTS: usize = 1_000;
/// First and longest delay between calls that fail.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Takes reports at once and sends them in its own time. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
    recorder: Mutex<Recorder>,
}

/// What has not been taken yet.
#[derive(Debug, Default)]
struct Waiting {
    register: Option<Box<Node>>,
    node: Option<Box<Node>>,
    lease: Option<Box<Lease>>,
    pods: BTreeMap<PodName, Box<Pod>>,
    events: VecDeque<Box<Event>>,
    gone: Vec<PodName>,
}

impl Outbox {
    pub(crate) fn new(node: &str) -> Self {
        let shared = Shared {
            waiting: Mutex::new(Waiting::default()),
            wake: Notify::new(),
            recorder: Mutex::new(Recorder::new(node)),
        };
        Self { shared: Arc::new(shared) }
    }

    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_one();
    }

    pub(crate) fn register(&self, node: Node) {
        self.put(|waiting| waiting.register = Some(Box::new(node)));
    }

    pub(crate) fn node_status(&self, node: Node) {
        self.put(|waiting| waiting.node = Some(Box::new(node)));
    }

    pub(crate) fn lease(&self, lease: Lease) {
        self.put(|waiting| waiting.lease = Some(Box::new(lease)));
    }

    pub(crate) fn pod_status(&self, name: &PodName, status: PodStatus) {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                uid: Some(name.uid.clone()),
                ..Default::default()
            },
            spec: None,
            status: Some(status),
        };
        self.put(|waiting| drop(waiting.pods.insert(name.clone(), Box::new(pod))));
    }

    /// The pod has left nothing behind. Its last status goes first.
    pub(crate) fn pod_gone(&self, name: &PodName) {
        self.put(|waiting| waiting.gone.push(name.clone()));
    }

    /// Records an event about an object.
    pub(crate) fn event(&self, kind: Kind, about: ObjectReference, reason: &str, message: &str) {
        let event = {
            let mut recorder = self.shared.recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.record(kind, about, reason, message, jiff::Timestamp::now())
        };
        self.put(|waiting| {
            waiting.events.retain(|old| old.metadata.name != event.metadata.name);
            if waiting.events.len() >= EVENTS {
                waiting.events.pop_front();
            }
            waiting.events.push_back(Box::new(event));
        });
    }

    /// Sends until `shutdown`, and then once more what is left.
    pub(crate) async fn run(self, reporter: Arc<dyn Reporter>, shutdown: CancellationToken) {
        let mut delay = DELAYS.0;
        loop {
            let batch = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if batch.is_empty() {
                tokio::select! {
                    () = self.shared.wake.notified() => continue,
                    () = shutdown.cancelled() => return,
                }
            }
            let failed = match reporter.report(batch.clone()).await {
                Ok(outcomes) => {
                    let again = unsettled(&batch, &outcomes);
                    let any = !again.is_empty();
                    self.put(|waiting| waiting.put_back(again));
                    any
                }
                Err(error) => {
                    debug!(error = %error, "reports wait");
                    self.put(|waiting| waiting.put_back(batch));
                    true
                }
            };
            if !failed {
                delay = DELAYS.0;
                continue;
            }
            if shutdown.is_cancelled() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(DELAYS.1),
                () = shutdown.cancelled() => {}
            }
        }
    }
}

/// The reports that have to be made again.
fn unsettled(batch: &[Report], outcomes: &[Outcome]) -> Vec<Report> {
    let mut again = Vec::new();
    for (index, report) in batch.iter().enumerate() {
        match outcomes.get(index) {
            Some(outcome) if outcome.is_transient() => again.push(report.clone()),
            Some(outcome) if outcome.is_gone() => {
                // A node that somebody deleted comes back while its daemon runs.
                if let Report::NodeStatus(node) = report {
                    again.push(Report::RegisterNode(node.clone()));
                    again.push(report.clone());
                }
            }
            Some(outcome) if outcome.is_ok() || outcome.is_conflict() => {}
            Some(outcome) => {
                warn!(report = name_of(report), code = outcome.code, error = %outcome.message, "a report was refused");
            }
            None => again.push(report.clone()),
        }
    }
    again
}

fn name_of(report: &Report) -> &'static str {
    match report {
        Report::RegisterNode(_) => "register node",
        Report::NodeStatus(_) => "node status",
        Report::Lease(_) => "lease",
        Report::PodStatus(_) => "pod status",
        Report::Event(_) => "event",
        Report::PodGone { .. } => "pod gone",
    }
}

impl Waiting {
    /// A batch in the order that makes sense: the node before its status, statuses before events, the end of a pod last.
    fn take(&mut self) -> Vec<Report> {
        let mut batch = Vec::new();
        batch.extend(self.lease.take().map(Report::Lease));
        batch.extend(self.register.take().map(Report::RegisterNode));
        batch.extend(self.node.take().map(Report::NodeStatus));
        while batch.len() < BATCH {
            let Some((_, pod)) = self.pods.pop_first() else { break };
            batch.push(Report::PodStatus(pod));
        }
        while batch.len() < BATCH {
            let Some(event) = self.events.pop_front() else { break };
            batch.push(Report::Event(event));
        }
        if self.pods.is_empty() {
            batch.extend(self.gone.drain(..).map(|pod| Report::PodGone {
                namespace: pod.namespace,
                name: pod.name,
                uid: pod.uid,
            }));
        }
        batch
    }

    /// Takes back what was not accepted; what is newer wins.
    fn put_back(&mut self, reports: Vec<Report>) {
        for report in reports.into_iter().rev() {
            match report {
                Report::RegisterNode(node) => drop(self.register.get_or_insert(node)),
                Report::NodeStatus(node) => drop(self.node.get_or_insert(node)),
                Report::Lease(lease) => drop(self.lease.get_or_insert(lease)),
                Report::PodStatus(pod) => drop(self.pods.entry(PodName::of(&pod)).or_insert(pod)),
                Report::Event(event) => {
                    if !self.events.iter().any(|newer| newer.metadata.name == event.metadata.name) {
                        self.events.push_front(event);
                    }
                }
                Report::PodGone { namespace, name, uid } => self.gone.push(PodName { namespace, name, uid }),
            }
        }
        self.events.truncate(EVENTS);
    }
}

#[cfg(test)]
mod tests;
