//! What one `up` is going to do, decided before it begins.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cni;
use crate::layout::Layout;
use crate::process::{Identity, Service, own_program};

/// A checked set of arguments, defaults filled in.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) port: u16,
    pub(crate) kubelet_port: u16,
    pub(crate) uplinks: Vec<String>,
    pub(crate) runtime_endpoint: Option<PathBuf>,
    pub(crate) node_name: String,
    pub(crate) node_ip: Ipv4Addr,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) control_program: PathBuf,
}

/// What later commands need to know of the last `up`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// A runtime that is not ours.
    pub(crate) runtime_endpoint: Option<PathBuf>,
}

impl Settings {
    /// Those of the last `up`; the defaults if there was none.
    pub(crate) fn load(layout: &Layout) -> Self {
        let text = std::fs::read(layout.settings()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        let text = serde_json::to_vec(self).context("cannot write the settings as JSON")?;
        std::fs::write(layout.settings(), text).with_context(|| format!("cannot write {}", layout.settings().display()))
    }
}

impl Plan {
    pub(crate) fn settings(&self) -> Settings {
        Settings { runtime_endpoint: self.runtime_endpoint.clone() }
    }

    /// Where the runtime answers.
    pub(crate) fn runtime_socket(&self, layout: &Layout) -> PathBuf {
        self.runtime_endpoint.clone().unwrap_or_else(|| layout.containerd_socket())
    }

    /// The node daemon as a process of its own, so that it can end and come back alone.
    pub(crate) fn node_service(&self, layout: &Layout) -> Result<Service> {
        let mut arguments = vec![
            "node".to_owned(),
            format!("--data-dir={}", layout.dir().display()),
            format!("--server=https://{}:{}", self.node_ip, self.port),
            format!("--node-name={}", self.node_name),
            format!("--node-ip={}", self.node_ip),
            format!("--runtime-endpoint={}", self.runtime_socket(layout).display()),
            format!("--kubelet-port={}", self.kubelet_port),
            format!("--cluster-cidr={}", self.cluster_cidr),
        ];
        arguments.extend(self.uplinks.iter().map(|uplink| format!("--uplink={uplink}")));
        Ok(Service {
            title: "node",
            program: own_program()?,
            arguments,
            pid_file: layout.pid_file("node"),
            log: layout.log("node"),
        })
    }

    /// Ends a node and a control plane that an `up` which was killed left behind, and puts the CNI plugins in their place.
    pub(crate) async fn settle(&self, layout: &Layout) -> Result<()> {
        for process in ["node", "control"] {
            if let Some(left) = Identity::read(&layout.pid_file(process)) {
                left.stop(Duration::from_secs(10)).await;
            }
        }
        cni::install(layout)
    }
}

/// Held by the one `up` of a data directory; the kernel lets go of it however that ends.
pub(crate) fn lock(layout: &Layout) -> Result<Flock<File>> {
    let path = layout.pid_file("up");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    let Ok(held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { bail!(taken(layout)) };
    let identity = Identity::of(std::process::id().cast_signed()).context("this process cannot be seen in /proc")?;
    identity.write(&path)?;
    Ok(held)
}

/// What to say when another `up` runs.
pub(crate) fn taken(layout: &Layout) -> String {
    let pid = Identity::read(&layout.pid_file("up")).map_or_else(String::new, |up| format!(" (process {})", up.pid));
    let dir = layout.dir().display();
    format!(
        "`fairlead up`{pid} is running on {dir} already: end it with `fairlead down --data-dir {dir}`, or choose another --data-dir"
    )
}
