//! A node, its pods and a machine outside as network namespaces, and real sockets between them.
//!
//! The test's process lives in the node's namespace and in a cgroup whose socket hooks are attached, the outside client
//! included: it must go through the uplink all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_datapath::{Config, Datapath, PodInterface, netns_cookie};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use fairlead_tests::harness::dialogue::{PATIENCE, ask, bulk, connect, ping, read, serve, tcp, udp};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::suite;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The node's end of every pod's link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7)), 80);
const NODE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(NODE), 30_080);
const PODS: [u8; 3] = [11, 12, 13];
/// A pod whose sockets the hooks do not know.
const STRANGER: u8 = 20;

struct World {
    outside: Namespace,
    pods: BTreeMap<u8, Namespace>,
    datapath: Option<Datapath>,
    sandbox: Sandbox,
}

fn main() -> ExitCode {
    if let Some(bpffs) = std::env::args().skip_while(|argument| argument != "--load").nth(1) {
        return match load_and_wait(Path::new(&bpffs)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    suite::run(
        World::new,
        &[
            ("cluster_ip_from_the_host_is_translated_at_connect", from_host),
            ("cluster_ip_from_a_pod_reaches_itself_too", from_pod),
            ("cluster_ip_of_a_pod_that_bypasses_the_hooks_is_translated_per_packet", from_stranger),
            ("node_port_from_outside_is_even_and_shows_the_client", from_outside),
            ("node_port_from_the_host_and_a_pod", node_port_inside),
            ("udp_everywhere", udp_everywhere),
            ("an_outside_socket_in_our_cgroup_is_not_translated", outside_is_not_ours),
            ("pods_are_masqueraded_towards_the_outside", masquerade),
            ("a_direct_connection_to_a_pod_is_left_alone", direct),
            ("without_endpoints_a_connection_is_refused", refused),
            ("live_connections_survive_changes_of_endpoints", endpoints_change),
            ("a_killed_daemon_loses_no_connection_and_is_adopted", adoption),
            ("remove_leaves_nothing", remove),
        ],
    )
}

fn pod_address(id: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, id)
}

impl World {
    fn new() -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        let (node, outside) = (Namespace::new()?, Namespace::new()?);
        node.enter()?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")?;
        node.connect("up0", &outside, "eth0")?;
        node.address("up0", NODE, 24)?;
        outside.address("eth0", CLIENT, 24)?;
        let mut pods = BTreeMap::new();
        for id in PODS.into_iter().chain([STRANGER]) {
            let pod = Namespace::new()?;
            let host = format!("pod{id}");
            node.connect(&host, &pod, "eth0")?;
            node.address(&host, GATEWAY, 32)?;
            node.route(&host, pod_address(id), 32, None)?;
            pod.address("eth0", pod_address(id), 32)?;
            pod.route("eth0", GATEWAY, 32, None)?;
            pod.route("eth0", Ipv4Addr::UNSPECIFIED, 0, Some(GATEWAY))?;
            serve(&pod, id)?;
            pods.insert(id, pod);
        }
        serve(&outside, 0)?;
        sandbox.enter()?;
        let mut world = Self { outside, pods, datapath: None, sandbox };
        world.datapath = Some(open(&world.sandbox.bpffs(), world.sandbox.cgroup(), &world.interfaces()?)?);
        world.serve_by(&PODS)?;
        Ok(world)
    }

    fn interfaces(&self) -> Result<Vec<PodInterface>> {
        let of = |(id, pod): (&u8, &Namespace)| {
            let name = format!("pod{id}");
            Ok(PodInterface {
                ifindex: nix::net::if_::if_nametoindex(name.as_str())?,
                address: pod_address(*id),
                mac: [0; 6],
                netns_cookie: if *id == STRANGER { 0 } else { netns_cookie(Some(&pod.path()))? },
                name,
            })
        };
        self.pods.iter().map(of).collect()
    }

    fn datapath(&mut self) -> Result<&mut Datapath> {
        self.datapath.as_mut().context("the data path is closed")
    }

    fn serve_by(&mut self, ends: &[u8]) -> Result<()> {
        let report = self.datapath()?.sync_all(services(ends))?;
        ensure!(report.rejected.is_empty(), "{:?}", report.rejected);
        Ok(())
    }

    fn pod(&self, id: u8) -> &Namespace {
        &self.pods[&id]
    }

    fn counter(&mut self, name: &str) -> Result<u64> {
        Ok(self.datapath()?.counters()?[name])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.datapath = None;
        if let Err(error) = fairlead_datapath::remove(&self.sandbox.bpffs()) {
            eprintln!("{error}");
        }
    }
}

fn open(bpffs: &Path, cgroup: &Path, pods: &[PodInterface]) -> Result<Datapath> {
    let mut datapath = Datapath::open(Config::new(bpffs, cgroup)).context("cannot open the data path")?;
    let uplink = datapath.attach_uplink("up0")?;
    println!("uplink up0: {} {}", uplink.mode, uplink.reason);
    datapath.retain_pods(pods)?;
    Ok(datapath)
}

fn services(ends: &[u8]) -> Vec<Service> {
    let endpoints: Vec<Endpoint> = ends
        .iter()
        .map(|end| Endpoint {
            address: SocketAddr::from((pod_address(*end), 8080)),
            ready: true,
            serving: true,
            terminating: false,
            local: true,
        })
        .collect();
    let port = |name: &str, protocol| Port {
        name: name.into(),
        protocol,
        port: VIP.port(),
        node_port: Some(NODE_PORT.port()),
        endpoints: endpoints.clone(),
    };
    vec![Service {
        name: ServiceName { namespace: "default".into(), name: "echo".into() },
        cluster_ips: vec![VIP.ip()],
        external_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
    }]
}

/// Asks many times; every server must have had its share, give or take five standard deviations of as many independent
/// draws. What chooses in turn, or walks a table by port, comes out closer; how the kernel hands out ports is up to it.
fn even(times: u32, mut ask: impl FnMut() -> Result<(u8, SocketAddrV4)>) -> Result<()> {
    let mut shares = BTreeMap::new();
    for _ in 0..times {
        *shares.entry(ask()?.0).or_insert(0u32) += 1;
    }
    let part = 1.0 / PODS.len() as f64;
    let (share, stray) = (f64::from(times) * part, 5.0 * (f64::from(times) * part * (1.0 - part)).sqrt());
    let fair = PODS.iter().all(|id| shares.get(id).is_some_and(|got| (f64::from(*got) - share).abs() <= stray));
    ensure!(fair && shares.len() == PODS.len(), "shares of {times}: {shares:?}");
    Ok(())
}

fn from_host(world: &mut World) -> Result<()> {
    let (before, packets) = (world.counter("socket_translated")?, world.counter("flow_new")?);
    even(300, || tcp(VIP))?;
    ensure!(world.counter("socket_translated")? - before == 300, "sockets were not translated at connect");
    ensure!(world.counter("flow_new")? == packets, "packets were translated although the socket was");
    Ok(())
}

fn from_pod(world: &mut World) -> Result<()> {
    for id in PODS {
        world.pod(id).run(|| even(90, || tcp(VIP)))?;
        world.pod(id).run(|| {
            let (_, client) = tcp(VIP)?;
            ensure!(*client.ip() == pod_address(id), "seen as {client}");
            Ok(())
        })?;
    }
    Ok(())
}

fn from_stranger(world: &mut World) -> Result<()> {
    let before = world.counter("flow_new")?;
    world.pod(STRANGER).run(|| {
        even(300, || tcp(VIP))?;
        even(300, || tcp(NODE_PORT))?;
        let (_, client) = tcp(VIP)?;
        ensure!(*client.ip() == pod_address(STRANGER), "seen as {client}");
        let mut stream = connect(VIP)?;
        bulk(&mut stream)
    })?;
    ensure!(world.counter("flow_new")? - before == 602, "flows of packets: {}", world.counter("flow_new")? - before);
    Ok(())
}

fn from_outside(world: &mut World) -> Result<()> {
    let before = world.counter("flow_new")?;
    world.outside.run(|| {
        even(1000, || tcp(NODE_PORT))?;
        let (_, client) = tcp(NODE_PORT)?;
        ensure!(*client.ip() == CLIENT, "seen as {client}");
        bulk(&mut connect(NODE_PORT)?)
    })?;
    ensure!(world.counter("flow_new")? - before == 1002);
    Ok(())
}

fn node_port_inside(world: &mut World) -> Result<()> {
    even(300, || tcp(NODE_PORT))?;
    world.pod(PODS[0]).run(|| even(300, || tcp(NODE_PORT)))
}

fn udp_everywhere(world: &mut World) -> Result<()> {
    for connected in [false, true] {
        for address in [VIP, NODE_PORT] {
            even(150, || udp(address, connected))?;
            world.pod(PODS[1]).run(|| even(150, || udp(address, connected)))?;
            world.pod(STRANGER).run(|| even(2000, || udp(address, connected)))?;
        }
        // Ports of UDP sockets are drawn at random, so it takes many for shares to come out even.
        world.outside.run(|| even(2000, || udp(NODE_PORT, connected)))?;
    }
    // One socket keeps to one server.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..20 {
        socket.send_to(b"hello", VIP)?;
        let mut buffer = [0; 256];
        let (len, _) = socket.recv_from(&mut buffer)?;
        servers.insert(read(std::str::from_utf8(&buffer[..len])?)?.0);
    }
    ensure!(servers.len() == 1, "one socket was answered by {servers:?}");
    Ok(())
}

fn outside_is_not_ours(world: &mut World) -> Result<()> {
    let before = world.counter("socket_translated")?;
    world.outside.run(|| {
        let done = TcpStream::connect_timeout(&VIP, Duration::from_secs(1));
        ensure!(done.is_err(), "an outside client reached a ClusterIP without a route to it");
        tcp(NODE_PORT).map(drop)
    })?;
    ensure!(world.counter("socket_translated")? == before, "an outside client's socket was translated");
    Ok(())
}

fn masquerade(world: &mut World) -> Result<()> {
    let server = SocketAddr::from((CLIENT, 8080));
    let check = |(id, client): (u8, SocketAddrV4)| {
        ensure!(id == 0 && *client.ip() == NODE && client.port() >= 61_000, "seen as {client}");
        Ok(())
    };
    for id in [PODS[0], PODS[1]] {
        world.pod(id).run(|| {
            for _ in 0..50 {
                check(tcp(server)?)?;
                check(udp(server, false)?)?;
            }
            bulk(&mut connect(server)?)?;
            ping(CLIENT)
        })?;
    }
    ensure!(world.counter("masquerade_new")? >= 200 && world.counter("masquerade_reply")? >= 200);
    Ok(())
}

fn direct(world: &mut World) -> Result<()> {
    world.outside.route("eth0", Ipv4Addr::new(10, 244, 0, 0), 24, Some(NODE))?;
    let to = pod_address(PODS[2]);
    let asked = world.outside.run(|| {
        let (id, client) = tcp(SocketAddr::from((to, 8080)))?;
        ensure!(id == PODS[2] && *client.ip() == CLIENT, "{id} saw {client}");
        udp(SocketAddr::from((to, 8080)), false)?;
        ping(to)
    });
    asked?;
    // Host to pod and pod to pod, too.
    ensure!(tcp(SocketAddr::from((to, 8080)))?.0 == PODS[2]);
    world.pod(PODS[0]).run(|| {
        let (id, client) = tcp(SocketAddr::from((to, 8080)))?;
        ensure!(id == PODS[2] && *client.ip() == pod_address(PODS[0]), "{id} saw {client}");
        Ok(())
    })
}

fn refused(world: &mut World) -> Result<()> {
    world.serve_by(&[])?;
    for address in [VIP, NODE_PORT] {
        let Err(error) = TcpStream::connect_timeout(&address, PATIENCE) else { bail!("{address} answered") };
        ensure!(
            matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::PermissionDenied),
            "{address}: {error}"
        );
    }
    let outside = world.outside.run(|| Ok(TcpStream::connect_timeout(&NODE_PORT, PATIENCE)));
    ensure!(
        outside?.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
        "outside was not refused"
    );
    world.serve_by(&PODS)
}

/// A few connections by every path.
fn open_connections(world: &World) -> Result<Vec<(TcpStream, u8)>> {
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(connect(VIP)?);
        open.push(world.pod(PODS[0]).run(|| connect(VIP))?);
        open.push(world.pod(STRANGER).run(|| connect(VIP))?);
        open.push(world.outside.run(|| connect(NODE_PORT))?);
        open.push(world.pod(PODS[1]).run(|| connect(SocketAddr::from((CLIENT, 8080))))?);
    }
    open.into_iter()
        .map(|mut stream| {
            let (id, _) = ask(&mut stream)?;
            Ok((stream, id))
        })
        .collect()
}

fn still_open(open: &mut [(TcpStream, u8)]) -> Result<()> {
    for (stream, id) in open {
        let (now, _) = ask(stream).with_context(|| format!("a connection with {id} broke"))?;
        ensure!(now == *id, "a connection went from {id} to {now}");
    }
    Ok(())
}

fn endpoints_change(world: &mut World) -> Result<()> {
    let mut open = open_connections(world)?;
    for ends in [&[11, 12][..], &[12], &[12, 13], &[11, 12, 13]] {
        world.serve_by(ends)?;
        still_open(&mut open)?;
        let allowed = |(id, _): (u8, SocketAddrV4)| {
            ensure!(ends.contains(&id), "a new connection went to {id}, not in {ends:?}");
            Ok(())
        };
        for _ in 0..20 {
            allowed(tcp(VIP)?)?;
            allowed(udp(VIP, false)?)?;
            world.pod(STRANGER).run(|| allowed(tcp(VIP)?))?;
            world.outside.run(|| allowed(tcp(NODE_PORT)?))?;
            world.outside.run(|| allowed(udp(NODE_PORT, false)?))?;
        }
    }
    Ok(())
}

/// What the killed daemon of [`adoption`] does: takes the data path over and says so.
fn load_and_wait(bpffs: &Path) -> Result<()> {
    let cgroup = bpffs.with_file_name("cgroup-of-the-test");
    let cgroup = fs::read_to_string(cgroup)?;
    let mut pods = Vec::new();
    for line in fs::read_to_string(bpffs.with_file_name("pods-of-the-test"))?.lines() {
        let (name, cookie) = line.split_once(' ').context("a pod and its cookie")?;
        let ifindex = nix::net::if_::if_nametoindex(name)?;
        let netns_cookie = cookie.parse()?;
        pods.push(PodInterface { name: name.into(), ifindex, address: GATEWAY, mac: [0; 6], netns_cookie });
    }
    let mut datapath = open(bpffs, Path::new(&cgroup), &pods)?;
    let report = datapath.sync_all(services(&PODS))?;
    println!("ready after {} steps", report.steps);
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}

fn adoption(world: &mut World) -> Result<()> {
    let bpffs = world.sandbox.bpffs();
    let pods = world.interfaces()?;
    let lines: Vec<String> = pods.iter().map(|pod| format!("{} {}\n", pod.name, pod.netns_cookie)).collect();
    fs::write(bpffs.with_file_name("pods-of-the-test"), lines.concat())?;
    fs::write(bpffs.with_file_name("cgroup-of-the-test"), world.sandbox.cgroup().as_os_str().as_encoded_bytes())?;
    let mut open_before = open_connections(world)?;
    world.datapath = None;
    still_open(&mut open_before).context("after the daemon's end")?;

    let mut daemon = Command::new(std::env::current_exe()?).arg("--load").arg(&bpffs).stdout(Stdio::piped()).spawn()?;
    let output = daemon.stdout.take().context("no output")?;
    let said = BufReader::new(output).lines().map_while(Result::ok).find(|line| line.starts_with("ready"));
    let adopted = said.clone();
    let mut open_during = open_connections(world)?;
    daemon.kill()?;
    daemon.wait()?;
    ensure!(adopted.as_deref() == Some("ready after 0 steps"), "the second daemon said {said:?}");
    still_open(&mut open_before).context("after kill -9")?;
    still_open(&mut open_during).context("after kill -9")?;
    even(90, || tcp(VIP))?;
    world.outside.run(|| even(1000, || tcp(NODE_PORT)))?;

    let mut datapath = open(&bpffs, world.sandbox.cgroup(), &pods)?;
    let report = datapath.sync_all(services(&PODS))?;
    ensure!(report.steps == 0, "adoption rewrote {} entries", report.steps);
    world.datapath = Some(datapath);
    still_open(&mut open_before).context("after adoption")?;
    world.serve_by(&[12])?;
    ensure!(tcp(VIP)?.0 == 12);
    still_open(&mut open_during).context("after a change")?;
    world.serve_by(&PODS)
}

fn remove(world: &mut World) -> Result<()> {
    world.datapath = None;
    let bpffs = world.sandbox.bpffs();
    fairlead_datapath::remove(&bpffs)?;
    ensure!(!bpffs.join("fairlead").exists(), "pins are left in {}", bpffs.display());
    let done = TcpStream::connect_timeout(&VIP, Duration::from_millis(500));
    ensure!(done.is_err(), "a ClusterIP answers without a data path");
    Ok(())
}
