//! What every part of the kubelet shares: configuration, runtime, desired state, the way up, and the node's facts.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use fairlead_source::View;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ObjectReference, Secret};

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::cri::Cri;
use crate::outbox::{Kind, Outbox};
use crate::pod::PodName;
use crate::pod::env::Lookup;
use crate::pod::field::NodeFacts;
use crate::pod::status::Host;

/// Shared by all workers, never changed.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) cri: Cri,
    pub(crate) view: Arc<RwLock<View>>,
    pub(crate) outbox: Outbox,
    pub(crate) cgroups: Cgroups,
    pub(crate) facts: NodeFacts,
    pub(crate) host: Host,
    /// Root of the runtime's own state is not ours to know; where the node's resolver configuration lies is.
    pub(crate) resolv_conf: std::path::PathBuf,
}

impl Context {
    /// The desired state, for a look that does not wait.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event about a pod.
    pub(crate) fn pod_event(&self, kind: Kind, pod: &PodName, reason: &str, message: &str) {
        self.outbox.event(kind, about(pod, None), reason, message);
    }

    /// Records an event about a pod's container.
    pub(crate) fn container_event(&self, kind: Kind, pod: &PodName, path: &str, reason: &str, message: &str) {
        self.outbox.event(kind, about(pod, Some(path)), reason, message);
    }
}

/// The path that events name a container by.
pub(crate) fn field_path(container: &Container, init: bool) -> String {
    let list = if init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{}}}", container.name)
}

fn about(pod: &PodName, path: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        field_path: path.map(str::to_owned),
        resource_version: None,
    }
}

impl Lookup for Context {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.view().config_map(namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.view().secret(namespace, name)
    }
}
