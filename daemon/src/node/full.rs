//! A whole Kubernetes node: the data path, the pod network, the kubelet.
//!
//! Start: privileges, BPF file system, data path (loaded, or adopted from a daemon that was killed), source, kubelet, admin
//! socket. The end is the reverse, and leaves pods running.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fairlead_kubelet::Kubelet;
use fairlead_source::{Push, Source, SourceSpec};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::layout::Layout;
use crate::{admin, mounts, preflight};

use super::admin::AdminService;
use super::engine::{Engine, Pods};
use super::pods::{PodNetwork, PodNetworkConfig};
use super::upkeep::Upkeep;
use super::{GRACE, NodeArguments, Prepared, Shared, Stop, cgroup, push_config};

/// Where pods are when nobody says otherwise.
const CLUSTER_CIDR: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16));

/// Changes the kubelet may lag behind before updates wait for it.
const CHANGES_WAITING: usize = 64;

pub(super) fn prepare(arguments: &NodeArguments) -> Result<Prepared> {
    preflight::privileges()?;
    ensure!(
        matches!(arguments.source, SourceSpec::Push),
        "--source {} is for --proxy-only: a whole node takes its state from `push`",
        arguments.source
    );
    let layout = Layout::new(&arguments.data_dir.path)?;
    mounts::bpffs(&layout.bpf())?;
    Ok(Prepared { bpffs: layout.bpf(), cgroup: cgroup(&arguments.datapath)?, layout, _lock: None })
}

pub(super) async fn run(mut arguments: NodeArguments, prepared: Prepared) -> Result<()> {
    let began = std::time::Instant::now();
    // Before anything else: a signal during the start must end it in order too.
    let mut stop = Stop::watch()?;
    let node_ip = node_ip(&arguments)?;
    if arguments.datapath.cluster_cidrs.is_empty() {
        arguments.datapath.cluster_cidrs.push(CLUSTER_CIDR);
    }
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let shared = Shared::open(&arguments, &prepared).await?;
    let layout = prepared.layout;
    tracing::info!(elapsed = ?began.elapsed(), "data path in force");

    let push =
        Push::open(push_config(&arguments, &layout)?).context("cannot prepare the stream from the control plane")?;
    let reporter = Arc::new(push.reporter());
    let feed = Box::new(push).start(&tasks, shutdown.child_token());
    let network = PodNetwork::new(network_config(&arguments, &layout, node_ip)?, Arc::clone(&shared.datapath));
    network.resume().await.context("cannot take over the pod network")?;

    let listener = admin::listen(&layout.socket())?;
    let service = AdminService {
        facts: shared.facts(&arguments, feed.contact.clone(), Some(network.clone())),
        view: Arc::clone(&shared.view),
        datapath: Arc::clone(&shared.datapath),
        network: Some(network.clone()),
    };
    // Its own token: the runtime still asks for DEL while pods' workers come to rest.
    let admin_shutdown = CancellationToken::new();
    tasks.spawn(admin::serve(listener, service, admin_shutdown.clone()));

    let (changes, changed) = mpsc::channel(CHANGES_WAITING);
    let kubelet = Kubelet::start(
        kubelet_config(&arguments, &layout, node_ip)?,
        Arc::clone(&shared.view),
        changed,
        reporter,
        shutdown.child_token(),
    )
    .await
    .context("cannot start the kubelet")?;
    shared.serve_health(arguments.datapath.healthz_bind.0, &tasks, &shutdown);
    let upkeep = Upkeep {
        datapath: Arc::clone(&shared.datapath),
        health: shared.health.clone(),
        node_port_addresses_only: arguments.datapath.filters_node_ports(),
        network: Some(network.clone()),
        pods: None,
    };
    tasks.spawn(upkeep.run(shutdown.child_token()));
    tasks.spawn(Engine::new(&shared, Some(Pods { network, changes })).run(feed, shutdown.clone()));
    tracing::info!(node = %arguments.node_name, kubelet = %kubelet.address(), elapsed = ?began.elapsed(), "node started");

    stop.wait().await;
    tracing::info!("node ends; pods and the data path stay");
    shutdown.cancel();
    let rest = async {
        kubelet.stopped().await;
        admin_shutdown.cancel();
        tasks.close();
        tasks.wait().await;
    };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    // A socket nobody answers on only makes others wait; that it is gone already is as good.
    let _ = std::fs::remove_file(layout.socket());
    Ok(())
}

/// Pods have IPv4 addresses, and so has what they see of their node.
fn node_ip(arguments: &NodeArguments) -> Result<Ipv4Addr> {
    let v4 = arguments.datapath.node_ips.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.context("a node needs an IPv4 address: give it with --node-ip")
}

fn network_config(arguments: &NodeArguments, layout: &Layout, node_ip: Ipv4Addr) -> Result<PodNetworkConfig> {
    Ok(PodNetworkConfig {
        state_dir: layout.network(),
        conflist: layout.cni_conflist(),
        socket: layout.socket(),
        pod_cidr: arguments.pod_cidr,
        mtu: arguments.mtu,
        uplinks: arguments.datapath.uplinks()?,
        node_ip,
    })
}

fn kubelet_config(arguments: &NodeArguments, layout: &Layout, node_ip: Ipv4Addr) -> Result<fairlead_kubelet::Config> {
    Ok(fairlead_kubelet::Config {
        node_name: arguments.node_name.clone(),
        node_ip: IpAddr::V4(node_ip),
        data_dir: layout.dir().to_owned(),
        runtime_endpoint: arguments.runtime_endpoint.clone().context("a node needs --runtime-endpoint")?,
        cgroup: layout.cgroup(),
        port: arguments.kubelet_port,
        server_cert: layout.node().join("server.crt"),
        server_key: layout.node().join("server.key"),
        client_ca: layout.node().join("ca.crt"),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        max_pods: 110,
        node_labels: Vec::new(),
    })
}
