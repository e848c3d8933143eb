//! Service: one address for the pods that a selector finds.

mod validate;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Map, Value, json};

use crate::defaults;

use crate::kind::{Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::pod_template::{list, text};
use crate::table::cells;

/// core/v1 Service.
pub static SERVICE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Label1035,
    subresources: &[Subresource::Status],
    connects: &[],
    schema: "io.k8s.api.core.v1.Service",
    types: super::types::<Service>,
    generation: false,
    default,
    validate: validate::validate,
    selectable: &[("spec.clusterIP", &["spec", "clusterIP"]), ("spec.type", &["spec", "type"])],
    columns: &[
        cells::NAME,
        cells::text("Type", "How the service is reached.", |object, _| object.str_at(&["spec", "type"]).into()),
        cells::text("Cluster-IP", "Address inside the cluster.", |object, _| {
            cells::text_or(object, &["spec", "clusterIP"], "<none>")
        }),
        cells::text("External-IP", "Address from outside.", |object, _| external_ip(object).into()),
        cells::text("Port(s)", "Ports, with the nodes' ports.", |object, _| ports(object).into()),
        cells::AGE,
        cells::wide("Selector", "Which pods answer.", |object, _| selector(object).into()),
    ],
};

fn default(object: &mut Object) {
    let spec = object.section_mut("spec");
    defaults::set(spec, "sessionAffinity", "None");
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("ClientIP") => {
            let client = defaults::section(defaults::section(spec, "sessionAffinityConfig"), "clientIP");
            defaults::set(client, "timeoutSeconds", 10_800);
        }
        _ => {
            spec.remove("sessionAffinityConfig");
        }
    }
    defaults::set(spec, "type", "ClusterIP");
    for port in defaults::items(spec, "ports") {
        defaults::set(port, "protocol", "TCP");
        let unset = defaults::is_unset(port, "targetPort") || port.get("targetPort") == Some(&0.into());
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let service_type = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let exposed = matches!(&service_type[..], "NodePort" | "LoadBalancer") || (service_type == "ClusterIP" && external);
    if exposed {
        defaults::set(spec, "externalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        defaults::set(spec, "allocateLoadBalancerNodePorts", true);
    }
    if matches!(&service_type[..], "ClusterIP" | "NodePort" | "LoadBalancer") {
        defaults::set(spec, "internalTrafficPolicy", "Cluster");
        defaults::set(spec, "ipFamilies", json!(["IPv4"]));
        defaults::set(spec, "ipFamilyPolicy", "SingleStack");
    }
    defaults::set(object.section_mut("status"), "loadBalancer", Map::new());
}

fn external_ip(object: &Object) -> String {
    let spec = object.at(&["spec"]).unwrap_or(&Value::Null);
    let mut ips: Vec<&str> = Vec::new();
    match text(spec, "type") {
        "ExternalName" => return text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let balancer = object.at(&["status", "loadBalancer"]).unwrap_or(&Value::Null);
            ips.extend(list(balancer, "ingress").map(|one| match text(one, "ip") {
                "" => text(one, "hostname"),
                ip => ip,
            }));
            ips.extend(list(spec, "externalIPs").filter_map(Value::as_str));
            if ips.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => ips.extend(list(spec, "externalIPs").filter_map(Value::as_str)),
    }
    if ips.is_empty() { "<none>".to_owned() } else { ips.join(",") }
}

fn ports(object: &Object) -> String {
    let spec = object.at(&["spec"]).unwrap_or(&Value::Null);
    let all: Vec<String> = list(spec, "ports")
        .map(|port| {
            let number = |field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
            match number("nodePort") {
                0 => format!("{}/{}", number("port"), text(port, "protocol")),
                node => format!("{}:{node}/{}", number("port"), text(port, "protocol")),
            }
        })
        .collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn selector(object: &Object) -> String {
    let map = object.at(&["spec", "selector"]).and_then(Value::as_object);
    let all: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

#[cfg(test)]
mod tests;
