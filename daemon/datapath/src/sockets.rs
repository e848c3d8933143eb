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
//! That means to enter the namespace of every pod, and most endpoints go without a socket of this node ever having been
//! given them: those that ask from outside or from pods whose packets are translated are nobody's sockets here. So the
//! hooks note in `BACKENDS` that an endpoint was given to a socket, and nobody is looked for who cannot be there.
//!
//! Looking takes milliseconds, in which a fast sender sends thousands. So the programs are told before an endpoint ends that
//! datagram sockets are being closed, and drop what these send meanwhile (`BYPASS`).

mod diag;
mod queue;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use fairlead_abi::{Backend, Bypass, SocketKey, map, mapped, proto};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

use crate::error::DatapathError;
use crate::flows::Given;
use crate::kernel::{self, BACKEND_WORDS, GROUP_WORD, LIFE_WORD};
use crate::netlink::Netlink;
use crate::netns;
use crate::sys::MappedWords;
use crate::tables::Ended as Gone;
use diag::Socket;
use queue::{Queue, Work};

/// Endpoints named to the kernel in one question.
const BATCH: usize = 256;
/// Words of a [`Bypass`], and which of them is `closing`.
const BYPASS_WORDS: usize = size_of::<Bypass>() / 8;
const CLOSING: usize = 1;

/// Closes sockets, on a thread of its own that ends with this value.
#[derive(Debug)]
pub(crate) struct SocketCloser {
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    ends: Arc<Ends>,
    bypass: Arc<MappedWords>,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Counts {
    closed: AtomicU64,
    looks: AtomicU64,
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

/// What came of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Report {
    /// Sockets closed.
    closed: u64,
    /// Sockets, or whole namespaces, that the kernel refused.
    failed: u64,
}

impl SocketCloser {
    /// Opens the maps pinned in this directory. Sockets are looked for in the network namespace of the caller.
    pub(crate) fn open(maps: &Path) -> Result<Self, DatapathError> {
        let (words, entries) = kernel::words(maps, map::BACKENDS, BACKEND_WORDS)?;
        let ends = Arc::new(Ends { words, entries });
        let memory = Memory { given: Given::open(maps)?, ends: Arc::clone(&ends) };
        let (bypass, _) = kernel::words(maps, map::BYPASS, BYPASS_WORDS)?;
        // An earlier daemon may have ended in the middle of it.
        bypass.store(CLOSING, 0);
        let io =
            |source| DatapathError::Io { action: "start a thread in", path: "/proc/thread-self/ns/net".into(), source };
        let home = File::open("/proc/thread-self/ns/net").map_err(io)?;
        let (queue, counts) = (Arc::new(Queue::default()), Arc::new(Counts::default()));
        let (inbox, counter) = (Arc::clone(&queue), Arc::clone(&counts));
        thread::Builder::new()
            .name("sockets".into())
            .spawn(move || serve(&inbox, &memory, &home, &counter))
            .map_err(io)?;
        Ok(Self { queue, counts, ends, bypass: Arc::new(bypass) })
    }

    /// Tells the programs that endpoints of datagrams are about to end.
    pub(crate) fn announce(&self) -> Announced {
        Announced::new(&self.bypass)
    }

    /// Closes what talks to these endpoints, in this namespace and in those behind the host-side interfaces of pods,
    /// given by name and index. Does not wait for it.
    pub(crate) fn close(&self, gone: Vec<Gone>, pods: Vec<(String, u32)>, mut announced: Option<Announced>) {
        let gone = gone.into_iter().filter(|gone| matches!(gone.proto, proto::TCP | proto::UDP));
        let (given, mut others): (Vec<_>, Vec<_>) = gone.partition(|gone| self.ends.is_given(gone));
        if !given.is_empty() {
            self.queue.now(Work { gone: given, pods: pods.clone(), announced: announced.take() });
        }
        // Somebody may be about to note that he was given one.
        others.retain(is_hasty);
        if !others.is_empty() {
            self.queue.later(Work { gone: others, pods, announced }, Instant::now());
        }
    }

    /// Sockets closed so far.
    pub(crate) fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::Relaxed)
    }

    /// How often sockets were looked for so far.
    pub(crate) fn looks(&self) -> u64 {
        self.counts.looks.load(Ordering::Relaxed)
    }
}

impl Drop for SocketCloser {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Whether an endpoint may have been given to a socket just before it ended. TCP's are none for new sockets since the
/// drain began.
fn is_hasty(gone: &Gone) -> bool {
    gone.proto == proto::UDP
}

/// Whether this kernel closes sockets on demand, TCP and UDP.
pub(crate) fn can_close() -> bool {
    let probe = || -> io::Result<bool> {
        let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
        Ok(diag::can_destroy(&netlink, proto::TCP)? && diag::can_destroy(&netlink, proto::UDP)?)
    };
    probe().unwrap_or(false)
}

fn serve(inbox: &Queue, memory: &Memory, home: &File, counts: &Counts) {
    while let Some((mut work, is_first)) = inbox.take() {
        work.gone.retain(|gone| memory.ends.is_given(gone));
        if work.gone.is_empty() {
            continue;
        }
        counts.looks.fetch_add(1, Ordering::Relaxed);
        let report = close(&work, memory, home);
        counts.closed.fetch_add(report.closed, Ordering::Relaxed);
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
            work.gone.retain(is_hasty);
            if !work.gone.is_empty() {
                inbox.later(work, Instant::now());
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
fn close_here(gone: &[Gone], memory: &Memory, report: &mut Report) -> io::Result<()> {
    let netlink = Netlink::open(NETLINK_SOCK_DIAG)?;
    for proto in [proto::UDP, proto::TCP] {
        let ends: Vec<SocketAddr> = gone.iter().filter(|gone| gone.proto == proto).map(|gone| gone.address).collect();
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

/// The kernel's table of endpoints, as far as their ends are concerned.
#[derive(Debug)]
struct Ends {
    words: MappedWords,
    entries: u32,
}

impl Ends {
    /// The life of an endpoint, now and when it was last given to a socket; nothing of an id that is none.
    fn lives(&self, backend: u32) -> Option<(u32, u32)> {
        let word = backend as usize * BACKEND_WORDS;
        let half = |place: usize| (self.words.load(word + place) >> 32) as u32;
        (backend < self.entries).then(|| (half(LIFE_WORD), half(GROUP_WORD)))
    }

    /// Whether any socket was given this endpoint while its id meant it.
    fn is_given(&self, gone: &Gone) -> bool {
        self.lives(gone.backend).is_some_and(|(_, given)| given >> 8 == gone.generation)
    }
}

/// What the hooks and the tables know about sockets and endpoints.
struct Memory {
    given: Given,
    ends: Arc<Ends>,
}

impl Memory {
    /// Whether a service gave this socket an endpoint that it has no more.
    fn is_over(&self, socket: &Socket, proto: u8) -> bool {
        let addr = match socket.peer.ip() {
            IpAddr::V4(v4) => mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        let port = socket.peer.port().to_be_bytes();
        let key = SocketKey { cookie: socket.cookie, addr, port, back: 1, proto, pad: 0 };
        let Some(given) = self.given.get(&key) else { return false };
        self.ends.lives(given.backend).is_some_and(|(life, _)| has_lost(given.life, life, proto))
    }
}

/// Whether what was given at this life is over. TCP goes on while the endpoint drains.
fn has_lost(given: u32, life: u32, proto: u8) -> bool {
    let is_draining = life == Backend::life(given >> 8, Backend::DRAINING);
    life != given && !(is_draining && proto == proto::TCP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_is_over_when_its_endpoint_drains_and_tcp_when_it_is_gone() {
        let given = Backend::life(7, Backend::ACTIVE);
        let over = |generation, state| {
            let life = Backend::life(generation, state);
            (has_lost(given, life, proto::UDP), has_lost(given, life, proto::TCP))
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
