//! A pod's `hostPort`: a Service of one endpoint that answers on the node's own addresses.
//!
//! Without a `hostIP` it is a NodePort in all but its range, so it follows the node's addresses as they change. Two pods
//! that want one port (the scheduler keeps them apart, but `nodeName` goes past it) are refused by name, like Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};

/// What all pods of the node ask for, by name.
pub(super) fn services<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<ServiceName, Arc<Service>> {
    pods.flat_map(of_pod).map(|service| (service.name.clone(), Arc::new(service))).collect()
}

fn of_pod(pod: &Pod) -> Vec<Service> {
    let addresses = addresses(pod);
    let Some(spec) = &pod.spec else { return Vec::new() };
    // A pod of the host's own network has its ports already; one that has ended has none.
    if addresses.is_empty() || spec.host_network == Some(true) || ended(pod) {
        return Vec::new();
    }
    let mut by_address: BTreeMap<Option<IpAddr>, Vec<Port>> = BTreeMap::new();
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    for wish in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()) {
        if let Some((host, port)) = port(wish, &addresses) {
            by_address.entry(host).or_default().push(port);
        }
    }
    let services = by_address.into_iter().map(|(host, ports)| Service {
        name: name(pod, host),
        load_balancer_ips: host.into_iter().collect(),
        ports,
        ..Service::default()
    });
    services.collect()
}

/// `hostport:POD` cannot be a Service's name; the address tells a pod's several apart.
fn name(pod: &Pod, host: Option<IpAddr>) -> ServiceName {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let name = host.map_or_else(|| format!("hostport:{pod_name}"), |host| format!("hostport:{pod_name}@{host}"));
    ServiceName { namespace: pod.metadata.namespace.clone().unwrap_or_default(), name }
}

/// `None` where there is no `hostPort`, or what it says makes no sense (the API server lets nothing such through).
fn port(wish: &ContainerPort, addresses: &[IpAddr]) -> Option<(Option<IpAddr>, Port)> {
    let number = |value: i32| u16::try_from(value).ok().filter(|port| *port != 0);
    let host_port = number(wish.host_port?)?;
    let target = number(wish.container_port)?;
    let protocol = match wish.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let host = match wish.host_ip.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse::<IpAddr>().ok()?).filter(|address| !address.is_unspecified()),
    };
    let fits = addresses.iter().filter(|address| host.is_none_or(|host| host.is_ipv4() == address.is_ipv4()));
    let endpoints = fits.map(|address| Endpoint::local(SocketAddr::new(*address, target))).collect();
    let name = format!("{host_port}-{}", wish.protocol.as_deref().unwrap_or("TCP"));
    Some((host, Port { name, protocol, port: host_port, node_port: host.is_none().then_some(host_port), endpoints }))
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ports: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "default", "name": "web" },
            "spec": { "containers": [{ "name": "c", "ports": ports }] },
            "status": { "podIP": "10.244.0.9", "podIPs": [{ "ip": "10.244.0.9" }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_host_port_is_a_node_port_of_one_endpoint() {
        let pod = pod(serde_json::json!([{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81 }]));
        let services: Vec<_> = services([&pod].into_iter()).into_values().collect();
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].name.to_string(), "default/hostport:web");
        let port = &services[0].ports[0];
        assert_eq!((port.port, port.node_port, services[0].ports.len()), (8080, Some(8080), 1));
        assert_eq!(port.endpoints, [Endpoint::local("10.244.0.9:80".parse().unwrap())]);
    }

    #[test]
    fn a_host_ip_gets_a_service_of_its_own() {
        let pod = pod(serde_json::json!([
            { "containerPort": 53, "hostPort": 53, "hostIP": "192.0.2.1", "protocol": "UDP" },
            { "containerPort": 53, "hostPort": 53, "hostIP": "0.0.0.0" },
        ]));
        let services = services([&pod].into_iter());
        let names: Vec<_> = services.keys().map(|name| name.name.as_str()).collect();
        assert_eq!(names, ["hostport:web", "hostport:web@192.0.2.1"]);
        let special = &services.values().nth(1).unwrap();
        assert_eq!(special.load_balancer_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((special.ports[0].node_port, special.ports[0].protocol), (None, Protocol::Udp));
    }

    #[test]
    fn pods_without_address_or_on_the_hosts_network_have_none() {
        let ports = serde_json::json!([{ "containerPort": 80, "hostPort": 80 }]);
        let mut waiting = pod(ports.clone());
        waiting.status = None;
        let mut host = pod(ports.clone());
        host.spec.as_mut().unwrap().host_network = Some(true);
        let mut done = pod(ports);
        done.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        assert!(services([&waiting, &host, &done].into_iter()).is_empty());
    }
}
