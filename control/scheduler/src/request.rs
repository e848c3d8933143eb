//! What a pod asks of a node, read once per pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, NodeAffinity, Pod, PodSpec, Toleration};

use crate::resources::Resources;

/// What a container without requests is taken to use, for scores alone: a tenth of a core and 200 MiB.
const UNSPECIFIED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

/// A pod as the scheduler sees it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) pod: Arc<Pod>,
    pub(crate) uid: String,
    /// Requests: the larger of all containers together and each init container in its turn, plus overhead.
    pub(crate) resources: Resources,
    /// The same, with something for containers that ask nothing.
    pub(crate) estimate: Resources,
    pub(crate) ports: Vec<HostPort>,
    /// UID of the controlling owner.
    pub(crate) owner: Option<String>,
}

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    /// `0.0.0.0` means every address.
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// True if both cannot be had at once.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

impl Request {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            resources: total(spec, &requests),
            estimate: total(spec, &|container| {
                let mut resources = requests(container);
                for (name, amount) in UNSPECIFIED {
                    if resources.get(name) == 0 {
                        resources.set(name, amount);
                    }
                }
                resources
            }),
            ports: spec.containers.iter().chain(sidecars(spec)).flat_map(ports).collect(),
            owner: owner.map(|owner| owner.uid.clone()),
            pod,
        }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub(crate) fn node_affinity(&self) -> Option<&NodeAffinity> {
        self.spec()?.affinity.as_ref()?.node_affinity.as_ref()
    }
}

fn requests(container: &Container) -> Resources {
    Resources::from_wire(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// Init containers that keep running beside the others.
fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.filter(|init| init.restart_policy.as_deref() == Some("Always"))
}

/// The most the pod ever needs at once. Init containers run one after the other, each beside the sidecars started
/// before it; the containers run together, beside all sidecars.
fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    let mut peak = Resources::default();
    for init in spec.init_containers.iter().flatten() {
        let mut now = running.clone();
        now.add(&of(init));
        peak.max(&now);
        if init.restart_policy.as_deref() == Some("Always") {
            running = now;
        }
    }
    for container in &spec.containers {
        running.add(&of(container));
    }
    peak.max(&running);
    // Requests of the pod as a whole stand above those of its containers.
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    for (name, amount) in Resources::from_wire(whole).iter() {
        peak.set(name, amount);
    }
    peak.add(&Resources::from_wire(spec.overhead.as_ref()));
    peak
}

fn ports(container: &Container) -> impl Iterator<Item = HostPort> {
    let text = |text: &Option<String>, default: &str| {
        text.clone().filter(|text| !text.is_empty()).unwrap_or(default.to_owned())
    };
    let ports = container.ports.iter().flatten();
    ports.filter_map(move |port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort { ip: text(&port.host_ip, "0.0.0.0"), protocol: text(&port.protocol, "TCP"), port: number })
    })
}
