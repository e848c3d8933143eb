//! `fairlead node`: the daemon. It joins the crates beside it and owns their order.
//!
//! ```text
//!   source ──Update──► engine ──services──► data path ──► acknowledgement
//!                        └──Changes──► kubelet ──CRI──► runtime ──CNI──► admin socket ──► network + data path
//! ```
//!
//! Start: privileges, BPF file system, data path (loaded, or adopted from a daemon that was killed), source, kubelet, admin
//! socket. The end is the reverse, and leaves pods and the data path running: its programs are pinned.

mod engine;
mod facts;
mod pods;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_datapath::Datapath;
use fairlead_kubelet::Kubelet;
use fairlead_source::{Push, Source, View};
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::layout::Layout;
use crate::logging::{self, LogFormat};
use crate::{DataDir, admin, mounts, preflight};

use self::engine::Engine;
pub(crate) use self::facts::READY;

use self::facts::Facts;
use self::pods::{PodNetwork, PodNetworkConfig};

/// Arguments of `fairlead node`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArguments {
    #[command(flatten)]
    data_dir: DataDir,
    /// The API server, which the node's certificate is good for.
    #[arg(long, value_name = "URL")]
    server: String,
    /// Name of the Node object, as in the client certificate.
    #[arg(long)]
    node_name: String,
    /// Address the node is reached by.
    #[arg(long)]
    node_ip: Ipv4Addr,
    /// Interface to the outside, where NodePorts are answered and pods are masqueraded. May be repeated.
    #[arg(long = "uplink", value_name = "IFACE")]
    uplinks: Vec<String>,
    /// Socket of the CRI runtime.
    #[arg(long, value_name = "SOCK")]
    runtime_endpoint: PathBuf,
    /// cgroup v2 directory whose processes' connections are translated; the hierarchy's root when absent.
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Port of the HTTPS server for logs and exec.
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
    /// Addresses of all pods of the cluster.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: Ipv4Net,
    /// This node's pod addresses; what the Node object says (`spec.podCIDR`) when absent.
    #[arg(long)]
    pod_cidr: Option<Ipv4Net>,
    /// MTU of pod interfaces; the uplinks' when absent.
    #[arg(long)]
    mtu: Option<u32>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Changes the kubelet may lag behind before updates wait for it.
const CHANGES_WAITING: usize = 64;

/// How long pods' workers may take to come to rest when the daemon ends.
const GRACE: Duration = Duration::from_secs(8);

/// Runs the daemon until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: NodeArguments) -> Result<()> {
    logging::start(arguments.log_format);
    let began = std::time::Instant::now();
    // Before anything else: a signal during the start must end it in order too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    preflight::privileges()?;
    let layout = Layout::new(&arguments.data_dir.path)?;
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();

    let datapath = open_datapath(&arguments, &layout).await?;
    tracing::info!(elapsed = ?began.elapsed(), "data path in force");

    let push =
        Push::open(push_config(&arguments, &layout)).context("cannot prepare the stream from the control plane")?;
    let reporter = Arc::new(push.reporter());
    let feed = Box::new(push).start(&tasks, shutdown.child_token());
    let contact = feed.contact.clone();
    let view = Arc::new(RwLock::new(View::new(&arguments.node_name)));

    let network = PodNetwork::new(
        PodNetworkConfig {
            state_dir: layout.network(),
            conflist: layout.cni_conflist(),
            socket: layout.socket(),
            pod_cidr: arguments.pod_cidr,
            mtu: arguments.mtu,
            uplinks: arguments.uplinks.clone(),
            node_ip: arguments.node_ip,
        },
        Arc::clone(&datapath),
    );
    network.resume().await.context("cannot take over the pod network")?;

    let listener = admin::listen(&layout.socket())?;
    let facts = Facts::new(&arguments.node_name, Arc::clone(&view), Arc::clone(&datapath), contact, network.clone());
    // Its own token: the runtime still asks for DEL while pods' workers come to rest.
    let admin_shutdown = CancellationToken::new();
    tasks.spawn(admin::serve(listener, pods::AdminService::new(network.clone(), facts), admin_shutdown.clone()));

    let (changes, changed) = mpsc::channel(CHANGES_WAITING);
    let kubelet = Kubelet::start(
        kubelet_config(&arguments, &layout),
        Arc::clone(&view),
        changed,
        reporter,
        shutdown.child_token(),
    )
    .await
    .context("cannot start the kubelet")?;
    tasks.spawn(Engine { view, datapath, network, changes }.run(feed, shutdown.clone()));
    tracing::info!(node = %arguments.node_name, kubelet = %kubelet.address(), elapsed = ?began.elapsed(), "node started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
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

async fn open_datapath(arguments: &NodeArguments, layout: &Layout) -> Result<Arc<Mutex<Datapath>>> {
    let cgroup = arguments.cgroup.clone().or_else(preflight::cgroup_root).context(
        "no cgroup v2 hierarchy is mounted, where connections are translated: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`",
    )?;
    mounts::bpffs(&layout.bpf())?;
    let mut config = fairlead_datapath::Config::new(layout.bpf(), cgroup);
    config.node_addresses = vec![arguments.node_ip];
    config.cluster_cidr = arguments.cluster_cidr;
    let uplinks = arguments.uplinks.clone();
    // Loading asks the kernel's verifier, which takes its time: not on a thread that serves others.
    let opened = tokio::task::spawn_blocking(move || -> Result<Datapath> {
        let mut datapath = Datapath::open(config).context("cannot load the data path")?;
        for name in &uplinks {
            let uplink = datapath.attach_uplink(name).with_context(|| format!("cannot use uplink {name}"))?;
            tracing::info!(interface = %uplink.name, mode = %uplink.mode, reason = %uplink.reason, "uplink attached");
        }
        for stale in datapath.uplinks().into_iter().filter(|uplink| !uplinks.contains(&uplink.name)) {
            datapath.detach_uplink(&stale.name).with_context(|| format!("cannot leave uplink {}", stale.name))?;
        }
        Ok(datapath)
    });
    Ok(Arc::new(Mutex::new(opened.await.context("loading the data path was given up")??)))
}

fn push_config(arguments: &NodeArguments, layout: &Layout) -> fairlead_source::push::Config {
    fairlead_source::push::Config {
        server: arguments.server.clone(),
        node: arguments.node_name.clone(),
        certificate: layout.node().join("client.crt"),
        key: layout.node().join("client.key"),
        authority: layout.node().join("ca.crt"),
        server_name: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn kubelet_config(arguments: &NodeArguments, layout: &Layout) -> fairlead_kubelet::Config {
    fairlead_kubelet::Config {
        node_name: arguments.node_name.clone(),
        node_ip: IpAddr::V4(arguments.node_ip),
        data_dir: layout.dir().to_owned(),
        runtime_endpoint: arguments.runtime_endpoint.clone(),
        cgroup: layout.cgroup(),
        port: arguments.kubelet_port,
        server_cert: layout.node().join("server.crt"),
        server_key: layout.node().join("server.key"),
        client_ca: layout.node().join("ca.crt"),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        max_pods: 110,
        node_labels: Vec::new(),
    }
}
