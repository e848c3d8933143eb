//! The Node object: registered at start, its status reported when it changes and every five minutes, its lease renewed
//! every ten seconds.

mod facts;
mod lease;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    ObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::outbox::Kind;
pub(crate) use facts::{Facts, read as read_facts};

/// Between two looks at the node's health.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks until the node is ready the first time.
const FIRST: Duration = Duration::from_millis(50);
/// An unchanged status is reported again after this long.
const AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// Images listed in the status.
const IMAGES: usize = 50;

/// Reports the node until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, facts: Facts, port: u16, shutdown: CancellationToken) {
    let begun = Timestamp::now();
    let mut reported: Option<NodeStatus> = None;
    let mut reported_at = begun;
    let mut leased: Option<std::time::Instant> = None;
    loop {
        let now = Timestamp::now();
        if leased.is_none_or(|at| at.elapsed() >= lease::PERIOD) {
            context.outbox.lease(lease::lease(&context.config.node_name, begun, now));
            leased = Some(std::time::Instant::now());
        }
        let runtime = context.cri.status().await;
        let health: Vec<(String, bool, String)> = match &runtime {
            Ok(conditions) => conditions
                .iter()
                .map(|condition| {
                    let why = format!("{}: {}", condition.reason, condition.message);
                    (condition.r#type.clone(), condition.status, why)
                })
                .collect(),
            Err(error) => vec![("RuntimeReady".into(), false, error.to_string())],
        };
        let images = images(&context).await;
        let before = reported.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions = conditions(&health, facts::pressure(&context.config.data_dir), &context, &before, now);
        let status = status(&context, &facts, port, conditions, images);
        let first = reported.is_none();
        tell(&context, first, &before, status.conditions.as_deref().unwrap_or_default());
        let due = now.duration_since(reported_at) > AGAIN || contradicted(&context, &status);
        if first || due || changed(reported.as_ref(), &status) {
            let node = node(&context, &facts, status.clone());
            if first {
                context.outbox.register(node.clone());
            }
            context.outbox.node_status(node);
            reported = Some(status);
            reported_at = now;
        }
        let ready = health.iter().all(|(_, ok, _)| *ok);
        tokio::select! {
            () = tokio::time::sleep(if ready { LOOK } else { FIRST.max(young(begun, now)) }) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// A node that is young is looked at often, an old one that lost its runtime seldom.
fn young(begun: Timestamp, now: Timestamp) -> Duration {
    if now.duration_since(begun) < jiff::SignedDuration::from_secs(60) { FIRST } else { Duration::from_secs(1) }
}

/// Whether anything but the heartbeats differs.
fn changed(before: Option<&NodeStatus>, now: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    before.is_none_or(|before| still(before) != still(now))
}

/// Whether the API shows another readiness than ours: somebody took the node for lost.
fn contradicted(context: &Context, status: &NodeStatus) -> bool {
    let ready = |status: &NodeStatus| {
        let conditions = status.conditions.iter().flatten();
        conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.clone())
    };
    let shown = context.view().node().and_then(|node| node.status.as_ref().and_then(ready));
    shown.is_some_and(|shown| Some(shown) != ready(status))
}

/// Records the events of a node's life.
fn tell(context: &Context, first: bool, before: &[NodeCondition], now: &[NodeCondition]) {
    let name = &context.config.node_name;
    let about = ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.clone()),
        uid: Some(name.clone()),
        ..Default::default()
    };
    if first {
        context.outbox.event(Kind::Normal, about.clone(), "Starting", "Starting kubelet.");
    }
    let ready = |list: &[NodeCondition]| list.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let reason = match (ready(before), ready(now)) {
        (false, true) => "NodeReady",
        (true, false) => "NodeNotReady",
        _ => return,
    };
    context.outbox.event(Kind::Normal, about, reason, &format!("Node {name} status is now: {reason}"));
}

async fn images(context: &Context) -> Vec<ContainerImage> {
    let mut images = context.cri.image_list().await.unwrap_or_default();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(IMAGES);
    images
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

fn node(context: &Context, facts: &Facts, status: NodeStatus) -> Node {
    let config = &context.config;
    let mut labels: BTreeMap<String, String> = config.node_labels.iter().cloned().collect();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts.architecture),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), ..Default::default() },
        spec: Some(NodeSpec::default()),
        status: Some(status),
    }
}

fn status(
    context: &Context,
    facts: &Facts,
    port: u16,
    conditions: Vec<NodeCondition>,
    images: Vec<ContainerImage>,
) -> NodeStatus {
    let config = &context.config;
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", facts.cpus.to_string()),
        ("memory", format!("{}Ki", facts.memory / 1_024)),
        ("pods", config.max_pods.to_string()),
        ("ephemeral-storage", format!("{}Ki", facts.storage / 1_024)),
        ("hugepages-1Gi", "0".into()),
        ("hugepages-2Mi", "0".into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .collect();
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    NodeStatus {
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        node_info: Some(facts.info.clone()),
        images: Some(images),
        ..Default::default()
    }
}

/// The node's conditions, from the runtime's, the host's pressure and its cgroups.
fn conditions(
    health: &[(String, bool, String)],
    pressure: facts::Pressure,
    context: &Context,
    before: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let bad: Vec<String> =
        health.iter().filter(|(_, ok, _)| !ok).map(|(kind, _, why)| format!("{kind}: {why}")).collect();
    let mut list = vec![
        of(
            pressure.memory,
            "MemoryPressure",
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            ["kubelet has insufficient memory available", "kubelet has sufficient memory available"],
        ),
        of(
            pressure.disk,
            "DiskPressure",
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            ["kubelet has disk pressure", "kubelet has no disk pressure"],
        ),
        of(
            pressure.pids,
            "PIDPressure",
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            ["kubelet has insufficient PID available", "kubelet has sufficient PID available"],
        ),
    ];
    if let Some(why) = context.cgroups.unusable() {
        list.push(of(true, "CgroupV2Unavailable", "NoV2Controllers", "", [why, ""]));
    }
    list.push(match bad.is_empty() {
        true => of(true, "Ready", "KubeletReady", "", ["kubelet is posting ready status", ""]),
        false => {
            let mut condition = of(false, "Ready", "", "KubeletNotReady", ["", ""]);
            condition.message = Some(format!("[{}]", bad.join(", ")));
            condition
        }
    });
    for condition in &mut list {
        let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_heartbeat_time = Some(Time(now));
        condition.last_transition_time = same.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now)));
    }
    list
}

fn of(holds: bool, kind: &str, yes: &str, no: &str, [text, otherwise]: [&str; 2]) -> NodeCondition {
    NodeCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(if holds { yes } else { no }.to_owned()),
        message: Some(if holds { text } else { otherwise }.to_owned()),
        ..Default::default()
    }
}
