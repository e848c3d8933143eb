//! A cluster in one process: the real API over a memory store, all loops, the scheduler, and nodes that only pretend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fairlead_api::client::{Client, DeleteOptions, EventType, Patch, Propagation};
use fairlead_api::kind::Subresource;
use fairlead_api::selector::Selector;
use fairlead_api::{Kind, Object, registry};
use fairlead_apiserver::LocalClient;
use fairlead_controllers::{Config, Controllers};
use fairlead_scheduler::Scheduler;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) client: Arc<dyn Client>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Ends loops and scheduler alone.
    loops: CancellationToken,
}

impl Cluster {
    /// Loops and scheduler over an empty API.
    pub(crate) async fn start(nodes: &[&str]) -> Result<Self> {
        let client: Arc<dyn Client> = Arc::new(LocalClient::memory().await);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut cluster = Self { client, tasks, shutdown, loops: CancellationToken::new() };
        cluster.start_loops()?;
        for name in nodes {
            cluster.node(name, "4", "8Gi").await?;
        }
        cluster.tasks.spawn(pretend(cluster.client.clone(), cluster.shutdown.clone()));
        Ok(cluster)
    }

    fn start_loops(&mut self) -> Result<()> {
        let config = Config {
            cluster_cidr: "10.244.0.0/16".parse()?,
            root_ca: "the authority".to_owned(),
            disabled: BTreeSet::new(),
            now: Timestamp::now,
        };
        self.loops = self.shutdown.child_token();
        let loops = Controllers::run(config, self.client.clone(), self.loops.clone());
        self.tasks.spawn(async move { loops.await.expect("the configuration is good") });
        let scheduler = fairlead_scheduler::Config { now: Timestamp::now };
        self.tasks.spawn(Scheduler::run(scheduler, self.client.clone(), self.loops.clone()));
        Ok(())
    }

    /// Ends loops and scheduler wherever they are, and starts new ones that know nothing.
    pub(crate) fn restart_loops(&mut self) -> Result<()> {
        self.loops.cancel();
        self.start_loops()
    }

    /// Ends everything, in the time that a shutdown may take.
    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.context("a task does not end")
    }

    /// A node that is ready.
    pub(crate) async fn node(&self, name: &str, cpu: &str, memory: &str) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "z"}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
                "capacity": {"cpu": cpu, "memory": memory, "pods": "110"},
            },
        });
        let status = node["status"].clone();
        self.create(&registry::NODE, node).await?;
        self.client
            .patch(&registry::NODE, "", name, Patch::Merge(json!({"status": status})), Some(Subresource::Status))
            .await?;
        Ok(())
    }

    pub(crate) async fn create(&self, kind: &'static Kind, tree: Value) -> Result<Arc<Object>> {
        Ok(self.client.create(kind, serde_json::from_value(tree)?).await?)
    }

    pub(crate) async fn merge(&self, kind: &'static Kind, namespace: &str, name: &str, patch: Value) -> Result<()> {
        self.client.patch(kind, namespace, name, Patch::Merge(patch), None).await?;
        Ok(())
    }

    pub(crate) async fn list(&self, kind: &'static Kind, namespace: &str) -> Result<Vec<Arc<Object>>> {
        Ok(self.client.list(kind, namespace, &Selector::all()).await?.items)
    }

    pub(crate) async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        propagation: Option<Propagation>,
    ) -> Result<()> {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        Ok(self.client.delete(kind, namespace, name, options).await?)
    }

    /// Waits until the objects of a kind are as they should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        kind: &'static Kind,
        namespace: &str,
        holds: impl Fn(&[Arc<Object>]) -> bool,
    ) -> Result<Vec<Arc<Object>>> {
        let start = Instant::now();
        loop {
            let objects = self.list(kind, namespace).await?;
            if holds(&objects) {
                return Ok(objects);
            }
            if start.elapsed() > DEADLINE {
                let trees: Vec<String> = objects.iter().map(|object| json!(object.0).to_string()).collect();
                bail!("{what}: not after {DEADLINE:?}; there are {} objects: {}", trees.len(), trees.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Stands in for the nodes: what is bound runs and is ready, what is asked to go goes.
async fn pretend(client: Arc<dyn Client>, shutdown: CancellationToken) {
    let work = async {
        let list = client.list(&registry::POD, "", &Selector::all()).await.expect("pods can be listed");
        let mut stream = client.watch(&registry::POD, "", &Selector::all(), list.revision).await.expect("and watched");
        let mut address = 1;
        while let Some(Ok(event)) = stream.next().await {
            let pod = event.object;
            if !matches!(event.kind, EventType::Added | EventType::Modified)
                || pod.str_at(&["spec", "nodeName"]).is_empty()
            {
                continue;
            }
            if pod.is_terminating() {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = client.delete(&registry::POD, pod.namespace(), pod.name(), options).await;
            } else if pod.str_at(&["status", "podIP"]).is_empty() && pod.label("broken").is_none() {
                address += 1;
                let ip = format!("10.244.{}.{}", address / 250, address % 250 + 1);
                let now = Timestamp::from_second(Timestamp::now().as_second()).expect("now is a time");
                let status = json!({"status": {
                    "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
                    "conditions": [
                        {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
                        {"type": "Ready", "status": "True", "lastTransitionTime": now},
                    ],
                }});
                let patch = Patch::Merge(status);
                let _ =
                    client.patch(&registry::POD, pod.namespace(), pod.name(), patch, Some(Subresource::Status)).await;
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}
