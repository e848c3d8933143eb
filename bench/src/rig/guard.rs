//! A process beside this one that cleans up after it, should it be killed.
//!
//! It is this program once more, started with an argument that [`is_guard`] knows; it ends when its pipe does, however
//! that comes about.

use std::fs;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sandbox::{MOUNTS, Sandbox};

const GUARD: &str = "--guard";

/// What `main` of a program with a guard asks first: true in the guard, once it has done its work.
pub fn is_guard() -> bool {
    let mut arguments = std::env::args().skip(1);
    let is_guard = arguments.next().as_deref() == Some(GUARD);
    if is_guard {
        let mut path = || arguments.next().unwrap_or_default();
        clean_up(&path(), Path::new(&path()));
    }
    is_guard
}

/// Ends the processes it was told of and removes the sandbox, if the other side did not come to that.
fn clean_up(cgroup: &str, folder: &Path) {
    let lines: Vec<String> = std::io::stdin().lock().lines().map_while(Result::ok).collect();
    for (pid, mark) in lines.iter().filter_map(|line| line.split_once(' ')) {
        // Another process may have the number by now.
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(mark)
            && let Ok(pid) = pid.parse()
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for _ in 0..50 {
        let below = fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        below.for_each(|entry| drop(fs::remove_dir(entry.path())));
        if fs::remove_dir(cgroup).is_ok() || !Path::new(cgroup).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let is_gone = |mounted: &str| {
        let path = folder.join(mounted);
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        // Fails on anything but the empty folder that was below the mount.
        fs::remove_dir(&path).is_ok()
    };
    if MOUNTS.iter().all(|mounted| is_gone(mounted)) {
        let _ = fs::remove_dir_all(folder);
    }
}

/// The process that cleans up.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Starts it, outside of the cgroup it is to remove. The sandbox must not have been entered yet.
    ///
    /// # Errors
    /// This program cannot be started once more.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(GUARD).arg(sandbox.cgroup()).arg(sandbox.dir()).stdin(Stdio::piped());
        let mut child = command.spawn().context("cannot start the guard")?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self { child, pipe })
    }

    /// Tells it of a process, and of what its command line holds.
    ///
    /// # Errors
    /// It is gone.
    pub fn watch(&self, child: &Child, mark: &Path) -> Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().context("the guard is gone")?;
        writeln!(pipe, "{} {}", child.id(), mark.display()).context("the guard does not listen")
    }
}

impl Drop for Guard {
    /// This process has come to its own end, and cleans up itself.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
