//! Pod networking against the kernel: a "node" in a network namespace of its own, pods in others, real sockets.
//!
//! A namespace here is a thread that unshared one and waits; `/proc` names it, so nothing is mounted and nothing is left
//! behind when the test ends, however it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use fairlead_network::{Config, Network, NetworkError, Request, check_cidr, remove_all};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, alive as long as this value.
struct Namespace {
    path: PathBuf,
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let (say, path) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            say.send(Path::new("/proc").join(thread).join("ns/net")).unwrap();
            todo.iter().for_each(|job| job());
        });
        Self { path: path.recv().unwrap(), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `work` inside and waits for it; a panic in it is a panic here.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (say, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            say.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))).unwrap();
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answer.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn privileged() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("REQUIRE").is_none(), "REQUIRE is set: run this as root");
    if !root {
        println!("skipped: not root");
    }
    root
}

fn config(state_dir: &Path) -> Config {
    Config {
        state_dir: state_dir.to_owned(),
        pod_cidr: "10.99.3.0/24".parse().unwrap(),
        mtu: Some(1400),
        uplinks: vec!["lo".to_owned()],
        node_ip: Ipv4Addr::LOCALHOST,
    }
}

fn request(name: &str, pod: &Namespace) -> Request {
    Request {
        container_id: format!("sandbox-{name}"),
        netns: pod.path.clone(),
        ifname: "eth0".to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
    }
}

fn forwarding(interface: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/root/proc/sys/net/ipv4/conf/{interface}/forwarding"))
        .unwrap()
        .trim()
        .to_owned()
}

/// Serves one connection and returns who came.
fn serve_once(listener: TcpListener) -> JoinHandle<Ipv4Addr> {
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        match peer.ip() {
            std::net::IpAddr::V4(address) => address,
            other => panic!("an IPv6 peer: {other}"),
        }
    })
}

fn talk(address: Ipv4Addr, port: u16) -> String {
    let wait = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), wait).unwrap();
    stream.set_read_timeout(Some(wait)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn pods_reach_each_other_and_leave_nothing_behind() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    let (first, second) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("network");

    let (network, a, b) = {
        let (state, one, two) = (state.clone(), request("a", &first), request("b", &second));
        node.run(move || {
            let network = Network::open(config(&state)).unwrap();
            let a = network.add(&one).unwrap();
            let b = network.add(&two).unwrap();
            assert_eq!(network.add(&one).unwrap(), a, "asking again changes nothing");
            assert_eq!(forwarding(&a.host_interface), "1");
            assert_eq!(forwarding("all"), "0", "the global switch stays as it was");
            (network, a, b)
        })
    };
    assert_ne!(a.address, b.address);
    assert_eq!((a.mtu, b.mtu), (1400, 1400));
    assert!(a.netns_cookie.is_none() || a.netns_cookie != b.netns_cookie);

    let listener = second.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
    let server = serve_once(listener);
    let to = b.address;
    assert_eq!(first.run(move || talk(to, 8080)), "hello");
    assert_eq!(server.join().unwrap(), a.address, "the server sees the pod itself");

    // A restarted daemon finds the same pods; a pod whose namespace has ended frees its address.
    let found = {
        let state = state.clone();
        node.run(move || Network::open(config(&state)).unwrap().list().unwrap())
    };
    assert_eq!(found, [a.clone(), b.clone()]);
    drop(second);
    let state_again = state.clone();
    let left = node.run(move || {
        // The kernel takes a namespace's interfaces down in its own time.
        let gone = format!("/proc/sys/net/ipv4/conf/{}", b.host_interface);
        while Path::new(&gone).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Network::open(config(&state_again)).unwrap().list().unwrap()
    });
    assert_eq!(left, std::slice::from_ref(&a));

    let id = a.attachment.container_id.clone();
    node.run(move || {
        assert!(matches!(network.check("sandbox-x", "eth0"), Err(NetworkError::Unknown { .. })));
        assert_eq!(network.check(&id, "eth0").unwrap(), a);
        assert!(network.del(&id, "eth0").unwrap().is_some());
        assert!(network.del(&id, "eth0").unwrap().is_none());
        assert!(network.check(&id, "eth0").is_err());
    });
    let state_last = state.clone();
    node.run(move || {
        remove_all(&state_last).unwrap();
        remove_all(&state_last).unwrap();
        assert_eq!(forwarding("lo"), "0", "what was changed is put back");
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        assert_eq!(routes.lines().count(), 1, "no route is left: {routes}");
    });
    assert!(!state.exists());
}

#[test]
fn routes_come_back_when_the_nodes_address_goes() {
    if !privileged() {
        return;
    }
    let (node, pod) = (Namespace::new(), Namespace::new());
    let dir = tempfile::tempdir().unwrap();
    let (state, request) = (dir.path().join("network"), request("a", &pod));
    node.run(move || {
        let ip = |args: &str| {
            let done = Command::new("ip").args(args.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap()
        };
        ip("link set lo up");
        ip("address add 192.0.2.77/32 dev lo");
        let network = Network::open(Config { node_ip: [192, 0, 2, 77].into(), ..config(&state) }).unwrap();
        let route = format!(
            "{} dev {}",
            network.add(&request).unwrap().address,
            ip("-brief link show type veth").split('@').next().unwrap()
        );
        let there = || ip("route show").contains(&route);
        assert!(there());
        assert_eq!(network.restore_routes().unwrap(), 0);
        ip("address del 192.0.2.77/32 dev lo");
        assert!(!there(), "the kernel keeps the route now; this is no test any more");
        assert_eq!(network.restore_routes().unwrap(), 1);
        assert!(there());
        assert_eq!(network.restore_routes().unwrap(), 0);
        remove_all(&state).unwrap();
    });
}

#[test]
fn a_failed_add_keeps_nothing() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_owned();
    node.run(move || {
        let network = Network::open(config(&state)).unwrap();
        let request = Request {
            container_id: "gone".to_owned(),
            netns: "/run/netns/no-such-namespace".into(),
            ifname: "eth0".to_owned(),
            namespace: "default".to_owned(),
            name: "gone".to_owned(),
            uid: String::new(),
        };
        let error = network.add(&request).unwrap_err();
        assert!(error.to_string().contains("no-such-namespace"), "{error}");
        assert_eq!(std::fs::read_dir(state.join("addresses")).unwrap().count(), 0);
    });
}

#[test]
fn two_instances_do_not_share_addresses() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    node.run(move || {
        let cluster = "10.99.0.0/16".parse().unwrap();
        check_cidr(one.path(), cluster).unwrap();
        Network::open(config(one.path())).unwrap();
        Network::open(config(one.path())).unwrap();
        check_cidr(one.path(), cluster).unwrap();
        assert!(matches!(check_cidr(two.path(), cluster), Err(NetworkError::CidrInUse(_))));
        let error = Network::open(config(two.path())).unwrap_err();
        assert!(matches!(error, NetworkError::CidrInUse(_)), "{error}");
        remove_all(two.path()).unwrap();
        assert!(matches!(Network::open(config(two.path())), Err(NetworkError::CidrInUse(_))));
        remove_all(one.path()).unwrap();
        Network::open(config(two.path())).unwrap();
    });
}
