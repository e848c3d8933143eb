//! Clients of the echo server: from the host, or from a network namespace that stands for a machine outside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::{Root, unique_name};

/// Nothing on one machine takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the echo server says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Name of the pod that answered.
    pub pod: String,
    /// The client's address as the pod saw it.
    pub client: SocketAddr,
    /// The whole answer.
    pub text: String,
}

impl Echo {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let pod = field("pod: ").with_context(|| format!("no pod in the answer {text:?}"))?;
        let client = field("client: ").with_context(|| format!("no client in the answer {text:?}"))?;
        Ok(Self { pod: pod.to_owned(), client: client.parse()?, text: text.to_owned() })
    }
}

/// One HTTP request on a connection of its own.
///
/// # Errors
/// No connection, no answer within five seconds, or not an echo server's.
pub fn http(address: SocketAddr) -> Result<Echo> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect {address}"))?;
    request(&mut stream, "close")
}

/// One HTTP request on a connection that stays open.
///
/// # Errors
/// As [`http`].
pub fn http_on(stream: &mut TcpStream) -> Result<Echo> {
    request(stream, "keep-alive")
}

fn request(stream: &mut TcpStream, connection: &str) -> Result<Echo> {
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: echo\r\nConnection: {connection}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.context("no Content-Length in the answer")?.parse()? {
                return Echo::parse(body);
            }
        }
        match stream.read(&mut piece).context("read the answer")? {
            0 => bail!("the connection ended within the answer {text:?}"),
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
}

/// One datagram on a socket of its own, connected or not.
///
/// # Errors
/// No answer within five seconds, or from an address other than the one asked.
pub fn udp(address: SocketAddr, connected: bool, message: &str) -> Result<Echo> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 4096];
    let length = if connected {
        socket.connect(address)?;
        socket.send(message.as_bytes())?;
        socket.recv(&mut answer)?
    } else {
        socket.send_to(message.as_bytes(), address)?;
        let (length, from) = socket.recv_from(&mut answer)?;
        if from != address {
            bail!("asked {address}, but {from} answered");
        }
        length
    };
    Echo::parse(&String::from_utf8_lossy(&answer[..length]))
}

/// How often each pod answered `count` connections, one after the other.
///
/// # Errors
/// The first request that failed.
pub fn spread(address: SocketAddr, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut pods = BTreeMap::new();
    for n in 0..count {
        let echo = http(address).with_context(|| format!("request {n} of {count}"))?;
        *pods.entry(echo.pod).or_insert(0) += 1;
    }
    Ok(pods)
}

/// A machine outside the cluster: a network namespace on a veth whose other end is an uplink of the node.
#[derive(Debug)]
pub struct Outside {
    name: String,
    /// The node's interface towards it.
    pub uplink: String,
    /// The node's address on that interface.
    pub node: std::net::Ipv4Addr,
    /// Its own address.
    pub address: std::net::Ipv4Addr,
}

impl Outside {
    /// Makes it, without any route but to the link.
    ///
    /// # Errors
    /// `ip` is missing or refuses.
    pub fn new(_root: Root) -> Result<Self> {
        let spot = u8::try_from(std::process::id() % 250).unwrap_or(0);
        let outside = Self {
            name: unique_name("flout"),
            uplink: unique_name("flup"),
            node: [172, 29, spot, 1].into(),
            address: [172, 29, spot, 2].into(),
        };
        let (name, uplink) = (&outside.name, &outside.uplink);
        for line in [
            format!("netns add {name}"),
            format!("link add {uplink} type veth peer name eth0 netns {name}"),
            format!("addr add {}/24 dev {uplink}", outside.node),
            format!("link set {uplink} up"),
            format!("-n {name} addr add {}/24 dev eth0", outside.address),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&line)?;
        }
        Ok(outside)
    }

    /// Runs a client inside it.
    ///
    /// # Errors
    /// The namespace is gone, or what the client says.
    pub fn run<T: Send>(&self, client: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/var/run/netns/{}", self.name)).context("open the namespace")?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                client()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for line in [format!("link del {}", self.uplink), format!("netns del {}", self.name)] {
            if let Err(error) = ip(&line) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// `ip ARGS`, its output.
///
/// # Errors
/// What `ip` says.
pub fn ip(args: &str) -> Result<String> {
    let output = Command::new("ip").args(args.split_whitespace()).output().context("cannot start `ip`")?;
    if !output.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
