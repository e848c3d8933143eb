//! Many of everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::dialogue::{ask_datagram, patience, tcp};
use fairlead_tests::harness::lab::Family;
use fairlead_tests::harness::manifest::{service, slices};
use fairlead_tests::wait_for;
use serde_json::{Value, json};

use crate::subject::{Subject, plain};

const FLOWS: u16 = 25_000;
const FIRST_PORT: u16 = 30_000;
const SERVICES: u16 = 10_000;
/// Services in one file.
const FILE: u16 = 100;
/// Their ClusterIPs are counted from here.
const FIRST_ADDRESS: u16 = 1_000;

/// Every flow is there at once: the table keeps each far longer than the test takes.
pub(crate) fn flows(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(50, plain(), &[21])?;
    let outside = subject.lab.client(1);
    let second: IpAddr = "192.0.2.199".parse()?;
    outside.address("eth0", second, 24)?;
    let target = front.node_port(Family::V4, 1);
    let ask = |source: SocketAddr| {
        let socket = UdpSocket::bind(source)?;
        socket.set_read_timeout(Some(patience()))?;
        let (id, seen) = ask_datagram(&socket, target, false, 5).with_context(|| format!("from {source}"))?;
        ensure!(id == 21, "{id} answered");
        Ok(seen)
    };
    let start = Instant::now();
    let mut seen = BTreeMap::new();
    for address in [Family::V4.client(1), second] {
        let sources = (0..FLOWS).map(|port| SocketAddr::new(address, FIRST_PORT + port));
        let answers: Vec<(SocketAddr, SocketAddr)> =
            outside.run(|| sources.map(|source| Ok((ask(source)?, source))).collect())?;
        for (as_whom, source) in answers {
            if let Some(other) = seen.insert(as_whom, source) {
                ensure!(other == source, "{other} and {source} were both seen as {as_whom}");
            }
        }
    }
    println!("{} flows in {:.1} s", seen.len(), start.elapsed().as_secs_f32());
    ensure!(seen.len() == 2 * usize::from(FLOWS), "{} of {} flows are told apart", seen.len(), 2 * FLOWS);
    for (as_whom, source) in seen.iter().step_by(499) {
        let now = outside.run(|| ask(*source))?;
        ensure!(now == *as_whom, "{source} was seen as {as_whom}, and now as {now}");
    }
    subject.withdraw(front)
}

/// A file of Services, one of whose endpoints may be another.
fn file(subject: &Subject, number: u16, marked: Option<u8>) -> Result<()> {
    let mut objects: Vec<Value> = Vec::new();
    for at in number * FILE..(number + 1) * FILE {
        let name = format!("many-{at}");
        let pod = marked.filter(|_| at % FILE == FILE / 2).unwrap_or(11);
        objects.push(service(&name, &[Family::V4.cluster_ip(FIRST_ADDRESS + at)], json!({})));
        objects.extend(slices(&name, &[subject.end(pod)]).into_iter().take(1));
    }
    subject.lab.manifests.put(&format!("many-{number}"), &objects)
}

pub(crate) fn services(subject: &mut Subject) -> Result<()> {
    let start = Instant::now();
    for number in 0..SERVICES / FILE {
        file(subject, number, None)?;
    }
    let node = subject.lab.at(1);
    let minute = Duration::from_secs(60);
    wait_for("ten thousand services", minute, || {
        let count: u16 = node.fact("services")?.parse()?;
        ensure!(count >= SERVICES, "{count} services");
        Ok(())
    })
    .with_context(|| node.said())?;
    let target = |at: u16| SocketAddr::new(Family::V4.cluster_ip(FIRST_ADDRESS + at), 80);
    let ask = |at: u16| node.net.run(|| Ok(tcp(target(at))?.0));
    for at in [0, SERVICES / 2, SERVICES - 1] {
        wait_for("a service among many", minute, || ask(at).map(drop))?;
    }
    println!("{SERVICES} services in {:.1} s", start.elapsed().as_secs_f32());

    let (changed, beside) = (SERVICES / 2 + FILE / 2, SERVICES / 2 + FILE / 2 + 1);
    ensure!(ask(changed)? == 11 && ask(beside)? == 11);
    let start = Instant::now();
    file(subject, changed / FILE, Some(12))?;
    wait_for("the change", minute, || {
        let id = ask(changed)?;
        ensure!(id == 12, "{id} answers");
        Ok(())
    })?;
    let change = node.fact("last change")?;
    println!("one endpoint changed within {} ms: {change}", start.elapsed().as_millis());
    ensure!(ask(beside)? == 11);
    ensure!(change.starts_with("1 services"), "more was touched: {change}");
    let calls = change.split(", ").find_map(|part| part.strip_suffix(" system calls"));
    let calls: u32 = calls.with_context(|| format!("no system calls in {change:?}"))?.parse()?;
    ensure!(calls <= 10, "one change of one endpoint took {calls} system calls");
    for number in 0..SERVICES / FILE {
        subject.lab.manifests.remove(&format!("many-{number}"))?;
    }
    wait_for("the end of them", minute, || {
        let count: u16 = node.fact("services")?.parse()?;
        ensure!(count < SERVICES, "{count} services");
        Ok(())
    })
}
