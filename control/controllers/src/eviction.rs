//! Pods leave nodes whose `NoExecute` taints they do not bear, at once or when their toleration ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_api::taint::bears;
use fairlead_informer::{Key, Queue, Recorder, Regarding};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::r#loop::{Loop, Shared};
use crate::writer::Writer;
use crate::{meta, pod};

/// Pods worked on at the same time.
const WORKERS: usize = 4;

/// Starts the loop. Keys are pods.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.pods.on_change({
        let (queue, nodes) = (queue.clone(), shared.caches.nodes.clone());
        move |change| {
            let node = change.new.as_ref().and_then(|one| nodes.get(&Key::new("", pod::node(one))));
            if node.is_some_and(|node| evicting(&node).next().is_some()) {
                queue.add(change.key.clone());
            }
        }
    });
    shared.caches.nodes.on_change({
        let (queue, shared) = (queue.clone(), shared.clone());
        move |change| {
            if change.latest().is_some_and(|node| evicting(node).next().is_some()) {
                for one in shared.caches.pods_of_node(&change.key.name) {
                    queue.add(meta::key(&one.metadata));
                }
            }
        }
    });
    let recorder = shared.recorder("taint-eviction-controller");
    shared.spawn("taint-eviction", WORKERS, queue, EvictionLoop { shared: shared.clone(), recorder });
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute")
}

/// How long the pod may stay on the node; `None` for ever.
fn plan(one: &Pod, node: &Node, now: Timestamp) -> Option<Duration> {
    let tolerations = one.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut stay: Option<Duration> = None;
    for taint in evicting(node) {
        let mut bearing = tolerations.iter().filter(|toleration| bears(toleration, taint)).peekable();
        if bearing.peek().is_none() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = bearing.filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let end = since.as_second().saturating_add(seconds.max(0));
        let left = Duration::from_secs(u64::try_from(end - now.as_second()).unwrap_or(0));
        stay = Some(stay.map_or(left, |stay| stay.min(left)));
    }
    stay
}

struct EvictionLoop {
    shared: Arc<Shared>,
    recorder: Recorder,
}

#[async_trait]
impl Loop for EvictionLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let caches = &self.shared.caches;
        let Some(one) = caches.pods.get(key).filter(|one| !meta::is_terminating(&one.metadata)) else {
            return Ok(None);
        };
        let Some(node) = caches.nodes.get(&Key::new("", pod::node(&one))) else { return Ok(None) };
        match plan(&one, &node, self.shared.now()) {
            None => Ok(None),
            Some(Duration::ZERO) => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.normal(Regarding::new(&registry::POD, &one.metadata), "TaintManagerEviction", message);
                writer.delete(&registry::POD, &one.metadata).await.map(|()| None)
            }
            Some(left) => Ok(Some(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn how_long_pods_stay() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let bear = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        type Row = (&'static str, Vec<Value>, Vec<Value>, Option<u64>);
        let rows: [Row; 8] = [
            ("no taint", vec![], vec![], None),
            ("NoSchedule evicts nobody", vec![json!({"key": "a", "effect": "NoSchedule"})], vec![], None),
            ("not borne", vec![taint("a")], vec![], Some(0)),
            ("borne for ever", vec![taint("a")], vec![bear("a", None)], None),
            ("borne for a while", vec![taint("a")], vec![bear("a", Some(300))], Some(240)),
            ("borne long enough", vec![taint("a")], vec![bear("a", Some(30))], Some(0)),
            (
                "the shortest counts",
                vec![taint("a"), taint("b")],
                vec![bear("a", Some(300)), bear("b", Some(90))],
                Some(30),
            ),
            ("one not borne", vec![taint("a"), taint("b")], vec![bear("a", None)], Some(0)),
        ];
        for (what, taints, tolerations, expected) in rows {
            let node: Node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}})).unwrap();
            let one: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}))
                    .unwrap();
            assert_eq!(plan(&one, &node, now).map(|stay| stay.as_secs()), expected, "{what}");
        }
    }
}
