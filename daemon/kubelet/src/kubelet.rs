//! The kubelet as its caller sees it: started once, stopped by a token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use fairlead_source::{Changes, Reporter, View};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::context::Context;
use crate::cri::{Cri, CriError};
use crate::dispatch::Dispatcher;
use crate::outbox::Outbox;
use crate::pod::field::NodeFacts;
use crate::pod::status::Host;
use crate::serve::{ServeError, Server};
use crate::{node, runtime};

/// How long the runtime may take to answer the first time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Container events that may wait.
const HAPPENED: usize = 1_024;

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A directory of ours cannot be made.
    #[error("cannot create {} (is the data directory writable?)", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime does not answer.
    #[error("the container runtime at {} does not answer (is containerd running, with its cri plugin?)", .endpoint.display())]
    Runtime {
        /// Its socket.
        endpoint: PathBuf,
        /// Why.
        source: CriError,
    },
    /// The HTTPS server cannot start.
    #[error("cannot serve logs and exec")]
    Serve(#[from] ServeError),
}

/// A running kubelet. Dropping it does not stop it: cancel the token given to [`Kubelet::start`], then wait for
/// [`Kubelet::stopped`]. Pods are left running, to be adopted by the next start.
#[derive(Debug)]
pub struct Kubelet {
    tasks: TaskTracker,
    address: SocketAddr,
}

impl Kubelet {
    /// Registers the node, adopts the pods that run already, serves the HTTPS port and goes on until `shutdown`.
    pub async fn start(
        config: Config,
        view: Arc<RwLock<View>>,
        changes: mpsc::Receiver<Changes>,
        reporter: Arc<dyn Reporter>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        for path in [config.data_dir.join("pods"), crate::config::log_root(&config.data_dir)] {
            std::fs::create_dir_all(&path).map_err(|source| StartError::Directory { path, source })?;
        }
        let runtime = |source| StartError::Runtime { endpoint: config.runtime_endpoint.clone(), source };
        let cri = Cri::new(&config.runtime_endpoint).map_err(runtime)?;
        let version = first_answer(&cri).await.map_err(runtime)?;
        let cgroups = Cgroups::probe(&config.cgroup);
        if let Some(why) = cgroups.unusable() {
            warn!("{why}");
        }
        let facts =
            node::read_facts(&config.data_dir, format!("{}://{}", version.runtime_name, version.runtime_version));
        let outbox = Outbox::new(&config.node_name);
        let context = Arc::new(Context {
            facts: NodeFacts {
                name: config.node_name.clone(),
                ip: config.node_ip.to_string(),
                cpu_milli: i128::try_from(facts.cpus).unwrap_or(1) * 1_000,
                memory: i128::from(facts.memory),
            },
            host: Host { runtime: version.runtime_name, ip: config.node_ip.to_string() },
            cri,
            view,
            outbox: outbox.clone(),
            cgroups,
            resolv_conf: resolv_conf(),
            config: config.clone(),
        });
        let tasks = TaskTracker::new();
        let server = Server::bind(context.clone()).await?;
        let address = server.address();
        tasks.spawn(server.run(shutdown.clone()));
        tasks.spawn(outbox.run(reporter, shutdown.clone()));
        tasks.spawn(node::run(context.clone(), facts, address.port(), shutdown.clone()));
        let (happened_sender, happened) = mpsc::channel(HAPPENED);
        let (alive_sender, alive) = watch::channel(false);
        tasks.spawn(runtime::follow(config, happened_sender, alive_sender, shutdown.clone()));
        tasks.spawn(Dispatcher::new(context, shutdown).run(changes, happened, alive));
        Ok(Self { tasks, address })
    }

    /// Where the HTTPS server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every task has ended.
    pub async fn stopped(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The runtime's version, as soon as it answers at all.
async fn first_answer(cri: &Cri) -> Result<k8s_cri::v1::VersionResponse, CriError> {
    let begun = std::time::Instant::now();
    loop {
        match cri.version().await {
            Ok(version) => return Ok(version),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The resolver configuration pods inherit: systemd-resolved's own where the host's points at its stub.
fn resolv_conf() -> PathBuf {
    let real = PathBuf::from("/run/systemd/resolve/resolv.conf");
    let stub = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if stub.contains("127.0.0.53") && real.exists() { real } else { PathBuf::from("/etc/resolv.conf") }
}
