//! What pods request must not exceed what the node has to give.

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    let mut reasons = Vec::new();
    let mut hopeless = false;
    let most = node.allocatable.get("pods");
    if node.pods + 1 > most {
        reasons.push("Too many pods".to_owned());
        hopeless |= most < 1;
    }
    for (name, amount) in request.resources.iter().filter(|(_, amount)| *amount > 0) {
        let has = node.allocatable.get(name);
        if amount > has - node.used.get(name) {
            reasons.push(format!("Insufficient {name}"));
            hopeless |= amount > has;
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal { reasons, may_pass: !hopeless })
}
