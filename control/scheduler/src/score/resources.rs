//! Nodes with much to spare, and in good proportion.

use crate::node::NodeInfo;
use crate::request::Request;

/// What is compared.
const NAMES: [&str; 2] = ["cpu", "memory"];

/// The mean of the free shares, in percent, after the pod is there.
pub(super) fn least_allocated(request: &Request, node: &NodeInfo) -> i64 {
    let free = NAMES.map(|name| {
        let has = node.allocatable.get(name);
        let used = node.estimated.get(name) + request.estimate.get(name);
        if has <= 0 { 0 } else { ((has - used).max(0) * 100) / has }
    });
    free.iter().sum::<i64>() / 2
}

/// 100 where CPU and memory are used to the same share.
pub(super) fn balanced(request: &Request, node: &NodeInfo) -> i64 {
    let shares = NAMES.map(|name| {
        let has = node.allocatable.get(name);
        let used = node.used.get(name) + request.resources.get(name);
        if has <= 0 { 1000 } else { (used * 1000 / has).clamp(0, 1000) }
    });
    // The standard deviation of two values is half of their distance.
    (1000 - (shares[0] - shares[1]).abs() / 2) / 10
}
