//! Events about objects, as `kubectl describe` shows them.
//!
//! Writing an event must never hold up the loop it tells of: records go through bounded channels to a few writers, and
//! what does not fit is dropped. A writer owns the objects whose UIDs hash to it, so repeats of one event stay in order
//! and become a count.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;
use std::time::Duration;

use fairlead_api::client::{Client, Patch};
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_api::{Kind, Object};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rustc_hash::{FxHashMap, FxHasher};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where loops read the time.
pub type Clock = fn() -> Timestamp;

/// Writers per recorder; objects are spread over them.
const WRITERS: usize = 4;
/// Records a writer lets wait.
const WAITING: usize = 4096;
/// Events a writer remembers to count repeats.
const REMEMBERED: usize = 4096;
/// How long the last records may take when the loops end.
const DRAIN: Duration = Duration::from_millis(500);

/// The object an event is about.
#[derive(Clone, Debug, Default)]
pub struct Regarding(ObjectReference);

impl Regarding {
    /// A reference to an object of `kind`.
    pub fn new(kind: &'static Kind, meta: &ObjectMeta) -> Self {
        Self(ObjectReference {
            api_version: Some(kind.api_version()),
            kind: Some(kind.kind.to_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        })
    }
}

/// Whether an event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// For information.
    Normal,
    /// Something did not work.
    Warning,
}

#[derive(Debug)]
struct Record {
    regarding: Regarding,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// What makes two records the same event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Same {
    uid: String,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Writes events in the name of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    writers: Arc<[mpsc::Sender<Record>]>,
    now: Clock,
}

impl Recorder {
    /// Starts the writers in `tasks`; they end with `shutdown`.
    pub fn start(
        client: &Arc<dyn Client>,
        component: &'static str,
        now: Clock,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let start = |_| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let writer = Writer { client: client.clone(), component, seen: FxHashMap::default() };
            tasks.spawn(writer.run(receiver, shutdown.clone()));
            sender
        };
        Self { writers: (0..WRITERS).map(start).collect(), now }
    }

    /// Records that things go as they should.
    pub fn normal(&self, regarding: Regarding, reason: &'static str, message: impl Into<String>) {
        self.record(regarding, Severity::Normal, reason, message.into());
    }

    /// Records trouble.
    pub fn warning(&self, regarding: Regarding, reason: &'static str, message: impl Into<String>) {
        self.record(regarding, Severity::Warning, reason, message.into());
    }

    fn record(&self, regarding: Regarding, severity: Severity, reason: &'static str, message: String) {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(&regarding.0.uid);
        let record = Record { regarding, severity, reason, message, at: (self.now)() };
        let writer = usize::try_from(hash >> 32).unwrap_or_default() % self.writers.len();
        if self.writers[writer].try_send(record).is_err() {
            tracing::debug!(reason, "event dropped, too many wait");
        }
    }
}

struct Writer {
    client: Arc<dyn Client>,
    component: &'static str,
    /// Name and count of the event written for equal records.
    seen: FxHashMap<Same, (String, i32)>,
}

impl Writer {
    async fn run(mut self, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                biased;
                record = records.recv() => record,
                () = shutdown.cancelled() => break,
            };
            match record {
                Some(record) => self.write(record).await,
                None => return,
            }
        }
        records.close();
        let drain = async {
            while let Some(record) = records.recv().await {
                self.write(record).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, drain).await;
    }

    async fn write(&mut self, record: Record) {
        let same = Same {
            uid: record.regarding.0.uid.clone().unwrap_or_default(),
            severity: record.severity,
            reason: record.reason,
            message: record.message.clone(),
        };
        let namespace = namespace_of(&record.regarding);
        if let Some((name, count)) = self.seen.get_mut(&same) {
            *count += 1;
            let patch = Patch::Merge(json!({"count": *count, "lastTimestamp": Time(record.at)}));
            match self.client.patch(&registry::EVENT, &namespace, name, patch, None).await {
                Ok(_) => return,
                Err(status) if status.is(Reason::NotFound) => {}
                Err(status) => return log(&status, &same),
            }
        }
        let event = event(&record, self.component);
        let name = event.metadata.name.clone().unwrap_or_default();
        let created = match Object::from_typed(&event) {
            Ok(object) => self.client.create(&registry::EVENT, object).await,
            Err(error) => Err(Status::internal(error.to_string())),
        };
        match created {
            Ok(_) => {
                if self.seen.len() >= REMEMBERED {
                    self.seen.clear();
                }
                self.seen.insert(same, (name, 1));
            }
            Err(status) => log(&status, &same),
        }
    }
}

fn log(status: &Status, same: &Same) {
    tracing::debug!(uid = %same.uid, reason = same.reason, error = %status, "event not written");
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(regarding: &Regarding) -> String {
    regarding.0.namespace.clone().unwrap_or_else(|| "default".to_owned())
}

fn event(record: &Record, component: &str) -> Event {
    let subject = record.regarding.0.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{subject}.{:x}", record.at.as_nanosecond())),
            namespace: Some(namespace_of(&record.regarding)),
            ..ObjectMeta::default()
        },
        involved_object: record.regarding.0.clone(),
        type_: Some(format!("{:?}", record.severity)),
        reason: Some(record.reason.to_owned()),
        message: Some(record.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(record.at)),
        last_timestamp: Some(Time(record.at)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}
