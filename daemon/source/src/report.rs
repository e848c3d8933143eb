//! What a node tells the control plane: typed reports, their outcomes, and the line they go over.

use async_trait::async_trait;
use fairlead_proto::push::v1;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde::Serialize;

/// One thing observed.
#[derive(Clone, Debug)]
pub enum Report {
    /// Create the Node object, or refresh the labels, capacity and addresses the node owns.
    RegisterNode(Box<Node>),
    /// Replace the Node's status.
    NodeStatus(Box<Node>),
    /// Take or renew the node's Lease in `kube-node-lease`.
    Lease(Box<Lease>),
    /// Replace a pod's status, if the pod still has the UID in the metadata.
    PodStatus(Box<Pod>),
    /// Record an event.
    Event(Box<Event>),
    /// The pod's last process has ended and its resources are free: remove the object.
    PodGone {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Of this very pod, not of a namesake.
        uid: String,
    },
}

/// What became of one report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// HTTP status code the API would have answered with: 200, 404, 409 …
    pub code: u16,
    /// Why, where the code is not 200.
    pub message: String,
    /// The object as stored, for `RegisterNode`.
    pub node: Option<Box<Node>>,
}

impl Outcome {
    /// Done.
    pub fn is_ok(&self) -> bool {
        self.code == 200
    }

    /// The object is not there (any more): saying it again cannot help.
    pub fn is_gone(&self) -> bool {
        self.code == 404
    }

    /// Somebody else was first, or the object is another of the same name.
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    /// Worth saying again later: the trouble was the server's, not the report's.
    pub fn is_transient(&self) -> bool {
        self.code == 429 || self.code >= 500
    }
}

/// Why reports were not taken. None of them has an outcome then, but some may have taken effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The control plane cannot be reached; it will be again.
    #[error("the control plane did not take the reports (it may be restarting): {reason}")]
    Unreachable {
        /// What the connection said.
        reason: String,
    },
    /// The control plane does not accept this node.
    #[error("the control plane refuses this node (does its client certificate name it?): {reason}")]
    Refused {
        /// What the control plane said.
        reason: String,
    },
    /// The two ends disagree about the protocol.
    #[error("the control plane's answer does not fit the reports: {reason}")]
    Protocol {
        /// What does not fit.
        reason: String,
    },
}

/// When to say a failed report again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// With back-off: it passes.
    Later,
    /// Only after a change by a human; trying seldom does no harm.
    Seldom,
}

impl ReportError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            ReportError::Unreachable { .. } => Retry::Later,
            ReportError::Refused { .. } | ReportError::Protocol { .. } => Retry::Seldom,
        }
    }
}

/// The line for reports. Cheap to share as `Arc<dyn Reporter>`.
#[async_trait]
pub trait Reporter: Send + Sync + 'static {
    /// Makes the reports, in order, and returns as many outcomes. Does not retry.
    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Outcome>, ReportError>;
}

/// A report for the wire. Fails only on a type that has no JSON form, which is a bug.
pub fn to_wire(report: &Report) -> Result<v1::Report, ReportError> {
    use v1::report::Body;
    let body = match report {
        Report::RegisterNode(node) => Body::RegisterNode(json(node)?),
        Report::NodeStatus(node) => Body::NodeStatus(json(node)?),
        Report::Lease(lease) => Body::Lease(json(lease)?),
        Report::PodStatus(pod) => Body::PodStatus(json(pod)?),
        Report::Event(event) => Body::Event(json(event)?),
        Report::PodGone { namespace, name, uid } => {
            Body::PodGone(v1::PodGone { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() })
        }
    };
    Ok(v1::Report { body: Some(body) })
}

/// An outcome from the wire. A Node that cannot be read is left out: the report itself was taken.
pub fn from_wire(outcome: v1::Outcome) -> Outcome {
    let node = if outcome.json.is_empty() { None } else { serde_json::from_slice(&outcome.json).ok() };
    Outcome { code: u16::try_from(outcome.code).unwrap_or(500), message: outcome.message, node }
}

fn json<T: Serialize>(object: &T) -> Result<bytes::Bytes, ReportError> {
    match serde_json::to_vec(object) {
        Ok(json) => Ok(json.into()),
        Err(error) => Err(ReportError::Protocol { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_travels_as_the_apis_json() {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        let Some(v1::report::Body::RegisterNode(json)) =
            to_wire(&Report::RegisterNode(Box::new(node))).expect("a Node has a JSON form").body
        else {
            panic!("another kind of report");
        };
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["kind"], "Node");
        assert_eq!(value["metadata"]["name"], "n1");
    }

    #[test]
    fn outcomes_are_classified_by_their_code() {
        let of = |code| from_wire(v1::Outcome { code, message: String::new(), json: bytes::Bytes::new() });
        assert!(of(200).is_ok() && !of(201).is_ok());
        assert!(of(404).is_gone() && of(409).is_conflict());
        assert!(of(503).is_transient() && of(429).is_transient() && !of(403).is_transient());
        assert!(of(70_000).is_transient(), "a code out of range counts as the server's trouble");
    }
}
