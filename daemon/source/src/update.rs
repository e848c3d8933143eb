//! What a source yields: objects put and removed, at a revision.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

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
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the kinds' own names")]
pub enum Item {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
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
}

/// An object refused alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub object: ObjectName,
    /// Why, for the log and the acknowledgement.
    pub reason: String,
}
