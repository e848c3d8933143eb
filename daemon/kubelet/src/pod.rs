//! One pod on this node.
//!
//! Its worker ([`worker`]) owns the state ([`state`]): it observes the runtime, asks the pure plan ([`plan`]) what to do
//! next, carries that out ([`act`]) and says how the pod fares ([`status`]). What a sandbox or container is made of comes
//! from [`sandbox`], [`container`], [`mod@env`] and [`security`].

pub(crate) mod act;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod field;
pub(crate) mod hook;
pub(crate) mod labels;
pub(crate) mod plan;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod start;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod worker;

use k8s_openapi::api::core::v1::Pod;

/// Namespace, name and UID of a pod; every call and message about it names it by these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodName {
    pub(crate) fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
