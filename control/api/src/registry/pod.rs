//! Pod.

use k8s_openapi::api::core::v1::Pod;

use crate::kind::{Connect, Kind, Naming, Scope, Subresource};

/// core/v1 Pod.
pub static POD: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status, Subresource::Binding],
    connects: &[
        Connect { name: "attach", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Connect { name: "exec", kind: "PodExecOptions", verbs: &["create", "get"] },
        Connect { name: "log", kind: "Pod", verbs: &["get"] },
        Connect { name: "portforward", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
    ],
    schema: "io.k8s.api.core.v1.Pod",
    types: super::types::<Pod>,
    generation: true,
    default: |_| {},
    validate: |_, _, _| {},
    selectable: &[
        ("spec.nodeName", &["spec", "nodeName"]),
        ("spec.restartPolicy", &["spec", "restartPolicy"]),
        ("spec.schedulerName", &["spec", "schedulerName"]),
        ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
        ("spec.hostNetwork", &["spec", "hostNetwork"]),
        ("status.phase", &["status", "phase"]),
        ("status.podIP", &["status", "podIP"]),
        ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    ],
    columns: &[],
};
