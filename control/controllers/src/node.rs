//! Node health: which nodes answer, and what that means for scheduling.
//!
//! A node renews its lease; when no renewal has been seen for a while its conditions become Unknown and its pods no
//! longer count as ready. Conditions become taints, which keep new pods away (`NoSchedule`) and evict those that do not
//! bear it (`NoExecute`, see `eviction`). Renewals are timed by when they are seen here, so neither a clock that is off
//! nor a restart of the control plane makes a node look dead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Patch;
use fairlead_api::kind::Subresource;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Key, Queue, Recorder, Regarding};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::r#loop::{Loop, Shared};
use crate::writer::Writer;
use crate::{meta, pod};

/// Nodes worked on at the same time.
const WORKERS: usize = 4;
/// How long a node may stay silent.
const GRACE: Duration = Duration::from_secs(40);
/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only a living node can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.nodes.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    shared.caches.leases.on_change({
        let queue = queue.clone();
        move |change| {
            if change.key.namespace == LEASES {
                queue.add(Key::new("", &change.key.name));
            }
        }
    });
    let recorder = shared.recorder("node-controller");
    let body = NodeLoop { shared: shared.clone(), recorder, signs: Mutex::default() };
    shared.spawn("node-lifecycle", WORKERS, queue, body);
}

/// The last sign of life, and when it was seen.
#[derive(Clone, Debug, PartialEq)]
struct Sign {
    mark: (Option<Timestamp>, Option<Timestamp>),
    seen: Timestamp,
}

/// What a turn does.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// All conditions of a node that fell silent.
    conditions: Option<Vec<NodeCondition>>,
    /// All taints, if they change.
    taints: Option<Vec<Taint>>,
    /// Its pods do not count as ready.
    unready_pods: bool,
}

/// Pure; nothing when the node's conditions and taints are right. `silent` says that the grace is over.
fn plan(node: &Node, silent: bool, now: Timestamp) -> Plan {
    let now = meta::stamp(now);
    let before = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions = if silent { silenced(&before, &now) } else { before.clone() };
    let taints = taints(node, &conditions, &now);
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    Plan {
        unready_pods: ready.is_some_and(|ready| ready.status != "True"),
        conditions: (conditions != before).then_some(conditions),
        taints,
    }
}

/// The conditions of a node that does not answer.
fn silenced(before: &[NodeCondition], now: &Time) -> Vec<NodeCondition> {
    let mut conditions = before.to_vec();
    for type_ in VOUCHED {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(now.clone());
            }
            None => conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(now.clone()),
            }),
        }
    }
    conditions
}

/// The taints that follow from conditions, beside those that do not; `None` if they are right already.
fn taints(node: &Node, conditions: &[NodeCondition], now: &Time) -> Option<Vec<Taint>> {
    let status = |type_: &str| {
        conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str())
    };
    let mut wanted: Vec<(&str, &str)> = match status("Ready") {
        Some("True") => vec![],
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        None => vec![(NOT_READY, "NoSchedule")],
    };
    wanted.extend(
        PRESSURES.iter().filter(|(type_, _)| status(type_) == Some("True")).map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, known)| *known == key)
    };
    let mut after = before.clone();
    after.retain(|taint| !ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())));
    for (key, effect) in wanted {
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            after.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: (effect == "NoExecute").then(|| now.clone()),
            });
        }
    }
    (after != before).then_some(after)
}

struct NodeLoop {
    shared: Arc<Shared>,
    recorder: Recorder,
    signs: Mutex<HashMap<String, Sign>>,
}

#[async_trait]
impl Loop for NodeLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(node) = self.shared.caches.nodes.get(key) else {
            self.forget(&key.name);
            return Ok(None);
        };
        let lease = self.shared.caches.leases.get(&Key::new(LEASES, &key.name));
        let now = self.shared.now();
        let left = self.left(&node, lease.as_deref(), now);
        let plan = plan(&node, left.is_zero(), now);
        if let Some(taints) = plan.taints {
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            writer.patch(&registry::NODE, key, Patch::Merge(patch), None).await?;
        }
        if let Some(conditions) = plan.conditions {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.recorder.normal(Regarding::new(&registry::NODE, &node.metadata), "NodeNotReady", message);
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
            writer.patch(&registry::NODE, key, Patch::Merge(patch), Some(Subresource::Status)).await?;
        }
        if plan.unready_pods {
            self.mark_pods(&key.name, now, writer).await?;
        }
        // A node that has been silent for long is told of by the next renewal, not by a timer.
        Ok((!left.is_zero()).then_some(left))
    }
}

impl NodeLoop {
    /// How long the node may still stay silent.
    fn left(&self, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Duration {
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
        let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let reported = ready.filter(|one| one.type_ == "Ready" && one.status != "Unknown");
        let reported = reported.filter_map(|one| one.last_heartbeat_time.as_ref()).map(|time| time.0).max();
        let name = meta::name(&node.metadata);
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let sign = signs.entry(name.to_owned()).or_insert_with(|| {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.recorder.normal(Regarding::new(&registry::NODE, &node.metadata), "RegisteredNode", message);
            Sign { mark: (renewed, reported), seen: now }
        });
        // A report that vanishes because we set the condition to Unknown is no sign of life.
        if renewed > sign.mark.0 || reported > sign.mark.1 {
            *sign = Sign { mark: (renewed, reported.max(sign.mark.1)), seen: now };
        }
        let silence = Duration::try_from(now.duration_since(sign.seen)).unwrap_or_default();
        GRACE.saturating_sub(silence)
    }

    fn forget(&self, name: &str) {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Pods of a node that does not answer, or is not ready, take no traffic.
    async fn mark_pods(&self, node: &str, now: Timestamp, writer: &Writer) -> Result<(), Status> {
        let now = meta::stamp(now);
        for one in self.shared.caches.pods_of_node(node).iter().filter(|one| pod::is_ready(one)) {
            let mut conditions = one.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
                *condition = PodCondition {
                    status: "False".to_owned(),
                    last_transition_time: Some(now.clone()),
                    ..condition.clone()
                };
            }
            self.recorder.warning(Regarding::new(&registry::POD, &one.metadata), "NodeNotReady", "Node is not ready");
            let patch = json!({
                "metadata": {"resourceVersion": one.metadata.resource_version},
                "status": {"conditions": conditions},
            });
            let key = meta::key(&one.metadata);
            writer.patch(&registry::POD, &key, Patch::Merge(patch), Some(Subresource::Status)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, taints: serde_json::Value) -> Node {
        let conditions = ready.map(|status| json!([{"type": "Ready", "status": status}]));
        let tree = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": conditions}});
        serde_json::from_value(tree).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn named(taints: &Option<Vec<Taint>>) -> Option<Vec<String>> {
        let taints = taints.as_ref()?;
        Some(taints.iter().map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect)).collect())
    }

    #[test]
    fn conditions_become_taints() {
        let foreign = json!([{"key": "gpu", "effect": "NoSchedule"}]);
        let unreachable = json!([
            {"key": UNREACHABLE, "effect": "NoSchedule"},
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
        ]);
        let rows = [
            ("ready", node(Some("True"), json!([])), false, None),
            ("recovered", node(Some("True"), unreachable.clone()), false, Some(vec![])),
            (
                "not ready",
                node(Some("False"), json!([])),
                false,
                Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            ("new", node(None, json!([])), false, Some(vec!["not-ready:NoSchedule"])),
            (
                "silent",
                node(Some("True"), foreign),
                true,
                Some(vec!["gpu:NoSchedule", "unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            ("still silent", node(Some("Unknown"), unreachable), true, None),
        ];
        for (what, node, silent, expected) in rows {
            let plan = plan(&node, silent, now());
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect());
            assert_eq!(named(&plan.taints), expected, "{what}");
        }
    }

    #[test]
    fn a_silent_node_is_unknown_and_its_pods_are_not_ready() {
        let plan = plan(&node(Some("True"), json!([])), true, now());
        let conditions = plan.conditions.unwrap();
        assert!(plan.unready_pods);
        let told: Vec<_> =
            conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap())).collect();
        assert_eq!(told[0], ("Ready", "Unknown", "NodeStatusUnknown"));
        assert_eq!(told[1], ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"));
    }

    #[test]
    fn cordoning_taints() {
        let mut node = node(Some("True"), json!([]));
        node.spec.as_mut().unwrap().unschedulable = Some(true);
        assert_eq!(named(&plan(&node, false, now()).taints).unwrap(), ["unschedulable:NoSchedule"]);
    }
}
