//! What a source yields: objects put and removed, at a revision.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A piece of a snapshot or of a delta; the meaning of the flags is that of `push.v1.Update`.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// State after the last piece.
    pub revision: u64,
    /// Part of a snapshot: what no piece names is gone once `complete` is here.
    pub snapshot: bool,
    /// The first piece of a snapshot: pieces of one that broke off are forgotten.
    pub first: bool,
    /// The last piece. Until then a snapshot is held back, and a delta does not count as the revision.
    pub complete: bool,
    /// New or changed objects.
    pub put: Vec<Item>,
    /// Objects that are gone.
    pub removed: Vec<ObjectName>,
    /// Objects that could not be read; the rest of the update stands.
    pub rejected: Vec<Rejected>,
    /// Nanoseconds since the Unix epoch at which the store committed the revision; 0 if unknown.
    pub committed_at: u64,
}

/// An object a node needs.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the kinds' own names")]
pub enum Item {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
}

impl Item {
    /// Its kind, namespace and name.
    pub fn name(&self) -> ObjectName {
        let key = |metadata: &ObjectMeta| {
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
        };
        match self {
            Item::Service(service) => {
                let (namespace, name) = key(&service.metadata);
                ObjectName::Service(namespace, name)
            }
            Item::EndpointSlice(slice) => {
                let (namespace, name) = key(&slice.metadata);
                ObjectName::EndpointSlice(namespace, name)
            }
            Item::Node(node) => ObjectName::Node(key(&node.metadata).1),
            Item::Pod(pod) => {
                let (namespace, name) = key(&pod.metadata);
                ObjectName::Pod(namespace, name)
            }
            Item::ConfigMap(map) => {
                let (namespace, name) = key(&map.metadata);
                ObjectName::ConfigMap(namespace, name)
            }
            Item::Secret(secret) => {
                let (namespace, name) = key(&secret.metadata);
                ObjectName::Secret(namespace, name)
            }
        }
    }
}

/// Kind, namespace and name. The namespace is empty for a Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the kinds' own names; the fields are namespace and name")]
pub enum ObjectName {
    Service(String, String),
    EndpointSlice(String, String),
    Node(String),
    Pod(String, String),
    ConfigMap(String, String),
    Secret(String, String),
    /// No object but a file of manifests, which can be refused as one.
    File(String),
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(namespace, name) => write!(f, "Service {namespace}/{name}"),
            Self::EndpointSlice(namespace, name) => write!(f, "EndpointSlice {namespace}/{name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(namespace, name) => write!(f, "Pod {namespace}/{name}"),
            Self::ConfigMap(namespace, name) => write!(f, "ConfigMap {namespace}/{name}"),
            Self::Secret(namespace, name) => write!(f, "Secret {namespace}/{name}"),
            Self::File(name) => write!(f, "file {name}"),
        }
    }
}

/// An object refused alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub object: ObjectName,
    /// Why, for the log and the acknowledgement.
    pub reason: String,
}
