//! Processes that outlive their parent: found again by pid file, and only if they are still the same process.
//!
//! A pid alone may have been given to somebody else meanwhile; together with the start time the kernel notes it is unique.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How often a process that is no child of ours is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One process, told apart from every other there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    started: u64,
}

impl Identity {
    /// Of a process that runs now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Of the process a pid file names, if it still runs.
    pub(crate) fn read(pid_file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pid_file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let named = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        named.alive().then_some(named)
    }

    pub(crate) fn write(self, pid_file: &Path) -> Result<()> {
        std::fs::write(pid_file, format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("cannot write {}", pid_file.display()))
    }

    pub(crate) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Still in the list of processes, if only because nobody has reaped it yet.
    pub(crate) fn listed(self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        parse_stat(&stat).is_some_and(|(_, started)| started == self.started)
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.alive() {
            // It may end between the look and the signal; then there is nothing left to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks it to end, insists after `grace`, and waits until it is gone.
    pub(crate) async fn stop(self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + grace;
        let mut insisted = false;
        while self.alive() {
            if !insisted && Instant::now() > deadline {
                self.signal(Signal::SIGKILL);
                insisted = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// State and start time from `/proc/PID/stat`. The name in parentheses may itself hold parentheses and blanks.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// This program's path, also when a newer build has replaced it meanwhile.
pub(crate) fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell where this program lies")?;
    let text = path.to_string_lossy();
    Ok(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text)))
}

/// How a process of the cluster is started.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// For people: `control plane`, `node`.
    pub(crate) title: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) pid_file: PathBuf,
    pub(crate) log: PathBuf,
}

impl Service {
    /// Starts it, its output going to its log.
    pub(crate) fn start(&self) -> Result<Process> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write the log {}", self.log.display()))?;
        let same = log.try_clone().context("cannot share a log")?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(same)
            // Ctrl-C reaches the whole foreground group at once; children are ended by us, in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.program.display(), self.title))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let identity = pid.and_then(Identity::of);
        if let Some(identity) = identity {
            identity.write(&self.pid_file)?;
        }
        Ok(Process { identity, child: Some(child) })
    }

    /// The one that already runs, or a new one.
    pub(crate) fn adopt_or_start(&self) -> Result<Process> {
        match Identity::read(&self.pid_file) {
            Some(identity) => Ok(Process { identity: Some(identity), child: None }),
            None => self.start(),
        }
    }

    /// The last lines of its log, for an error.
    pub(crate) fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        format!("{} says:\n  {}", self.log.display(), tail.join("\n  "))
    }
}

/// A running process: our child, or one found again.
#[derive(Debug)]
pub(crate) struct Process {
    identity: Option<Identity>,
    child: Option<Child>,
}

impl Process {
    /// Whether it has been there before us.
    pub(crate) fn adopted(&self) -> bool {
        self.child.is_none()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(status.to_string()),
                Err(error) => Some(error.to_string()),
            },
            None => (!self.identity.is_some_and(Identity::alive)).then(|| "it is gone".to_owned()),
        }
    }

    /// Waits for its end and says how it was. Can be given up and called again.
    pub(crate) async fn wait(&mut self) -> String {
        match &mut self.child {
            Some(child) => {
                child.wait().await.map_or_else(|error: io::Error| error.to_string(), |status| status.to_string())
            }
            None => {
                while self.identity.is_some_and(Identity::alive) {
                    tokio::time::sleep(LOOK).await;
                }
                "it is gone".to_owned()
            }
        }
    }

    /// Asks it to end, insists after `grace`, waits, and forgets its pid file.
    pub(crate) async fn stop(&mut self, service: &Service, grace: Duration) {
        if self.ended().is_none() {
            if let Some(identity) = self.identity {
                identity.signal(Signal::SIGTERM);
            }
            if tokio::time::timeout(grace, self.wait()).await.is_err() {
                if let Some(identity) = self.identity {
                    identity.signal(Signal::SIGKILL);
                }
                self.wait().await;
            }
        }
        // Gone already is as good.
        let _ = std::fs::remove_file(&service.pid_file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_strange_name() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(line), Some(('S', 987_654)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_pid_file_of_an_ended_process_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        let us = Identity::of(std::process::id().cast_signed()).unwrap();
        us.write(&file).unwrap();
        assert_eq!(Identity::read(&file), Some(us));
        Identity { started: us.started + 1, ..us }.write(&file).unwrap();
        assert_eq!(Identity::read(&file), None, "the pid was given to another process");
    }

    #[tokio::test]
    async fn a_stubborn_process_is_killed_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service {
            title: "test",
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), "trap '' TERM; echo up; while :; do sleep 0.05; done".to_owned()],
            pid_file: dir.path().join("x.pid"),
            log: dir.path().join("x.log"),
        };
        let mut process = service.start().unwrap();
        while !service.last_words().contains("up") {
            tokio::time::sleep(LOOK).await;
        }
        assert!(service.adopt_or_start().unwrap().adopted());
        process.stop(&service, Duration::from_millis(100)).await;
        assert!(process.ended().is_some_and(|how| how.contains('9')));
        assert!(!service.pid_file.exists());
    }
}
