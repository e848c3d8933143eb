//! Every node gets a /24 of the cluster CIDR for its pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Patch;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Key, Queue, Recorder, Regarding};
use ipnet::Ipv4Net;
use serde_json::json;

use crate::r#loop::{Loop, Shared};
use crate::meta;
use crate::writer::Writer;

/// The size of a node's pod CIDR.
pub(crate) const NODE_PREFIX: u8 = 24;
/// How soon a node that got none is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// Starts the loop. One worker: a CIDR is taken once the cache has seen it written.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.nodes.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    let recorder = shared.recorder("cidrAllocator");
    shared.spawn("node-ipam", 1, queue, IpamLoop { shared: shared.clone(), recorder });
}

/// The first /24 of the cluster CIDR that no node has.
fn plan(cluster: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Net> {
    let mut free = cluster.subnets(NODE_PREFIX).ok()?;
    free.find(|cidr| !taken.contains(&cidr.network()))
}

struct IpamLoop {
    shared: Arc<Shared>,
    recorder: Recorder,
}

#[async_trait]
impl Loop for IpamLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(node) = self.shared.caches.nodes.get(key) else { return Ok(None) };
        let has_cidr = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()).is_some_and(|cidr| !cidr.is_empty());
        if has_cidr || meta::is_terminating(&node.metadata) {
            return Ok(None);
        }
        let nodes = self.shared.caches.nodes.all();
        let cidrs = nodes.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.as_ref()?.parse::<Ipv4Net>().ok());
        let taken = cidrs.map(|cidr| cidr.network()).collect();
        let Some(cidr) = plan(self.shared.config.cluster_cidr, &taken) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.normal(Regarding::new(&registry::NODE, &node.metadata), "CIDRNotAvailable", message);
            return Ok(Some(AGAIN));
        };
        let cidr = cidr.to_string();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        writer.patch(&registry::NODE, key, Patch::Merge(patch), None).await.map(|_| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_is_taken_and_a_full_range_says_so() {
        let cluster: Ipv4Net = "10.244.0.0/22".parse().unwrap();
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        while let Some(cidr) = plan(cluster, &taken) {
            assert!(taken.insert(cidr.network()), "{cidr} was given twice");
            given.push(cidr.to_string());
        }
        assert_eq!(given, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
        taken.remove(&Ipv4Addr::new(10, 244, 1, 0));
        assert_eq!(plan(cluster, &taken).unwrap().to_string(), "10.244.1.0/24");
    }
}
