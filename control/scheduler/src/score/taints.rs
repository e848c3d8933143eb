//! Nodes that would rather not have the pod.

use fairlead_api::taint::bears;

use crate::node::NodeInfo;
use crate::request::Request;

/// `PreferNoSchedule` taints that the pod does not bear.
pub(super) fn untolerated(request: &Request, node: &NodeInfo) -> i64 {
    let taints = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let counted = taints.filter(|taint| !request.tolerations().iter().any(|toleration| bears(toleration, taint)));
    i64::try_from(counted.count()).unwrap_or(i64::MAX)
}
