//! EndpointSlice: some of a service's addresses, with their state.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::defaults;
use crate::kind::{Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::{Check, IMMUTABLE};
use serde_json::Value;

/// discovery/v1 EndpointSlice.
pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    types: super::types::<EndpointSlice>,
    generation: true,
    default,
    validate,
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::text("AddressType", "Family of the addresses.", |object, _| object.str_at(&["addressType"]).into()),
        cells::text("Ports", "Ports, the first three.", |object, _| ports(object).into()),
        cells::text("Endpoints", "Addresses, the first three.", |object, _| endpoints(object).into()),
        cells::AGE,
    ],
};

fn default(object: &mut Object) {
    for port in defaults::items(&mut object.0, "ports") {
        port.entry("name").or_insert_with(|| "".into());
        defaults::set(port, "protocol", "TCP");
    }
}

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "");
    let family = new.str_at(&["addressType"]);
    if family.is_empty() {
        check.field("addressType").required("");
    } else {
        check.field("addressType").one_of(family, &["FQDN", "IPv4", "IPv6"]);
    }
    let all: Vec<&Value> = list(new, "endpoints").collect();
    if all.len() > 1000 {
        check.field("endpoints").invalid(all.len(), "must have at most 1000 items");
    }
    for (index, endpoint) in all.into_iter().enumerate() {
        let mut endpoints = check.field("endpoints");
        let mut here = endpoints.index(index);
        let addresses = endpoint.get("addresses").and_then(Value::as_array);
        if addresses.is_none_or(Vec::is_empty) {
            here.field("addresses").required("must contain at least 1 address");
        }
        for (at, address) in addresses.into_iter().flatten().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let mut all = here.field("addresses");
            let mut one = all.index(at);
            match family {
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                    one.invalid(address, "must be a valid IPv4 address");
                }
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                    one.invalid(address, "must be a valid IPv6 address");
                }
                _ => {}
            }
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, port) in list(new, "ports").enumerate() {
        let text = |field: &str| port.get(field).and_then(Value::as_str).unwrap_or_default();
        let mut ports = check.field("ports");
        let mut here = ports.index(index);
        if !names.insert(text("name").to_owned()) {
            here.field("name").duplicate(text("name"));
        }
        here.field("protocol").one_of(text("protocol"), &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port.get("port").and_then(Value::as_i64) {
            here.field("port").port(number);
        }
    }
    if let Some(old) = old
        && old.str_at(&["addressType"]) != family
    {
        check.field("addressType").invalid(family, IMMUTABLE);
    }
}

fn list<'a>(object: &'a Object, field: &str) -> impl Iterator<Item = &'a Value> {
    object.at(&[field]).and_then(Value::as_array).into_iter().flatten()
}

fn ports(object: &Object) -> String {
    let number = |port: &Value| port.get("port").and_then(Value::as_i64);
    let all: Vec<String> =
        list(object, "ports").map(|port| number(port).map_or_else(|| "*".to_owned(), |n| n.to_string())).collect();
    cells::first_three(&all, "<unset>")
}

fn endpoints(object: &Object) -> String {
    let addresses = list(object, "endpoints").filter_map(|one| one.get("addresses")?.as_array()).flatten();
    let all: Vec<String> = addresses.filter_map(|one| one.as_str().map(str::to_owned)).collect();
    cells::first_three(&all, "<unset>")
}
