//! Services, EndpointSlices and Nodes as manifests in a directory that `--source file:` watches.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::dialogue::PORT;

/// The protocols of every Service here, under these names and all on the same port.
pub const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A directory of manifests.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one file of many objects, in one piece: whoever reads it sees the old one or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, file: &str, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.put_text(&format!("{file}.json"), &list.to_string())
    }

    /// Writes a file of this very content, in one piece.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_text(&self, file: &str, text: &str) -> Result<()> {
        let temporary = self.dir.join(format!(".{file}.tmp"));
        fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, self.dir.join(file)).with_context(|| format!("cannot name {file}"))
    }

    /// Removes what [`Manifests::put`] wrote.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(format!("{file}.json"))).with_context(|| format!("cannot remove {file}"))
    }
}

/// An endpoint to be: one address per family that it has.
#[derive(Clone, Debug)]
pub struct End {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of its node.
    pub node: String,
    /// Takes new connections.
    pub ready: bool,
    /// Could, disregarding its end.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
}

impl End {
    /// A ready one.
    pub fn new(addresses: impl Into<Vec<IpAddr>>, node: &str) -> Self {
        let addresses = addresses.into();
        Self { addresses, node: node.to_owned(), ready: true, serving: true, terminating: false }
    }

    /// It is being deleted, but still answers.
    #[must_use]
    pub fn ending(self) -> Self {
        Self { ready: false, terminating: true, ..self }
    }
}

/// A dual-stack Service in the namespace `default`: `spec` is added to, and overrides, what all have.
pub fn service(name: &str, cluster_ips: &[IpAddr], spec: Value) -> Value {
    let families: Vec<&str> = cluster_ips.iter().map(family).collect();
    let ports: Vec<Value> = PROTOCOLS
        .iter()
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "targetPort": PORT}))
        .collect();
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ips.first().map(IpAddr::to_string),
            "clusterIPs": cluster_ips,
            "ipFamilies": families,
            "ports": ports,
        },
    });
    if let (Some(all), Value::Object(more)) = (service["spec"].as_object_mut(), spec) {
        all.extend(more);
    }
    service
}

/// The same with a NodePort for all its ports.
#[must_use]
pub fn with_node_port(mut service: Value, port: u16) -> Value {
    service["spec"]["type"] = json!("NodePort");
    for one in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        one["nodePort"] = json!(port);
    }
    service
}

/// The same behind a load balancer of these addresses.
#[must_use]
pub fn with_load_balancer(mut service: Value, addresses: &[IpAddr]) -> Value {
    service["spec"]["type"] = json!("LoadBalancer");
    let ingress: Vec<Value> = addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// The same with an annotation.
#[must_use]
pub fn with_annotation(mut service: Value, name: &str, value: &str) -> Value {
    service["metadata"]["annotations"][name] = json!(value);
    service
}

/// The slices of a Service, one per family.
pub fn slices(service: &str, ends: &[End]) -> Vec<Value> {
    slices_on(service, ends, PORT)
}

/// The slices of a Service whose endpoints listen on another port.
pub fn slices_on(service: &str, ends: &[End], port: u16) -> Vec<Value> {
    let ports: Vec<Value> = PROTOCOLS
        .iter()
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}))
        .collect();
    let slice = |of: &str| {
        let endpoints: Vec<Value> = ends
            .iter()
            .filter_map(|end| Some((end, end.addresses.iter().find(|address| family(address) == of)?)))
            .map(|(end, address)| {
                let conditions = json!({"ready": end.ready, "serving": end.serving, "terminating": end.terminating});
                json!({"addresses": [address], "nodeName": end.node, "conditions": conditions})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{}", of.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": of,
            "ports": ports,
            "endpoints": endpoints,
        })
    };
    ["IPv4", "IPv6"].map(slice).to_vec()
}

/// A Node.
pub fn node(name: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"addresses": addresses},
    })
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
