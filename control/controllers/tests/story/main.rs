//! The loops together, over the real API: from a Deployment to endpoints, and back to nothing.

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use fairlead_api::client::{Patch, Propagation};
use fairlead_api::{Object, registry};
use harness::Cluster;
use serde_json::{Value, json};

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"requests": {"cpu": "50m"}}}]},
            },
        },
    })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
    })
}

fn addresses(slices: &[Arc<Object>], service: &str) -> BTreeSet<String> {
    let ours = slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(service));
    let endpoints = ours.flat_map(|slice| slice.0.get("endpoints").and_then(Value::as_array).into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect()
}

fn number(object: &Object, path: &[&str]) -> i64 {
    object.at(path).and_then(Value::as_i64).unwrap_or(0)
}

fn running(pods: &[Arc<Object>], image: &str) -> usize {
    let of_image = |pod: &&Arc<Object>| {
        pod.at(&["spec", "containers"]).is_some_and(|list| list[0]["image"] == image) && !pod.is_terminating()
    };
    pods.iter().filter(of_image).filter(|pod| pod.str_at(&["status", "phase"]) == "Running").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_endpoints_rolls_scales_and_goes() -> Result<()> {
    let cluster = Cluster::start(&["a", "b", "c"]).await?;
    cluster.create(&registry::DEPLOYMENT, deployment("web", 6, "image:1")).await?;
    cluster.create(&registry::SERVICE, service("web")).await?;

    let slices = cluster
        .until("six endpoints", &registry::ENDPOINT_SLICE, "default", |slices| addresses(slices, "web").len() == 6)
        .await?;
    assert_eq!(slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some("web")).count(), 1);
    assert_eq!(
        slices.iter().find(|s| s.label("kubernetes.io/service-name") == Some("web")).unwrap().0["ports"][0]["port"],
        8080
    );
    let nodes: Vec<_> = cluster
        .list(&registry::POD, "default")
        .await?
        .iter()
        .map(|pod| pod.str_at(&["spec", "nodeName"]).to_owned())
        .collect();
    for node in ["a", "b", "c"] {
        assert_eq!(nodes.iter().filter(|one| *one == node).count(), 2, "{nodes:?}");
    }
    cluster
        .until("the Deployment says so", &registry::DEPLOYMENT, "default", |all| {
            number(&all[0], &["status", "availableReplicas"]) == 6
                && number(&all[0], &["status", "observedGeneration"]) == all[0].generation()
        })
        .await?;
    cluster
        .until("legacy Endpoints agree", &registry::ENDPOINTS, "default", |all| {
            all.iter().any(|one| {
                one.name() == "web"
                    && one
                        .0
                        .get("subsets")
                        .and_then(Value::as_array)
                        .is_some_and(|s| s[0]["addresses"].as_array().is_some_and(|a| a.len() == 6))
            })
        })
        .await?;

    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "image:2", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    cluster.merge(&registry::DEPLOYMENT, "default", "web", patch).await?;
    cluster
        .until("the new image runs alone", &registry::POD, "default", |pods| {
            running(pods, "image:2") == 6 && pods.len() == 6
        })
        .await?;
    let sets = cluster
        .until("the old set is empty", &registry::REPLICA_SET, "default", |sets| {
            sets.len() == 2 && sets.iter().filter(|set| number(set, &["status", "replicas"]) == 0).count() == 1
        })
        .await?;
    let revisions: BTreeSet<_> =
        sets.iter().filter_map(|set| set.annotation("deployment.kubernetes.io/revision")).collect();
    assert_eq!(revisions, BTreeSet::from(["1", "2"]));
    let deployments = cluster
        .until("the rollout is told to be over", &registry::DEPLOYMENT, "default", |all| {
            all[0].at(&["status", "conditions"]).is_some_and(|list| list.to_string().contains("NewReplicaSetAvailable"))
                && number(&all[0], &["status", "updatedReplicas"]) == 6
        })
        .await?;
    assert_eq!(deployments[0].annotation("deployment.kubernetes.io/revision"), Some("2"));

    cluster.merge(&registry::DEPLOYMENT, "default", "web", json!({"spec": {"replicas": 0}})).await?;
    cluster.until("no pods", &registry::POD, "default", <[_]>::is_empty).await?;
    cluster
        .until("one empty slice", &registry::ENDPOINT_SLICE, "default", |slices| {
            addresses(slices, "web").is_empty()
                && slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some("web")).count() == 1
        })
        .await?;
    cluster.merge(&registry::DEPLOYMENT, "default", "web", json!({"spec": {"replicas": 3}})).await?;
    cluster
        .until("three endpoints", &registry::ENDPOINT_SLICE, "default", |slices| addresses(slices, "web").len() == 3)
        .await?;

    let victim = cluster.list(&registry::POD, "default").await?[0].clone();
    cluster.delete(&registry::POD, "default", victim.name(), None).await?;
    cluster
        .until("another pod comes", &registry::POD, "default", |pods| {
            running(pods, "image:2") == 3 && pods.iter().all(|pod| pod.uid() != victim.uid())
        })
        .await?;
    cluster
        .until("events tell of it", &registry::EVENT, "default", |events| {
            let reasons: BTreeSet<_> = events.iter().map(|event| event.str_at(&["reason"])).collect();
            ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled"]
                .iter()
                .all(|reason| reasons.contains(reason))
        })
        .await?;

    cluster.delete(&registry::DEPLOYMENT, "default", "web", None).await?;
    cluster.delete(&registry::SERVICE, "default", "web", None).await?;
    cluster.until("no ReplicaSets", &registry::REPLICA_SET, "default", <[_]>::is_empty).await?;
    cluster.until("no pods", &registry::POD, "default", <[_]>::is_empty).await?;
    cluster
        .until("no slices", &registry::ENDPOINT_SLICE, "default", |all| {
            all.iter().all(|one| one.label("kubernetes.io/service-name") != Some("web"))
        })
        .await?;
    cluster
        .until("no Endpoints", &registry::ENDPOINTS, "default", |all| all.iter().all(|one| one.name() != "web"))
        .await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_go_in_the_foreground_or_leave_orphans() -> Result<()> {
    let cluster = Cluster::start(&["a"]).await?;
    for name in ["front", "alone"] {
        cluster.create(&registry::DEPLOYMENT, deployment(name, 2, "image:1")).await?;
    }
    cluster.until("pods run", &registry::POD, "default", |pods| running(pods, "image:1") == 4).await?;
    cluster.delete(&registry::DEPLOYMENT, "default", "front", Some(Propagation::Foreground)).await?;
    cluster.delete(&registry::DEPLOYMENT, "default", "alone", Some(Propagation::Orphan)).await?;
    cluster.until("both are gone", &registry::DEPLOYMENT, "default", <[_]>::is_empty).await?;
    let sets = cluster.until("one set is left", &registry::REPLICA_SET, "default", |sets| sets.len() == 1).await?;
    assert!(sets[0].name().starts_with("alone-"), "{}", sets[0].name());
    assert_eq!(sets[0].owner_references().count(), 0);
    let pods = cluster.until("two pods are left", &registry::POD, "default", |pods| pods.len() == 2).await?;
    assert!(pods.iter().all(|pod| pod.name().starts_with("alone-")));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_begins_with_an_account_and_ends_empty() -> Result<()> {
    let cluster = Cluster::start(&["a"]).await?;
    cluster
        .create(&registry::NAMESPACE, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}))
        .await?;
    cluster
        .until("the account", &registry::SERVICE_ACCOUNT, "team", |all| all.iter().any(|one| one.name() == "default"))
        .await?;
    let maps = cluster.until("the authority", &registry::CONFIG_MAP, "team", |all| all.len() == 1).await?;
    assert_eq!(maps[0].str_at(&["data", "ca.crt"]), "the authority");
    let mut web = deployment("web", 3, "image:1");
    web["metadata"]["namespace"] = "team".into();
    cluster.create(&registry::DEPLOYMENT, web).await?;
    cluster.until("pods run", &registry::POD, "team", |pods| running(pods, "image:1") == 3).await?;
    cluster.delete(&registry::NAMESPACE, "", "team", None).await?;
    cluster
        .until("the namespace is gone", &registry::NAMESPACE, "", |all| all.iter().all(|one| one.name() != "team"))
        .await?;
    for kind in registry::all().iter().filter(|kind| kind.is_namespaced()) {
        assert_eq!(cluster.list(kind, "team").await?.len(), 0, "{kind:?}");
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_waits_with_a_reason_until_there_is_room() -> Result<()> {
    let cluster = Cluster::start(&["a"]).await?;
    let mut big = deployment("big", 1, "image:1");
    big["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "6".into();
    cluster.create(&registry::DEPLOYMENT, big).await?;
    let pods = cluster
        .until("the reason", &registry::POD, "default", |pods| {
            pods.iter().any(|pod| {
                pod.at(&["status", "conditions"]).is_some_and(|list| list.to_string().contains("Insufficient cpu"))
            })
        })
        .await?;
    let condition = &pods[0].at(&["status", "conditions"]).unwrap()[0];
    assert_eq!(
        condition["message"].as_str().unwrap().split(" preemption").next(),
        Some("0/1 nodes are available: 1 Insufficient cpu.")
    );
    cluster.node("large", "8", "8Gi").await?;
    let pods = cluster.until("it runs", &registry::POD, "default", |pods| running(pods, "image:1") == 1).await?;
    assert_eq!(pods[0].str_at(&["spec", "nodeName"]), "large");
    let nodes = cluster
        .until("CIDRs", &registry::NODE, "", |all| all.iter().all(|node| !node.str_at(&["spec", "podCIDR"]).is_empty()))
        .await?;
    let cidrs: BTreeSet<_> = nodes.iter().map(|node| node.str_at(&["spec", "podCIDR"])).collect();
    assert_eq!(cidrs, BTreeSet::from(["10.244.0.0/24", "10.244.1.0/24"]));
    cluster.stop().await
}

/// `LEVEL`: new loops go on from what they see, wherever the ones before them ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn level_a_rollout_survives_the_loops() -> Result<()> {
    let mut cluster = Cluster::start(&["a", "b"]).await?;
    cluster.create(&registry::DEPLOYMENT, deployment("web", 8, "image:1")).await?;
    cluster.create(&registry::SERVICE, service("web")).await?;
    cluster.until("pods run", &registry::POD, "default", |pods| running(pods, "image:1") == 8).await?;
    for image in ["image:2", "image:3", "image:4"] {
        let patch = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]);
        cluster.client.patch(&registry::DEPLOYMENT, "default", "web", Patch::Json(patch), None).await?;
        cluster.until("the rollout is under way", &registry::POD, "default", |pods| running(pods, image) > 0).await?;
        cluster.restart_loops()?;
    }
    cluster
        .until("the last image runs alone", &registry::POD, "default", |pods| {
            running(pods, "image:4") == 8 && pods.len() == 8
        })
        .await?;
    cluster
        .until("and is reached", &registry::ENDPOINT_SLICE, "default", |slices| addresses(slices, "web").len() == 8)
        .await?;
    cluster.stop().await
}

/// Many pods at once: none is lost, and no node takes more than it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_never_oversubscribe() -> Result<()> {
    let cluster = Cluster::start(&[]).await?;
    for number in 0..10 {
        cluster.node(&format!("n{number}"), "4", "8Gi").await?;
    }
    let mut many = deployment("many", 1000, "image:1");
    many["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "50m".into();
    cluster.create(&registry::DEPLOYMENT, many).await?;
    // 4 cores of 50 m each are 80 pods on each of 10 nodes.
    let pods = cluster
        .until("every place is taken", &registry::POD, "default", |pods| {
            pods.len() == 1000 && pods.iter().filter(|pod| !pod.str_at(&["spec", "nodeName"]).is_empty()).count() == 800
        })
        .await?;
    for number in 0..10 {
        let name = format!("n{number}");
        assert_eq!(pods.iter().filter(|pod| pod.str_at(&["spec", "nodeName"]) == name).count(), 80, "{name}");
    }
    cluster.stop().await
}
