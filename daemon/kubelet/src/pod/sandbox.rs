//! What the runtime is told about a pod's sandbox. Pure.

use std::collections::HashMap;

use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{PodName, labels, security};
use crate::config::{Config, OWNER_LABEL};
use crate::resolv;

/// The sandbox's configuration.
pub(crate) fn config(
    pod: &Pod,
    attempt: u32,
    config: &Config,
    dns: wire::DnsConfig,
    cgroup_parent: String,
) -> wire::PodSandboxConfig {
    let name = PodName::of(pod);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host_network = spec.host_network == Some(true);
    let mut labels = labels_of(&name, config);
    labels.extend(pod.metadata.labels.clone().unwrap_or_default());
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
    wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: name.name.clone(),
            uid: name.uid.clone(),
            namespace: name.namespace.clone(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { resolv::hostname(pod) },
        log_directory: config.pod_log_dir(&name.namespace, &name.name, &name.uid).display().to_string(),
        dns_config: Some(dns),
        port_mappings: if host_network { Vec::new() } else { ports(spec) },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::sandbox(spec)),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

/// The labels that find a pod's sandboxes and containers again.
pub(crate) fn labels_of(name: &PodName, config: &Config) -> HashMap<String, String> {
    [
        (labels::POD_NAME, name.name.clone()),
        (labels::POD_NAMESPACE, name.namespace.clone()),
        (labels::POD_UID, name.uid.clone()),
        (OWNER_LABEL, config.owner()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn ports(spec: &PodSpec) -> Vec<wire::PortMapping> {
    spec.containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| wire::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => wire::Protocol::Udp,
                Some("SCTP") => wire::Protocol::Sctp,
                _ => wire::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
