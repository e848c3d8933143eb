//! Security contexts and resources in the runtime's terms. Pure.

use k8s_cri::v1 as wire;
use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};

use super::status::{Qos, qos};
use crate::quantity;

/// Period of the cpu quota, in microseconds.
const PERIOD: i64 = 100_000;
/// Paths of /proc and /sys that containers may not look into.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths of /proc that containers may not write.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces the pod shares with the node.
pub(crate) fn namespaces(spec: &PodSpec) -> wire::NamespaceOption {
    let mode = |host: Option<bool>| {
        if host == Some(true) { wire::NamespaceMode::Node as i32 } else { wire::NamespaceMode::Pod as i32 }
    };
    let pid = if spec.host_pid == Some(true) {
        wire::NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        wire::NamespaceMode::Pod
    } else {
        wire::NamespaceMode::Container
    };
    wire::NamespaceOption {
        network: mode(spec.host_network),
        pid: pid as i32,
        ipc: mode(spec.host_ipc),
        ..Default::default()
    }
}

/// The security context of the sandbox.
pub(crate) fn sandbox(spec: &PodSpec) -> wire::LinuxSandboxSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let privileged =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| {
            container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
        });
    wire::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: pod.run_as_user.map(|value| wire::Int64Value { value }),
        run_as_group: pod.run_as_group.filter(|_| pod.run_as_user.is_some()).map(|value| wire::Int64Value { value }),
        supplemental_groups: groups(spec),
        privileged,
        seccomp: Some(profile(Some(&SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }))),
        ..Default::default()
    }
}

/// The security context of one container.
pub(crate) fn container(spec: &PodSpec, container: &Container) -> wire::LinuxContainerSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let adds_admin = capabilities.add.iter().flatten().any(|name| name == "SYS_ADMIN" || name == "CAP_SYS_ADMIN");
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    wire::LinuxContainerSecurityContext {
        capabilities: Some(wire::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(spec)),
        run_as_user: own.run_as_user.or(pod.run_as_user).map(|value| wire::Int64Value { value }),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(|value| wire::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged && !adds_admin,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: Some(profile(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()))),
        ..Default::default()
    }
}

fn groups(spec: &PodSpec) -> Vec<i64> {
    let pod = spec.security_context.as_ref();
    let mut groups: Vec<i64> = pod.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(pod.and_then(|context| context.fs_group));
    groups
}

fn profile(profile: Option<&SeccompProfile>) -> wire::SecurityProfile {
    use wire::security_profile::ProfileType;
    let (kind, path) = match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.clone())) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", path)) => (ProfileType::Localhost, path.unwrap_or_default()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    wire::SecurityProfile { profile_type: kind as i32, localhost_ref: path }
}

/// Requests and limits as the kernel takes them. `node_memory` is what the badness of Burstable pods is measured by.
pub(crate) fn resources(spec: &PodSpec, container: &Container, node_memory: i128) -> wire::LinuxContainerResources {
    let own = container.resources.clone().unwrap_or_default();
    let get = |list: &Option<std::collections::BTreeMap<String, _>>, name: &str| {
        list.as_ref().and_then(|list| list.get(name)).and_then(quantity::milli)
    };
    let cpu_limit = get(&own.limits, "cpu");
    let cpu_request = get(&own.requests, "cpu").or(cpu_limit);
    let memory_limit = get(&own.limits, "memory").map(|milli| milli / 1_000);
    let memory_request = get(&own.requests, "memory").map(|milli| milli / 1_000).or(memory_limit);
    wire::LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: cpu_limit.map_or(0, quota),
        cpu_shares: shares(cpu_request.unwrap_or(0)),
        memory_limit_in_bytes: memory_limit.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0),
        oom_score_adj: badness(qos(spec), memory_request.unwrap_or(0), node_memory),
        ..Default::default()
    }
}

/// Weight of a request, in the terms of cgroup v1: 1024 for a whole cpu, at least 2.
pub(crate) fn shares(milli: i128) -> i64 {
    i64::try_from((milli * 1_024 / 1_000).clamp(2, 262_144)).unwrap_or(2)
}

/// Microseconds per period, at least a millisecond.
pub(crate) fn quota(milli: i128) -> i64 {
    i64::try_from(milli * i128::from(PERIOD) / 1_000).unwrap_or(i64::MAX).max(1_000)
}

/// `oom_score_adj`: the less of its node a container asked for, the sooner it goes.
fn badness(class: Qos, request: i128, node_memory: i128) -> i64 {
    match class {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1_000,
        Qos::Burstable => {
            let part = if node_memory > 0 { 1_000 * request / node_memory } else { 0 };
            i64::try_from((1_000 - part).clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PodSpec {
        serde_json::from_str(json).expect("a pod spec in JSON")
    }

    #[test]
    fn resources_become_shares_quota_and_badness() {
        let spec = spec(
            r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"250m","memory":"256Mi"},
                "limits":{"cpu":"1500m","memory":"1Gi"}}}]}"#,
        );
        let resources = resources(&spec, &spec.containers[0], 1 << 30);
        assert_eq!(resources.cpu_shares, 256);
        assert_eq!(resources.cpu_quota, 150_000);
        assert_eq!(resources.memory_limit_in_bytes, 1 << 30);
        assert_eq!(resources.oom_score_adj, 750);
    }

    #[test]
    fn a_container_overrides_its_pod() {
        let spec = spec(
            r#"{"securityContext":{"runAsUser":1,"runAsGroup":2,"fsGroup":3,"seccompProfile":{"type":"RuntimeDefault"}},
                "hostPID":true,"containers":[{"name":"c","securityContext":{"runAsUser":10,"allowPrivilegeEscalation":false,
                "capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]}}}]}"#,
        );
        let context = container(&spec, &spec.containers[0]);
        assert_eq!(context.run_as_user, Some(wire::Int64Value { value: 10 }));
        assert_eq!(context.run_as_group, Some(wire::Int64Value { value: 2 }));
        assert_eq!(context.supplemental_groups, [3]);
        assert!(context.no_new_privs);
        assert_eq!(context.namespace_options.expect("namespaces").pid, wire::NamespaceMode::Node as i32);
        assert_eq!(context.seccomp.expect("seccomp").profile_type, 0);
        assert!(!context.masked_paths.is_empty());
    }
}
