//! Containers: names, images, ports, environment, mounts, resources.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{list, probe, text};
use crate::quantity::Quantity;
use crate::validate::{Check, NON_NEGATIVE, names};

/// Fields of a pod that its environment may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks the containers of a pod spec. `volumes` are the names that mounts may use.
pub(super) fn all(spec: &Value, volumes: &BTreeSet<String>, check: &mut Check<'_>) {
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    if list(spec, "containers").next().is_none() {
        check.field("containers").required("");
    }
    // Upstream looks at the containers first, then at the init containers.
    for field in ["containers", "initContainers"] {
        for (index, container) in list(spec, field).enumerate() {
            let mut at = check.field(field);
            let mut here = at.index(index);
            let name = text(container, "name");
            if name.is_empty() {
                here.field("name").required("");
            } else {
                here.field("name").named(name, names::dns_label(name));
                if !names.insert(name.to_owned()) {
                    here.field("name").duplicate(name);
                }
            }
            one(container, volumes, host_network, &mut here);
            if field == "initContainers" {
                init_only(container, &mut here);
            } else {
                container_ports(container, &mut host_ports, &mut here);
            }
            let sidecar = text(container, "restartPolicy") == "Always";
            probe::all(container, field == "containers" || sidecar, &mut here);
        }
    }
}

fn one(container: &Value, volumes: &BTreeSet<String>, host_network: bool, check: &mut Check<'_>) {
    let image = text(container, "image");
    if image.is_empty() {
        check.field("image").required("");
    } else if image.trim() != image {
        check.field("image").invalid(image, "must not have leading or trailing whitespace");
    }
    check.field("imagePullPolicy").one_of(text(container, "imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    check
        .field("terminationMessagePolicy")
        .one_of(text(container, "terminationMessagePolicy"), &["FallbackToLogsOnError", "File"]);
    ports(container, host_network, &mut check.field("ports"));
    environment(container, &mut check.field("env"));
    environment_sources(container, &mut check.field("envFrom"));
    mounts(container, volumes, &mut check.field("volumeMounts"));
    resources(container.get("resources"), &mut check.field("resources"));
}

fn init_only(container: &Value, check: &mut Check<'_>) {
    let policy = text(container, "restartPolicy");
    if !policy.is_empty() {
        check.field("restartPolicy").one_of(policy, &["Always"]);
    }
    if policy == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(field).is_some() {
            check.field(field).forbidden("may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn ports(container: &Value, host_network: bool, check: &mut Check<'_>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(container, "ports").enumerate() {
        let mut here = check.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            let fine = wrong.is_empty();
            here.field("name").named(name, wrong);
            if fine && !seen.insert(name) {
                here.field("name").duplicate(name);
            }
        }
        let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
        if number == 0 {
            here.field("containerPort").required("");
        } else {
            here.field("containerPort").port(number);
        }
        let host = port.get("hostPort").and_then(Value::as_i64).unwrap_or(0);
        if host != 0 {
            here.field("hostPort").port(host);
            if host_network && host != number {
                here.field("hostPort").invalid(host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        here.field("protocol").one_of(text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// No two containers of a pod may ask for the same port of the host.
fn container_ports(container: &Value, taken: &mut BTreeSet<String>, check: &mut Check<'_>) {
    for (index, port) in list(container, "ports").enumerate() {
        let host = port.get("hostPort").and_then(Value::as_i64).unwrap_or(0);
        let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
        if host != 0 && !taken.insert(key.clone()) {
            check.field("ports").index(index).field("hostPort").duplicate(key);
        }
    }
}

fn environment(container: &Value, check: &mut Check<'_>) {
    for (index, variable) in list(container, "env").enumerate() {
        let mut here = check.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            here.field("name").required("");
        } else {
            here.field("name").named(name, names::env_name(name));
        }
        let Some(source) = variable.get("valueFrom").and_then(Value::as_object) else { continue };
        let mut here = here.field("valueFrom");
        if !text(variable, "value").is_empty() {
            here.invalid("", "may not be specified when `value` is not empty");
        }
        match source.len() {
            0 => here.invalid(
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            1 => env_source(source, &mut here),
            _ => here.invalid("", "may not have more than one field specified at a time"),
        }
    }
}

fn env_source(source: &Map<String, Value>, check: &mut Check<'_>) {
    if let Some(field) = source.get("fieldRef") {
        let path = text(field, "fieldPath");
        let mut reference = check.field("fieldRef");
        let mut here = reference.field("fieldPath");
        match subscript(path) {
            _ if path.is_empty() => here.required(""),
            Some(("metadata.labels" | "metadata.annotations", _)) => {}
            _ if ENV_FIELDS.contains(&path) => {}
            _ if path.split('.').next().is_some_and(|root| ["metadata", "spec", "status"].contains(&root)) => {
                here.one_of(path, &ENV_FIELDS);
            }
            _ => here.invalid(path, &format!("error converting fieldPath: field label not supported: {path}")),
        }
    }
    if let Some(resource) = source.get("resourceFieldRef")
        && text(resource, "resource").is_empty()
    {
        check.field("resourceFieldRef").field("resource").required("");
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = source.get(name) else { continue };
        let key = text(reference, "key");
        if key.is_empty() {
            check.field(name).field("key").required("");
        } else {
            check.field(name).field("key").named(key, names::config_key(key));
        }
    }
}

/// `metadata.labels['x']` taken apart.
pub(super) fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, rest) = path.split_once("['")?;
    Some((field, rest.strip_suffix("']")?))
}

fn environment_sources(container: &Value, check: &mut Check<'_>) {
    for (index, source) in list(container, "envFrom").enumerate() {
        let mut here = check.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            here.field("prefix").named(prefix, names::env_name(prefix));
        }
        let given: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|name| source.get(name).is_some()).collect();
        match given[..] {
            [] => here.invalid("", "must specify one of: `configMapRef` or `secretRef`"),
            [name] if text(&source[name], "name").is_empty() => here.field(name).field("name").required(""),
            [_] => {}
            _ => here.invalid("", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &Value, volumes: &BTreeSet<String>, check: &mut Check<'_>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").enumerate() {
        let mut here = check.index(index);
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            here.field("name").required("");
        } else if !volumes.contains(name) {
            here.field("name").not_found(name);
        }
        if path.is_empty() {
            here.field("mountPath").required("");
        } else if !paths.insert(path) {
            here.field("mountPath").invalid(path, "must be unique");
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            here.field("subPath").invalid(sub, "must be a relative path");
        } else if sub.split('/').any(|step| step == "..") {
            here.field("subPath").invalid(sub, "must not contain '..'");
        }
    }
}

fn resources(resources: Option<&Value>, check: &mut Check<'_>) {
    let amounts = |field: &str| -> BTreeMap<&String, Quantity> {
        let map = resources.and_then(|resources| resources.get(field)?.as_object());
        map.into_iter().flatten().filter_map(|(name, value)| Some((name, Quantity::from_json(value).ok()?))).collect()
    };
    let (limits, requests) = (amounts("limits"), amounts("requests"));
    for (field, list) in [("limits", &limits), ("requests", &requests)] {
        for (name, amount) in list {
            let mut at = check.field(field);
            let mut here = at.key(name);
            here.named(name, resource_name(name));
            if amount.is_negative() {
                here.invalid(amount.to_string(), NON_NEGATIVE);
            }
            if !amount.is_whole() && !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                here.invalid(amount.to_string(), "must be an integer");
            }
        }
    }
    for (name, request) in &requests {
        let Some(limit) = limits.get(name) else { continue };
        let extended = name.contains('/') || name.starts_with("hugepages-");
        if extended && request != limit {
            check.field("requests").invalid(request.to_string(), &format!("must be equal to {name} limit of {limit}"));
        } else if request > limit {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            check.field("requests").invalid(request.to_string(), &why);
        }
    }
}

fn resource_name(name: &str) -> Vec<String> {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() || name.contains('/') || name.starts_with("hugepages-") {
        return wrong;
    }
    match name {
        "cpu" | "memory" | "ephemeral-storage" => Vec::new(),
        _ => vec!["must be a standard resource for containers".to_owned()],
    }
}
