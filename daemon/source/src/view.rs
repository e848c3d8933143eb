//! The node's copy of its desired state, and what each update changed in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};

use crate::service::{Service, ServiceName};
use crate::update::{Rejected, Update};

/// Desired state of one node. Work per update is proportional to the update.
#[derive(Debug, Default)]
pub struct View {
    revision: u64,
}

/// What an update touched. Names only: the receiver looks the present state up, so two changes merge into one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services whose joined form changed, removed ones included.
    pub services: BTreeSet<ServiceName>,
    /// Pods put or removed: (namespace, name).
    pub pods: BTreeSet<(String, String)>,
    /// ConfigMaps put or removed.
    pub config_maps: BTreeSet<(String, String)>,
    /// Secrets put or removed.
    pub secrets: BTreeSet<(String, String)>,
    /// The node's own object changed.
    pub node: bool,
    /// Refused alone.
    pub rejected: Vec<Rejected>,
}

impl View {
    /// Empty, for the node of this name (which decides what `Endpoint::local` means).
    pub fn new(node: &str) -> Self {
        let _ = node;
        Self::default()
    }

    /// Takes an update in. Pieces of a snapshot are held back until the last one; then what the snapshot does not name
    /// is removed and the changes of the whole are returned.
    pub fn apply(&mut self, update: Update) -> Changes {
        self.revision = update.revision;
        Changes::default()
    }

    /// Revision of the last complete update.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The joined service, `None` once it is gone (or is no business of ours: headless, other proxy's).
    pub fn service(&self, name: &ServiceName) -> Option<Arc<Service>> {
        let _ = name;
        None
    }

    /// All joined services, for a full synchronisation.
    pub fn services(&self) -> impl Iterator<Item = Arc<Service>> + '_ {
        std::iter::empty()
    }

    /// The node's own object.
    pub fn node(&self) -> Option<Arc<Node>> {
        None
    }

    /// A pod bound to this node.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let _ = (namespace, name);
        None
    }

    /// Every pod bound to this node.
    pub fn pods(&self) -> impl Iterator<Item = Arc<Pod>> + '_ {
        std::iter::empty()
    }

    /// A ConfigMap used by a pod of this node.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        let _ = (namespace, name);
        None
    }

    /// A Secret used by a pod of this node.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        let _ = (namespace, name);
        None
    }

    /// The `NAME_SERVICE_HOST`-style variables a pod of this namespace gets, in a stable order: services of the
    /// namespace when `service_links`, and always `kubernetes` of `default`.
    pub fn service_env(&self, namespace: &str, service_links: bool) -> Vec<(String, String)> {
        let _ = (namespace, service_links);
        Vec::new()
    }
}
