//! A node of the lab: its pods, and its daemon, the real binary.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{FAMILIES, Family, Wiring};
use crate::harness::cluster::program;
use crate::harness::dialogue::serve;
use crate::harness::guard::Guard;
use crate::harness::namespace::Namespace;
use crate::wait_for;

/// Argument of a process that only lives.
pub(super) const PAUSE: &str = "--pause";
/// How long a daemon may take to start: an emulated processor is a minute at having its programs verified.
const PROMPT: Duration = Duration::from_secs(240);

/// A node, with its daemon if one runs.
#[derive(Debug)]
pub struct Node {
    /// From 1 on.
    pub number: u8,
    /// `n1`, `n2` …
    pub name: String,
    /// Its own network namespace; what runs in it goes through its hooks.
    pub net: Namespace,
    /// By their order; addresses count from 11.
    pub pods: Vec<Pod>,
    /// State directory of the daemon.
    pub state: PathBuf,
    /// What the daemon says.
    pub log: PathBuf,
    pub(super) wiring: Wiring,
    pub(super) cgroup: PathBuf,
    pub(super) daemon: Option<Child>,
    pub(super) guard: Arc<Guard>,
}

/// A pod, with a server whose number is ten times the node's plus the last digit of its address.
#[derive(Debug)]
pub struct Pod {
    /// Number of its server.
    pub id: u8,
    /// Last part of its addresses.
    pub host: u8,
    /// Number of its node.
    pub node: u8,
    /// What runs in it goes through the node's hooks.
    pub net: Namespace,
    /// What runs in it does not, as the guest of a virtual machine.
    pub bypass: Namespace,
    /// The process by which the pod's namespace is found, as the pause process of a real one.
    pause: Child,
}

impl Pod {
    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        family.pod(self.node, self.host)
    }

    /// Its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        FAMILIES.map(|family| self.address(family))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.pause.kill();
        let _ = self.pause.wait();
    }
}

impl Node {
    /// Another pod.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_pod(&mut self, host: u8) -> Result<&Pod> {
        let net = Namespace::new()?;
        let link = format!("pod{host}");
        self.net.connect(&link, &net, "eth0")?;
        if self.wiring == Wiring::Bridged {
            self.net.enslave(&link, "cni0")?;
        }
        for family in FAMILIES {
            let (address, gateway) = (family.pod(self.number, host), family.gateway(self.number));
            if self.wiring == Wiring::Bridged {
                net.address("eth0", address, family.lan())?;
            } else {
                self.net.address(&link, gateway, family.alone())?;
                self.net.route(&link, address, family.alone(), None)?;
                net.address("eth0", address, family.alone())?;
                net.route("eth0", gateway, family.alone(), None)?;
            }
            net.route("eth0", family.everywhere(), 0, Some(gateway))?;
        }
        let (bypass, net) = (net.in_cgroup(None)?, net.in_cgroup(Some(&self.cgroup))?);
        let pause = net.run(|| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(PAUSE).stdin(Stdio::piped()).spawn().context("cannot start a pod's process")
        })?;
        let id = self.number * 10 + host % 10;
        let pod = Pod { id, host, node: self.number, net, bypass, pause };
        serve(&pod.net, id)?;
        self.pods.push(pod);
        self.pods.last().context("a pod was added")
    }

    /// Removes a pod, its interface and its processes.
    ///
    /// # Errors
    /// There is none of this address.
    pub fn remove_pod(&mut self, host: u8) -> Result<()> {
        let at = self.pods.iter().position(|pod| pod.host == host).context("no such pod")?;
        self.net.remove(&format!("pod{host}"))?;
        self.pods.remove(at);
        Ok(())
    }

    /// Starts the daemon with this source, for somebody who keeps its process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&self, source: &str, arguments: &[&str]) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program("fairlead")?);
        command
            .args(["node", "--proxy-only", "--node-name", &self.name, "--uplink", "eth0"])
            .args(["--source", source])
            .arg("--state-dir")
            .arg(&self.state)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .args(["--cluster-cidr", "10.244.0.0/16", "--cluster-cidr", "fd00:244::/48"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // The namespace alone, not the cgroup: a proxy's own sockets are nobody's clients.
        let child = self.net.in_cgroup(None)?.run(|| command.spawn().context("cannot start `fairlead node`"))?;
        self.guard.watch(&child, &self.state)?;
        Ok(child)
    }

    /// Hands the daemon's process over, to be ended by somebody who only borrows the node.
    pub fn take_daemon(&mut self) -> Option<Child> {
        self.daemon.take()
    }

    /// Takes the process of a daemon that [`Node::launch`] started.
    pub fn keep_daemon(&mut self, daemon: Child) {
        self.daemon = Some(daemon);
    }

    /// Waits until the daemon has written its tables.
    ///
    /// # Errors
    /// It does not.
    pub fn ready(&self) -> Result<()> {
        wait_for(&format!("the start of {}'s daemon", self.name), PROMPT, || {
            let ready = self.fact("ready")?;
            ensure!(ready == "True", "ready is {ready}");
            Ok(())
        })
        .with_context(|| self.said())
    }

    /// What the daemon says of itself under this name; empty if nothing.
    ///
    /// # Errors
    /// It does not answer.
    pub fn fact(&self, name: &str) -> Result<String> {
        let status: Value = serde_json::from_str(&self.ask(&["status", "-o", "json"])?)?;
        Ok(status[name].as_str().unwrap_or_default().to_owned())
    }

    /// The end of the daemon's log.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{} said:\n{}", self.name, lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// One HTTP request to the node itself: status and body.
    ///
    /// # Errors
    /// Nobody listens or the answer is none.
    pub fn http(&self, port: u16, path: &str) -> Result<(u16, String)> {
        self.net.in_cgroup(None)?.run(|| http(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path))
    }

    /// Whether the daemon runs.
    pub fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// Ends the daemon on the spot.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// `fairlead VERB…  --state-dir …` in the node's namespace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn fairlead(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("fairlead")?);
        command.args(arguments).arg("--state-dir").arg(&self.state).stdin(Stdio::null());
        self.net.in_cgroup(None)?.run(|| command.output().context("cannot start fairlead"))
    }

    /// The same; what it prints, if it ends well.
    ///
    /// # Errors
    /// It ends badly.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.fairlead(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("fairlead {} failed: {}{}", arguments.join(" "), text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// `fairlead down`: ends the daemon and removes what it made.
    ///
    /// # Errors
    /// It ends badly.
    pub fn down(&mut self) -> Result<()> {
        // Somebody has to be there for its end, or it stays in the process list and `down` waits for that.
        let ending = self.daemon.take().map(|mut daemon| (daemon.id(), thread::spawn(move || daemon.wait())));
        let done = self.ask(&["down"]).map(drop);
        let Some((id, ending)) = ending else { return done };
        let ended = wait_for("the end of the daemon", Duration::from_secs(5), || {
            ensure!(ending.is_finished(), "`fairlead down` left it running");
            Ok(())
        });
        if ended.is_err() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGKILL)?;
        }
        done.and(ended)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if (self.daemon.is_some() || self.state.join("bpf").exists())
            && let Err(error) = self.down()
        {
            eprintln!("{}: {error:#}", self.name);
        }
        if let Ok(keep) = std::env::var("FAIRLEAD_KEEP_LOGS") {
            let _ = fs::copy(&self.log, Path::new(&keep).join(format!("{}.log", self.name)));
        }
    }
}

/// One HTTP request on a connection of its own: status and body.
///
/// # Errors
/// Nobody listens or the answer is none.
pub fn http(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(second))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status in the answer")?;
    Ok((status, answer))
}
