//! Pods of one owner are spread over the nodes.

use crate::node::NodeInfo;
use crate::request::Request;

/// Pods of the same owner on the node.
pub(super) fn siblings(request: &Request, node: &NodeInfo) -> i64 {
    request.owner.as_deref().map_or(0, |owner| i64::from(node.owned_by(owner)))
}
