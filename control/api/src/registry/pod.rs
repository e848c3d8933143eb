//! Pod: containers that live and die together on one node.

mod columns;
mod update;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

use crate::defaults;

use crate::kind::{Connect, Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::pod_template::{self, list};
use crate::quantity::Quantity;
use crate::status::FieldError;
use crate::validate::Check;

/// core/v1 Pod.
pub static POD: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status, Subresource::Binding],
    connects: &[
        Connect { name: "attach", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Connect { name: "exec", kind: "PodExecOptions", verbs: &["create", "get"] },
        Connect { name: "log", kind: "Pod", verbs: &["get"] },
        Connect { name: "portforward", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
    ],
    schema: "io.k8s.api.core.v1.Pod",
    types: super::types::<Pod>,
    generation: true,
    default,
    validate,
    selectable: &[
        ("spec.nodeName", &["spec", "nodeName"]),
        ("spec.restartPolicy", &["spec", "restartPolicy"]),
        ("spec.schedulerName", &["spec", "schedulerName"]),
        ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
        ("spec.hostNetwork", &["spec", "hostNetwork"]),
        ("status.phase", &["status", "phase"]),
        ("status.podIP", &["status", "podIP"]),
        ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    ],
    columns: &columns::COLUMNS,
};

fn default(object: &mut Object) {
    let spec = object.section_mut("spec");
    pod_template::defaults::spec(spec);
    pod_template::defaults::pod_only(spec);
    let class = qos_class(object);
    let status = object.section_mut("status");
    defaults::set(status, "phase", "Pending");
    defaults::set(status, "qosClass", class);
}

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let nothing = Value::Object(Map::new());
    let spec = new.at(&["spec"]).unwrap_or(&nothing);
    let mut check = Check::new(errors, "spec");
    pod_template::validate::spec(spec, pod_template::validate::Restart::Any, &mut check);
    if let Some(old) = old {
        update::validate(spec, old.at(&["spec"]).unwrap_or(&nothing), &mut check);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`: who gives way when a node runs out.
pub fn qos_class(pod: &Object) -> &'static str {
    let nothing = Value::Null;
    let spec = pod.at(&["spec"]).unwrap_or(&nothing);
    let mut any = false;
    let mut guaranteed = true;
    for container in ["initContainers", "containers"].into_iter().flat_map(|field| list(spec, field)) {
        let amount = |kind: &str, resource: &str| {
            let value = container.get("resources")?.get(kind)?.get(resource)?;
            Quantity::from_json(value).ok().filter(|amount| !amount.is_zero())
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
