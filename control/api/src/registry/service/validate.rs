//! What upstream refuses in a Service. Which addresses and ports are free is the allocator's business, not this one's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::object::Object;
use crate::pod_template::{list, text};
use crate::status::FieldError;
use crate::validate::{Check, names};

pub(super) fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let nothing = Value::Object(Map::new());
    let spec = new.at(&["spec"]).unwrap_or(&nothing);
    let mut check = Check::new(errors, "spec");
    let (service_type, cluster_ip) = (text(spec, "type"), text(spec, "clusterIP"));
    let headless = cluster_ip == "None";
    if service_type != "ExternalName" && !headless && list(spec, "ports").next().is_none() {
        check.field("ports").required("");
    }
    match service_type {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {service_type} services");
            check.field("clusterIPs").index(0).invalid("None", &why);
        }
        "ExternalName" => {
            if !cluster_ip.is_empty() {
                check.field("clusterIPs").forbidden("may not be set for ExternalName services");
            }
            let name = text(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                check.field("externalName").required("");
            } else {
                check.field("externalName").named(name, names::dns_subdomain(name));
            }
        }
        _ => {}
    }
    ports(spec, service_type, &mut check.field("ports"));
    check.field("selector").labels(spec.get("selector"));
    session_affinity(spec, &mut check);
    check.field("type").one_of(service_type, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    addresses(spec, &mut check);
    policies(spec, service_type, &mut check);
    if let Some(old) = old {
        update(spec, old, &mut check);
    }
}

fn ports(spec: &Value, service_type: &str, check: &mut Check<'_>) {
    let count = list(spec, "ports").count();
    let (mut by_name, mut by_port, mut by_node) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in list(spec, "ports").enumerate() {
        let mut here = check.index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if count > 1 {
                here.field("name").required("");
            }
        } else {
            here.field("name").named(name, names::dns_label(name));
            if !by_name.insert(name) {
                here.field("name").duplicate(name);
            }
        }
        let number = |field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
        here.field("port").port(number("port"));
        let protocol = text(port, "protocol");
        if protocol.is_empty() {
            here.field("protocol").required("");
        } else {
            here.field("protocol").one_of(protocol, &["SCTP", "TCP", "UDP"]);
        }
        match port.get("targetPort") {
            Some(Value::String(target)) => here.field("targetPort").named(target, names::port_name(target)),
            Some(target) => here.field("targetPort").port(target.as_i64().unwrap_or(0)),
            None => {}
        }
        let node = number("nodePort");
        if node != 0 {
            match service_type {
                "NodePort" | "LoadBalancer" => here.field("nodePort").port(node),
                other => {
                    here.field("nodePort").forbidden(&format!("may not be used when `type` is '{other}'"));
                }
            }
            if !by_node.insert((protocol, node)) {
                here.field("nodePort").duplicate(node);
            }
        }
        if !by_port.insert((protocol, number("port"))) {
            here.duplicate(json!({"protocol": protocol, "port": number("port")}));
        }
    }
}

fn session_affinity(spec: &Value, check: &mut Check<'_>) {
    let affinity = text(spec, "sessionAffinity");
    if affinity.is_empty() {
        check.field("sessionAffinity").required("");
    } else {
        check.field("sessionAffinity").one_of(affinity, &["ClientIP", "None"]);
    }
    let seconds = spec.get("sessionAffinityConfig").and_then(|config| config.get("clientIP")?.get("timeoutSeconds"));
    if let Some(seconds) = seconds.and_then(Value::as_i64)
        && !(1..=86_400).contains(&seconds)
    {
        let mut config = check.field("sessionAffinityConfig");
        let why = "must be greater than 0 and less than 86400";
        config.field("clientIP").field("timeoutSeconds").invalid(seconds, why);
    }
}

fn addresses(spec: &Value, check: &mut Check<'_>) {
    let cluster_ip = text(spec, "clusterIP");
    let first = list(spec, "clusterIPs").next().and_then(Value::as_str);
    if let Some(first) = first
        && !cluster_ip.is_empty()
        && first != cluster_ip
    {
        check.field("clusterIPs").invalid(spec["clusterIPs"].clone(), "first value must match `clusterIP`");
    }
    if !cluster_ip.is_empty() && cluster_ip != "None" {
        check.field("clusterIPs").index(0).address(cluster_ip);
    }
    for (index, ip) in list(spec, "externalIPs").enumerate() {
        check.field("externalIPs").index(index).address(ip.as_str().unwrap_or_default());
    }
    for (index, family) in list(spec, "ipFamilies").enumerate() {
        let mut families = check.field("ipFamilies");
        families.index(index).one_of(family.as_str().unwrap_or_default(), &["IPv4", "IPv6"]);
    }
    let policy = text(spec, "ipFamilyPolicy");
    if !policy.is_empty() {
        check.field("ipFamilyPolicy").one_of(policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
}

fn policies(spec: &Value, service_type: &str, check: &mut Check<'_>) {
    let external_ips = list(spec, "externalIPs").next().is_some();
    let exposed = matches!(service_type, "NodePort" | "LoadBalancer") || (service_type == "ClusterIP" && external_ips);
    match (text(spec, "externalTrafficPolicy"), exposed) {
        ("", true) => check.field("externalTrafficPolicy").required(""),
        ("", false) => {}
        (policy, true) => check.field("externalTrafficPolicy").one_of(policy, &["Cluster", "Local"]),
        (policy, false) => {
            check.field("externalTrafficPolicy").invalid(policy, "may only be set for externally-accessible services")
        }
    }
    let internal = text(spec, "internalTrafficPolicy");
    if !internal.is_empty() {
        check.field("internalTrafficPolicy").one_of(internal, &["Cluster", "Local"]);
    }
    let number = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
    if number != 0 && !(service_type == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local") {
        check
            .field("healthCheckNodePort")
            .invalid(number, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    }
}

/// The address is there to stay, except for services that had none or give theirs up with their type.
fn update(spec: &Value, old: &Object, check: &mut Check<'_>) {
    let (new_type, new_ip) = (text(spec, "type"), text(spec, "clusterIP"));
    let (old_type, old_ip) = (old.str_at(&["spec", "type"]), old.str_at(&["spec", "clusterIP"]));
    if old_type == "ExternalName" || new_type == "ExternalName" || old_ip.is_empty() || new_ip == old_ip {
        return;
    }
    check.field("clusterIPs").index(0).invalid(json!([new_ip]), "may not change once set");
}
