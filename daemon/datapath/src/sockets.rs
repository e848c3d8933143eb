//! Sockets that still talk to an endpoint which is gone.
//!
//! A socket that was pointed at its endpoint when it connected is translated by nobody afterwards: a connected UDP
//! socket would send to a dead endpoint until its owner gives up, and a TCP one until it times out. They are closed from
//! here instead (`SOCK_DESTROY`): the owner gets `ECONNABORTED`, connects again, and is given a live endpoint.
//!
//! Closed is only who came through a service, that is, whom the hooks noted in `SOCKETS` under the socket's cookie, and
//! whose endpoint is gone by its life in `BACKENDS`: UDP at once, TCP when the drain is over. Whoever chose the pod's own
//! address, or reached it through another service that still has it, is left alone.
//!
//! That takes milliseconds, in which a fast sender sends thousands. So the programs are told before an endpoint ends that
//! datagram sockets are being closed, and drop what these send meanwhile (`BYPASS`).

mod diag;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use fairlead_abi::{Backend, Bypass, SocketKey, map, mapped, proto};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

use crate::error::DatapathError;
use crate::flows::Given;
use crate::kernel;
use crate::netlink::Netlink;
use crate::netns;
use crate::sys::MappedWords;
use diag::Socket;

/// A socket may have been given its endpoint just before that went, and connect just after we looked. So there is a
/// second look.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Endpoints named to the kernel in one question.
const BATCH: usize = 256;
/// Words of a [`Bypass`], and which of them is `closing`.
const BYPASS_WORDS: usize = size_of::<Bypass>() / 8;
const CLOSING: usize = 1;

/// Closes sockets, on a thread of its own that ends with this value.
#[derive(Debug)]
pub(crate) struct SocketCloser {
    work: Sender<Work>,
    closed: Arc<AtomicU64>,
    bypass: Arc<MappedWords>,
}

/// Datagram sockets will be, or are being, closed: the programs know it for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Announced(Arc<MappedWords>);

impl Announced {
    fn new(bypass: &Arc<MappedWords>) -> Self {
        bypass.add(CLOSING, 1);
        Self(Arc::clone(bypass))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.add(CLOSING, 1u64.wrapping_neg());
    }
}

/// Endpoints that are gone, and where their clients may live.
#[derive(Debug)]
struct Work {
    gone: Vec<(SocketAddr, u8)>,
    pods: Vec<(String, u32)>,
    announced: Vec<Announced>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Sockets closed.
    pub(crate) closed: u64,
    /// Sockets, or whole namespaces, that the kernel refused.
    pub(crate) failed: u64,
}

impl SocketCloser {
    /// Opens the maps pinned in this directory. Sockets are looked for in the network namespace of the caller.
    pub(crate) fn open(maps: &Path) -> Result<Self, DatapathError> {
        let memory = Memory::open(maps)?;
        let (bypass, _) = kernel::words(maps, map::BYPASS, BYPASS_WORDS)?;
        // An earlier daemon may have ended in the middle of it.
        bypass.store(CLOSING, 0);
        let io =
            |source| DatapathError::Io { action: "start a thread in", path: "/proc/thread-self/ns/net".into(), source };
        let home = File::open("/proc/thread-self/ns/net").map_err(io)?;
        let (work, inbox) = channel();
        let closed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&closed);
        thread::Builder::new()
            .name("sockets".into())
            .spawn(move || serve(&inbox, &memory, &home, &counter))
            .map_err(io)?;
        Ok(Self { work, closed, bypass: Arc::new(bypass) })
    }

    /// Tells the programs that endpoints of datagrams are about to end.
    pub(crate) fn announce(&self) -> Announced {
        Announced::new(&self.bypass)
    }

    /// Closes what talks to these endpoints, given by address and IP protocol, in this namespace and in those behind the
    /// host-side interfaces of pods, given by name and index. Does not wait for it.
    pub(crate) fn close(&self, gone: Vec<(SocketAddr, u8)>, pods: Vec<(String, u32)>, announced: Option<Announced>) {
        let announced = announced.into_iter().collect();
        let gone: Vec<_> = gone.into_iter().filter(|(_, proto)| matches!(*proto, proto::TCP | proto::UDP)).collect();
        if !gone.is_empty() && self.work.send(Work { gone, pods, announced }).is_err() {
            tracing::error!("the thread that closes sockets has ended; clients of removed endpoints must time out");
        }
    }

    /// Sockets closed so far.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}

/// Whether this kernel closes sockets on demand, TCP and UDP.
pub(crate) fn can_close() -> bool {
    let probe = || -> io::Result<bool> {
        let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
        Ok(diag::can_destroy(&netlink, proto::TCP)? && diag::can_destroy(&netlink, proto::UDP)?)
    };
    probe().unwrap_or(false)
}

fn serve(inbox: &Receiver<Work>, memory: &Memory, home: &File, closed: &AtomicU64) {
    let mut again: VecDeque<(Instant, Work)> = VecDeque::new();
    loop {
        let wait = again.front().map_or(Duration::MAX, |(when, _)| when.saturating_duration_since(Instant::now()));
        // Due before new, or a storm of changes would put it off for ever.
        let due = if wait.is_zero() { again.pop_front() } else { None };
        let (work, is_first) = match due {
            Some((_, work)) => (work, false),
            None => match inbox.recv_timeout(wait) {
                Ok(mut work) => {
                    // What came while we were busy is done at one go.
                    for more in inbox.try_iter() {
                        work.gone.extend(more.gone);
                        work.announced.extend(more.announced);
                        work.pods = more.pods;
                    }
                    (work, true)
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        let report = close(&work, memory, home);
        closed.fetch_add(report.closed, Ordering::Relaxed);
        if report.failed > 0 {
            tracing::warn!(
                failed = report.failed,
                "sockets of removed endpoints could not be closed (does the daemon have CAP_NET_ADMIN in their namespaces?)"
            );
        }
        if report.closed > 0 {
            tracing::info!(closed = report.closed, "sockets of removed endpoints were closed");
        }
        if is_first {
            // TCP's endpoints are none for new sockets since the drain began.
            let gone: Vec<_> = work.gone.iter().filter(|(_, proto)| *proto == proto::UDP).copied().collect();
            if !gone.is_empty() {
                again.push_back((Instant::now() + SECOND_LOOK, Work { gone, ..work }));
            }
        }
    }
}

/// Goes through all namespaces, and comes back.
fn close(work: &Work, memory: &Memory, home: &File) -> Report {
    let mut report = Report::default();
    let mut visit = |namespace: &File| {
        let done = setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| close_here(&work.gone, memory, &mut report));
        if let Err(error) = done {
            tracing::warn!(%error, "cannot look for sockets in a network namespace");
            report.failed += 1;
        }
    };
    visit(home);
    match netns::namespaces(&work.pods) {
        Ok(pods) => pods.iter().flatten().for_each(|pod| visit(&pod.namespace)),
        Err(error) => tracing::warn!(%error, "cannot look for pods' network namespaces"),
    }
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "cannot return to the node's network namespace");
    }
    report
}

/// Closes sockets of the namespace the thread is in.
fn close_here(gone: &[(SocketAddr, u8)], memory: &Memory, report: &mut Report) -> io::Result<()> {
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    for proto in [proto::UDP, proto::TCP] {
        let ends: Vec<SocketAddr> = gone.iter().filter(|(_, of)| *of == proto).map(|(end, _)| *end).collect();
        for batch in ends.chunks(BATCH) {
            let sockets = match diag::connected(&netlink, proto, batch) {
                // A kernel that does not list this protocol's: preflight says so.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                other => other?,
            };
            for socket in sockets {
                if !memory.is_over(&socket, proto) {
                    continue;
                }
                match diag::destroy(&netlink, proto, &socket) {
                    Ok(()) => report.closed += 1,
                    // Its owner was quicker.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::debug!(%error, peer = %socket.peer, "the kernel does not close a socket");
                        report.failed += 1;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What the hooks and the tables know about sockets and endpoints.
struct Memory {
    given: Given,
    backends: Array<MapData, Backend>,
}

impl Memory {
    fn open(dir: &Path) -> Result<Self, DatapathError> {
        let open = |name: &'static str| {
            let failed = move |source| DatapathError::Map { map: name, source: Box::new(source) };
            let data = MapData::from_pin(dir.join(name)).map_err(failed)?;
            Map::from_map_data(data).map_err(failed)
        };
        let failed = |map| move |source| DatapathError::Map { map, source: Box::new(source) };
        Ok(Self { given: Given::open(dir)?, backends: open(map::BACKENDS)?.try_into().map_err(failed(map::BACKENDS))? })
    }

    /// Whether a service gave this socket an endpoint that it has no more.
    fn is_over(&self, socket: &Socket, proto: u8) -> bool {
        let addr = match socket.peer.ip() {
            IpAddr::V4(v4) => mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        let port = socket.peer.port().to_be_bytes();
        let key = SocketKey { cookie: socket.cookie, addr, port, back: 1, proto, pad: 0 };
        let Some(given) = self.given.get(&key) else { return false };
        self.backends.get(&given.backend, 0).is_ok_and(|backend| has_lost(given.life, &backend, proto))
    }
}

/// Whether what was given at this life is over. TCP goes on while the endpoint drains.
fn has_lost(given: u32, backend: &Backend, proto: u8) -> bool {
    let draining = Backend::life(backend.generation(), Backend::DRAINING);
    let same = given >> 8 == backend.generation();
    backend.life != given && !(same && proto == proto::TCP && backend.life == draining)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_is_over_when_its_endpoint_drains_and_tcp_when_it_is_gone() {
        let given = Backend::life(7, Backend::ACTIVE);
        let over = |generation, state| {
            let backend = Backend { life: Backend::life(generation, state), ..Backend::default() };
            (has_lost(given, &backend, proto::UDP), has_lost(given, &backend, proto::TCP))
        };
        assert_eq!(over(7, Backend::ACTIVE), (false, false));
        assert_eq!(over(7, Backend::DRAINING), (true, false));
        assert_eq!(over(7, Backend::GONE), (true, true));
        assert_eq!(over(7, Backend::FREE), (true, true));
        // The id was given to another endpoint.
        assert_eq!(over(8, Backend::ACTIVE), (true, true));
        assert_eq!(over(8, Backend::DRAINING), (true, true));
    }
}
