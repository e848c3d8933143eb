//! What the kubelet is told at start: who this node is, where its runtime answers, and where it may write.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Everything the kubelet needs to know that it cannot observe.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// The node's InternalIP, and `status.hostIP` of its pods.
    pub node_ip: IpAddr,
    /// `DIR` of `fairlead up`: pods, logs and volumes live below it.
    pub data_dir: PathBuf,
    /// Socket of the CRI runtime.
    pub runtime_endpoint: PathBuf,
    /// Name of the root cgroup of all pods, such as `fairlead-1a2b3c`, relative to the hierarchy's mount.
    pub cgroup: String,
    /// Port of the HTTPS server (logs, exec); 0 takes any free one.
    pub port: u16,
    /// Certificate chain of the HTTPS server, PEM.
    pub server_cert: PathBuf,
    /// Its key, PEM.
    pub server_key: PathBuf,
    /// CA whose clients may call the HTTPS server, PEM.
    pub client_ca: PathBuf,
    /// Cluster DNS servers; empty while there are none, and `ClusterFirst` then falls back to the node's resolver.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// `status.capacity.pods`.
    pub max_pods: u32,
    /// Labels the Node is registered with beside the well-known ones.
    pub node_labels: Vec<(String, String)>,
}

impl Config {
    /// Where everything of one pod lives: volumes, managed files, termination messages.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Where the runtime writes the logs of one pod.
    pub(crate) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        log_root(&self.data_dir).join(format!("{namespace}_{name}_{uid}"))
    }

    /// Value of the label that marks sandboxes and containers as this node's.
    pub(crate) fn owner(&self) -> String {
        owner(&self.data_dir)
    }
}

/// Root of all pod logs below a data directory.
pub(crate) fn log_root(data_dir: &Path) -> PathBuf {
    data_dir.join("logs")
}

/// Label on sandboxes and containers of ours: a runtime may be shared with others.
pub(crate) const OWNER_LABEL: &str = "io.fairlead.data-dir";

/// Value of [`OWNER_LABEL`] for a data directory, the same however the path was written.
pub(crate) fn owner(data_dir: &Path) -> String {
    data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_path_buf()).display().to_string()
}
