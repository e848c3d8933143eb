//! What every cluster has from its first second: its namespaces, and the Service through which pods find the API.

use std::net::IpAddr;

use fairlead_api::client::Client;
use fairlead_api::{Kind, Object, Reason, Status, registry};
use serde_json::{Value, json};

use crate::allocate::AddressRange;

/// The namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates the namespaces that are not there yet.
pub async fn namespaces(client: &dyn Client) -> Result<(), Status> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(client, &registry::NAMESPACE, namespace).await?;
    }
    Ok(())
}

/// Service `default/kubernetes`, and behind it the API server at its advertised address.
pub async fn kubernetes_service(
    client: &dyn Client,
    range: &AddressRange,
    address: IpAddr,
    port: u16,
) -> Result<(), Status> {
    let Some(cluster_ip) = range.nth(1) else {
        return Err(Status::internal(format!("the Service range {range} has no first address")));
    };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip.to_string(), "clusterIPs": [cluster_ip.to_string()],
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure(client, &registry::SERVICE, service).await?;
    let metadata = json!({
        "name": "kubernetes", "namespace": "default",
        "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    replace(client, &registry::ENDPOINTS, endpoints, "subsets").await?;
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    for field in ["endpoints", "ports"] {
        replace(client, &registry::ENDPOINT_SLICE, slice.clone(), field).await?;
    }
    Ok(())
}

fn object(tree: Value) -> Object {
    match tree {
        Value::Object(map) => Object(map),
        _ => Object::default(),
    }
}

/// Creates an object unless it is there.
async fn ensure(client: &dyn Client, kind: &'static Kind, tree: Value) -> Result<(), Status> {
    match client.create(kind, object(tree)).await {
        Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
        _ => Ok(()),
    }
}

/// Creates an object, or brings one of its fields to the wanted value: the address may be another after a restart.
async fn replace(client: &dyn Client, kind: &'static Kind, tree: Value, field: &str) -> Result<(), Status> {
    let wanted = object(tree);
    let current = match client.get(kind, wanted.namespace(), wanted.name()).await {
        Ok(current) => current,
        Err(status) if status.is(Reason::NotFound) => return client.create(kind, wanted).await.map(drop),
        Err(status) => return Err(status),
    };
    let mut new = (*current).clone();
    if let Some(value) = wanted.0.get(field) {
        new.0.insert(field.to_owned(), value.clone());
    }
    client.update(kind, new, None).await.map(drop)
}
