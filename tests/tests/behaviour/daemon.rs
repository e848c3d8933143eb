//! The daemon's own life: what it is given wrong, what comes later than it, how it ends.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::dialogue::{PORT, bulk, connect, tcp, udp};
use fairlead_tests::harness::lab::FAMILIES;
use fairlead_tests::harness::manifest::slices;
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;
use serde_json::json;

use crate::change::{go_on, open, paths, while_connecting};
use crate::subject::{Ending, Front, OPTIONS, SOON, Subject, ends, plain, with_grace};

/// A Service of this specification in YAML, as people write it.
fn yaml(name: &str, spec: &str) -> String {
    let head = format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n");
    let body: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    head + &body
}

pub(crate) fn malformed(subject: &mut Subject) -> Result<()> {
    let manifests = &subject.lab.manifests;
    let ports = "ports:\n- port: 80\n  protocol: TCP";
    let wrong = [
        ("bad-address", format!("clusterIP: 10.96.0.300\nclusterIPs: [10.96.0.300]\n{ports}")),
        (
            "bad-port",
            "clusterIP: 10.96.7.1\nclusterIPs: [10.96.7.1]\nports:\n- port: 70000\n  protocol: TCP".to_owned(),
        ),
        ("bad-family", format!("clusterIP: 10.96.7.2\nclusterIPs: [10.96.7.2]\nipFamilies: [IPv5]\n{ports}")),
        (
            "bad-protocol",
            "clusterIP: 10.96.7.3\nclusterIPs: [10.96.7.3]\nports:\n- port: 80\n  protocol: XTP".to_owned(),
        ),
        (
            "bad-range",
            format!("clusterIP: 10.96.7.4\nclusterIPs: [10.96.7.4]\nloadBalancerSourceRanges: [10.0.0.0/64]\n{ports}"),
        ),
    ];
    for (name, spec) in &wrong {
        manifests.put_text(&format!("{name}.yaml"), &yaml(name, spec))?;
    }
    manifests.put_text("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [\n")?;
    // Two of one address: the one that was there first keeps it.
    let front = subject.publish(40, plain(), &[11, 21])?;
    let taken = Front(40).cluster_ip(FAMILIES[0]).ip();
    manifests
        .put_text("second.yaml", &yaml("second", &format!("clusterIP: {taken}\nclusterIPs: [{taken}]\n{ports}")))?;

    for node in &subject.lab.nodes {
        wait_for(&format!("the refusals of {}", node.name), SOON, || {
            let status = node.ask(&["status"])?;
            let refused: Vec<&str> = status.lines().filter(|line| line.starts_with("refused")).collect();
            let names = wrong.iter().map(|(name, _)| format!("default/{name}"));
            for name in names.chain(["default/second".to_owned(), "broken.yaml".to_owned()]) {
                ensure!(
                    refused.iter().any(|line| line.contains(&name)),
                    "{name} is not among the refused: {refused:#?}"
                );
            }
            let good = refused.iter().any(|line| line.starts_with("refused Service default/s40"));
            ensure!(!good, "the good one was refused: {refused:#?}");
            Ok(())
        })
        .with_context(|| node.said())?;
    }
    subject.in_force(front, &[11, 21]).context("the rest works")?;
    subject.publish(40, plain(), &[12, 21]).context("and changes")?;

    // Once it is right it works, and nobody speaks of it any more.
    manifests.put_text("bad-port.yaml", &yaml("bad-port", &wrong[1].1.replace("70000", "80")))?;
    manifests.put("bad-port-slices", &slices_without_names("bad-port", subject))?;
    let mended: SocketAddr = "10.96.7.1:80".parse()?;
    wait_for("the mended Service", SOON, || subject.lab.at(1).net.run(|| tcp(mended)).map(drop))?;
    let status = subject.lab.at(1).ask(&["status"])?;
    ensure!(!status.contains("default/bad-port"), "still refused: {status}");

    for (name, _) in &wrong {
        fs::remove_file(manifests.dir().join(format!("{name}.yaml")))?;
    }
    for name in ["broken.yaml", "second.yaml"] {
        fs::remove_file(manifests.dir().join(name))?;
    }
    manifests.remove("bad-port-slices")?;
    subject.withdraw(front)?;
    wait_for("the end of all refusals", SOON, || {
        let status = subject.lab.at(1).ask(&["status"])?;
        ensure!(!status.contains("refused "), "{status}");
        Ok(())
    })
}

/// Slices for a Service whose only port has no name.
fn slices_without_names(service: &str, subject: &Subject) -> Vec<serde_json::Value> {
    let mut slices = slices(service, &[subject.end(11)]);
    for slice in &mut slices {
        slice["ports"] = json!([{"protocol": "TCP", "port": PORT}]);
    }
    slices
}

pub(crate) fn later(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(41, plain(), &[11])?;
    let node = &subject.lab.at(1).net;
    for (address, prefix) in [("192.0.2.61", 24), ("2001:db8::61", 64)] {
        let address: IpAddr = address.parse()?;
        let target = SocketAddr::new(address, front.port());
        node.address("eth0", address, prefix)?;
        wait_for("NodePorts on a new address", SOON, || ends(subject.lab.client(1), target, Ending::Success))?;
    }

    ensure!(!subject.lab.at(1).fact("uplink late")?.is_empty(), "the uplink that is missing is not told of");
    let far = Namespace::new()?;
    node.connect("late", &far, "eth0")?;
    for (ours, theirs, prefix) in [("198.18.9.1", "198.18.9.2", 24), ("2001:db8:9::1", "2001:db8:9::2", 64)] {
        let (ours, theirs): (IpAddr, IpAddr) = (ours.parse()?, theirs.parse()?);
        node.address("late", ours, prefix)?;
        far.address("eth0", theirs, prefix)?;
        let target = SocketAddr::new(ours, front.port());
        wait_for("NodePorts on a new uplink", SOON, || ends(&far, target, Ending::Success))?;
        let (id, seen) = far.run(|| tcp(target))?;
        ensure!(id == 11 && seen.ip() == theirs, "{id} saw {seen}");
    }
    node.remove("late")?;
    wait_for("the end of the uplink", SOON, || {
        let uplink = subject.lab.at(1).fact("uplink late")?;
        ensure!(uplink.contains("not there"), "it says {uplink:?}");
        Ok(())
    })?;
    subject.in_force(front, &[11])?;
    subject.withdraw(front)
}

pub(crate) fn pods(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(42, plain(), &[11, 21])?;
    for node in [1, 2] {
        for _ in 0..2 {
            let pod = subject.lab.at_mut(node).add_pod(15)?;
            let (guest, net) = (pod.bypass.in_cgroup(None)?, pod.net.in_cgroup(None)?);
            for family in FAMILIES {
                let target = front.cluster_ip(family);
                wait_for("a new pod's packets to be translated", SOON, || ends(&guest, target, Ending::Success))?;
            }
            drop(net);
            subject.lab.at_mut(node).remove_pod(15)?;
        }
    }
    subject.in_force(front, &[11, 21])?;
    subject.withdraw(front)
}

pub(crate) fn redirect(subject: &mut Subject) -> Result<()> {
    let fronts = [(subject.publish(43, plain(), &[11])?, 11), (subject.publish(44, plain(), &[21])?, 21)];
    restart(subject, &[&OPTIONS[..], &["--redirect"]].concat())?;
    for (front, id) in fronts {
        subject.in_force(front, &[id])?;
        for path in FAMILIES.into_iter().flat_map(|family| paths(subject, front, family)) {
            path.place
                .run(|| {
                    ensure!(tcp(path.target)?.0 == id && udp(path.target, false)?.0 == id);
                    bulk(&mut connect(path.target)?)
                })
                .with_context(|| format!("{} to {} on {id}, redirected", path.name, path.target))?;
        }
    }
    for family in FAMILIES {
        let server = SocketAddr::new(family.client(1), PORT);
        for place in [&subject.pod(12).net, &subject.pod(12).bypass] {
            let (_, seen) = place.run(|| tcp(server))?;
            ensure!(seen.ip() == family.node(1), "a pod came outside as {seen}");
        }
    }
    restart(subject, &OPTIONS)?;
    fronts.into_iter().try_for_each(|(front, _)| subject.withdraw(front))
}

fn restart(subject: &mut Subject, options: &[&str]) -> Result<()> {
    subject.lab.at_mut(1).kill()?;
    subject.lab.start_one(1, &with_grace(options))
}

pub(crate) fn killed(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(45, plain(), &[11, 12, 21])?;
    let mut daemon = subject.lab.at_mut(1).take_daemon().context("no daemon runs")?;
    let done = kill_twice(subject, front, &mut daemon);
    subject.lab.at_mut(1).keep_daemon(daemon);
    done?;
    subject.withdraw(front)
}

fn kill_twice(subject: &Subject, front: Front, daemon: &mut Child) -> Result<()> {
    let mut live = open(subject, front)?;
    while_connecting(subject, front, || {
        for _ in 0..2 {
            daemon.kill()?;
            daemon.wait()?;
            go_on(&mut live).context("without a daemon")?;
            let mut during = open(subject, front).context("opened without a daemon")?;
            *daemon = subject.lab.at(1).launch(&subject.lab.source(), &with_grace(&OPTIONS))?;
            subject.lab.at(1).ready()?;
            go_on(&mut live).context("after the restart")?;
            go_on(&mut during).context("opened without a daemon, after the restart")?;
            // What it is told after the restart counts, and what it was told before does not come back.
            subject.publish(45, plain(), &[12, 21])?;
            subject.publish(45, plain(), &[11, 12, 21])?;
            go_on(&mut live).context("after a change")?;
        }
        Ok(())
    })
}

/// Output of a program in a node's namespace.
fn shown(place: &Namespace, line: &str) -> Result<String> {
    place.run(|| {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

pub(crate) fn down(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(46, plain(), &[11, 21])?;
    let node = subject.lab.at_mut(2);
    node.down()?;
    let entries = fs::read_dir(&node.state).into_iter().flatten().flatten();
    let left: Vec<_> = entries.map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "the state directory still holds {left:?}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&node.state.display().to_string()), "a mount is left:\n{mounts}");
    let place = node.net.in_cgroup(None)?;
    if let Ok(links) = shown(&place, "ip -d link") {
        ensure!(!links.contains("xdp"), "XDP is left:\n{links}");
    }
    for interface in ["eth0", "pod11", "pod12"] {
        for way in ["ingress", "egress"] {
            let Ok(filters) = shown(&place, &format!("tc filter show dev {interface} {way}")) else { continue };
            ensure!(filters.trim().is_empty(), "{interface} keeps a filter: {filters}");
        }
    }
    for family in FAMILIES {
        ends(&node.net, front.cluster_ip(family), Ending::Silence).or_else(|_| {
            // No route may be an answer, too; but not a connection.
            let reached = node.net.run(|| tcp(front.cluster_ip(family)));
            ensure!(reached.is_err(), "a ClusterIP answers on a node that is down");
            Ok(())
        })?;
    }
    node.down().context("a second time")?;
    subject.lab.at(1).net.run(|| tcp(front.cluster_ip(FAMILIES[0]))).context("node 1 is another daemon's")?;
    subject.lab.at_mut(1).down()?;
    subject.withdraw(front)
}
