//! Processes that make traffic: one per place that has to be a process of its own, told what to do through a pipe.
//!
//! They are this program once more, started inside a network namespace and, where sockets are to go through hooks, inside
//! a cgroup. Client and server are processes and not threads, because switching between them is part of what every
//! connection costs. All of them run on one core: a rate is then the inverse of what the whole path costs. One ends with
//! its pipe, so none outlives the run.

mod connect;
mod datagram;
mod exchange;
mod serve;
mod stream;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::namespace::Namespace;
use crate::results::Histogram;

const AGENT: &str = "--bench-agent";

/// What an agent is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// New connections one after the other, many at a time, each reset once it stands.
    Rate { to: SocketAddrV4, from: Sources, at_once: usize, time: Duration },
    /// Connections, one at a time.
    Connect { to: SocketAddrV4, time: Duration },
    /// A byte there and back, on one connection, again and again.
    Exchange { to: SocketAddrV4, time: Duration },
    /// As many bytes as get through.
    Stream { to: SocketAddrV4, streams: usize, time: Duration },
    /// Frames of 60 bytes, made here.
    Datagrams { interface: String, gateway: [u8; 6], to: SocketAddrV4, from: Sources, flows: Flows, time: Duration },
    /// Packets that an interface has received so far.
    Received { interface: String },
}

/// Addresses and ports that traffic comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sources {
    /// All of them are the agent's own.
    pub addresses: Vec<Ipv4Addr>,
    /// Number of the first pair of address and port.
    pub first: u64,
}

impl Sources {
    /// First source port, and how many each address has.
    const PORTS: (u16, u64) = (2000, 60_000);

    /// The pair of a number.
    fn pair(&self, number: u64) -> SocketAddrV4 {
        let (first, ports) = Self::PORTS;
        let number = self.first.wrapping_add(number);
        let address = self.addresses[((number / ports) % self.addresses.len() as u64) as usize];
        SocketAddrV4::new(address, first + (number % ports) as u16)
    }
}

/// How many flows datagrams belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flows {
    /// This many, in turn.
    Held(u64),
    /// Each its own.
    New,
}

#[derive(Debug, Serialize, Deserialize)]
enum Response {
    Rate(Rate),
    Times(Times),
    Count(u64),
    Failed(String),
}

/// Events per second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// That came about.
    pub done: u64,
    /// That failed.
    pub failed: u64,
    /// Within this time.
    pub time: Duration,
}

impl Rate {
    /// Events that came about, per second.
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// How long each of many events took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Times {
    /// Nanoseconds within which half of them, and within which 99 of 100 ended.
    pub percentiles: [u64; 2],
    /// All of them.
    pub histogram: Histogram,
}

impl Times {
    /// Of at least one event.
    fn of(mut times: Vec<u64>) -> Result<Self> {
        ensure!(!times.is_empty(), "nothing came about within the time");
        times.sort_unstable();
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.record(*time));
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        Ok(Self { percentiles: [at(50), at(99)], histogram })
    }
}

/// An agent's process.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
}

/// Ports on which [`Agent::server`] answers.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Sends back what it gets, over TCP; takes datagrams and lets them be.
    pub echo: u16,
    /// Counts what it gets over TCP and says how much it was when the other side has no more.
    pub sink: u16,
}

impl Agent {
    /// A client, in a namespace and, where it is given, a cgroup.
    ///
    /// # Errors
    /// It does not start.
    pub fn client(namespace: &Namespace, cgroup: Option<&Path>, core: usize) -> Result<Self> {
        let cgroup = cgroup.map_or_else(String::new, |path| path.display().to_string());
        Self::start(namespace, &[core.to_string(), cgroup])
    }

    /// A server, on all addresses of a namespace.
    ///
    /// # Errors
    /// It does not start.
    pub fn server(namespace: &Namespace, ports: Ports, core: usize) -> Result<Self> {
        let mut agent =
            Self::start(namespace, &[core.to_string(), String::new(), ports.echo.to_string(), ports.sink.to_string()])?;
        // It answers once it listens.
        agent.received("lo").context("the server did not come up")?;
        Ok(agent)
    }

    fn start(namespace: &Namespace, arguments: &[String]) -> Result<Self> {
        namespace.run(|| {
            let mut child = Command::new(std::env::current_exe()?)
                .arg(AGENT)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start an agent")?;
            let (Some(requests), Some(responses)) = (child.stdin.take(), child.stdout.take()) else {
                bail!("an agent without pipes");
            };
            Ok(Self { child, requests, responses: BufReader::new(responses) })
        })
    }

    /// New connections as fast as they come, `at_once` at a time.
    ///
    /// # Errors
    /// None comes about.
    pub fn rate(&mut self, to: SocketAddrV4, from: Sources, at_once: usize, time: Duration) -> Result<Rate> {
        self.ask_rate(&Request::Rate { to, from, at_once, time })
    }

    /// How long connections take, one at a time.
    ///
    /// # Errors
    /// One is refused.
    pub fn connect(&mut self, to: SocketAddrV4, time: Duration) -> Result<Times> {
        self.ask_times(&Request::Connect { to, time })
    }

    /// How long it takes to be answered, on one connection.
    ///
    /// # Errors
    /// It is refused or lost.
    pub fn exchange(&mut self, to: SocketAddrV4, time: Duration) -> Result<Times> {
        self.ask_times(&Request::Exchange { to, time })
    }

    /// Bytes that get through on as many connections.
    ///
    /// # Errors
    /// One is refused or lost.
    pub fn stream(&mut self, to: SocketAddrV4, streams: usize, time: Duration) -> Result<Rate> {
        self.ask_rate(&Request::Stream { to, streams, time })
    }

    /// Datagrams sent by an interface to the gateway behind it.
    ///
    /// # Errors
    /// They cannot be sent.
    pub fn datagrams(
        &mut self,
        interface: &str,
        gateway: [u8; 6],
        to: SocketAddrV4,
        from: Sources,
        flows: Flows,
        time: Duration,
    ) -> Result<Rate> {
        let interface = interface.to_owned();
        self.ask_rate(&Request::Datagrams { interface, gateway, to, from, flows, time })
    }

    /// Packets that an interface has received so far.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn received(&mut self, interface: &str) -> Result<u64> {
        match self.ask(&Request::Received { interface: interface.to_owned() })? {
            Response::Count(count) => Ok(count),
            other => Err(anyhow!("an agent answered {other:?}")),
        }
    }

    fn ask_rate(&mut self, request: &Request) -> Result<Rate> {
        match self.ask(request)? {
            Response::Rate(rate) => Ok(rate),
            other => Err(anyhow!("an agent answered {other:?}")),
        }
    }

    fn ask_times(&mut self, request: &Request) -> Result<Times> {
        match self.ask(request)? {
            Response::Times(times) => Ok(times),
            other => Err(anyhow!("an agent answered {other:?}")),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line).context("an agent does not listen")?;
        let mut answer = String::new();
        self.responses.read_line(&mut answer).context("an agent does not answer")?;
        match serde_json::from_str(&answer).with_context(|| format!("an agent ended: {answer:?}"))? {
            Response::Failed(reason) => Err(anyhow!(reason)),
            response => Ok(response),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `main` of a program with agents asks first: true in an agent, once it has done its work.
pub fn is_agent() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((AGENT, arguments)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) else {
        return false;
    };
    if let Err(error) = work(arguments) {
        eprintln!("agent: {error:#}");
    }
    true
}

fn work(arguments: &[String]) -> Result<()> {
    let [core, cgroup, ports @ ..] = arguments else { bail!("an agent is told its core and its cgroup") };
    let mut cores = CpuSet::new();
    cores.set(core.parse().context("the core is no number")?)?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("cannot run on core {core}"))?;
    if !cgroup.is_empty() {
        let path = Path::new(cgroup).join("cgroup.procs");
        std::fs::write(&path, "0").with_context(|| format!("cannot enter {}", path.display()))?;
    }
    if let [echo, sink] = ports {
        return serve::serve(Ports { echo: echo.parse()?, sink: sink.parse()? });
    }
    let mut requests = std::io::stdin().lock();
    let mut line = String::new();
    while requests.read_line(&mut line)? > 0 {
        answer(carry_out(serde_json::from_str(&line)?))?;
        line.clear();
    }
    Ok(())
}

/// Writes a response, which is one line.
fn answer(response: Result<Response>) -> Result<()> {
    let response = response.unwrap_or_else(|error| Response::Failed(format!("{error:#}")));
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

fn carry_out(request: Request) -> Result<Response> {
    Ok(match request {
        Request::Rate { to, from, at_once, time } => Response::Rate(connect::rate(to, &from, at_once, time)?),
        Request::Connect { to, time } => Response::Times(connect::times(to, time)?),
        Request::Exchange { to, time } => Response::Times(exchange::times(to, time)?),
        Request::Stream { to, streams, time } => Response::Rate(stream::rate(to, streams, time)?),
        Request::Datagrams { interface, gateway, to, from, flows, time } => {
            Response::Rate(datagram::rate(&interface, gateway, to, &from, flows, time)?)
        }
        Request::Received { interface } => Response::Count(received(&interface)?),
    })
}

/// Packets received by an interface of this process's namespace.
fn received(interface: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/net/dev").context("cannot read /proc/self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("no interface {interface} here"))
}
