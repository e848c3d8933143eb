//! Nothing acknowledged and no connection is lost when a process of ours is killed, and nothing stays after `down`.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::client::{Outside, http, http_on, ip};
use fairlead_tests::harness::cluster::{Cluster, echo_manifest};
use fairlead_tests::{require_root, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MINUTE: Duration = Duration::from_secs(60);

/// The process that `fairlead up` started under this name.
fn pid_of(cluster: &Cluster, name: &str) -> Result<Pid> {
    let path = cluster.data_dir().join("run").join(format!("{name}.pid"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let number = text.split_whitespace().next().context("an empty pid file")?;
    Ok(Pid::from_raw(number.parse().with_context(|| format!("{} holds {text:?}", path.display()))?))
}

/// Kills the process outright and waits until another one has taken its place.
fn kill_and_await_successor(cluster: &Cluster, name: &str) -> Result<()> {
    let before = pid_of(cluster, name)?;
    kill(before, Signal::SIGKILL).with_context(|| format!("kill {name}"))?;
    wait_for(&format!("a new {name}"), MINUTE, || {
        let now = pid_of(cluster, name)?;
        ensure!(now != before, "still {before}");
        Ok(())
    })
}

#[test]
fn a_killed_control_plane_loses_no_acknowledged_write() -> Result<()> {
    let Some(root) = require_root() else { return Ok(()) };
    let cluster = Cluster::start(root)?;
    let kubectl = cluster.kubectl("1.32")?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let stop = AtomicBool::new(false);
        let created = std::thread::scope(|scope| -> Result<Vec<String>> {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (kubectl, stop) = (&kubectl, &stop);
                    scope.spawn(move || {
                        let names = (0..10_000).map(|n| format!("c{round}-{writer}-{n}"));
                        names
                            .take_while(|_| !stop.load(Ordering::Relaxed))
                            .filter(|name| {
                                let args = ["create", "configmap", name, "--from-literal=a=b"];
                                kubectl.try_run(&args).is_ok_and(|answer| answer.success)
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(1500));
            let killed = kill_and_await_successor(&cluster, "control");
            stop.store(true, Ordering::Relaxed);
            let names = writers.into_iter().flat_map(|writer| writer.join().unwrap_or_default()).collect();
            killed.map(|()| names)
        })?;
        ensure!(!created.is_empty(), "nothing was created in round {round}");
        acknowledged.extend(created);
        let listed = wait_for("an answer after the restart", MINUTE, || {
            kubectl.run(&["get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}"])
        })?;
        let listed: BTreeSet<_> = listed.split(' ').map(str::to_owned).collect();
        let lost: Vec<_> = acknowledged.difference(&listed).collect();
        ensure!(lost.is_empty(), "{} of {} acknowledged objects are gone: {lost:?}", lost.len(), acknowledged.len());
    }
    println!("{} acknowledged creates survived three kills", acknowledged.len());
    Ok(())
}

#[test]
fn a_killed_node_daemon_loses_no_connection_and_restarts_no_pod() -> Result<()> {
    let Some(root) = require_root() else { return Ok(()) };
    let outside = Outside::new(root)?;
    let cluster = Cluster::start_with(root, &["--uplink", &outside.uplink])?;
    cluster.load_echo()?;
    let kubectl = cluster.kubectl("1.36")?;
    kubectl.run(&["apply", "-f", echo_manifest().to_str().context("a path in UTF-8")?])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let address = kubectl.run(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])?;
    let cluster_ip: SocketAddr = format!("{address}:80").parse()?;
    let node_port = SocketAddr::from((outside.node, 30080));
    let pods = || {
        let path = "{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID} {.status.conditions[?(@.type=='Ready')].lastTransitionTime}\n{end}";
        kubectl.run(&["get", "pods", "-l", "app=echo", "-o", &format!("jsonpath={path}")])
    };
    let before = pods()?;

    let open = |address: SocketAddr| (0..50).map(|_| Ok(TcpStream::connect(address)?)).collect::<Result<Vec<_>>>();
    let mut inside = open(cluster_ip)?;
    let mut from_outside = outside.run(|| open(node_port))?;
    let speak = |streams: &mut Vec<TcpStream>, when: &str| -> Result<()> {
        for (n, stream) in streams.iter_mut().enumerate() {
            http_on(stream).with_context(|| format!("connection {n} {when}"))?;
        }
        Ok(())
    };
    speak(&mut inside, "before")?;
    speak(&mut from_outside, "from outside, before")?;

    let stop = AtomicBool::new(false);
    let stream = |address: SocketAddr| {
        let mut made = 0;
        while !stop.load(Ordering::Relaxed) {
            http(address).with_context(|| format!("new connection {made} to {address}"))?;
            made += 1;
        }
        Ok(made)
    };
    let made: [usize; 2] = std::thread::scope(|scope| -> Result<[usize; 2]> {
        let host = scope.spawn(|| stream(cluster_ip));
        let beyond = scope.spawn(|| outside.run(|| stream(node_port)));
        let faults = (0..3).try_for_each(|_| -> Result<()> {
            std::thread::sleep(Duration::from_secs(1));
            kill_and_await_successor(&cluster, "node")?;
            speak(&mut inside, "while the daemon was away")?;
            speak(&mut from_outside, "from outside, while the daemon was away")
        });
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<usize>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let made = [join(host)?, join(beyond)?];
        faults.map(|()| made)
    })?;
    speak(&mut inside, "after")?;
    speak(&mut from_outside, "from outside, after")?;
    println!("100 open connections and {made:?} new ones went through three kills");

    kubectl.run(&["scale", "deployment/echo", "--replicas=4"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    kubectl.run(&["scale", "deployment/echo", "--replicas=3"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let after = pods()?;
    let kept = before.lines().filter(|line| after.contains(*line)).count();
    ensure!(kept == 3, "pods before:\n{before}\nafter:\n{after}");
    Ok(())
}

/// What a person would compare before and after.
fn machine() -> Result<Vec<(&'static str, BTreeSet<String>)>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let processes = Command::new("ps").args(["-eo", "comm,pid"]).output().context("cannot start ps")?;
    let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
    let names = ["fairlead", "containerd", "runc", "pause", "echo"];
    let ours = |line: &&str| names.iter().any(|name| line.starts_with(name));
    let pins = Command::new("find").args(["/sys/fs/bpf"]).output().context("cannot start find")?;
    let groups = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "*fairlead*"]).output()?;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    Ok(vec![
        ("links", ip("-o link")?.lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())).collect()),
        ("programs on links", lines(&ip("-d -o link")?.matches("xdp").collect::<Vec<_>>().join("\n"))),
        ("namespaces", lines(&ip("netns")?)),
        ("routes", lines(&ip("route show table all")?)),
        ("mounts", lines(&mounts)),
        ("pins", lines(&String::from_utf8_lossy(&pins.stdout))),
        ("cgroups", lines(&String::from_utf8_lossy(&groups.stdout))),
        ("processes", processes.lines().filter(ours).map(str::to_owned).collect()),
        ("sockets", lines(&std::fs::read_dir("/run/containerd/s").map(|d| d.count().to_string()).unwrap_or_default())),
    ])
}

#[test]
fn down_leaves_the_machine_as_it_was() -> Result<()> {
    let Some(root) = require_root() else { return Ok(()) };
    let before = machine()?;
    let mut cluster = Cluster::start(root)?;
    cluster.load_echo()?;
    let kubectl = cluster.kubectl("1.36")?;
    kubectl.run(&["apply", "-f", echo_manifest().to_str().context("a path in UTF-8")?])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let identity = || {
        let path = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
        kubectl.run(&["get", "pods", "-l", "app=echo", "-o", path])
    };
    let running = identity()?;

    // Stopping leaves the pods running; the next start adopts them.
    cluster.stop()?;
    cluster.up()?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    ensure!(identity()? == running, "the pods were restarted: {running} became {}", identity()?);

    cluster.stop()?;
    cluster.down()?;
    cluster.down().context("`down` a second time")?;
    for ((what, before), (_, after)) in before.iter().zip(machine()?) {
        let left: Vec<_> = after.difference(before).collect();
        let lost: Vec<_> = before.difference(&after).collect();
        ensure!(left.is_empty() && lost.is_empty(), "{what}: left behind {left:#?}, taken away {lost:#?}");
    }
    Ok(())
}
