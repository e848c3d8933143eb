//! A control plane and a node that is fed by it, as processes on a node of namespaces: the way of a change from the API to
//! the kernel.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::rig::namespace::Namespace;
use crate::rig::node::{self, Node, Side};
use crate::stage::Stage;
use crate::wait::wait_for;

/// Where the API server listens, in the node's namespace.
const API: &str = "127.0.0.1:6443";
const NODE: &str = "bench";
/// Where endpoints answer with their number.
const PORT: u16 = 7000;
/// Of every service.
pub(super) const SERVICE_PORT: u16 = 53;
/// Requests under way at a time, while services are made.
const AT_ONCE: usize = 32;
/// A release build takes a fraction of a second, on an idle machine.
const READY: Duration = Duration::from_secs(60);

/// The cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    net: Namespace,
    client: Namespace,
    services: u32,
    runtime: Runtime,
    api: Api,
    agent: Process,
    // Ends when it is dropped, which is after the agent.
    _control: Process,
    dir: TempDir,
    // Ends with its namespaces, and so after what lives in them.
    _node: Node,
}

/// The API server, asked with the administrator's credentials.
#[derive(Clone)]
struct Api(Client);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    async fn new(kubeconfig: &Path) -> Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        Ok(Self(Client::try_from(config)?))
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        let request = request.body(serde_json::to_vec(body)?)?;
        self.0.request(request).await.with_context(|| format!("{method} {path}"))
    }

    async fn create(&self, path: &str, body: &Value) -> Result<()> {
        self.send("POST", path, "application/json", body).await.map(drop)
    }
}

impl Cluster {
    /// Starts both, makes the services, each with one slice of `endpoints` endpoints, and waits until the last one answers.
    pub(super) fn new(stage: &mut Stage, name: &str, services: u32, endpoints: u32) -> Result<Self> {
        // Two sets, between which a change goes back and forth.
        let node = Node::new(u8::try_from(2 * endpoints)?, stage.core)?;
        answer(node.backend(), 2 * endpoints)?;
        let (net, client) = (node.net.in_cgroup(None)?, node.side(Side::Stranger).in_cgroup(None)?);
        let place = stage.place(name)?;
        let dir = tempfile::tempdir().context("cannot make a folder for the control plane")?;
        let control = Process::spawn(stage, &net, "fairlead-control", dir.path(), "control.log", |command, dir| {
            command
                .arg("run")
                .arg("--data-dir")
                .arg(dir.join("control"))
                .arg("--kubeconfig")
                .arg(dir.join("kubeconfig"));
            command.args(["--bind", API, "--advertise-address", "127.0.0.1"]);
            command.arg("--issue-node").arg(format!("{NODE},127.0.0.1,{}", dir.join("node").display()));
        })?;
        // The node does not start without its credentials.
        wait_for("the control plane's keys", READY, || {
            for file in ["kubeconfig", "node/client.crt", "node/client.key", "node/ca.crt"] {
                ensure!(dir.path().join(file).is_file(), "{file} is not there yet");
            }
            Ok(())
        })
        .with_context(|| said(&dir, "control.log"))?;
        let agent = Process::spawn(stage, &net, "fairlead", dir.path(), "node.log", |command, dir| {
            command.args(["node", "--proxy-only", "--source", "push", "--node-name", NODE]);
            command.arg("--server").arg(format!("https://{API}")).arg("--credentials").arg(dir.join("node"));
            command.arg("--state-dir").arg(dir.join("proxy")).arg("--cgroup").arg(&place.cgroup);
            command.args(["--uplink", Side::Outside.interface(), "--cluster-cidr", "10.244.0.0/16"]);
            command.args(["--pod-interface", "pod*", "--healthz-bind", "off"]);
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let api = net
            .run(|| {
                runtime.block_on(async {
                    let api = Api::new(&dir.path().join("kubeconfig")).await?;
                    fill(&api, services, endpoints).await?;
                    Ok(api)
                })
            })
            .with_context(|| said(&dir, "control.log"))?;
        let cluster = Self { net, client, services, runtime, api, agent, _control: control, dir, _node: node };
        let answers = || cluster.ask(&cluster.socket()?).map(drop);
        wait_for("an answer of the last service", READY, || cluster.client.run(answers))
            .with_context(|| said(&cluster.dir, "node.log"))?;
        Ok(cluster)
    }

    /// Where the client is.
    pub(super) fn client(&self) -> &Namespace {
        &self.client
    }

    /// A socket for the client's namespace.
    pub(super) fn socket(&self) -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((vip(self.services - 1), SERVICE_PORT))?;
        Ok(socket)
    }

    /// Asks the last service once; the number of the endpoint that answered.
    pub(super) fn ask(&self, socket: &UdpSocket) -> Result<u8> {
        let mut answer = [0];
        socket.send(&[0])?;
        ensure!(socket.recv(&mut answer)? == 1, "an empty answer");
        Ok(answer[0])
    }

    /// Gives the last service other endpoints, and comes back once the API server has answered.
    pub(super) fn patch(&self, first: u32, endpoints: u32) -> Result<()> {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{}", name(self.services - 1));
        let body = json!({"endpoints": here(first, endpoints)});
        self.net.run(|| {
            let sent = self.api.send("PATCH", &path, "application/merge-patch+json", &body);
            self.runtime.block_on(sent).map(drop)
        })
    }

    /// Time that the node's daemon has computed so far.
    pub(super) fn computed(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.agent.0.id());
        let mut sum = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            // A thread that ended just now takes its time with it: workers live as long as the daemon.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agent.end();
        let removed = self.net.run(|| {
            let mut command = Command::new(program("fairlead")?);
            command.arg("down").arg("--state-dir").arg(self.dir.path().join("proxy")).stdout(Stdio::null());
            ensure!(command.status()?.success(), "`fairlead down` failed");
            Ok(())
        });
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

/// A built binary: this one, or one beside it.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path is not known")?;
    let found = own.with_file_name(name);
    ensure!(found.is_file(), "{name} is not beside {}: build it with `cargo xtask build --release`", own.display());
    Ok(found)
}

/// The last lines of a log, for an error.
fn said(dir: &TempDir, log: &str) -> String {
    let text = fs::read_to_string(dir.path().join(log)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("{log} ends with:\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
}

/// A process that ends with its value.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn spawn(
        stage: &Stage,
        net: &Namespace,
        name: &str,
        dir: &Path,
        log: &str,
        arguments: impl FnOnce(&mut Command, &Path),
    ) -> Result<Self> {
        let program = program(name)?;
        let log = File::create(dir.join(log))?;
        let mut command = Command::new(&program);
        arguments(&mut command, dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = net.run(|| command.spawn().with_context(|| format!("cannot start {}", program.display())))?;
        let process = Self(child);
        stage.watch(&process.0, dir)?;
        Ok(process)
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Servers that say which endpoint they are. Their threads end with the process.
fn answer(backend: &Namespace, endpoints: u32) -> Result<()> {
    for number in 0..u8::try_from(endpoints)? {
        let socket = backend.run(|| Ok(UdpSocket::bind((node::endpoint(number), PORT))?))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&[number], client);
            }
        });
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("svc{number}")
}

/// Past the addresses that the control plane gives away by itself.
fn vip(number: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 100, 0, 1)) + number).into()
}

/// Endpoints that answer.
fn here(first: u32, endpoints: u32) -> Vec<Value> {
    let addresses = (first..first + endpoints).map(|number| node::endpoint(number as u8));
    addresses.map(|address| json!({"addresses": [address], "nodeName": NODE, "conditions": {"ready": true}})).collect()
}

/// Endpoints that nobody asks, on another node.
fn elsewhere(service: u32, endpoints: u32) -> Vec<Value> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 1)) + service * endpoints;
    let addresses = (first..first + endpoints).map(Ipv4Addr::from);
    addresses
        .map(|address| json!({"addresses": [address], "nodeName": "other", "conditions": {"ready": true}}))
        .collect()
}

/// Makes the Node and all services; the last one is the one that is asked.
async fn fill(api: &Api, services: u32, endpoints: u32) -> Result<()> {
    api.create("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})).await?;
    let mut under_way = JoinSet::new();
    for number in 0..services {
        if under_way.len() >= AT_ONCE
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let api = api.clone();
        under_way.spawn(async move { create(&api, number, services, endpoints).await });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}

async fn create(api: &Api, number: u32, services: u32, endpoints: u32) -> Result<()> {
    let is_asked = number + 1 == services;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)},
        "spec": {"clusterIP": vip(number), "ports": [{"name": "dns", "port": SERVICE_PORT, "protocol": "UDP"}]}});
    api.create("/api/v1/namespaces/default/services", &service).await?;
    let ends = if is_asked { here(0, endpoints) } else { elsewhere(number, endpoints) };
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name(number), "labels": {"kubernetes.io/service-name": name(number)}},
        "ports": [{"name": "dns", "port": PORT, "protocol": "UDP"}], "endpoints": ends});
    api.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await
}
