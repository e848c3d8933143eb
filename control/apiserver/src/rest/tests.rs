//! The verbs over a store in memory, as the loops call them.

use std::sync::Arc;

use fairlead_api::client::{Client, DeleteOptions, Event, Patch};
use fairlead_api::kind::Subresource;
use fairlead_api::registry::{CONFIG_MAP, DEPLOYMENT, NAMESPACE, POD};
use fairlead_api::selector::Selector;
use fairlead_api::{EventType, Kind, Object, Reason};
use futures::StreamExt;
use serde_json::{Value, json};

use super::list::list;
use super::options::{ListOptions, Match};
use crate::LocalClient;

fn object(tree: Value) -> Object {
    serde_json::from_value(tree).unwrap()
}

fn config_map(name: &str, labels: Value) -> Object {
    let metadata = json!({"name": name, "namespace": "default", "labels": labels});
    object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": "0"}}))
}

fn pod(name: &str) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    }))
}

async fn next(stream: &mut fairlead_api::WatchStream) -> (EventType, String, u64) {
    let wait = tokio::time::timeout(std::time::Duration::from_secs(5), stream.next());
    let Event { kind, object, revision } = wait.await.expect("an event comes").unwrap().unwrap();
    assert_eq!(object.resource_version(), revision.to_string());
    (kind, object.name().to_owned(), revision)
}

fn labels(kind: &Kind, text: &str) -> Selector {
    Selector::parse(kind, text, "").unwrap()
}

#[tokio::test]
async fn a_watch_with_a_selector_sees_objects_come_and_go() {
    let client = LocalClient::memory().await;
    let selector = labels(&CONFIG_MAP, "a=b");
    let start = client.list(&CONFIG_MAP, "default", &selector).await.unwrap().revision;
    let mut events = client.watch(&CONFIG_MAP, "default", &selector, start).await.unwrap();
    client.create(&CONFIG_MAP, config_map("other", json!({}))).await.unwrap();
    client.create(&CONFIG_MAP, config_map("x", json!({}))).await.unwrap();
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"a": value}}}));
    for value in [json!("b"), json!("b"), json!("c")] {
        client.patch(&CONFIG_MAP, "default", "x", label(value), None).await.unwrap();
    }
    let data = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}, "data": {"n": "1"}}));
    client.patch(&CONFIG_MAP, "default", "x", data, None).await.unwrap();
    client.delete(&CONFIG_MAP, "default", "x", DeleteOptions::default()).await.unwrap();
    // The second patch changed nothing, so it wrote nothing.
    let mut seen = Vec::new();
    let mut last = start;
    for _ in 0..4 {
        let (kind, name, revision) = next(&mut events).await;
        assert!(revision > last && name == "x");
        last = revision;
        seen.push(kind);
    }
    assert_eq!(seen, [EventType::Added, EventType::Deleted, EventType::Added, EventType::Deleted]);
}

#[tokio::test]
async fn pages_show_one_revision() {
    let client = LocalClient::memory().await;
    for number in 0..5 {
        client.create(&CONFIG_MAP, config_map(&format!("c{number}"), json!({}))).await.unwrap();
    }
    let options =
        |continue_token: String| ListOptions { selector: Selector::all(), at: Match::Latest, limit: 2, continue_token };
    let api = client.api();
    let mut page = list(api, &CONFIG_MAP, "default", &options(String::new())).await.unwrap();
    assert_eq!(page.remaining, Some(3));
    let revision = page.revision;
    client.delete(&CONFIG_MAP, "default", "c3", DeleteOptions::default()).await.unwrap();
    client.create(&CONFIG_MAP, config_map("c30", json!({}))).await.unwrap();
    let mut names: Vec<String> = page.entries.iter().map(|entry| entry.object.name().to_owned()).collect();
    while !page.continue_token.is_empty() {
        page = list(api, &CONFIG_MAP, "default", &options(page.continue_token)).await.unwrap();
        assert_eq!(page.revision, revision);
        names.extend(page.entries.iter().map(|entry| entry.object.name().to_owned()));
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4"]);
    let bad = list(api, &CONFIG_MAP, "default", &options("nonsense".into())).await.unwrap_err();
    assert!(bad.is(Reason::BadRequest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_lose_each_others_changes() {
    let client = Arc::new(LocalClient::memory().await);
    let made = client.create(&CONFIG_MAP, config_map("x", json!({}))).await.unwrap();
    // Patches name no version: all of them arrive.
    let patches = (0..20).map(|number| {
        let client = client.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {format!("k{number}"): "v"}}));
            client.patch(&CONFIG_MAP, "default", "x", patch, None).await.unwrap();
        }
    });
    futures::future::join_all(patches).await;
    let current = client.get(&CONFIG_MAP, "default", "x").await.unwrap();
    assert_eq!(current.at(&["data"]).unwrap().as_object().unwrap().len(), 21);
    // An update names one: an old version is refused.
    let stale = client.update(&CONFIG_MAP, (*made).clone(), None).await.unwrap_err();
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
}

#[tokio::test]
async fn a_pod_is_bound_once_and_leaves_when_its_node_says_so() {
    let client = LocalClient::memory().await;
    let made = client.create(&POD, pod("p")).await.unwrap();
    assert_eq!(made.str_at(&["status", "phase"]), "Pending");
    assert_eq!(made.str_at(&["spec", "serviceAccountName"]), "default");
    let binding = |node: &str| {
        object(json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "namespace": "default"},
            "target": {"kind": "Node", "name": node},
        }))
    };
    let bound = client.update(&POD, binding("a"), Some(Subresource::Binding)).await.unwrap();
    assert_eq!(bound.str_at(&["spec", "nodeName"]), "a");
    let twice = client.update(&POD, binding("b"), Some(Subresource::Binding)).await.unwrap_err();
    assert!(twice.is(Reason::Conflict), "{}", twice.message);
    client.delete(&POD, "default", "p", DeleteOptions::default()).await.unwrap();
    let terminating = client.get(&POD, "default", "p").await.unwrap();
    assert!(terminating.is_terminating());
    assert_eq!(terminating.at(&["metadata", "deletionGracePeriodSeconds"]), Some(&json!(30)));
    // The status of a terminating pod can still be written.
    let mut status = (*terminating).clone();
    status.section_mut("status").insert("phase".into(), "Running".into());
    status.0.insert("spec".into(), json!({}));
    let written = client.update(&POD, status, Some(Subresource::Status)).await.unwrap();
    assert_eq!(written.str_at(&["spec", "nodeName"]), "a");
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    client.delete(&POD, "default", "p", now).await.unwrap();
    assert!(client.get(&POD, "default", "p").await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let client = LocalClient::memory().await;
    let orphan = client.create(
        &POD,
        object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "nowhere"},
            "spec": {"containers": [{"name": "c", "image": "x"}]},
        })),
    );
    assert_eq!(orphan.await.unwrap_err().message, "namespaces \"nowhere\" not found");
    let tree = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    client.create(&NAMESPACE, object(tree)).await.unwrap();
    client.delete(&NAMESPACE, "", "n", DeleteOptions::default()).await.unwrap();
    let mut ending = (*client.get(&NAMESPACE, "", "n").await.unwrap()).clone();
    assert_eq!(ending.str_at(&["status", "phase"]), "Terminating");
    let mut late = config_map("late", json!({}));
    late.metadata_mut().insert("namespace".into(), "n".into());
    let refused = client.create(&CONFIG_MAP, late).await.unwrap_err();
    assert_eq!(
        refused.message,
        "configmaps \"late\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    ending.section_mut("spec").insert("finalizers".into(), json!([]));
    client.update(&NAMESPACE, ending, Some(Subresource::Finalize)).await.unwrap();
    assert!(client.get(&NAMESPACE, "", "n").await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test]
async fn the_generation_moves_with_the_spec_alone() {
    let client = LocalClient::memory().await;
    let template = json!({
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    });
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let metadata = json!({"name": "d", "namespace": "default"});
    let tree = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec});
    let made = client.create(&DEPLOYMENT, object(tree)).await.unwrap();
    assert_eq!(made.generation(), 1);
    let patch = |tree: Value, part| client.patch(&DEPLOYMENT, "default", "d", Patch::Merge(tree), part);
    let status = patch(json!({"status": {"replicas": 1}}), Some(Subresource::Status)).await.unwrap();
    assert_eq!(status.generation(), 1);
    // Through the main resource the status is not written.
    let ignored = patch(json!({"status": {"replicas": 7}}), None).await.unwrap();
    assert_eq!(ignored.at(&["status", "replicas"]), Some(&json!(1)));
    let scaled = patch(json!({"spec": {"replicas": 3}}), Some(Subresource::Scale)).await.unwrap();
    assert_eq!((scaled.generation(), scaled.at(&["spec", "replicas"])), (2, Some(&json!(3))));
}
