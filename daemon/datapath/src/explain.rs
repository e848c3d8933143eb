//! What would happen to a packet, and why.

use std::net::{IpAddr, SocketAddr};

use fairlead_source::Protocol;
use serde::Serialize;

use crate::{Datapath, DatapathError};

/// A question: where would a packet of this description go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// Who sends it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// Over what.
    pub protocol: Protocol,
    /// Where it comes from.
    pub from: Origin,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From outside, by the first uplink.
    Uplink,
    /// A pod of this node, by its address.
    Pod(IpAddr),
    /// A process of the node itself.
    Host,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was looked at, in this order.
    pub steps: Vec<Step>,
    /// Endpoints of the service that was found.
    pub candidates: Vec<Candidate>,
    /// The endpoint chosen.
    pub chosen: Option<SocketAddr>,
    /// What happens.
    pub verdict: String,
    /// Why.
    pub reason: String,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is.
    pub title: String,
    /// What came out.
    pub detail: String,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its address and port.
    pub address: SocketAddr,
    /// active, draining or gone.
    pub state: String,
    /// Runs on this node.
    pub local: bool,
    /// Share of new connections relative to others in the set; 0: not in it.
    pub weight: u16,
    /// It is the one.
    pub chosen: bool,
}

impl Datapath {
    /// Says where a packet would go, without sending one or leaving a trace in the tables.
    pub fn explain(&mut self, request: &ExplainRequest) -> Result<Explanation, DatapathError> {
        Err(DatapathError::Unexplained(format!("{request:?}")))
    }
}
