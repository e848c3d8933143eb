//! Telling the API of a decision: the binding, or the condition that says why there is none.

use fairlead_api::client::{Client, Patch};
use fairlead_api::kind::Subresource;
use fairlead_api::status::Status;
use fairlead_api::{Object, registry};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// The condition of a pod that fits nowhere.
const SCHEDULED: &str = "PodScheduled";
/// The reason clients and autoscalers look for.
const UNSCHEDULABLE: &str = "Unschedulable";

/// Binds exactly this pod to a node.
pub(crate) async fn bind(client: &dyn Client, pod: &Pod, node: &str) -> Result<(), Status> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        "target": {"kind": "Node", "name": node},
    });
    let binding: Object = serde_json::from_value(binding)
        .map_err(|error| Status::internal(format!("a binding could not be written as JSON: {error}")))?;
    client.update(&registry::POD, binding, Some(Subresource::Binding)).await.map(drop)
}

/// Writes why the pod has no node, unless it says so already.
pub(crate) async fn explain(client: &dyn Client, pod: &Pod, message: &str, now: Timestamp) -> Result<(), Status> {
    let Some(conditions) = conditions(pod, message, now) else { return Ok(()) };
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}});
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    client.patch(&registry::POD, namespace, name, Patch::Merge(patch), Some(Subresource::Status)).await.map(drop)
}

/// The pod's conditions with the one about scheduling; `None` if they are right already.
fn conditions(pod: &Pod, message: &str, now: Timestamp) -> Option<Vec<Value>> {
    let before = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let old = before.iter().find(|condition| condition.type_ == SCHEDULED);
    let same = |condition: &k8s_openapi::api::core::v1::PodCondition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some(UNSCHEDULABLE)
            && condition.message.as_deref() == Some(message)
    };
    if old.is_some_and(same) {
        return None;
    }
    // Times are stored in seconds; the transition is that of the status, not of the message.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
    let others = before.iter().filter(|condition| condition.type_ != SCHEDULED).map(|condition| json!(condition));
    let ours = json!({
        "type": SCHEDULED,
        "status": "False",
        "reason": UNSCHEDULABLE,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or(now),
    });
    Some(others.chain([ours]).collect())
}
