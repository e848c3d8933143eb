//! What a pod may know of itself: `fieldRef` and `resourceFieldRef`, for variables and for downward volumes.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity;

/// The node's facts that fields refer to.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) ip: String,
    /// Allocatable cpu, in thousandths.
    pub(crate) cpu_milli: i128,
    /// Allocatable memory, in bytes.
    pub(crate) memory: i128,
}

/// A field's value; `None` if there is no such field. `ips` are the pod's addresses.
pub(crate) fn field(pod: &Pod, path: &str, ips: &[String], node: &NodeFacts) -> Option<String> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => node.ip.clone(),
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        _ => return None,
    })
}

/// `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as downward volumes show it: `key="value"` lines, sorted.
fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// A resource's value in units of its divisor, rounded up. A limit that is not set is the node's own.
pub(crate) fn resource(pod: &Pod, own: &str, selector: &ResourceFieldSelector, node: &NodeFacts) -> Option<String> {
    let name = selector.container_name.as_deref().unwrap_or(own);
    let spec = pod.spec.as_ref()?;
    let container: &Container =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)?;
    let (list, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let set = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return None,
    };
    let value = set.and_then(|set| set.get(resource)).and_then(quantity::milli);
    let value = match (value, list, resource) {
        (Some(value), ..) => value,
        (None, "limits", "cpu") => node.cpu_milli,
        (None, "limits", "memory") => node.memory * 1_000,
        _ => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(quantity::milli).filter(|divisor| *divisor > 0).unwrap_or(1_000);
    Some(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources_are_read() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"p","namespace":"n","uid":"u","labels":{"app":"a","tier":"x\"y"}},
                "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"250m"}}}]}}"#,
        )
        .expect("a pod in JSON");
        let node = NodeFacts { name: "n1".into(), ip: "10.0.0.1".into(), cpu_milli: 2_000, memory: 1 << 30 };
        let ips = vec!["10.244.0.2".to_owned()];
        let get = |path: &str| field(&pod, path, &ips, &node);
        assert_eq!(get("metadata.labels['app']").as_deref(), Some("a"));
        assert_eq!(get("metadata.labels['none']").as_deref(), Some(""));
        assert_eq!(get("metadata.labels").as_deref(), Some("app=\"a\"\ntier=\"x\\\"y\""));
        assert_eq!(get("status.podIP").as_deref(), Some("10.244.0.2"));
        assert_eq!(get("spec.nodeName").as_deref(), Some("n1"));
        assert_eq!(get("spec.unknown"), None);
        let ask = |resource: &str, divisor: &str| {
            let divisor =
                (!divisor.is_empty()).then(|| k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into()));
            resource_of(&pod, resource, divisor, &node)
        };
        assert_eq!(ask("limits.cpu", "").as_deref(), Some("1"));
        assert_eq!(ask("limits.cpu", "1m").as_deref(), Some("250"));
        assert_eq!(ask("limits.memory", "1Mi").as_deref(), Some("1024"));
        assert_eq!(ask("requests.cpu", "").as_deref(), Some("0"));
    }

    fn resource_of(
        pod: &Pod,
        name: &str,
        divisor: Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
        node: &NodeFacts,
    ) -> Option<String> {
        resource(pod, "c", &ResourceFieldSelector { container_name: None, divisor, resource: name.into() }, node)
    }
}
