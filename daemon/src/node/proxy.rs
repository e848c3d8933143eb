//! The service proxy alone: in the place of kube-proxy, beside any CNI, any runtime and any control plane.
//!
//! Everything it makes is in its state directory and in the network namespace it is started in, so several live on one
//! machine. It gives up the capabilities it does not need before it has a second thread.

use std::fs::File as OsFile;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fairlead_source::{Push, Source, SourceSpec, file, kube};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::layout::Layout;
use crate::privileges::Needs;
use crate::process::Identity;
use crate::{admin, mounts, preflight, privileges};

use super::admin::AdminService;
use super::engine::Engine;
use super::upkeep::{ForeignPods, Upkeep};
use super::{GRACE, NodeArguments, Prepared, Shared, Stop, cgroup, push_config};

/// Ports below need a capability.
const UNPRIVILEGED: u16 = 1024;

pub(super) fn prepare(arguments: &NodeArguments, dir: &Path) -> Result<Prepared> {
    preflight::proxy_privileges()?;
    let layout = Layout::proxy(dir)?;
    layout.check()?;
    layout.create()?;
    let lock = lock(&layout)?;
    let bpffs = mounts::lasting_bpffs(layout.dir(), "bpf")?;
    let cgroup = cgroup(&arguments.datapath)?;
    let inode = namespace(Path::new("/proc/self/ns/net"))?;
    std::fs::write(layout.namespace(), format!("{inode}\n"))
        .with_context(|| format!("cannot write {}", layout.namespace().display()))?;
    // Kernels before 5.11 count maps as locked memory. Without the right to raise the limit, it may do as it is.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let needs = Needs {
        low_ports: arguments.datapath.healthz_bind.0.is_some_and(|address| address.port() < UNPRIVILEGED),
        files: !matches!(arguments.source, SourceSpec::Push),
    };
    privileges::reduce(needs).context("cannot give up capabilities")?;
    Ok(Prepared { layout, bpffs, cgroup, _lock: Some(lock) })
}

/// Held by the one daemon of a state directory; the kernel lets go of it however that ends.
fn lock(layout: &Layout) -> Result<Flock<OsFile>> {
    let path = layout.pid_file("node");
    let file = OsFile::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    let Ok(held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        let pid = Identity::read(&path).map_or_else(String::new, |other| format!(" (process {})", other.pid));
        let dir = layout.dir().display();
        bail!(
            "another proxy{pid} works in {dir}: end it with `fairlead down --state-dir {dir}`, or choose another --state-dir"
        );
    };
    let identity = Identity::of(std::process::id().cast_signed()).context("this process cannot be seen in /proc")?;
    identity.write(&path)?;
    Ok(held)
}

/// A namespace's identity, among those that live.
pub(crate) fn namespace(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.ino())
}

pub(super) async fn run(arguments: NodeArguments, prepared: Prepared) -> Result<()> {
    let began = std::time::Instant::now();
    let mut stop = Stop::watch()?;
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    // What cannot be had is said before anything is attached.
    let source = source(&arguments, &prepared.layout).await?;
    let shared = Shared::open(&arguments, &prepared).await?;
    tracing::info!(elapsed = ?began.elapsed(), "data path in force");
    let uplinks = arguments.datapath.uplinks()?;
    warn_of_forwarding(&uplinks);

    let mut pods = ForeignPods::new(&shared, uplinks, arguments.pod_interfaces.clone());
    pods.look(&shared.datapath).await.context("cannot look for pods' interfaces")?;

    let feed = source.start(&tasks, shutdown.child_token());
    let listener = admin::listen(&prepared.layout.socket())?;
    let service = AdminService {
        facts: shared.facts(&arguments, feed.contact.clone(), None),
        view: Arc::clone(&shared.view),
        datapath: Arc::clone(&shared.datapath),
        network: None,
    };
    tasks.spawn(admin::serve(listener, service, shutdown.child_token()));
    shared.serve_health(arguments.datapath.healthz_bind.0, &tasks, &shutdown);
    let upkeep = Upkeep {
        datapath: Arc::clone(&shared.datapath),
        health: shared.health.clone(),
        node_port_addresses_only: arguments.datapath.filters_node_ports(),
        network: None,
        pods: Some(pods),
    };
    tasks.spawn(upkeep.run(shutdown.child_token()));
    tasks.spawn(Engine::new(&shared, None).run(feed, shutdown.clone()));
    tracing::info!(node = %arguments.node_name, source = %arguments.source, elapsed = ?began.elapsed(), "proxy started");

    stop.wait().await;
    tracing::info!("proxy ends; the data path stays");
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    // As in a whole node.
    let _ = std::fs::remove_file(prepared.layout.socket());
    Ok(())
}

async fn source(arguments: &NodeArguments, layout: &Layout) -> Result<Box<dyn Source>> {
    let node = &arguments.node_name;
    Ok(match &arguments.source {
        SourceSpec::Push => Box::new(
            Push::open(push_config(arguments, layout)?).context("cannot prepare the stream from the control plane")?,
        ),
        SourceSpec::File(dir) => Box::new(file::File::open(dir.clone(), node).context("cannot read manifests")?),
        SourceSpec::Kube(config) => {
            Box::new(kube::Kube::open(config, node).await.context("cannot prepare the watch of an API server")?)
        }
    })
}

/// A proxy changes no switches of the host; but what a CNI forgot is worth a word.
fn warn_of_forwarding(uplinks: &[String]) {
    for uplink in uplinks.iter().filter(|uplink| fairlead_network::forwards(uplink) == Some(false)) {
        tracing::warn!(
            interface = uplink,
            "the kernel does not forward what comes in here, so pods are not reached from outside: sysctl -w net.ipv4.conf.{uplink}.forwarding=1"
        );
    }
}
