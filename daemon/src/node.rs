//! `fairlead node`: the daemon. It joins the crates beside it and owns their order.
//!
//! ```text
//!   source ──Update──► engine ──services──► data path ──► acknowledgement
//!                        └──Changes──► kubelet ──CRI──► runtime ──CNI──► admin socket ──► network + data path
//!   kernel's messages ──► upkeep ──► data path
//! ```
//!
//! It has two shapes that share their parts: [`full`] is a whole Kubernetes node, [`proxy`] the service proxy alone, beside
//! any other node's parts. Both leave the data path running when they end: its programs are pinned.

mod admin;
mod engine;
mod facts;
mod full;
mod health;
mod hostport;
mod options;
mod pods;
mod proxy;
mod question;
mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as Lock, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_datapath::{Datapath, DatapathError};
use fairlead_source::{Contact, SourceSpec, View};
use ipnet::Ipv4Net;
use nix::fcntl::Flock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::DataDir;
use crate::layout::Layout;
use crate::logging::{self, LogFormat};

pub(crate) use self::facts::READY;
pub(crate) use self::proxy::namespace;

use self::engine::Programmed;
use self::facts::Facts;
use self::health::Health;
use self::options::DatapathArguments;

/// Arguments of `fairlead node`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArguments {
    #[command(flatten)]
    data_dir: DataDir,
    /// Proxy services and nothing else: beside any CNI, without runtime and control plane of ours.
    #[arg(long, requires = "state_dir")]
    proxy_only: bool,
    /// Directory of a proxy alone: its BPF file system, socket and status.
    #[arg(long, value_name = "DIR", requires = "proxy_only")]
    state_dir: Option<PathBuf>,
    /// Where desired state comes from: `push` (our control plane), `kube:KUBECONFIG` (any Kubernetes API server;
    /// `kube:in-cluster` for a pod's own), or `file:DIR` (manifests).
    #[arg(long, value_name = "SOURCE", default_value = "push")]
    source: SourceSpec,
    /// Name of the Node object, as in the client certificate.
    #[arg(long)]
    node_name: String,
    /// Pods' interfaces, with `*` and `?`; every veth into another namespace, and whatever leads to an endpoint of this
    /// node, when absent. For a proxy alone. May be repeated.
    #[arg(long = "pod-interface", value_name = "PATTERN", requires = "proxy_only")]
    pod_interfaces: Vec<String>,
    /// The API server of `--source push`, which the node's certificate is good for.
    #[arg(long, value_name = "URL", required_unless_present = "proxy_only")]
    server: Option<String>,
    /// Directory of client.crt, client.key and ca.crt for `--source push`; DIR/node of the data directory when absent.
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Socket of the CRI runtime.
    #[arg(long, value_name = "SOCK", required_unless_present = "proxy_only")]
    runtime_endpoint: Option<PathBuf>,
    /// Port of the HTTPS server for logs and exec.
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
    /// This node's pod addresses; what the Node object says (`spec.podCIDR`) when absent.
    #[arg(long)]
    pod_cidr: Option<Ipv4Net>,
    /// MTU of pod interfaces; the uplinks' when absent.
    #[arg(long)]
    mtu: Option<u32>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    // The last, because its heading holds for all that follows.
    #[command(flatten)]
    datapath: DatapathArguments,
}

/// How long tasks may take to come to rest when the daemon ends.
const GRACE: Duration = Duration::from_secs(8);

/// What was made while the process had one thread.
#[derive(Debug)]
pub(crate) struct Prepared {
    layout: Layout,
    bpffs: PathBuf,
    cgroup: PathBuf,
    /// Keeps a second daemon off the state directory of a proxy.
    _lock: Option<Flock<std::fs::File>>,
}

/// What comes before the first thread of the daemon: privileges are checked and, for a proxy alone, given up.
pub(crate) fn prepare(arguments: &NodeArguments) -> Result<Prepared> {
    logging::start(arguments.log_format);
    match &arguments.state_dir {
        Some(dir) => proxy::prepare(arguments, dir),
        None => full::prepare(arguments),
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: NodeArguments, prepared: Prepared) -> Result<()> {
    if arguments.proxy_only { proxy::run(arguments, prepared).await } else { full::run(arguments, prepared).await }
}

/// SIGTERM or SIGINT, from when it is made.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn watch() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What both shapes of the daemon have.
#[derive(Clone, Debug)]
struct Shared {
    view: Arc<RwLock<View>>,
    datapath: Arc<Mutex<Datapath>>,
    health: Health,
    programmed: Arc<Lock<Programmed>>,
    services_changed: Arc<Notify>,
}

impl Shared {
    async fn open(arguments: &NodeArguments, prepared: &Prepared) -> Result<Self> {
        Ok(Self {
            view: Arc::new(RwLock::new(View::new(&arguments.node_name))),
            datapath: open_datapath(&arguments.datapath, prepared).await?,
            health: Health::new(!arguments.datapath.filters_node_ports()),
            programmed: Arc::default(),
            services_changed: Arc::default(),
        })
    }

    fn facts(
        &self,
        arguments: &NodeArguments,
        contact: watch::Receiver<Contact>,
        network: Option<pods::PodNetwork>,
    ) -> Facts {
        Facts::new(&arguments.node_name, arguments.source.to_string(), self, contact, network)
    }

    /// Answers load balancers, and whoever asks for the proxy's health.
    fn serve_health(&self, own: Option<SocketAddr>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        tasks.spawn(health::serve(self.health.clone(), own, tasks.clone(), shutdown.child_token()));
    }
}

async fn open_datapath(arguments: &DatapathArguments, prepared: &Prepared) -> Result<Arc<Mutex<Datapath>>> {
    let config = arguments.config(prepared.bpffs.clone(), prepared.cgroup.clone())?;
    let uplinks = arguments.uplinks()?;
    // Loading asks the kernel's verifier, which takes its time: not on a thread that serves others.
    let opened = tokio::task::spawn_blocking(move || -> Result<Datapath> {
        let mut datapath = Datapath::open(config).context("cannot load the data path")?;
        for name in &uplinks {
            match datapath.attach_uplink(name) {
                Ok(uplink) => {
                    tracing::info!(interface = %uplink.name, mode = %uplink.mode, reason = %uplink.reason, "uplink attached");
                }
                Err(DatapathError::NoInterface(_)) => {
                    tracing::warn!(interface = %name, "uplink is not there yet: it is used once it is");
                }
                Err(error) => return Err(error).with_context(|| format!("cannot use uplink {name}")),
            }
        }
        for stale in datapath.uplinks().into_iter().filter(|uplink| !uplinks.contains(&uplink.name)) {
            datapath.detach_uplink(&stale.name).with_context(|| format!("cannot leave uplink {}", stale.name))?;
        }
        Ok(datapath)
    });
    Ok(Arc::new(Mutex::new(opened.await.context("loading the data path was given up")??)))
}

/// The cgroup whose sockets are translated: the one named, or the hierarchy's root.
fn cgroup(arguments: &DatapathArguments) -> Result<PathBuf> {
    arguments.cgroup.clone().or_else(crate::mounts::cgroup_root).context(
        "no cgroup v2 hierarchy is mounted, where connections are translated: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`",
    )
}

fn push_config(arguments: &NodeArguments, layout: &Layout) -> Result<fairlead_source::push::Config> {
    let credentials = arguments.credentials.clone().unwrap_or_else(|| layout.node());
    Ok(fairlead_source::push::Config {
        server: arguments.server.clone().context("`--source push` needs --server")?,
        node: arguments.node_name.clone(),
        certificate: credentials.join("client.crt"),
        key: credentials.join("client.key"),
        authority: credentials.join("ca.crt"),
        server_name: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
