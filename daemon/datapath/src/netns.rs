//! Network namespaces of pods that another made: which there are, and what lives in them.
//!
//! A pod is known by its host-side interface. The kernel names the namespace of an interface's other end by an id that
//! it gives out itself (`IFLA_LINK_NETNSID`), and tells the id of any namespace that can be opened. So every namespace
//! of a process is asked for its id, and only those of pods are entered.

mod cookie;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};

use crate::config::PodInterface;
use crate::error::DatapathError;
use crate::netlink::Netlink;
pub use cookie::netns_cookie;

/// Where namespaces are kept that no process may live in.
const KEPT: [&str; 3] = ["/run/netns", "/run/docker/netns", "/var/run/netns"];

/// Where the namespace behind an interface, by its index, was found the last time: a look there costs microseconds, one at
/// each process milliseconds. What has moved or ended since is told by its id, and looked for anew.
static FOUND: LazyLock<Mutex<HashMap<u32, PathBuf>>> = LazyLock::new(Mutex::default);

/// Namespaces that were looked for everywhere and not found, by the interface that leads there.
static MISSED: LazyLock<Mutex<HashMap<u32, Missed>>> = LazyLock::new(Mutex::default);
/// How long after it was missed first a namespace is looked for again; twice as long each time, up to …
const AGAIN: Duration = Duration::from_millis(500);
/// … as often as this. Most that are not found never are: nobody lives there.
const DOUBLED: u32 = 7;

/// How often a namespace was missed, and when last.
#[derive(Clone, Copy, Debug)]
struct Missed {
    times: u32,
    last: Instant,
}

impl Missed {
    /// Whether it is to be looked for again.
    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= AGAIN * (1 << (self.times - 1).min(DOUBLED))
    }
}

/// What lies behind host-side interfaces of pods, given by name and index, in their order. An interface whose namespace
/// is not found comes back with nothing known: its pod's packets are translated one by one.
///
/// Costs a few system calls per pod, and a look at each process if there is a pod that was not there the last time, or
/// one that has not been found for a while.
pub fn find_pods(interfaces: &[(String, u32)]) -> Result<Vec<PodInterface>, DatapathError> {
    let found = namespaces(interfaces).map_err(|source| DatapathError::Io {
        action: "look for pods' network namespaces in",
        path: "/proc".into(),
        source,
    })?;
    // A thread of its own enters one after the other, and ends in the last.
    let insides = thread::scope(|scope| {
        let visit = || found.iter().map(|found| found.as_ref().and_then(Found::enter)).collect::<Vec<_>>();
        scope.spawn(visit).join().unwrap_or_else(|_| vec![None; interfaces.len()])
    });
    let pod = |((name, ifindex), inside): (&(String, u32), Option<Inside>)| {
        let Inside { cookie, mac, addresses } = inside.unwrap_or_default();
        PodInterface { name: name.clone(), ifindex: *ifindex, addresses, mac, netns_cookie: cookie }
    };
    Ok(interfaces.iter().zip(insides).map(pod).collect())
}

/// The namespace behind a host-side interface.
#[derive(Debug)]
pub(crate) struct Found {
    /// The namespace.
    pub(crate) namespace: File,
    /// Index of the pod's own end in it.
    pub(crate) peer: u32,
}

/// What is found inside of it.
#[derive(Clone, Debug, Default)]
struct Inside {
    cookie: u64,
    mac: [u8; 6],
    addresses: Vec<IpAddr>,
}

/// The namespaces behind these interfaces, in their order.
pub(crate) fn namespaces(interfaces: &[(String, u32)]) -> io::Result<Vec<Option<Found>>> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let peers = peers(&netlink)?;
    let mut wanted: HashSet<i32> =
        interfaces.iter().filter_map(|(_, ifindex)| peers.get(ifindex)).map(|peer| peer.id).collect();
    let mut by_id = HashMap::new();
    let mut paths: HashMap<i32, PathBuf> = HashMap::new();
    let mut known = FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone();
    known.retain(|ifindex, _| peers.contains_key(ifindex));
    for (_, ifindex) in interfaces {
        let (Some(peer), Some(path)) = (peers.get(ifindex), known.get(ifindex)) else { continue };
        let Ok(namespace) = File::open(path) else { continue };
        if id_of(&netlink, &namespace).is_ok_and(|id| id == Some(peer.id)) && wanted.remove(&peer.id) {
            by_id.insert(peer.id, namespace);
        }
    }
    let mut missed = MISSED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    missed.retain(|ifindex, _| peers.contains_key(ifindex));
    let now = Instant::now();
    let is_wanted =
        |ifindex: &u32, wanted: &HashSet<i32>| peers.get(ifindex).is_some_and(|peer| wanted.contains(&peer.id));
    let mut due = interfaces.iter().map(|(_, ifindex)| ifindex).filter(|ifindex| is_wanted(ifindex, &wanted));
    if !due.any(|ifindex| missed.get(ifindex).is_none_or(|missed| missed.is_due(now))) {
        wanted.clear();
    }
    let mut seen = HashSet::new();
    // Most pods have a process whose first thread lives there; threads that went elsewhere are looked for if not.
    let sources: [fn() -> Vec<PathBuf>; 3] = [of_processes, kept, of_threads];
    for source in sources {
        if wanted.is_empty() {
            break;
        }
        for path in source() {
            // Whoever ends meanwhile, or may not be looked at, has no pod to show.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            let Ok(namespace) = File::open(&path) else { continue };
            if let Ok(Some(id)) = id_of(&netlink, &namespace)
                && wanted.remove(&id)
            {
                by_id.insert(id, namespace);
                paths.insert(id, path);
            }
        }
    }
    let found = |(_, ifindex): &(String, u32)| Some((*ifindex, paths.get(&peers.get(ifindex)?.id)?.clone()));
    known.extend(interfaces.iter().filter_map(found));
    *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = known;
    for (_, ifindex) in interfaces {
        if is_wanted(ifindex, &wanted) {
            let times = missed.get(ifindex).map_or(0, |missed| missed.times) + 1;
            missed.insert(*ifindex, Missed { times, last: now });
        } else if peers.get(ifindex).is_some_and(|peer| by_id.contains_key(&peer.id)) {
            missed.remove(ifindex);
        }
    }
    *MISSED.lock().unwrap_or_else(PoisonError::into_inner) = missed;
    interfaces
        .iter()
        .map(|(_, ifindex)| match peers.get(ifindex).and_then(|peer| Some((peer, by_id.get(&peer.id)?))) {
            Some((peer, namespace)) => Ok(Some(Found { namespace: namespace.try_clone()?, peer: peer.ifindex })),
            None => Ok(None),
        })
        .collect()
}

/// The other end of an interface.
#[derive(Debug)]
struct Peer {
    ifindex: u32,
    /// The kernel's id of its namespace.
    id: i32,
}

/// Interfaces whose other end is in another namespace.
fn peers(netlink: &Netlink) -> io::Result<HashMap<u32, Peer>> {
    let links = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let peer = |link: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewLink(link) = link else { return None };
        let peer = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })?;
        let id = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkNetNsId(id) => Some(*id),
            _ => None,
        })?;
        Some((link.header.index, Peer { ifindex: peer, id }))
    };
    Ok(links.into_iter().filter_map(peer).collect())
}

/// The id this namespace has in ours, if it has one.
fn id_of(netlink: &Netlink, namespace: &File) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.header.family = AddressFamily::Unspec;
    question.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    let answers = netlink.ask(RouteNetlinkMessage::GetNsId(question))?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(answer) => answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }),
        _ => None,
    }))
}

fn of_processes() -> Vec<PathBuf> {
    numbered(Path::new("/proc")).map(|process| process.join("ns/net")).collect()
}

fn of_threads() -> Vec<PathBuf> {
    let threads = numbered(Path::new("/proc")).flat_map(|process| numbered(&process.join("task")).collect::<Vec<_>>());
    threads.map(|thread| thread.join("ns/net")).collect()
}

fn kept() -> Vec<PathBuf> {
    let folders = KEPT.iter().filter_map(|folder| fs::read_dir(folder).ok());
    folders.flat_map(|folder| folder.flatten().map(|entry| entry.path())).collect()
}

/// Entries named by a number: processes, or threads.
fn numbered(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let is_number = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    fs::read_dir(folder).into_iter().flatten().flatten().filter(is_number).map(|entry| entry.path())
}

impl Found {
    /// Moves the calling thread there and looks around; `None` if the pod has gone meanwhile.
    fn enter(&self) -> Option<Inside> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).ok()?;
        let mut inside = Inside { cookie: cookie::of_this_thread().ok()?, ..Inside::default() };
        let name = nix::net::if_::if_indextoname(self.peer).ok()?.into_string().ok()?;
        for entry in nix::ifaddrs::getifaddrs().ok()?.filter(|entry| entry.interface_name == name) {
            let Some(address) = entry.address else { continue };
            if let Some(link) = address.as_link_addr() {
                inside.mac = link.addr().unwrap_or_default();
            } else if let Some(v4) = address.as_sockaddr_in() {
                inside.addresses.push(v4.ip().into());
            } else if let Some(v6) = address.as_sockaddr_in6()
                && !v6.ip().is_unicast_link_local()
            {
                inside.addresses.push(v6.ip().into());
            }
        }
        Some(inside)
    }
}
