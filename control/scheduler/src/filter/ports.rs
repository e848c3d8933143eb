//! A port of the node goes to one pod.

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    if request.ports.iter().any(|port| node.has_port(port)) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Refusal::passing(vec![reason.to_owned()]));
    }
    Ok(())
}
