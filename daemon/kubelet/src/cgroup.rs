//! The pods' cgroups: `ROOT/{burstable,besteffort}/podUID` on cgroup v2.
//!
//! Where v2 has the controllers, the tree is made here with the pod's weight and limits, and containers hang below it.
//! Where it has none (a host that still mounts the controllers as v1), the daemon says so once, in its log and in a
//! condition of the node, leaves the limits of single containers to the runtime, and goes on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PodSpec;

use crate::pod::security::{quota, shares};
use crate::pod::status::{Qos, qos};
use crate::quantity;

/// Where every host mounts its cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers that pods need.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// The hierarchy as this host has it, and our root in it.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    /// Name of the root, relative to the mount.
    root: String,
    /// The mount, where v2 is usable.
    unified: Option<PathBuf>,
}

impl Cgroups {
    /// Looks at the host. Makes nothing.
    pub(crate) fn probe(root: &str) -> Self {
        Self::probe_at(Path::new(MOUNT), root)
    }

    fn probe_at(mount: &Path, root: &str) -> Self {
        let have = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let usable = NEEDED.iter().all(|name| have.split_whitespace().any(|controller| controller == *name));
        Self { root: root.trim_matches('/').to_owned(), unified: usable.then(|| mount.to_path_buf()) }
    }

    /// `None` where pods have cgroups of their own; otherwise why they do not.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        match self.unified {
            Some(_) => None,
            None => Some(
                "cgroup v2 has no cpu, memory and pids controllers here: pods have no cgroup of their own and the \
                 runtime alone enforces containers' limits (boot with cgroup v2 as the only hierarchy to change this)",
            ),
        }
    }

    /// The CRI's `cgroup_parent` of a pod.
    pub(crate) fn parent(&self, spec: &PodSpec, uid: &str) -> String {
        match qos(spec) {
            Qos::Guaranteed => format!("/{}/pod{uid}", self.root),
            Qos::Burstable => format!("/{}/burstable/pod{uid}", self.root),
            Qos::BestEffort => format!("/{}/besteffort/pod{uid}", self.root),
        }
    }

    /// Makes a pod's cgroup and sets its weight and limits. Does nothing where v2 is not usable.
    pub(crate) fn create(&self, spec: &PodSpec, uid: &str) -> io::Result<()> {
        let Some(mount) = &self.unified else { return Ok(()) };
        let parent = self.parent(spec, uid);
        let mut path = mount.clone();
        for part in parent.trim_start_matches('/').split('/') {
            delegate(&path)?;
            path.push(part);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        delegate(&path)?;
        if qos(spec) == Qos::BestEffort {
            // Together they get what nobody else wants.
            fs::write(mount.join(&self.root).join("besteffort/cpu.weight"), "1")?;
        }
        for (file, value) in limits(spec) {
            fs::write(path.join(file), value)?;
        }
        Ok(())
    }

    /// Kills what is left in a pod's cgroups and removes them, in whatever hierarchy the runtime made them.
    pub(crate) fn remove(&self, spec: &PodSpec, uid: &str) -> io::Result<()> {
        let parent = self.parent(spec, uid);
        roots().iter().try_for_each(|mount| remove_tree(&mount.join(parent.trim_start_matches('/'))))
    }

    /// Removes the root with everything below it.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        if self.root.is_empty() {
            return Ok(());
        }
        roots().iter().try_for_each(|mount| remove_tree(&mount.join(&self.root)))
    }
}

/// The mount points of every hierarchy of this host.
fn roots() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

/// Lets children of this cgroup have the controllers.
fn delegate(path: &Path) -> io::Result<()> {
    let have = fs::read_to_string(path.join("cgroup.controllers"))?;
    for name in NEEDED.iter().chain(&["io", "cpuset"]).filter(|name| have.split_whitespace().any(|c| c == **name)) {
        fs::write(path.join("cgroup.subtree_control"), format!("+{name}"))?;
    }
    Ok(())
}

/// Files and values of a pod's cgroup. A limit holds only if every container has one.
fn limits(spec: &PodSpec) -> Vec<(&'static str, String)> {
    let sum = |list: &str, name: &str| -> Option<i128> {
        spec.containers
            .iter()
            .map(|container| {
                let resources = container.resources.as_ref()?;
                let limits = resources.limits.as_ref().and_then(|limits| limits.get(name));
                let set = match list {
                    "limits" => limits,
                    _ => resources.requests.as_ref().and_then(|requests| requests.get(name)).or(limits),
                };
                set.and_then(quantity::milli).or((list == "requests").then_some(0))
            })
            .sum()
    };
    let mut files = vec![("cpu.weight", weight(shares(sum("requests", "cpu").unwrap_or(0))).to_string())];
    if let Some(cpu) = sum("limits", "cpu") {
        files.push(("cpu.max", format!("{} 100000", quota(cpu))));
    }
    if let Some(memory) = sum("limits", "memory") {
        files.push(("memory.max", (memory / 1_000).to_string()));
    }
    files
}

/// Shares of v1 (2 to 262144) as a weight of v2 (1 to 10000).
fn weight(shares: i64) -> i64 {
    1 + ((shares - 2) * 9_999) / 262_142
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    if path.join("cgroup.kill").exists() {
        fs::write(path.join("cgroup.kill"), "1")?;
    }
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A killed process leaves its cgroup a moment later; v1 has no file that kills, so each is killed by its number.
    for _ in 0..100 {
        let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines().filter_map(|line| line.parse().ok()).filter(|process| *process > 1) {
            match nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PodSpec {
        serde_json::from_str(json).expect("a pod spec in JSON")
    }

    #[test]
    fn a_host_without_controllers_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Cgroups::probe_at(dir.path(), "fairlead-x").unusable().is_some());
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("written");
        assert!(Cgroups::probe_at(dir.path(), "fairlead-x").unusable().is_none());
    }

    #[test]
    fn parents_follow_the_class_and_limits_are_sums() {
        let cgroups = Cgroups::probe_at(Path::new("/nonexistent"), "fairlead-x");
        let plain = spec(r#"{"containers":[{"name":"a"}]}"#);
        assert_eq!(cgroups.parent(&plain, "u"), "/fairlead-x/besteffort/podu");
        assert_eq!(limits(&plain), [("cpu.weight", "1".to_owned())]);
        let both = spec(
            r#"{"containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Mi"}}},
                              {"name":"b","resources":{"limits":{"cpu":"500m","memory":"1Mi"}}}]}"#,
        );
        assert_eq!(cgroups.parent(&both, "u"), "/fairlead-x/podu");
        assert_eq!(
            limits(&both),
            [("cpu.weight", "59".to_owned()), ("cpu.max", "150000 100000".into()), ("memory.max", "2097152".into())]
        );
    }
}
