//! A cordoned node takes no pods but those that bear its taint.

use fairlead_api::taint::bears;
use k8s_openapi::api::core::v1::Taint;

use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::request::Request;

pub(super) fn filter(request: &Request, node: &NodeInfo) -> Result<(), Refusal> {
    if !node.unschedulable {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if request.tolerations().iter().any(|toleration| bears(toleration, &taint)) {
        return Ok(());
    }
    Err(Refusal::lasting("node(s) were unschedulable"))
}
