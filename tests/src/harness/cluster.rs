//! A one-machine cluster of its own: private folder, ports and address ranges, removed on drop, also after a panic.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::kubectl::Kubectl;
use crate::Root;

/// How long a cluster may take to say `ready`; a debug build on a loaded machine is slow.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A running `fairlead up`.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    up: Option<Child>,
    args: Vec<String>,
    _root: Root,
}

impl Cluster {
    /// Starts a cluster and waits until it says `ready`.
    ///
    /// # Errors
    /// A program is missing or the cluster did not get ready; the error holds what it printed.
    pub fn start(root: Root) -> Result<Self> {
        Self::start_with(root, &[])
    }

    /// Like [`Cluster::start`], with more arguments for `fairlead up`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(root: Root, more: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fairlead-").tempdir().context("cannot make a data folder")?;
        // Second bytes of the ranges follow the process id, so that two test runs on one machine stay apart.
        let spot = std::process::id() % 60;
        let mut args: Vec<String> = ["--port", &free_port()?.to_string(), "--kubelet-port", &free_port()?.to_string()]
            .map(str::to_owned)
            .to_vec();
        args.extend(["--service-cidr".to_owned(), format!("10.{}.0.0/16", 120 + spot)]);
        args.extend(["--cluster-cidr".to_owned(), format!("10.{}.0.0/16", 180 + spot)]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        let mut cluster = Self { folder, up: None, args, _root: root };
        cluster.up()?;
        Ok(cluster)
    }

    /// Starts `fairlead up` again after [`Cluster::stop`].
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn up(&mut self) -> Result<()> {
        let mut child = Command::new(program("fairlead")?)
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start `fairlead up`")?;
        let lines = lines_of(&mut child);
        self.up = Some(child);
        await_ready(&lines)?;
        // Somebody has to read on, or the pipe fills and stops the cluster.
        thread::spawn(move || lines.into_iter().for_each(drop));
        Ok(())
    }

    /// Ends `fairlead up` with SIGTERM; pods go on running.
    ///
    /// # Errors
    /// It did not end within half a minute.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.up.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id out of range")?);
        kill(pid, Signal::SIGTERM).context("cannot signal `fairlead up`")?;
        let ended = crate::wait_for("the end of `fairlead up`", Duration::from_secs(30), || {
            child.try_wait()?.context("it is still running")
        });
        if ended.is_err() {
            child.kill().context("cannot kill `fairlead up`")?;
            child.wait().context("cannot reap `fairlead up`")?;
        }
        ended.map(drop)
    }

    /// Removes everything the cluster made on this machine; the data folder stays until drop.
    ///
    /// # Errors
    /// `fairlead down` failed; the error holds what it said.
    pub fn down(&mut self) -> Result<()> {
        self.fairlead(&["down"]).map(drop)
    }

    /// Runs `fairlead VERB… --data-dir …` and returns its standard output.
    ///
    /// # Errors
    /// It ended badly.
    pub fn fairlead(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(program("fairlead")?)
            .args(args)
            .arg("--data-dir")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .output()
            .context("cannot start fairlead")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("fairlead {} failed\n{}{}", args.join(" "), text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// kubectl of this version, aimed at this cluster as its administrator.
    ///
    /// # Errors
    /// That kubectl is not on this machine.
    pub fn kubectl(&self, version: &str) -> Result<Kubectl> {
        Kubectl::find(version, &self.data_dir().join("kubeconfig"), self.folder.path())
    }

    /// Loads the echo image, which [`echo_manifest`] runs.
    ///
    /// # Errors
    /// The image was not built or the runtime refuses it.
    pub fn load_echo(&self) -> Result<()> {
        let image = std::env::var_os("FAIRLEAD_ECHO_IMAGE")
            .map(PathBuf::from)
            .or_else(|| Some(target_folder()?.parent()?.join("images/echo.tar")))
            .filter(|image| image.is_file())
            .context("the echo image is missing; run `cargo xtask build`")?;
        self.fairlead(&["image", "load", &image.to_string_lossy()]).map(drop)
    }

    /// The data folder given to `fairlead up`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (what, ended) in [("stopping", self.stop()), ("removing", self.fairlead(&["down", "--purge"]).map(drop))] {
            if let Err(error) = ended {
                eprintln!("{what} the test cluster failed: {error:#}");
            }
        }
    }
}

/// `examples/echo.yaml`.
#[must_use]
pub fn echo_manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/echo.yaml")
}

/// A TCP port nobody listens on right now.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("0.0.0.0", 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Collects lines until one says `ready`.
fn await_ready(lines: &Receiver<String>) -> Result<()> {
    let start = Instant::now();
    let mut seen = Vec::new();
    loop {
        let left = READY_WITHIN.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) if line.split_whitespace().next() == Some("ready") => return Ok(()),
            Ok(line) => seen.push(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the cluster was not ready within {READY_WITHIN:?}; it said:\n{}", seen.join("\n"))
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("`fairlead up` ended before it was ready; it said:\n{}", seen.join("\n"))
            }
        }
    }
}

/// Both outputs of a child, line by line, in the order of arrival.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        let sender = sender.clone();
        thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).all(|l| sender.send(l).is_ok()));
    }
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).all(|l| sender.send(l).is_ok()));
    }
    receiver
}

/// A program of ours: from `FAIRLEAD_BIN_DIR`, else from the folder this test was built into.
///
/// # Errors
/// It is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    std::env::var_os("FAIRLEAD_BIN_DIR")
        .map(PathBuf::from)
        .or_else(target_folder)
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file())
        .with_context(|| format!("{name} is not built; run `cargo xtask test cluster`"))
}

/// `target/debug` of a test that runs as `target/debug/deps/test-…`.
fn target_folder() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned())
}
