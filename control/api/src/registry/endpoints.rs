//! Endpoints: the older form of a service's addresses.

use k8s_openapi::api::core::v1::Endpoints;

use crate::defaults;
use crate::kind::{Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::{Check, names};
use serde_json::Value;

/// core/v1 Endpoints.
pub static ENDPOINTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    types: super::types::<Endpoints>,
    generation: false,
    default,
    validate,
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::text("Endpoints", "Addresses and ports, the first three.", |object, _| endpoints(object).into()),
        cells::AGE,
    ],
};

fn default(object: &mut Object) {
    for subset in defaults::items(&mut object.0, "subsets") {
        for port in defaults::items(subset, "ports") {
            defaults::set(port, "protocol", "TCP");
        }
    }
}

fn validate(new: &Object, _old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "");
    for (index, subset) in list(new.at(&["subsets"])).enumerate() {
        let mut subsets = check.field("subsets");
        let mut here = subsets.index(index);
        let addresses = |field: &str| list(subset.get(field)).count();
        if addresses("addresses") + addresses("notReadyAddresses") == 0 {
            here.required("must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (at, address) in list(subset.get(field)).enumerate() {
                let ip = address.get("ip").and_then(Value::as_str).unwrap_or_default();
                here.field(field).index(at).field("ip").address(ip);
            }
        }
        let ports = list(subset.get("ports")).count();
        for (at, port) in list(subset.get("ports")).enumerate() {
            let mut all = here.field("ports");
            let mut one = all.index(at);
            let text = |field: &str| port.get(field).and_then(Value::as_str).unwrap_or_default();
            match text("name") {
                "" if ports > 1 => one.field("name").required(""),
                "" => {}
                name => one.field("name").named(name, names::dns_label(name)),
            }
            one.field("port").port(port.get("port").and_then(Value::as_i64).unwrap_or(0));
            one.field("protocol").one_of(text("protocol"), &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn endpoints(object: &Object) -> String {
    let mut all = Vec::new();
    for subset in list(object.at(&["subsets"])) {
        let addresses = || list(subset.get("addresses")).filter_map(|one| one.get("ip")?.as_str());
        let mut ports = list(subset.get("ports")).filter_map(|one| one.get("port")?.as_i64()).peekable();
        if ports.peek().is_none() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(
                addresses().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
            );
        }
    }
    cells::first_three(&all, "<none>")
}
