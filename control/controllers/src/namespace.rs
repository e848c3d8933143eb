//! The end of a namespace.
//!
//! ```text
//! Active ──delete──► Terminating: pods ──► everything else ──► finalizer `kubernetes` removed ──► gone
//! ```
//!
//! Pods go first, while what they may need to end well is still there. What remains after each pass is told in the
//! namespace's conditions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Propagation;
use fairlead_api::kind::Subresource;
use fairlead_api::selector::Selector;
use fairlead_api::status::Status;
use fairlead_api::{Kind, Object, registry};
use fairlead_informer::{Key, Queue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};

use crate::r#loop::{Loop, Shared};
use crate::meta;
use crate::writer::{self, Writer};

/// Namespaces worked on at the same time.
const WORKERS: usize = 4;
/// How soon a namespace that still has content is looked at again.
const AGAIN: Duration = Duration::from_millis(500);
/// What stands in `spec.finalizers` until the content is gone.
const FINALIZER: &str = "kubernetes";

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.namespaces.on_change({
        let queue = queue.clone();
        move |change| {
            if change.new.as_ref().is_some_and(|namespace| meta::is_terminating(&namespace.metadata)) {
                queue.add(change.key.clone());
            }
        }
    });
    shared.spawn("namespace", WORKERS, queue, NamespaceLoop { shared: shared.clone() });
}

struct NamespaceLoop {
    shared: Arc<Shared>,
}

/// What is left of one kind.
#[derive(Debug)]
struct Rest {
    kind: &'static Kind,
    objects: Vec<Arc<Object>>,
}

/// The kinds to clear now: pods as long as there are any, then all others.
fn plan(rest: &[Rest]) -> Vec<&Rest> {
    let pods = rest.iter().find(|rest| *rest.kind == registry::POD && !rest.objects.is_empty());
    match pods {
        Some(pods) => vec![pods],
        None => rest.iter().filter(|rest| !rest.objects.is_empty()).collect(),
    }
}

#[async_trait]
impl Loop for NamespaceLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let cached = self.shared.caches.namespaces.get(key);
        let Some(namespace) = cached.filter(|namespace| meta::is_terminating(&namespace.metadata)) else {
            return Ok(None);
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let rest = self.content(&key.name).await?;
        let mut failures = Vec::new();
        for rest in plan(&rest) {
            failures.extend(self.clear(rest, writer).await);
        }
        let left = self.content(&key.name).await?;
        self.report(&namespace, &left, &failures, writer).await?;
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        if left.iter().any(|rest| !rest.objects.is_empty()) {
            return Ok(Some(AGAIN));
        }
        self.finalize(&key.name).await.map(|()| None)
    }
}

impl NamespaceLoop {
    /// Everything in the namespace, straight from the API: a cache might lag behind a last write.
    async fn content(&self, namespace: &str) -> Result<Vec<Rest>, Status> {
        let mut content = Vec::new();
        for kind in registry::all().iter().copied().filter(|kind| kind.is_namespaced()) {
            let objects = self.shared.client.list(kind, namespace, &Selector::all()).await?.items;
            content.push(Rest { kind, objects });
        }
        Ok(content)
    }

    async fn clear(&self, rest: &Rest, writer: &Writer) -> Vec<Status> {
        let mut failures = Vec::new();
        for object in rest.objects.iter().filter(|object| !object.is_terminating()) {
            let deleted = match object.metadata() {
                Ok(meta) => writer.delete_as(rest.kind, &meta, Some(Propagation::Background)).await,
                Err(error) => Err(Status::internal(error.to_string())),
            };
            failures.extend(deleted.err());
        }
        failures
    }

    async fn report(
        &self,
        namespace: &Namespace,
        left: &[Rest],
        failures: &[Status],
        writer: &Writer,
    ) -> Result<(), Status> {
        let status = status(namespace, left, failures, self.shared.now());
        if namespace.status.as_ref() == Some(&status) {
            return Ok(());
        }
        writer.put_status(&registry::NAMESPACE, &namespace.metadata, &status).await
    }

    async fn finalize(&self, name: &str) -> Result<(), Status> {
        let current = self.shared.client.get(&registry::NAMESPACE, "", name).await?;
        let mut namespace: Namespace =
            current.typed().map_err(|error| Status::internal(format!("namespace {name:?} cannot be read: {error}")))?;
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let tree = writer::tree(&namespace)?;
        // Not through the writer: the namespace goes with its last finalizer, so there is no state to wait for.
        self.shared.client.update(&registry::NAMESPACE, tree, Some(Subresource::Finalize)).await.map(drop)
    }
}

/// The conditions that say what holds the namespace.
fn status(namespace: &Namespace, left: &[Rest], failures: &[Status], now: Timestamp) -> NamespaceStatus {
    let remaining: Vec<String> = left
        .iter()
        .filter(|rest| !rest.objects.is_empty())
        .map(|rest| format!("{} has {} resource instances", resource(rest.kind), rest.objects.len()))
        .collect();
    let mut holding: Vec<(&str, usize)> = Vec::new();
    for object in left.iter().flat_map(|rest| &rest.objects) {
        let finalizers = object.at(&["metadata", "finalizers"]).and_then(serde_json::Value::as_array);
        for name in finalizers.into_iter().flatten().filter_map(serde_json::Value::as_str) {
            match holding.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => holding.push((name, 1)),
            }
        }
    }
    let holding: Vec<String> =
        holding.into_iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let told = |prefix: &str, list: &[String]| format!("{prefix}{}", list.join(", "));
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        if failures.is_empty() {
            (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".into(),
            )
        } else {
            (
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                told("Failed to delete all resource types: ", &failures),
            )
        },
        if remaining.is_empty() {
            ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed".into())
        } else {
            (
                "NamespaceContentRemaining",
                true,
                "SomeResourcesRemain",
                told("Some resources are remaining: ", &remaining),
            )
        },
        if holding.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".into(),
            )
        } else {
            (
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                told("Some content in the namespace has finalizers remaining: ", &holding),
            )
        },
    ];
    let before = namespace.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let now = meta::stamp(now);
    let condition = |(type_, holds, reason, message): (&str, bool, &str, String)| {
        let value = if holds { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == type_ && old.status == value);
        NamespaceCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: same.and_then(|old| old.last_transition_time.clone()).or_else(|| Some(now.clone())),
        }
    };
    NamespaceStatus {
        phase: Some("Terminating".to_owned()),
        conditions: Some(rows.into_iter().map(condition).collect()),
    }
}

/// `pods.`, `deployments.apps`: a kind as the conditions name it.
fn resource(kind: &Kind) -> String {
    format!("{}.{}", kind.plural, kind.group)
}
