//! Taints keep pods away that do not bear them.

use fairlead_api::taint::bears;

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    let mut forbidding = node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    if forbidding.all(|taint| request.tolerations().iter().any(|toleration| bears(toleration, taint))) {
        return Ok(());
    }
    Err(Refusal::lasting("node(s) had untolerated taint(s)"))
}
