//! The nodes and the pods on them, as far as decisions need them.
//!
//! Invariant `ONCE`: a pod counts on exactly one node from the moment it is assumed or seen bound until it is seen
//! finished or gone, or its binding was refused.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use rustc_hash::FxHashMap;

use crate::node::NodeInfo;
use crate::request::Request;

/// All nodes, in a fixed order, and where each counted pod is.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: FxHashMap<String, usize>,
    placed: FxHashMap<String, Placed>,
}

#[derive(Debug)]
struct Placed {
    node: String,
    request: Request,
    /// Not seen bound yet.
    assumed: bool,
}

impl Cluster {
    /// The nodes that exist.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.exists)
    }

    /// Takes over a node. True if pods that fitted nowhere should be tried again.
    pub(crate) fn set_node(&mut self, node: &Arc<Node>) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.node_mut(&name).set(node)
    }

    /// Forgets a node; its pods stay counted under its name, should it come back.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        self.nodes[at].exists = false;
        self.drop_if_empty(name);
    }

    /// Takes over a pod that has a node. True if that freed something, so that waiting pods should be tried again.
    pub(crate) fn set_pod(&mut self, pod: &Arc<Pod>) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(uid);
        }
        if node.is_empty() {
            return false;
        }
        let request = Request::new(pod.clone());
        if let Some(placed) = self.placed.get_mut(uid)
            && placed.node == node
            && placed.request.resources == request.resources
            && placed.request.ports == request.ports
        {
            placed.assumed = false;
            return false;
        }
        let freed = self.remove_pod(uid);
        self.place(node.to_owned(), request, false);
        freed
    }

    /// Counts a pod out. True if it was counted.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.node_mut(&placed.node).remove(&placed.request);
        self.drop_if_empty(&placed.node);
        true
    }

    /// Counts a pod on the node decided for it.
    pub(crate) fn assume(&mut self, node: &str, request: Request) {
        self.place(node.to_owned(), request, true);
    }

    /// Takes an assumption back, unless the pod was seen bound meanwhile.
    pub(crate) fn forget(&mut self, uid: &str) -> bool {
        let assumed = self.placed.get(uid).is_some_and(|placed| placed.assumed);
        assumed && self.remove_pod(uid)
    }

    /// True if the pod counts on a node already.
    pub(crate) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn place(&mut self, node: String, request: Request, assumed: bool) {
        self.node_mut(&node).add(&request);
        self.placed.insert(request.uid.clone(), Placed { node, request, assumed });
    }

    fn node_mut(&mut self, name: &str) -> &mut NodeInfo {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => {
                self.nodes.push(NodeInfo::unknown(name));
                self.by_name.insert(name.to_owned(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[at]
    }

    fn drop_if_empty(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        if self.nodes[at].exists || self.nodes[at].pods > 0 {
            return;
        }
        self.nodes.swap_remove(at);
        self.by_name.remove(name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }
}
