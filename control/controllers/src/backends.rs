//! The pods behind a Service and the ports they answer on: what both EndpointSlices and Endpoints are made of.

use std::sync::Arc;

use fairlead_informer::{Cache, Key, Queue};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::r#loop::Shared;
use crate::{meta, pod};

/// The label of slices and Endpoints of a headless Service.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port of a Service as one pod has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// Wakes a Service's key whenever the Service or one of its pods changes.
pub(crate) fn watch(shared: &Shared, queue: &Arc<Queue<Key>>) {
    shared.caches.services.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    shared.caches.pods.on_change({
        let (queue, services) = (queue.clone(), shared.caches.services.clone());
        move |change| {
            // A node's heartbeat on a pod without an address moves nobody's traffic.
            if change.old.iter().chain(&change.new).all(|one| pod::ip(one).is_none()) {
                return;
            }
            for one in change.old.iter().chain(&change.new) {
                wake(&queue, &services, one);
            }
        }
    });
}

fn wake(queue: &Queue<Key>, services: &Cache<Service>, one: &Pod) {
    for service in services.in_namespace(meta::namespace(&one.metadata)) {
        if selects(&service, one) {
            queue.add(meta::key(&service.metadata));
        }
    }
}

/// The pods of a Service that have not ended; `None` if the Service selects none by itself.
pub(crate) fn pods(shared: &Shared, service: &Service) -> Option<Vec<Arc<Pod>>> {
    let spec = service.spec.as_ref()?;
    if spec.selector.as_ref().is_none_or(meta::Map::is_empty) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut pods = shared.caches.pods.in_namespace(meta::namespace(&service.metadata));
    pods.retain(|one| selects(service, one) && !pod::is_finished(one));
    Some(pods)
}

fn selects(service: &Service, one: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = one.metadata.labels.as_ref();
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
    })
}

/// The Service's ports at this pod, in the Service's order. A named port that the pod does not have is left out.
pub(crate) fn ports(service: &Service, one: &Pod) -> Vec<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                port: target(port, one)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn protocol(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("TCP")
}

fn target(port: &ServicePort, one: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = one.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let mut declared = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    declared
        .find(|declared| {
            declared.name.as_ref() == Some(name)
                && protocol(declared.protocol.as_deref()) == protocol(port.protocol.as_deref())
        })
        .map(|declared| declared.container_port)
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(crate) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The pod's host name, if the Service gives its pods names.
pub(crate) fn hostname(service: &Service, one: &Pod) -> Option<String> {
    let spec = one.spec.as_ref()?;
    let named = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| named && !name.is_empty())
}

/// A reference to the pod.
pub(crate) fn reference(one: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: one.metadata.namespace.clone(),
        name: one.metadata.name.clone(),
        uid: one.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn target_ports() {
        let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": {"ports": [
            {"name": "same", "port": 80},
            {"name": "number", "port": 81, "targetPort": 8081},
            {"name": "named", "port": 82, "targetPort": "web"},
            {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
            {"name": "absent", "port": 83, "targetPort": "nowhere"},
        ]}}))
        .unwrap();
        let one: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 8082},
            {"name": "dns", "containerPort": 5353},
            {"name": "dns", "containerPort": 5354, "protocol": "UDP"},
        ]}]}}))
        .unwrap();
        let found: Vec<_> = ports(&service, &one).into_iter().map(|p| (p.name, p.port)).collect();
        let expected = [("same", 80), ("number", 8081), ("named", 8082), ("dns", 5354)];
        assert_eq!(found, expected.map(|(name, port)| (name.to_owned(), port)));
    }

    #[test]
    fn a_service_without_a_selector_has_no_pods_of_its_own() {
        let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": {"selector": {}}})).unwrap();
        assert!(!selects(&service, &Pod::default()));
    }
}
