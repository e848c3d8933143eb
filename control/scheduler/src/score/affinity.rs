//! Nodes that the pod would rather have.

use crate::filter::term_matches;
use crate::node::NodeInfo;
use crate::request::Request;

/// The weights of the preferred terms that the node fulfils.
pub(super) fn preferred(request: &Request, node: &NodeInfo) -> i64 {
    let terms = request
        .node_affinity()
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref());
    let fulfilled = terms.unwrap_or_default().iter().filter(|term| term_matches(&term.preference, node));
    fulfilled.map(|term| i64::from(term.weight)).sum()
}
