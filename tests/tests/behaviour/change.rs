//! Endpoints that come and go.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairlead_tests::harness::dialogue::{ask, ask_datagram, connect, tcp, udp, udp_socket};
use fairlead_tests::harness::lab::{FAMILIES, Family};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;

use crate::subject::{Front, GRACE, SOON, Subject, plain};

/// A client in some place and what it asks for there.
pub(crate) struct Path<'a> {
    pub(crate) name: &'static str,
    pub(crate) place: &'a Namespace,
    pub(crate) target: SocketAddr,
    /// Translated at connect; otherwise packet by packet.
    pub(crate) socket: bool,
}

/// Every way to a Service, to the client's node and to another one.
pub(crate) fn paths(subject: &Subject, front: Front, family: Family) -> Vec<Path<'_>> {
    let path = |name, place, target, socket| Path { name, place, target, socket };
    let (vip, outside) = (front.cluster_ip(family), subject.lab.client(1));
    vec![
        path("host", &subject.lab.at(1).net, vip, true),
        path("pod", &subject.pod(13).net, vip, true),
        path("bypassing pod", &subject.pod(13).bypass, vip, false),
        path("bypassing pod on a bridge", &subject.pod(23).bypass, vip, false),
        path("outside by node 1", outside, front.node_port(family, 1), false),
        path("outside by node 2", outside, front.node_port(family, 2), false),
        path("outside by a load balancer", outside, front.load_balancer(family), false),
    ]
}

/// A connection that has been used, by each path in each family.
pub(crate) fn open<'a>(subject: &'a Subject, front: Front) -> Result<Vec<(Path<'a>, TcpStream, u8)>> {
    let all = FAMILIES.into_iter().flat_map(|family| paths(subject, front, family));
    all.map(|path| {
        let mut stream = path.place.run(|| connect(path.target)).with_context(|| path.name.to_owned())?;
        let (id, _) = ask(&mut stream)?;
        Ok((path, stream, id))
    })
    .collect()
}

/// All of them must still be answered by whom they were answered before.
pub(crate) fn go_on(open: &mut [(Path<'_>, TcpStream, u8)]) -> Result<()> {
    for (path, stream, id) in open {
        let (now, _) = ask(stream).with_context(|| format!("{} to {}: lost {id}", path.name, path.target))?;
        ensure!(now == *id, "{} went from {id} to {now}", path.name);
    }
    Ok(())
}

/// Does something while new connections are made by every path, none of which may fail.
pub(crate) fn while_connecting<T>(subject: &Subject, front: Front, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (stop, made) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let all = FAMILIES.into_iter().flat_map(|family| paths(subject, front, family));
        let clients: Vec<_> = all
            .map(|path| {
                let (stop, made) = (&stop, &made);
                scope.spawn(move || {
                    path.place.run(|| {
                        while !stop.load(Ordering::Relaxed) {
                            tcp(path.target).with_context(|| format!("{}: TCP", path.name))?;
                            udp(path.target, false).with_context(|| format!("{}: UDP", path.name))?;
                            made.fetch_add(2, Ordering::Relaxed);
                            // Enough of them, and ports for all tests.
                            sleep(Duration::from_millis(10));
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        let done = work();
        sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        println!("{} connections and datagrams meanwhile", made.load(Ordering::Relaxed));
        done
    })
}

pub(crate) fn under_traffic(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(20, plain(), &[11, 12, 21])?;
    let mut live = open(subject, front)?;
    while_connecting(subject, front, || {
        for ends in [&[12, 21][..], &[11, 21], &[11, 12], &[11, 12, 21]] {
            subject.publish(20, plain(), ends)?;
            for path in FAMILIES.into_iter().flat_map(|family| paths(subject, front, family)) {
                let mut seen = BTreeSet::new();
                for _ in 0..8 {
                    seen.insert(path.place.run(|| Ok([tcp(path.target)?.0, udp(path.target, false)?.0]))?);
                }
                let stray = seen.iter().flatten().find(|id| !ends.contains(id));
                ensure!(stray.is_none(), "{} reached {stray:?}, not in {ends:?}", path.name);
            }
            go_on(&mut live)?;
        }
        Ok(())
    })?;
    go_on(&mut live)?;
    subject.withdraw(front)
}

pub(crate) fn udp_moves(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(21, plain(), &[11])?;
    let mut sockets: Vec<(Path<'_>, UdpSocket, bool)> = Vec::new();
    for (family, connected) in FAMILIES.into_iter().flat_map(|family| [(family, false), (family, true)]) {
        for path in paths(subject, front, family) {
            let socket = path.place.run(|| {
                let socket = udp_socket(path.target)?;
                if connected {
                    socket.connect(path.target)?;
                }
                Ok(socket)
            })?;
            let (id, _) = ask_datagram(&socket, path.target, connected, 5)?;
            ensure!(id == 11, "{id} answered");
            sockets.push((path, socket, connected));
        }
    }
    subject.publish(21, plain(), &[12])?;
    for (path, socket, connected) in &sockets {
        if path.socket && *connected {
            closed(socket, path)?;
            continue;
        }
        // All nodes have the change, so not one datagram may go to the endpoint that was removed.
        let (id, _) = ask_datagram(socket, path.target, *connected, 5).with_context(|| path.name.to_owned())?;
        ensure!(id == 12, "{}: a datagram went to the removed {id}", path.name);
    }
    subject.withdraw(front)
}

/// A connected socket cannot be pointed elsewhere: it is closed, and its program told.
fn closed(socket: &UdpSocket, path: &Path<'_>) -> Result<()> {
    wait_for("the end of a socket that talks to a removed endpoint", Duration::from_secs(3), || {
        match ask_datagram(socket, path.target, true, 5) {
            Err(error) => {
                let silent = error.root_cause().downcast_ref().is_some_and(|error: &std::io::Error| {
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                });
                ensure!(!silent, "it was left without an answer");
                Ok(())
            }
            Ok((12, _)) => Ok(()),
            Ok((id, _)) => bail!("{id} still answers"),
        }
    })
    .with_context(|| format!("{}, connected", path.name))
}

pub(crate) fn reset_after_drain(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(22, plain(), &[11])?;
    let mut live = open(subject, front)?;
    subject.publish(22, plain(), &[12])?;
    go_on(&mut live).context("within the grace")?;
    sleep(GRACE + Duration::from_secs(2));
    for (path, stream, _) in &mut live {
        stream.set_read_timeout(Some(SOON))?;
        let Err(error) = ask(stream) else { bail!("{} still talks to a removed endpoint", path.name) };
        let kind = error.root_cause().downcast_ref().map(std::io::Error::kind);
        let told = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe];
        ensure!(kind.is_some_and(|kind| told.contains(&kind)), "{} to {}: {error:#}", path.name, path.target);
    }
    for path in FAMILIES.into_iter().flat_map(|family| paths(subject, front, family)) {
        ensure!(path.place.run(|| tcp(path.target))?.0 == 12, "{} does not reach the new endpoint", path.name);
    }
    subject.withdraw(front)
}
