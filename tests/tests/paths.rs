//! A Service reached from everywhere: the host, a pod, and a machine outside, with nothing of ours in netfilter.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::client::{Outside, http, spread, udp};
use fairlead_tests::harness::cluster::{Cluster, echo_manifest};
use fairlead_tests::harness::kubectl::Kubectl;
use fairlead_tests::{require_root, wait_for};

/// `examples/echo.yaml`.
const NODE_PORT: u16 = 30080;
/// Connections of a spread test, and how far a share of them may be from even.
const CONNECTIONS: usize = 1000;
const TOLERANCE: f64 = 0.15;

#[test]
fn every_path_to_a_service() -> Result<()> {
    let Some(root) = require_root() else { return Ok(()) };
    let netfilter = rules()?;
    let outside = Outside::new(root)?;
    let cluster = Cluster::start_with(root, &["--uplink", &outside.uplink])?;
    cluster.load_echo()?;
    let kubectl = cluster.kubectl("1.36")?;
    kubectl.run(&["apply", "-f", echo_manifest().to_str().context("a path in UTF-8")?])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let service: Ipv4Addr = kubectl.run(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])?.parse()?;
    let cluster_ip = SocketAddr::from((service, 80));
    let node_port = SocketAddr::from((outside.node, NODE_PORT));

    from_the_host(cluster_ip, node_port)?;
    from_a_pod(&kubectl, cluster_ip, node_port)?;
    from_outside(&outside, node_port)?;
    to_the_outside(&kubectl, &outside)?;
    follows_the_endpoints(&kubectl, cluster_ip)?;

    ensure!(rules()? == netfilter, "netfilter has other rules than before");
    drop(cluster);
    Ok(())
}

fn even(path: &str, pods: &std::collections::BTreeMap<String, usize>, replicas: usize) -> Result<()> {
    println!("{path}: {pods:?}");
    ensure!(pods.len() == replicas, "{path}: {} of {replicas} replicas answered: {pods:?}", pods.len());
    let share = CONNECTIONS as f64 / replicas as f64;
    for (pod, &count) in pods {
        let off = (count as f64 - share).abs() / share;
        ensure!(off <= TOLERANCE, "{path}: {pod} answered {count} of {CONNECTIONS}, {:.0} % off", off * 100.0);
    }
    Ok(())
}

fn from_the_host(cluster_ip: SocketAddr, node_port: SocketAddr) -> Result<()> {
    even("host → ClusterIP", &spread(cluster_ip, CONNECTIONS)?, 3)?;
    http(node_port).context("host → NodePort")?;
    for connected in [true, false] {
        udp(cluster_ip, connected, "hello").with_context(|| format!("host → ClusterIP over UDP, {connected}"))?;
        udp(node_port, connected, "hello").with_context(|| format!("host → NodePort over UDP, {connected}"))?;
    }
    let refused = http(SocketAddr::new(cluster_ip.ip(), 81));
    ensure!(refused.is_err(), "a port that the Service does not have answered: {refused:?}");
    Ok(())
}

fn from_a_pod(kubectl: &Kubectl, cluster_ip: SocketAddr, node_port: SocketAddr) -> Result<()> {
    let names = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let pod = names.split(' ').next().context("a pod")?;
    let each = format!("for i in $(seq 1 60); do wget -q -O - http://{cluster_ip}/ | grep pod:; done | sort | uniq -c");
    let seen = kubectl.run(&["exec", pod, "--", "sh", "-c", &each])?;
    ensure!(seen.lines().count() == 3, "pod → ClusterIP reached these only:\n{seen}");
    kubectl.run(&["exec", pod, "--", "wget", "-q", "-O", "-", &format!("http://{node_port}/")])?;

    // Between pods no address is translated: each sees the other's own.
    let own = kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
    let other = names.split(' ').nth(1).context("another pod")?;
    let other = kubectl.run(&["get", "pod", other, "-o", "jsonpath={.status.podIP}"])?;
    let answer = kubectl.run(&["exec", pod, "--", "wget", "-q", "-O", "-", &format!("http://{other}:8080/")])?;
    ensure!(answer.contains(&format!("client: {own}:")), "pod → pod: the client {own} was seen as\n{answer}");
    Ok(())
}

fn from_outside(outside: &Outside, node_port: SocketAddr) -> Result<()> {
    even("outside → NodePort", &outside.run(|| spread(node_port, CONNECTIONS))?, 3)?;
    let echo = outside.run(|| http(node_port))?;
    ensure!(echo.client.ip() == outside.address, "the client's address is not kept: {}", echo.text);
    for connected in [true, false] {
        outside.run(|| udp(node_port, connected, "hello")).context("outside → NodePort over UDP")?;
    }
    Ok(())
}

/// Outside knows no route to pods, so an answer proves that the pod went out under the node's address.
fn to_the_outside(kubectl: &Kubectl, outside: &Outside) -> Result<()> {
    let pod = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let address = outside.address;
    let listener = outside.run(|| Ok(std::net::TcpListener::bind((address, 8000))?))?;
    listener.set_nonblocking(true)?;
    let get = ["exec", &pod, "--", "wget", "-q", "-O", "-", &format!("http://{address}:8000/")];
    let mut child = kubectl.command(&get).spawn()?;
    let accepted = wait_for("a pod's connection", Duration::from_secs(10), || Ok(listener.accept()?));
    child.kill()?;
    child.wait()?;
    let (_, client) = accepted?;
    ensure!(client.ip() == outside.node, "the pod came as {client}, not as its node {}", outside.node);
    Ok(())
}

/// Endpoints come and go: new ones get connections at once, gone ones get none, and open connections stay.
fn follows_the_endpoints(kubectl: &Kubectl, cluster_ip: SocketAddr) -> Result<()> {
    kubectl.run(&["scale", "deployment/echo", "--replicas=5"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    wait_for("five pods behind the Service", Duration::from_secs(10), || {
        let pods = spread(cluster_ip, 100)?;
        ensure!(pods.len() == 5, "{pods:?}");
        Ok(())
    })?;
    kubectl.run(&["scale", "deployment/echo", "--replicas=2"])?;
    wait_for("two pods behind the Service", Duration::from_secs(20), || {
        let pods = spread(cluster_ip, 100)?;
        ensure!(pods.len() == 2, "{pods:?}");
        Ok(())
    })?;
    kubectl.run(&["scale", "deployment/echo", "--replicas=0"])?;
    wait_for("a refusal", Duration::from_secs(20), || {
        ensure!(http(cluster_ip).is_err(), "somebody still answers");
        Ok(())
    })
}

/// What netfilter holds, of both tool families.
fn rules() -> Result<String> {
    let output = |program: &str, args: &[&str]| -> Result<String> {
        let output = Command::new(program).args(args).output().with_context(|| format!("cannot start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"))
    };
    Ok(output("iptables-save", &[])? + &output("nft", &["list", "ruleset"])?)
}
