//! Node: a machine that runs pods.

use k8s_openapi::api::core::v1::Node;

use crate::defaults;
use crate::kind::{Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::{Check, names};
use serde_json::Value;

/// core/v1 Node.
pub static NODE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status],
    connects: &[],
    schema: "io.k8s.api.core.v1.Node",
    types: super::types::<Node>,
    generation: false,
    default,
    validate,
    selectable: &[("spec.unschedulable", &["spec", "unschedulable"])],
    columns: &[
        cells::NAME,
        cells::text("Status", "Whether the node is ready, and whether pods may come to it.", |object, _| {
            status(object).into()
        }),
        cells::text("Roles", "Roles, from the node's labels.", |object, _| roles(object).into()),
        cells::AGE,
        cells::text("Version", "Version of the node's kubelet.", |object, _| {
            object.str_at(&["status", "nodeInfo", "kubeletVersion"]).into()
        }),
        cells::wide("Internal-IP", "Address inside the cluster.", |object, _| address(object, "InternalIP").into()),
        cells::wide("External-IP", "Address from outside.", |object, _| address(object, "ExternalIP").into()),
        cells::wide("OS-Image", "Operating system.", |object, _| info(object, "osImage")),
        cells::wide("Kernel-Version", "Kernel.", |object, _| info(object, "kernelVersion")),
        cells::wide("Container-Runtime", "Container runtime.", |object, _| info(object, "containerRuntimeVersion")),
    ],
};

const ROLE: &str = "node-role.kubernetes.io/";

fn default(object: &mut Object) {
    let status = object.section_mut("status");
    if let Some(capacity) = status.get("capacity").cloned() {
        defaults::set(status, "allocatable", capacity);
    }
}

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "spec");
    let taints = new.at(&["spec", "taints"]).and_then(Value::as_array);
    let mut seen = std::collections::BTreeSet::new();
    for (index, taint) in taints.into_iter().flatten().enumerate() {
        let text = |field: &str| taint.get(field).and_then(Value::as_str).unwrap_or_default();
        let mut list = check.field("taints");
        let mut here = list.index(index);
        here.field("key").named(text("key"), names::qualified_name(text("key")));
        here.field("value").named(text("value"), names::label_value(text("value")));
        match text("effect") {
            "" => here.field("effect").required(""),
            effect => here.field("effect").one_of(effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        }
        if !seen.insert((text("key").to_owned(), text("effect").to_owned())) {
            here.duplicate(taint.clone());
        }
    }
    let Some(old) = old else { return };
    // Set once, by whoever hands out the ranges and by the cloud.
    for field in ["podCIDR", "providerID"] {
        let before = old.str_at(&["spec", field]);
        if !before.is_empty() && before != new.str_at(&["spec", field]) {
            check.field(field).forbidden("node updates may not change field except from \"\" to valid");
        }
    }
}

fn status(object: &Object) -> String {
    let conditions = object.at(&["status", "conditions"]).and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|one| one.get("type").and_then(Value::as_str) == Some("Ready"));
    let mut status = match ready.map(|one| one.get("status").and_then(Value::as_str)) {
        Some(Some("True")) => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.at(&["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(object: &Object) -> String {
    let roles: std::collections::BTreeSet<&str> = object
        .labels()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE) {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address(object: &Object, kind: &str) -> String {
    let list = object.at(&["status", "addresses"]).and_then(Value::as_array);
    let text = |one: &Value, field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = list.into_iter().flatten().find(|one| text(one, "type") == kind);
    found.map_or_else(|| "<none>".to_owned(), |one| text(one, "address"))
}

fn info(object: &Object, field: &str) -> Value {
    cells::text_or(object, &["status", "nodeInfo", field], "<unknown>")
}
