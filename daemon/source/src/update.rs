//! What a source yields: objects put and removed, at a revision.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::env::Facts;
use crate::join::{self, Front, Slice};
use crate::service::ServiceName;

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
    /// A Service or an EndpointSlice, of which only what is needed is left.
    Read(Box<Read>),
}

/// What is needed of a Service or an EndpointSlice, or why it is refused: a tenth of the object.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    pub(crate) name: ObjectName,
    pub(crate) form: Result<Form, String>,
}

/// What a Service or a slice comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// Without a front, one that is no business of ours.
    Service(Option<Front>, Facts),
    /// The same of slices, which belong to a Service.
    Slice(Option<(ServiceName, Slice)>),
}

impl Item {
    /// Leaves of a Service or a slice what is needed of it on this node. Whoever has to wait with an object does so with
    /// this.
    #[must_use]
    pub fn read(self, node: &str) -> Self {
        let name = match &self {
            Self::Service(_) | Self::EndpointSlice(_) => self.name(),
            _ => return self,
        };
        let form = match &self {
            Self::Service(service) => join::front(service).map(|front| Form::Service(front, Facts::of(service))),
            Self::EndpointSlice(slice) => join::slice(slice, node).map(Form::Slice),
            _ => return self,
        };
        Self::Read(Box::new(Read { name, form }))
    }

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
            Item::Read(read) => read.name.clone(),
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
