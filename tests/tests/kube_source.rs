//! Nodes that take their services from an API server: our own control plane, which is killed and comes back.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::cluster::program;
use fairlead_tests::harness::dialogue::{ask, connect, tcp};
use fairlead_tests::harness::kubectl::{Answer, Kubectl};
use fairlead_tests::harness::lab::{Family, Lab, Wiring, is_aside};
use fairlead_tests::harness::manifest::{End, service, slices, with_node_port};
use fairlead_tests::harness::suite;
use fairlead_tests::wait_for;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "web";
const SERVICE: u16 = 5;
const NODE_PORT: u16 = 30_005;

struct Subject {
    lab: Lab,
    control: Option<Child>,
}

fn main() -> ExitCode {
    if is_aside() {
        return ExitCode::SUCCESS;
    }
    suite::run(
        Subject::new,
        &[
            ("services_of_an_api_server_work_and_changes_follow", changes_follow),
            ("a_killed_api_server_loses_no_flow_and_the_watch_resumes", killed),
        ],
    )
}

impl Subject {
    fn new() -> Result<Self> {
        let mut subject = Self { lab: Lab::new(&[Wiring::Routed, Wiring::Routed], 2)?, control: None };
        subject.start_control()?;
        for (number, node) in [(1, "n1"), (2, "n2")] {
            subject.apply(&[json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})])?;
            let source = format!("kube:{}", subject.lab.dir().join("kubeconfig").display());
            let daemon = subject.lab.at(number).launch(&source, &["--drain-timeout", "20s"])?;
            subject.lab.at_mut(number).keep_daemon(daemon);
            subject.lab.at(number).ready()?;
        }
        Ok(subject)
    }

    /// Starts the control plane on node 1, where node 2 reaches it, too.
    fn start_control(&mut self) -> Result<()> {
        let dir = self.lab.dir();
        let log = File::options().create(true).append(true).open(dir.join("control.log"))?;
        let mut command = Command::new(program("fairlead-control")?);
        command
            .arg("run")
            .arg("--data-dir")
            .arg(dir.join("control"))
            .arg("--kubeconfig")
            .arg(dir.join("kubeconfig"))
            .args(["--bind", "192.0.2.1:6443", "--advertise-address", "192.0.2.1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let node = self.lab.at(1).net.in_cgroup(None)?;
        self.control = Some(node.run(|| command.spawn().context("cannot start fairlead-control"))?);
        wait_for("the control plane", SOON, || {
            let answer = self.kubectl(&["get", "--raw", "/readyz"])?;
            ensure!(answer.success, "{}", answer.stderr);
            Ok(())
        })
        .with_context(|| fs::read_to_string(dir.join("control.log")).unwrap_or_default())
    }

    fn kill_control(&mut self) -> Result<()> {
        let mut control = self.control.take().context("no control plane runs")?;
        control.kill()?;
        control.wait()?;
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<Answer> {
        let dir = self.lab.dir();
        let kubectl = Kubectl::find("1.36", &dir.join("kubeconfig"), dir)?;
        self.lab.at(1).net.in_cgroup(None)?.run(|| kubectl.try_run(arguments))
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        let file = self.lab.dir().join("apply.json");
        fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        let answer = self.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
        ensure!(answer.success, "kubectl apply: {}", answer.stderr);
        Ok(())
    }

    /// The Service with these endpoints, numbered as in the lab, and waits until both nodes have it.
    fn publish(&self, ends: &[u8]) -> Result<()> {
        let pods = ends.iter().map(|id| {
            let node = self.lab.at(id / 10);
            End::new(vec![node.pods[usize::from(id % 10) - 1].address(Family::V4)], &node.name)
        });
        let spec = service(NAME, &[Family::V4.cluster_ip(SERVICE)], json!({}));
        let mut objects = vec![with_node_port(spec, NODE_PORT)];
        objects.extend(slices(NAME, &pods.collect::<Vec<_>>()).into_iter().take(1));
        self.apply(&objects)?;
        for node in &self.lab.nodes {
            wait_for(&format!("{ends:?} on {}", node.name), SOON, || {
                let seen: Vec<u8> = node.net.run(|| (0..8).map(|_| Ok(tcp(vip())?.0)).collect())?;
                ensure!(seen.iter().all(|id| ends.contains(id)), "{seen:?}");
                ensure!(ends.iter().all(|id| seen.contains(id)), "{seen:?}");
                Ok(())
            })
            .with_context(|| node.said())?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Vec<TcpStream>> {
        let node_port = (Family::V4.node(1), NODE_PORT).into();
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(self.lab.at(1).net.run(|| connect(vip()))?);
            streams.push(self.lab.at(2).pods[1].bypass.run(|| connect(vip()))?);
            streams.push(self.lab.client(1).run(|| connect(node_port))?);
        }
        go_on(&mut streams)?;
        Ok(streams)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.control.is_some()
            && let Err(error) = self.kill_control()
        {
            eprintln!("{error:#}");
        }
    }
}

fn vip() -> std::net::SocketAddr {
    (Family::V4.cluster_ip(SERVICE), 80).into()
}

fn go_on(streams: &mut [TcpStream]) -> Result<()> {
    streams.iter_mut().try_for_each(|stream| ask(stream).map(drop))
}

fn changes_follow(subject: &mut Subject) -> Result<()> {
    for ends in [&[11, 21][..], &[21], &[11, 12, 21]] {
        subject.publish(ends)?;
    }
    Ok(())
}

fn killed(subject: &mut Subject) -> Result<()> {
    subject.publish(&[11, 12, 21])?;
    let mut live = subject.open()?;
    subject.kill_control()?;
    std::thread::sleep(Duration::from_secs(3));
    go_on(&mut live).context("without an API server")?;
    go_on(&mut subject.open().context("new connections without an API server")?)?;
    subject.start_control()?;
    go_on(&mut live).context("after its return")?;
    subject.publish(&[12, 21]).context("a change after its return")?;
    go_on(&mut live).context("after the change, within the grace")?;
    let answer = subject.kubectl(&["delete", "service", NAME])?;
    ensure!(answer.success, "{}", answer.stderr);
    wait_for("the end of the Service", SOON, || {
        let reached =
            subject.lab.at(2).net.run(|| Ok(TcpStream::connect_timeout(&vip(), Duration::from_millis(300))))?;
        ensure!(reached.is_err(), "it still answers");
        Ok(())
    })
}
