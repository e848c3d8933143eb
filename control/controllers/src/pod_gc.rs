//! Pods that no node will ever end: bound to a node that is gone, or asked to go before they had one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{Key, Queue};
use k8s_openapi::api::core::v1::Pod;

use crate::r#loop::{Loop, Shared};
use crate::writer::Writer;
use crate::{meta, pod};

/// How long a node must be gone: a node that registers anew takes its pods back.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.pods.on_change({
        let (queue, nodes) = (queue.clone(), shared.caches.nodes.clone());
        move |change| {
            let Some(one) = &change.new else { return };
            let has_node = nodes.get(&Key::new("", pod::node(one))).is_some();
            match verdict(one, has_node) {
                Verdict::Keep => {}
                Verdict::Unscheduled => queue.add(change.key.clone()),
                Verdict::Orphaned => queue.add_after(change.key.clone(), QUARANTINE),
            }
        }
    });
    shared.caches.nodes.on_change({
        let (queue, pods) = (queue.clone(), shared.clone());
        move |change| {
            if change.new.is_none() {
                for one in pods.caches.pods_of_node(&change.key.name) {
                    queue.add_after(meta::key(&one.metadata), QUARANTINE);
                }
            }
        }
    });
    shared.spawn("pod-garbage-collector", 1, queue, PodGcLoop { shared: shared.clone() });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Asked to go, and no node has it.
    Unscheduled,
    /// Its node is gone.
    Orphaned,
}

fn verdict(one: &Pod, node_exists: bool) -> Verdict {
    match pod::node(one) {
        "" if meta::is_terminating(&one.metadata) => Verdict::Unscheduled,
        "" => Verdict::Keep,
        _ if node_exists => Verdict::Keep,
        _ => Verdict::Orphaned,
    }
}

struct PodGcLoop {
    shared: Arc<Shared>,
}

#[async_trait]
impl Loop for PodGcLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(one) = self.shared.caches.pods.get(key) else { return Ok(None) };
        let node = pod::node(&one);
        let cached = !node.is_empty() && self.shared.caches.nodes.get(&Key::new("", node)).is_some();
        if verdict(&one, cached) == Verdict::Keep {
            return Ok(None);
        }
        if !node.is_empty() {
            match self.shared.client.get(&registry::NODE, "", node).await {
                Err(status) if status.is(Reason::NotFound) => {}
                Err(status) => return Err(status),
                Ok(_) => return Ok(None),
            }
        }
        writer.delete_now(&registry::POD, &one.metadata).await.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verdicts() {
        let gone = "2026-01-01T00:00:00Z";
        let rows = [
            (json!({"metadata": {}, "spec": {"containers": []}}), false, Verdict::Keep),
            (json!({"metadata": {"deletionTimestamp": gone}, "spec": {"containers": []}}), false, Verdict::Unscheduled),
            (json!({"metadata": {}, "spec": {"containers": [], "nodeName": "n"}}), true, Verdict::Keep),
            (json!({"metadata": {}, "spec": {"containers": [], "nodeName": "n"}}), false, Verdict::Orphaned),
            (
                json!({"metadata": {"deletionTimestamp": gone}, "spec": {"containers": [], "nodeName": "n"}}),
                true,
                Verdict::Keep,
            ),
        ];
        for (tree, node_exists, expected) in rows {
            let one: Pod = serde_json::from_value(tree.clone()).unwrap();
            assert_eq!(verdict(&one, node_exists), expected, "{tree}");
        }
    }
}
