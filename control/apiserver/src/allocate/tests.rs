//! Allocation through the verbs, over a store in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairlead_api::client::{Client, DeleteOptions};
use fairlead_api::{Object, Status, registry::SERVICE};
use serde_json::{Value, json};

use super::*;
use crate::LocalClient;

fn service(name: &str, spec: Value) -> Object {
    let tree = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    serde_json::from_value(tree).unwrap()
}

fn node_port(port: Option<u16>) -> Value {
    let mut entry = json!({"port": 80, "protocol": "TCP"});
    if let Some(port) = port {
        entry["nodePort"] = port.into();
    }
    json!({"type": "NodePort", "ports": [entry], "selector": {"a": "b"}})
}

async fn create(client: &LocalClient, name: &str, spec: Value) -> Result<Arc<Object>, Status> {
    client.create(&SERVICE, service(name, spec)).await
}

#[test]
fn ranges() {
    let range: AddressRange = "10.96.0.0/12".parse().unwrap();
    assert_eq!(range.nth(1).unwrap().to_string(), "10.96.0.1");
    assert!(range.contains("10.111.255.254".parse().unwrap()));
    for outside in ["10.96.0.0", "10.111.255.255", "10.112.0.1", "10.95.0.1"] {
        assert!(!range.contains(outside.parse().unwrap()), "{outside}");
    }
    for bad in ["10.96.0.0", "10.96.0.0/31", "fd00::/108", "x/12"] {
        assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
    }
    assert!("30000-29999".parse::<PortRange>().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creates_share_nothing() {
    let client = Arc::new(LocalClient::memory().await);
    let creates = (0..60).map(|number| {
        let client = client.clone();
        async move { create(&client, &format!("s{number}"), node_port(None)).await.unwrap() }
    });
    let made = futures::future::join_all(creates).await;
    let addresses: BTreeSet<String> = made.iter().map(|one| one.str_at(&["spec", "clusterIP"]).to_owned()).collect();
    let ports: BTreeSet<i64> = made.iter().flat_map(|one| port::ports(one).collect::<Vec<_>>()).collect();
    assert_eq!((addresses.len(), ports.len()), (60, 60));
}

#[tokio::test]
async fn taken_and_freed() {
    let client = LocalClient::memory().await;
    create(&client, "a", node_port(Some(30080))).await.unwrap();
    let taken = create(&client, "b", node_port(Some(30080))).await.unwrap_err();
    assert_eq!(
        taken.message,
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    let outside = create(&client, "b", node_port(Some(80))).await.unwrap_err();
    assert!(outside.message.contains("The range of valid ports is 30000-32767"), "{}", outside.message);
    // A change of type frees the port, a delete the address.
    let mut a = (*client.get(&SERVICE, "default", "a").await.unwrap()).clone();
    let address = a.str_at(&["spec", "clusterIP"]).to_owned();
    a.section_mut("spec").insert("type".into(), "ClusterIP".into());
    let a = client.update(&SERVICE, a, None).await.unwrap();
    assert_eq!(port::ports(&a).count(), 0);
    create(&client, "b", node_port(Some(30080))).await.unwrap();
    client.delete(&SERVICE, "default", "a", DeleteOptions::default()).await.unwrap();
    let mut spec = node_port(None);
    spec["clusterIP"] = address.as_str().into();
    let c = create(&client, "c", spec.clone()).await.unwrap();
    assert_eq!(c.str_at(&["spec", "clusterIP"]), address);
    let taken = create(&client, "d", spec).await.unwrap_err();
    assert!(taken.message.contains("provided IP is already allocated"), "{}", taken.message);
}

#[tokio::test]
async fn an_update_keeps_what_it_leaves_out() {
    let client = LocalClient::memory().await;
    let made = create(&client, "a", node_port(None)).await.unwrap();
    let again = client.update(&SERVICE, service("a", node_port(None)), None).await.unwrap();
    assert_eq!(again.at(&["spec", "clusterIP"]), made.at(&["spec", "clusterIP"]));
    assert_eq!(again.at(&["spec", "ports"]), made.at(&["spec", "ports"]));
    let headless = create(&client, "h", json!({"clusterIP": "None", "selector": {"a": "b"}})).await.unwrap();
    assert_eq!(headless.at(&["spec", "clusterIPs"]), Some(&json!(["None"])));
}
