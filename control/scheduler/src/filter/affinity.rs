//! `nodeSelector` and required node affinity.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    let selector = request.spec().and_then(|spec| spec.node_selector.as_ref());
    let selected = selector.into_iter().flatten().all(|(label, value)| node.labels.get(label) == Some(value));
    let required = request
        .node_affinity()
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let admitted =
        required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)));
    if selected && admitted {
        return Ok(());
    }
    Err(Refusal::lasting("node(s) didn't match Pod's node affinity/selector"))
}

/// True if the node fulfils every requirement of the term. A term without requirements matches nothing.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    if labels.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    let mut labels = labels.map(|one| holds(one, node.labels.get(&one.key).map(String::as_str)));
    let mut fields = fields.map(|one| holds(one, (one.key == "metadata.name").then_some(node.name.as_str())));
    labels.all(|holds| holds) && fields.all(|holds| holds)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|one| one == value));
    let numbers = || {
        let bound = requirement.values.as_ref()?.first()?.parse::<i64>().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(has, bound)| has > bound),
        "Lt" => numbers().is_some_and(|(has, bound)| has < bound),
        _ => false,
    }
}
