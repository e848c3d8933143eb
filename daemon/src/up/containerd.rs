//! A containerd of the cluster's own: its configuration, and when it is ready.
//!
//! Nothing of it lies outside the data directory: root, state, sockets, network namespaces and runc's state are all set,
//! and plugins that would make directories elsewhere or look for file systems that are not there are left out.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::net::UnixStream;

use super::checks::which;
use super::{LOOK, PATIENCE, wait_for};
use crate::layout::Layout;
use crate::process::{Process, Service};

/// The image every sandbox begins with; embedded, so that a node needs no registry to run a first pod.
const PAUSE_IMAGE: &str = "fairlead.local/pause:1";

/// Its OCI archive. Empty in a build that was not given one.
const PAUSE_ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause.tar"));

/// Both programs, or an error with the cure.
pub(super) fn check_installed() -> Result<()> {
    for program in ["containerd", "containerd-shim-runc-v2", "runc"] {
        if which(program).is_none() {
            bail!(
                "{program} is not on PATH: install it (Debian, Ubuntu: `apt-get install containerd runc`), or name a running CRI runtime with --runtime-endpoint"
            );
        }
    }
    if PAUSE_ARCHIVE.is_empty() {
        bail!("this binary was built without its pause image: build it with `cargo xtask build`");
    }
    Ok(())
}

/// The process.
pub(crate) fn service(layout: &Layout) -> Result<Service> {
    Ok(Service {
        title: "containerd",
        program: which("containerd").context("containerd is not on PATH")?,
        arguments: vec![format!("--config={}", layout.containerd().join("config.toml").display())],
        pid_file: layout.pid_file("containerd"),
        log: layout.log("containerd"),
    })
}

/// Writes its configuration. One that runs already goes on with what it read.
pub(super) fn configure(layout: &Layout, service: &Service) -> Result<()> {
    let path = layout.containerd().join("config.toml");
    std::fs::write(&path, configuration(layout))
        .with_context(|| format!("cannot write {} for {}", path.display(), service.title))
}

/// Waits until the runtime's socket answers.
pub(super) async fn ready(socket: &Path, own: Option<(&Service, &mut Process)>) -> Result<()> {
    let connect = async || UnixStream::connect(socket).await.map(drop).map_err(|error| error.to_string());
    match own {
        Some((service, process)) => wait_for(service, process, &mut String::new(), connect).await,
        None => connect().await.map_err(|error| anyhow::anyhow!("{}: {error}", socket.display())),
    }
}

/// Puts the pause image into the runtime. Its socket answers a moment before its services do.
pub(super) async fn load_pause(socket: &Path) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fairlead_kubelet::image::load_bytes(socket, PAUSE_ARCHIVE).await {
            Ok(names) => return Ok(names.join(", ")),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context(format!("cannot load {PAUSE_IMAGE} into the runtime"));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn configuration(layout: &Layout) -> String {
    let dir = layout.containerd();
    let dir = dir.display();
    let (socket, conf, bin) = (layout.containerd_socket(), layout.cni_conf(), layout.cni_bin());
    let (socket, conf, bin) = (socket.display(), conf.display(), bin.display());
    format!(
        r#"# Written by `fairlead up` at each start.
version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[ttrpc]
address = "{socket}.ttrpc"

[debug]
level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{conf}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{dir}/state/runc"
SystemdCgroup = false
"#
    )
}
