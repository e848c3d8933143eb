//! Unmodified kubectl programs against a one-machine cluster: what a first hour with the product looks like.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::cluster::{Cluster, echo_manifest};
use fairlead_tests::harness::kubectl::Kubectl;
use fairlead_tests::{require_root, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn first_hour_with_kubectl_1_32() -> Result<()> {
    first_hour("1.32")
}

#[test]
fn first_hour_with_kubectl_1_36() -> Result<()> {
    first_hour("1.36")
}

fn first_hour(version: &str) -> Result<()> {
    let Some(root) = require_root() else { return Ok(()) };
    let cluster = Cluster::start(root)?;
    cluster.load_echo()?;
    let kubectl = cluster.kubectl(version)?;
    looks_around(&kubectl)?;
    deploys(&kubectl)?;
    reads_and_enters(&kubectl)?;
    scales(&kubectl)?;
    rolls_out(&kubectl)?;
    watches_a_pod_go(&kubectl)?;
    is_told_what_is_wrong(&kubectl)?;
    mounts_what_it_configures(&kubectl)?;
    cleans_up(&kubectl)
}

/// Everything a command printed contains these words.
fn has(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word:?} in:\n{text}");
    }
    Ok(())
}

fn looks_around(kubectl: &Kubectl) -> Result<()> {
    has(&kubectl.run(&["version"])?, &["Server Version: v1.36"])?;
    ensure!(kubectl.run(&["get", "--raw", "/readyz"])? == "ok", "/readyz is not ok");
    has(&kubectl.run(&["api-resources"])?, &["deployments", "deploy", "endpointslices", "leases"])?;
    has(&kubectl.run(&["explain", "pod.spec.containers"])?, &["FIELDS", "readinessProbe"])?;
    has(
        &kubectl.run(&["get", "namespaces"])?,
        &["default", "kube-system", "kube-public", "kube-node-lease", "Active"],
    )?;
    kubectl.run(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=30s"])?;
    has(&kubectl.run(&["get", "nodes", "-o", "wide"])?, &["Ready", "v1.36", "containerd://"])?;
    has(&kubectl.run(&["describe", "nodes"])?, &["PodCIDR:", "Allocatable:", "RenewTime:", "MemoryPressure"])?;
    has(&kubectl.run(&["get", "service", "kubernetes"])?, &["ClusterIP", "443/TCP"])
}

fn deploys(kubectl: &Kubectl) -> Result<()> {
    let manifest = echo_manifest();
    let manifest = manifest.to_str().context("a path in UTF-8")?;
    has(&kubectl.run(&["apply", "-f", manifest])?, &["deployment.apps/echo created", "service/echo created"])?;
    has(&kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"])?, &["successfully rolled out"])?;
    has(&kubectl.run(&["apply", "-f", manifest])?, &["deployment.apps/echo unchanged", "service/echo unchanged"])?;
    let diff = kubectl.try_run(&["diff", "-f", manifest])?;
    ensure!(diff.success && diff.stdout.is_empty(), "a diff after apply: {}{}", diff.stdout, diff.stderr);
    let all = kubectl.run(&["get", "all", "-A", "-o", "wide"])?;
    has(&all, &["pod/echo-", "service/echo-node", "deployment.apps/echo", "3/3", "replicaset.apps/echo-", "Running"])?;
    has(&kubectl.run(&["describe", "deployment", "echo"])?, &["ScalingReplicaSet", "MinimumReplicasAvailable"])?;
    let pod = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"])?;
    has(&kubectl.run(&["describe", "pod", &pod])?, &["Scheduled", "Pulled", "Started", "QoS Class:"])?;
    has(&kubectl.run(&["describe", "service", "echo"])?, &["Endpoints:", ":8080"])?;
    has(&kubectl.run(&["get", "endpointslices", "-l", "kubernetes.io/service-name=echo"])?, &["IPv4", "8080"])
}

fn reads_and_enters(kubectl: &Kubectl) -> Result<()> {
    let pod = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let said = "the-needle";
    kubectl.run(&["exec", &pod, "--", "wget", "-q", "-O", "/dev/null", &format!("http://127.0.0.1:8080/{said}")])?;
    has(&kubectl.run(&["logs", &pod])?, &[said])?;
    has(&kubectl.run(&["logs", "-l", "app=echo", "--tail=5", "--prefix"])?, &[&pod])?;

    // Standard input reaches the process, and its end does too.
    let mut child =
        kubectl.command(&["exec", "-i", &pod, "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(b"through the pipe\n")?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success() && output.stdout == b"through the pipe\n", "exec -i cat: {output:?}");

    let failed = kubectl.command(&["exec", &pod, "--", "sh", "-c", "exit 7"]).status()?;
    ensure!(failed.code() == Some(7), "exit 7 came back as {failed:?}");
    let absent = kubectl.try_run(&["exec", &pod, "-c", "nosuch", "--", "true"])?;
    ensure!(!absent.success, "exec into a container that does not exist succeeded");
    has(&absent.stderr, &["nosuch"])
}

fn scales(kubectl: &Kubectl) -> Result<()> {
    for replicas in [5, 0, 3] {
        kubectl.run(&["scale", "deployment/echo", &format!("--replicas={replicas}")])?;
        settles_at(kubectl, replicas)?;
    }
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"]).map(drop)
}

/// Waits until this many pods are there, all of them ready and none on its way out.
fn settles_at(kubectl: &Kubectl, replicas: usize) -> Result<()> {
    wait_for(&format!("{replicas} pods"), MINUTE, || {
        let pods = kubectl.run(&["get", "pods", "-l", "app=echo", "--no-headers"])?;
        let running = pods.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count();
        ensure!(pods.lines().count() == running && running == replicas, "{pods}");
        Ok(())
    })
}

fn rolls_out(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["set", "env", "deployment/echo", "COLOUR=blue"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=90s"])?;
    has(&kubectl.run(&["rollout", "history", "deployment/echo"])?, &["1", "2"])?;
    kubectl.run(&["rollout", "undo", "deployment/echo"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=90s"])?;
    let env = kubectl.run(&[
        "get",
        "deployment",
        "echo",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].env[*].name}",
    ])?;
    ensure!(env == "POD_NAME", "after undo the environment is {env:?}");
    kubectl.run(&["rollout", "restart", "deployment/echo"])?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=90s"]).map(drop)
}

fn watches_a_pod_go(kubectl: &Kubectl) -> Result<()> {
    settles_at(kubectl, 3)?;
    let pod = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let mut watch = kubectl.command(&["get", "pods", "-w", "-l", "app=echo"]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(watch.stdout.take().context("a pipe")?).lines();
    let deleted = kubectl.run(&["delete", "pod", &pod]);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| sender.send(line).is_ok()));
    let mut seen = Vec::new();
    let found = wait_for("the deletion in the watch", MINUTE, || {
        seen.extend(receiver.try_iter());
        let terminating = seen.iter().any(|line: &String| line.starts_with(&pod) && line.contains("Terminating"));
        let replaced = seen.iter().any(|line| !line.starts_with(&pod) && line.contains("ContainerCreating"));
        ensure!(terminating && replaced, "{}", seen.join("\n"));
        Ok(())
    });
    watch.kill()?;
    watch.wait()?;
    deleted?;
    found?;
    kubectl.run(&["rollout", "status", "deployment/echo", "--timeout=60s"]).map(drop)
}

/// Runs kubectl with a manifest on its standard input.
fn apply(kubectl: &Kubectl, verb: &str, manifest: &str) -> Result<(bool, String)> {
    let mut command = kubectl.command(&[verb, "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

fn is_told_what_is_wrong(kubectl: &Kubectl) -> Result<()> {
    let refused: [(&str, &[&str]); 5] = [
        (
            r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"}, "spec": {"ports": [{"port": 70000}]}}"#,
            &["spec.ports[0].port", "70000", "between 1 and 65535"],
        ),
        (
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "dataa": {"a": "b"}}"#,
            &["strict decoding error", "unknown field \"dataa\""],
        ),
        (
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Bad_Name"}}"#,
            &["metadata.name", "RFC 1123"],
        ),
        (
            r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {"containers": []}}"#,
            &["spec.containers", "Required"],
        ),
        (
            r#"{"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "bad"}}"#,
            &["no matches for kind \"Nonsense\""],
        ),
    ];
    for (manifest, words) in refused {
        let (success, text) = apply(kubectl, "create", manifest)?;
        ensure!(!success, "{manifest} was accepted: {text}");
        has(&text, words)?;
    }
    let absent = kubectl.try_run(&["get", "pod", "nosuch"])?;
    ensure!(!absent.success, "a pod that does not exist was found");
    has(&absent.stderr, &["Error from server (NotFound): pods \"nosuch\" not found"])?;

    let (created, text) = apply(
        kubectl,
        "create",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "noimage"}, "spec": {"containers":
            [{"name": "c", "image": "fairlead.local/nosuch:1", "imagePullPolicy": "Never"}]}}"#,
    )?;
    ensure!(created, "{text}");
    wait_for("ErrImageNeverPull", MINUTE, || has(&kubectl.run(&["get", "pod", "noimage"])?, &["ErrImageNeverPull"]))?;
    let (created, text) = apply(
        kubectl,
        "create",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "toobig"}, "spec": {"containers":
            [{"name": "c", "image": "fairlead.local/echo:1", "resources": {"requests": {"cpu": "1000"}}}]}}"#,
    )?;
    ensure!(created, "{text}");
    wait_for("a reason", MINUTE, || {
        has(&kubectl.run(&["describe", "pod", "toobig"])?, &["FailedScheduling", "Insufficient cpu"])
    })?;
    kubectl.run(&["delete", "pod", "noimage", "toobig", "--timeout=60s"]).map(drop)
}

fn mounts_what_it_configures(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["create", "namespace", "config"])?;
    kubectl.run(&["-n", "config", "create", "configmap", "settings", "--from-literal=colour=green"])?;
    kubectl.run(&["-n", "config", "create", "secret", "generic", "password", "--from-literal=word=xyzzy"])?;
    let (created, text) = apply(
        kubectl,
        "create",
        r"
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: config, labels: {tier: front}}
spec:
  initContainers:
  - {name: first, image: 'fairlead.local/echo:1', command: [sh, -c, 'echo prepared > /work/first'], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - name: main
    image: fairlead.local/echo:1
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: password, mountPath: /password}
    - {name: work, mountPath: /work}
    - {name: self, mountPath: /self}
    livenessProbe: {exec: {command: [cat, /work/first]}, periodSeconds: 1}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: password, secret: {secretName: password}}
  - {name: work, emptyDir: {}}
  - {name: self, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
",
    )?;
    ensure!(created, "{text}");
    kubectl.run(&["-n", "config", "wait", "--for=condition=Ready", "pod/reader", "--timeout=60s"])?;
    let read = "echo $COLOUR $WORD $NODE; cat /settings/colour /password/word /work/first /self/labels";
    let read = kubectl.run(&["-n", "config", "exec", "reader", "--", "sh", "-c", read])?;
    has(&read, &["green xyzzy", "greenxyzzyprepared", "tier=\"front\""])?;

    // A changed ConfigMap reaches the file; a failed liveness probe restarts the container.
    kubectl.run(&["-n", "config", "patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#])?;
    wait_for("the new colour", MINUTE, || {
        has(&kubectl.run(&["-n", "config", "exec", "reader", "--", "cat", "/settings/colour"])?, &["red"])
    })?;
    kubectl.run(&["-n", "config", "exec", "reader", "--", "sh", "-c", "mv /work/first /work/second"])?;
    wait_for("a restart", MINUTE, || {
        let count =
            ["-n", "config", "get", "pod", "reader", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"];
        let count = kubectl.run(&count)?;
        ensure!(count != "0", "restart count {count}");
        Ok(())
    })?;
    has(&kubectl.run(&["-n", "config", "describe", "pod", "reader"])?, &["Unhealthy", "Liveness probe failed"])?;
    kubectl.run(&["delete", "namespace", "config", "--timeout=60s"])?;
    let left = kubectl.try_run(&["-n", "config", "get", "pods,configmaps,secrets"])?;
    has(&left.stderr, &["No resources found"])
}

fn cleans_up(kubectl: &Kubectl) -> Result<()> {
    let manifest = echo_manifest();
    kubectl.run(&["delete", "-f", manifest.to_str().context("a path in UTF-8")?, "--timeout=60s"])?;
    wait_for("an empty namespace", MINUTE, || {
        let left =
            kubectl.run(&["get", "pods,replicasets,deployments,endpointslices", "-l", "app=echo", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
