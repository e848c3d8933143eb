//! A BPF file system and a cgroup of one's own. The mounts are seen by this process alone and go with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::wait::unique_name;

/// What is mounted, by the folder below the sandbox's own.
pub(super) const MOUNTS: [&str; 2] = ["bpf", "cgroup"];

/// Where a data path pins its objects and attaches its socket hooks.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    cgroup: PathBuf,
    /// The cgroup this process came from, once it has entered the sandbox's.
    home: Option<PathBuf>,
}

impl Sandbox {
    /// Mounts both and makes an empty cgroup. The caller's thread must be the process's first.
    ///
    /// # Errors
    /// A mount is refused.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot get a mount namespace of its own")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot make the mounts private")?;
        let dir = tempfile::tempdir()?;
        let bpffs = dir.path().join("bpf");
        let cgroups = dir.path().join("cgroup");
        for (path, kind) in [(&bpffs, "bpf"), (&cgroups, "cgroup2")] {
            fs::create_dir(path)?;
            mount(Some(kind), path, Some(kind), MsFlags::empty(), none)
                .with_context(|| format!("cannot mount {kind}"))?;
        }
        let cgroup = cgroups.join(unique_name("fairlead"));
        fs::create_dir(&cgroup).context("cannot make a cgroup")?;
        Ok(Self { dir, cgroup, home: None })
    }

    /// The BPF file system.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The folder both are mounted in; goes with the sandbox.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A cgroup below this one that single threads of this process may enter, once it has entered the sandbox's. Removed
    /// with the sandbox.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn threaded(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        fs::write(path.join("cgroup.type"), "threaded")
            .with_context(|| format!("cannot open {} to threads", path.display()))?;
        Ok(path)
    }

    /// Moves this process into the cgroup, so that its sockets go through the hooks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&mut self) -> Result<()> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path =
            own.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2 in /proc/self/cgroup")?;
        self.home = Some(self.dir.path().join("cgroup").join(path.trim_start_matches('/')));
        move_here(&self.cgroup)
    }
}

fn move_here(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(home) = &self.home
            && let Err(error) = move_here(home)
        {
            eprintln!("{error:#}");
        }
        for below in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            if below.path().is_dir() {
                remove(&below.path());
            }
        }
        remove(&self.cgroup);
        for mounted in MOUNTS {
            let _ = nix::mount::umount2(&self.dir.path().join(mounted), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Removes a cgroup; whoever was in it may need a moment to be gone for good.
fn remove(cgroup: &Path) {
    let removed = crate::wait::wait_for("removing a cgroup", Duration::from_secs(2), || Ok(fs::remove_dir(cgroup)?));
    if let Err(error) = removed {
        eprintln!("cannot remove the cgroup {}: {error:#}", cgroup.display());
    }
}
