//! A node and what is on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use rustc_hash::FxHashMap;

use crate::request::{HostPort, Request};
use crate::resources::Resources;

/// A node, with the sums over its pods that filters and scores need.
#[derive(Clone, Debug)]
pub(crate) struct NodeInfo {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    /// False for a node that is only known from pods bound to it.
    pub(crate) exists: bool,
    pub(crate) used: Resources,
    pub(crate) estimated: Resources,
    pub(crate) pods: i64,
    ports: Vec<HostPort>,
    owners: FxHashMap<String, u32>,
}

impl NodeInfo {
    /// A node nothing is known of but its name.
    pub(crate) fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Resources::default(),
            exists: false,
            used: Resources::default(),
            estimated: Resources::default(),
            pods: 0,
            ports: Vec::new(),
            owners: FxHashMap::default(),
        }
    }

    /// Takes over the node's own state. True if that may let a pod in that did not fit before.
    pub(crate) fn set(&mut self, node: &Arc<Node>) -> bool {
        let spec = node.spec.as_ref();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        let allocatable =
            node.status.as_ref().and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let allocatable = Resources::from_wire(allocatable);
        let changed = !self.exists
            || labels != self.labels
            || taints != self.taints
            || unschedulable != self.unschedulable
            || allocatable != self.allocatable;
        (self.labels, self.taints, self.unschedulable) = (labels, taints, unschedulable);
        self.allocatable = allocatable;
        self.exists = true;
        changed
    }

    /// Counts a pod in.
    pub(crate) fn add(&mut self, request: &Request) {
        self.used.add(&request.resources);
        self.estimated.add(&request.estimate);
        self.pods += 1;
        self.ports.extend(request.ports.iter().cloned());
        if let Some(owner) = &request.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    /// Counts a pod out.
    pub(crate) fn remove(&mut self, request: &Request) {
        self.used.sub(&request.resources);
        self.estimated.sub(&request.estimate);
        self.pods -= 1;
        for port in &request.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Some(owner) = &request.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// True if a pod has this port, or one that excludes it.
    pub(crate) fn has_port(&self, port: &HostPort) -> bool {
        self.ports.iter().any(|taken| taken.clashes(port))
    }

    /// Pods of this owner.
    pub(crate) fn owned_by(&self, owner: &str) -> u32 {
        self.owners.get(owner).copied().unwrap_or(0)
    }
}
