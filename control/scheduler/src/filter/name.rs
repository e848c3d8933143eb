//! `spec.nodeName` names the node.

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    let wanted = request.spec().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if wanted.is_empty() || wanted == node.name {
        return Ok(());
    }
    Err(Refusal::lasting("node(s) didn't match the requested node name"))
}
