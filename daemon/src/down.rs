//! `fairlead down`: undoes everything `up` made on this machine, whatever state a crash has left it in, and touches
//! nothing else. Each step goes on where an earlier `down` was interrupted; a step that fails does not keep the others
//! from being tried, and is said at the end.
//!
//! The control plane's data and the runtime's images stay, unless `--purge` asks for the whole directory.

mod proxy;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::layout::Layout;
use crate::process::{Identity, Process, Service};
use crate::progress::Progress;
use crate::up::{Settings, containerd_service};
use crate::{DataDir, mounts, preflight};

/// Arguments of `fairlead down`.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArguments {
    #[command(flatten)]
    data_dir: DataDir,
    /// Remove the whole data directory: the cluster's objects, its authority and the images too.
    #[arg(long)]
    purge: bool,
    /// Directory of a service proxy alone: end and remove that, and nothing else.
    #[arg(long, value_name = "DIR", conflicts_with = "purge")]
    state_dir: Option<PathBuf>,
}

/// Where containerd's CNI library remembers results; it cannot be told otherwise.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// How long `up` may take to end what it started.
const UP_GRACE: Duration = Duration::from_secs(45);
/// How long a single process may take.
const GRACE: Duration = Duration::from_secs(12);
/// How long init may take to reap what ended: these are orphans by then.
const REAP: Duration = Duration::from_secs(3);
/// How long a runtime started only to remove pods may take to answer.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(20);

/// Removes it all.
pub(crate) async fn run(arguments: DownArguments) -> Result<()> {
    if let Some(dir) = &arguments.state_dir {
        return proxy::run(dir).await;
    }
    let layout = Layout::new(&arguments.data_dir.path)?;
    if !layout.dir().exists() {
        println!("nothing to do: {} does not exist", layout.dir().display());
        return Ok(());
    }
    preflight::privileges()?;
    layout.check()?;
    let progress = Progress::new();
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error:#}"));
        }
    };

    let mut running = pod_processes(&layout).unwrap_or_default();
    running.extend(
        ["up", "node", "control", "containerd"].iter().filter_map(|name| Identity::read(&layout.pid_file(name))),
    );
    stop_processes(&layout, &progress).await;
    let pods = remove_pods(&layout, &progress).await;
    let step = progress.step("network");
    match fairlead_network::remove_all(&layout.network()) {
        Ok(removed) => step.done(if removed.is_empty() { "nothing left".to_owned() } else { removed.join(", ") }),
        Err(error) => note("network", Err(error.into())),
    }
    note("data path", remove_datapath(&layout, &progress));
    note("leftovers", stop_leftovers(&layout).await);
    note("mounts", mounts::clear(layout.dir()).map(drop));
    note("cgroups", remove_cgroups(&layout.cgroup()).await);
    match pods {
        // The processes and mounts are gone by now. What our own runtime still remembers goes with its root; a runtime of
        // somebody else has to be cured first.
        Err(error) if Settings::load(&layout).runtime_endpoint.is_none() => {
            progress.say(format!("pods were removed by force, and the images with them: {error:#}"));
            note("runtime", forget_runtime(&layout));
        }
        pods => note("pods", pods),
    }
    if !failures.is_empty() {
        bail!("not everything could be removed; run it again after curing this:\n  {}", failures.join("\n  "));
    }
    remove_files(&layout, arguments.purge)?;
    await_reaped(&running).await;
    println!("down");
    Ok(())
}

/// `up` ends its children in order; whatever a killed one left is ended here.
async fn stop_processes(layout: &Layout, progress: &Progress) {
    let step = progress.step("processes");
    let mut ended = Vec::new();
    for (name, grace) in [("up", UP_GRACE), ("node", GRACE), ("control", GRACE)] {
        if let Some(running) = Identity::read(&layout.pid_file(name)) {
            running.stop(grace).await;
            ended.push(name);
        }
    }
    step.done(if ended.is_empty() { "none were running".to_owned() } else { format!("{} ended", ended.join(", ")) });
}

/// Pods end through the runtime, which is started once more if it is ours and has ended.
async fn remove_pods(layout: &Layout, progress: &Progress) -> Result<()> {
    let step = progress.step("pods");
    let external = Settings::load(layout).runtime_endpoint;
    let socket = external.clone().unwrap_or_else(|| layout.containerd_socket());
    let mut own: Option<(Service, Process)> = None;
    if external.is_none() {
        if !layout.containerd().join("config.toml").exists() {
            step.done("there never were any");
            return Ok(());
        }
        crate::cni::install(layout)?;
        let service = containerd_service(layout)?;
        let process = service.adopt_or_start()?;
        own = Some((service, process));
    }
    let removed = remove_through(&socket, layout).await;
    if let Some((service, mut process)) = own {
        process.stop(&service, GRACE).await;
    }
    step.done(format!("{} removed", removed?));
    Ok(())
}

async fn remove_through(socket: &Path, layout: &Layout) -> Result<usize> {
    let deadline = Instant::now() + RUNTIME_PATIENCE;
    loop {
        let checks = fairlead_kubelet::preflight(socket).await;
        let answers = checks.iter().any(|check| check.ok && check.name == "container runtime");
        if answers || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(fairlead_kubelet::remove_all(socket, layout.dir(), &layout.cgroup()).await?)
}

fn remove_datapath(layout: &Layout, progress: &Progress) -> Result<()> {
    let step = progress.step("data path");
    let bpf = layout.bpf();
    if !mounts::below(&bpf)?.contains(&bpf) {
        step.done("was not loaded");
        return Ok(());
    }
    fairlead_datapath::remove(&bpf).context("cannot detach the data path")?;
    step.done("detached");
    Ok(())
}

/// Shims and container processes that no runtime knows any more: ours are told by the socket in their arguments, or by
/// the cgroup they are in.
async fn stop_leftovers(layout: &Layout) -> Result<()> {
    let ours = pod_processes(layout)?;
    for process in &ours {
        process.signal(Signal::SIGKILL);
    }
    for process in ours {
        process.stop(GRACE).await;
    }
    Ok(())
}

/// The shims of our runtime, and what runs in the pods' cgroups.
fn pod_processes(layout: &Layout) -> Result<Vec<Identity>> {
    let socket = layout.containerd_socket();
    let cgroup = layout.cgroup();
    let pids = std::fs::read_dir("/proc").context("cannot list the processes")?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| is_shim(*pid, &socket) || in_cgroup(*pid, &cgroup)).filter_map(Identity::of).collect())
}

/// Ended processes are listed until init has reaped them; `down` is to leave the list as it was.
async fn await_reaped(processes: &[Identity]) {
    let deadline = Instant::now() + REAP;
    while processes.iter().any(|process| process.listed()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_shim(pid: i32, socket: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = arguments.first().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
    program
        && arguments.windows(2).any(|pair| pair[0] == b"-address" && pair[1] == socket.as_os_str().as_encoded_bytes())
}

fn in_cgroup(pid: i32, name: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.split('/').nth(1) == Some(name))
}

/// The pods' root cgroup in every hierarchy that has it. A cgroup stays busy for a moment after its last process.
async fn remove_cgroups(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    for root in cgroup_roots(name)? {
        loop {
            match remove_tree(&root) {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("cannot remove the cgroup {}", root.display()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    Ok(())
}

fn cgroup_roots(name: &str) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let hierarchies = text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup").then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
    });
    Ok(hierarchies.map(|hierarchy| hierarchy.join(name)).filter(|root| root.is_dir()).collect())
}

/// The files in a cgroup are the kernel's; only directories are removed, the deepest first.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

/// The runtime's CNI library remembers each sandbox until it is deleted in order; those that ended otherwise are told by
/// the network namespace in them, which lay in our directory.
fn forget_cni_results(layout: &Layout) {
    let ours = layout.containerd().join("state").display().to_string();
    for entry in std::fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten() {
        if std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&ours)) {
            // Left behind it would only be litter.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn forget_runtime(layout: &Layout) -> Result<()> {
    let root = layout.containerd().join("root");
    std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

fn remove_files(layout: &Layout, purge: bool) -> Result<()> {
    // A mount that appeared meanwhile would be emptied along with the directory.
    if let Some(mount) = mounts::below(layout.dir())?.first() {
        bail!("{} is still mounted: unmount it and run this again", mount.display());
    }
    let dir = layout.dir();
    let gone: Vec<PathBuf> = if purge {
        vec![dir.to_owned()]
    } else {
        let runtime = ["state", "config.toml", "containerd.sock", "containerd.sock.ttrpc"];
        let runtime = runtime.iter().map(|name| layout.containerd().join(name));
        let rest = ["run", "cni", "network", "bpf", "pods", "logs", "fairlead.sock"].iter().map(|name| dir.join(name));
        runtime.chain(rest).collect()
    };
    for path in gone {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    forget_cni_results(layout);
    // Where containerd and its CNI library keep things whatever they are told; the directories go if nobody uses them.
    for shared in ["/run/containerd/s", "/run/containerd", CNI_RESULTS, "/var/lib/cni"] {
        let _ = std::fs::remove_dir(shared);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directories_of_a_tree_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("fairlead-1");
        std::fs::create_dir_all(root.join("kubepods/pod1")).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(root.join("a/file"), "x").unwrap();
        assert!(remove_tree(&root).is_err(), "files are never deleted");
    }

    #[test]
    fn this_process_is_no_leftover() {
        let pid = std::process::id().cast_signed();
        assert!(!is_shim(pid, Path::new("/x")));
        assert!(!in_cgroup(pid, "fairlead-00000000"));
    }
}
