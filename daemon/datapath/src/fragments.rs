//! Fragments that came before the first of their packet, and so before the ports that say whose they are.
//!
//! Programs cannot hold packets. They send such a fragment to a TAP interface of ours, where it waits here until
//! `FRAGMENTS` knows its packet; then it is written back, and the program on the TAP puts it where it came in. One that
//! waits for longer than [`PATIENCE`], or for which there is no room, is written back as lost, for the program to count.
//!
//! Where there is no `/dev/net/tun`, such fragments pass untranslated: what a host alone would make of them.

mod held;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::tc::qdisc_add_clsact;
use aya::programs::{SchedClassifier, TcAttachType};
use fairlead_abi::{FragmentKey, FragmentValue, map};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read, write};

use crate::attach::chain;
use crate::error::DatapathError;
use crate::loader::program;
use crate::sys;
use held::{Held, PATIENCE};

/// Name of the TAP.
const NAME: &str = "flfrag%d";
/// On its ingress.
const PROGRAM: &str = "tc_fragment_back";
/// The longest frame: IP's 64 KiB, Ethernet and two tags.
const FRAME_MAX: usize = 65_536 + 22;
/// Frames read in a row before the others get their turn.
const BURST: usize = 64;

/// Holds fragments, on a thread of its own that ends with this value, as does the TAP.
#[derive(Debug)]
pub(crate) struct Fragments {
    /// Dropped to stop the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Fragments {
    /// Makes the TAP in the caller's network namespace and tells the programs. `None`, and a line in the log, where that
    /// cannot be.
    pub(crate) fn start(ebpf: &mut Ebpf, maps: &Path) -> Option<Self> {
        match Self::try_start(ebpf, maps) {
            Ok(fragments) => Some(fragments),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "fragments that come before the first of their packet will not be translated");
                let _ = tell(maps, 0);
                None
            }
        }
    }

    fn try_start(ebpf: &mut Ebpf, maps: &Path) -> Result<Self, DatapathError> {
        let failed = |action| move |source| DatapathError::Io { action, path: "/dev/net/tun".into(), source };
        let known = open(maps, map::FRAGMENTS)?;
        let known = HashMap::try_from(Map::LruHashMap(known)).map_err(map_error(map::FRAGMENTS))?;
        let (tap, name) = sys::open_tap(NAME).map_err(failed("make a TAP interface by"))?;
        attach(ebpf, &name)?;
        let ifindex = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| failed("find the TAP interface made by")(errno.into()))?;
        // A child that had the writing end, too, would keep the thread from ending.
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("make a pipe beside")(errno.into()))?;
        let thread = thread::Builder::new()
            .name("fragments".into())
            .spawn(move || serve(&tap, &stopped, &known))
            .map_err(failed("start a thread for"))?;
        tell(maps, ifindex)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Fragments {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Attaches without a pin: the interface goes when the daemon does.
fn attach(ebpf: &mut Ebpf, name: &str) -> Result<(), DatapathError> {
    // A kernel with tcx does not need it.
    let _ = qdisc_add_clsact(name);
    let program: &mut SchedClassifier = program(ebpf, PROGRAM)?;
    let attached = program.attach(name, TcAttachType::Ingress);
    attached.map_err(|source| DatapathError::Attach {
        program: PROGRAM,
        target: name.to_owned(),
        source: Box::new(source),
    })?;
    Ok(())
}

/// Tells the programs where to send fragments; 0: nowhere.
fn tell(maps: &Path, ifindex: u32) -> Result<(), DatapathError> {
    let tap = open(maps, map::FRAGMENT_TAP)?;
    let mut tap: Array<_, u32> = Array::try_from(Map::Array(tap)).map_err(map_error(map::FRAGMENT_TAP))?;
    tap.set(0, ifindex, 0).map_err(map_error(map::FRAGMENT_TAP))
}

fn open(maps: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    MapData::from_pin(maps.join(name)).map_err(map_error(name))
}

fn map_error(map: &'static str) -> impl Fn(aya::maps::MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source: Box::new(source) }
}

/// Takes frames from the TAP and writes them back, until the other end of `stopped` is closed.
fn serve(tap: &OwnedFd, stopped: &OwnedFd, known: &HashMap<MapData, FragmentKey, FragmentValue>) {
    let mut held = Held::default();
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let timeout = held.next().map_or(PollTimeout::NONE, |next| {
            // Rounded up, so as not to be awake before the time.
            let wait = next.saturating_duration_since(Instant::now()).min(PATIENCE).as_millis() as u16 + 1;
            PollTimeout::from(wait)
        });
        let mut wake = [PollFd::new(tap.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wake, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return tracing::error!(%error, "cannot wait for fragments"),
        }
        let flags = |at: usize| wake[at].revents().unwrap_or(PollFlags::empty());
        if !flags(1).is_empty() {
            return;
        }
        if flags(0).intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            return tracing::warn!("the interface for fragments is gone; the next start makes another");
        }
        for _ in 0..BURST {
            let Ok(len) = read(tap, &mut buffer) else { break };
            if let Some(lost) = held.take(&buffer[..len], Instant::now()) {
                give_back(tap, &lost);
            }
        }
        for frame in held.release(Instant::now(), |key| known.get(key, 0).is_ok()) {
            give_back(tap, &frame);
        }
    }
}

/// What does not fit the kernel's queue is lost, as on any wire.
fn give_back(tap: &OwnedFd, frame: &[u8]) {
    if let Err(error) = write(tap, frame).map_err(io::Error::from) {
        tracing::debug!(%error, "cannot write a fragment back");
    }
}
