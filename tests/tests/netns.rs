//! A node, its pods and a machine outside as network namespaces, and real sockets between them.
//!
//! The test's process lives in the node's namespace and in a cgroup whose socket hooks are attached, the outside client
//! included: it must go through the uplink all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_datapath::{Config, Datapath, PodInterface, netns_cookie};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use fairlead_tests::harness::dialogue::{
    PORT, Seen, ask, ask_datagram, bulk, connect, patience, ping, serve, tcp, udp, udp_socket,
};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::suite;

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    node: IpAddr,
    client: IpAddr,
    /// The node's end of every pod's link.
    gateway: IpAddr,
    vip: SocketAddr,
    node_port: SocketAddr,
    everywhere: IpAddr,
    /// Length of a network for one host alone, and of the uplink's.
    prefixes: (u8, u8),
}

const V4: Family = Family {
    node: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    gateway: IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1)),
    vip: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7)), 80),
    node_port: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 30_080),
    everywhere: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    prefixes: (32, 24),
};
const V6: Family = Family {
    node: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    gateway: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1)),
    vip: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 7)), 80),
    node_port: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 30_080),
    everywhere: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    prefixes: (128, 64),
};
const FAMILIES: [Family; 2] = [V4, V6];

impl Family {
    fn pod(&self, id: u8) -> IpAddr {
        match self.gateway {
            IpAddr::V4(gateway) => IpAddr::V4((u32::from(gateway) - 1 + u32::from(id)).into()),
            IpAddr::V6(gateway) => IpAddr::V6((u128::from(gateway) - 1 + u128::from(id)).into()),
        }
    }
}

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

impl World {
    fn new() -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        let (node, outside) = (Namespace::new()?, Namespace::new()?);
        node.enter()?;
        node.forward()?;
        node.connect("up0", &outside, "eth0")?;
        for family in FAMILIES {
            node.address("up0", family.node, family.prefixes.1)?;
            outside.address("eth0", family.client, family.prefixes.1)?;
        }
        let mut pods = BTreeMap::new();
        for id in PODS.into_iter().chain([STRANGER]) {
            let pod = Namespace::new()?;
            let host = format!("pod{id}");
            node.connect(&host, &pod, "eth0")?;
            for family in FAMILIES {
                let (alone, _) = family.prefixes;
                node.address(&host, family.gateway, alone)?;
                node.route(&host, family.pod(id), alone, None)?;
                pod.address("eth0", family.pod(id), alone)?;
                pod.route("eth0", family.gateway, alone, None)?;
                pod.route("eth0", family.everywhere, 0, Some(family.gateway))?;
            }
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
                addresses: FAMILIES.map(|family| family.pod(*id)).to_vec(),
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
    let mut datapath = Datapath::open(config(bpffs, cgroup)).context("cannot open the data path")?;
    let uplink = datapath.attach_uplink("up0")?;
    println!("uplink up0: {} {}", uplink.mode, uplink.reason);
    datapath.retain_pods(pods)?;
    Ok(datapath)
}

fn config(bpffs: &Path, cgroup: &Path) -> Config {
    let cluster_cidrs = vec!["10.244.0.0/16".parse().expect("a network"), "fd00:244::/64".parse().expect("a network")];
    Config { cluster_cidrs, ..Config::new(bpffs, cgroup) }
}

fn services(ends: &[u8]) -> Vec<Service> {
    let at = |family: Family| ends.iter().map(move |end| Endpoint::local((family.pod(*end), PORT).into()));
    let mut endpoints: Vec<Endpoint> = FAMILIES.into_iter().flat_map(at).collect();
    endpoints.sort();
    let port = |name: &str, protocol| Port {
        name: name.into(),
        protocol,
        port: V4.vip.port(),
        node_port: Some(V4.node_port.port()),
        endpoints: endpoints.clone(),
    };
    vec![Service {
        name: ServiceName { namespace: "default".into(), name: "echo".into() },
        cluster_ips: FAMILIES.map(|family| family.vip.ip()).to_vec(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..Service::default()
    }]
}

/// Of this many questions, how many are asked: all, unless `FAIRLEAD_SAMPLE=2` says that half will do, which is for
/// emulated processors. Fewer than a hundred show nothing.
fn sample(times: u32) -> u32 {
    let told = std::env::var("FAIRLEAD_SAMPLE").ok().and_then(|share| share.parse().ok());
    (times / told.unwrap_or(1).max(1)).max(times.min(100))
}

/// Asks many times; every server must have had its share, give or take five standard deviations of as many independent
/// draws. What chooses in turn, or walks a table by port, comes out closer; how the kernel hands out ports is up to it.
fn even(times: u32, mut ask: impl FnMut() -> Result<Seen>) -> Result<()> {
    let mut shares = BTreeMap::new();
    let times = sample(times);
    for _ in 0..times {
        *shares.entry(ask()?.0).or_insert(0u32) += 1;
    }
    let part = 1.0 / PODS.len() as f64;
    let (share, stray) = (f64::from(times) * part, 5.0 * (f64::from(times) * part * (1.0 - part)).sqrt());
    let fair = PODS.iter().all(|id| shares.get(id).is_some_and(|got| (f64::from(*got) - share).abs() <= stray));
    ensure!(fair && shares.len() == PODS.len(), "shares of {times}: {shares:?}");
    Ok(())
}

/// What a server said of its client, which must be this one.
fn seen_as(seen: Seen, client: IpAddr) -> Result<Seen> {
    ensure!(seen.1.ip() == client, "seen as {}, not {client}", seen.1);
    Ok(seen)
}

fn from_host(world: &mut World) -> Result<()> {
    let (before, packets) = (world.counter("socket_translated")?, world.counter("flow_new")?);
    for family in FAMILIES {
        even(300, || tcp(family.vip))?;
    }
    let asked = u64::from(2 * sample(300));
    ensure!(world.counter("socket_translated")? - before == asked, "sockets were not translated at connect");
    ensure!(world.counter("flow_new")? == packets, "packets were translated although the socket was");
    Ok(())
}

fn from_pod(world: &mut World) -> Result<()> {
    for (id, family) in PODS.into_iter().flat_map(|id| FAMILIES.map(|family| (id, family))) {
        world.pod(id).run(|| even(90, || seen_as(tcp(family.vip)?, family.pod(id))))?;
    }
    Ok(())
}

fn from_stranger(world: &mut World) -> Result<()> {
    let before = world.counter("flow_new")?;
    for family in FAMILIES {
        world.pod(STRANGER).run(|| {
            even(300, || seen_as(tcp(family.vip)?, family.pod(STRANGER)))?;
            even(300, || seen_as(tcp(family.node_port)?, family.pod(STRANGER)))?;
            bulk(&mut connect(family.vip)?)
        })?;
    }
    let flows = world.counter("flow_new")? - before;
    ensure!(flows == u64::from(4 * sample(300) + 2), "flows of packets: {flows}");
    Ok(())
}

fn from_outside(world: &mut World) -> Result<()> {
    let before = world.counter("flow_new")?;
    for family in FAMILIES {
        world.outside.run(|| {
            even(1000, || seen_as(tcp(family.node_port)?, family.client))?;
            bulk(&mut connect(family.node_port)?)
        })?;
    }
    let flows = world.counter("flow_new")? - before;
    ensure!(flows == u64::from(2 * sample(1000) + 2), "flows of packets: {flows}");
    Ok(())
}

fn node_port_inside(world: &mut World) -> Result<()> {
    for family in FAMILIES {
        even(300, || tcp(family.node_port))?;
        world.pod(PODS[0]).run(|| even(300, || tcp(family.node_port)))?;
    }
    Ok(())
}

fn udp_everywhere(world: &mut World) -> Result<()> {
    for (family, connected) in
        FAMILIES.into_iter().flat_map(|family| [false, true].map(|connected| (family, connected)))
    {
        for address in [family.vip, family.node_port] {
            even(150, || udp(address, connected))?;
            world.pod(PODS[1]).run(|| even(150, || udp(address, connected)))?;
            world.pod(STRANGER).run(|| even(1000, || udp(address, connected)))?;
        }
        // Ports of UDP sockets are drawn at random, so it takes many for shares to come out even.
        world.outside.run(|| even(1000, || udp(family.node_port, connected)))?;
    }
    // One socket keeps to one server.
    for family in FAMILIES {
        let socket = udp_socket(family.vip)?;
        let mut servers = std::collections::BTreeSet::new();
        for _ in 0..20 {
            servers.insert(ask_datagram(&socket, family.vip, false, 5)?.0);
        }
        ensure!(servers.len() == 1, "one socket was answered by {servers:?}");
    }
    Ok(())
}

fn outside_is_not_ours(world: &mut World) -> Result<()> {
    let before = world.counter("socket_translated")?;
    for family in FAMILIES {
        world.outside.run(|| {
            let done = TcpStream::connect_timeout(&family.vip, Duration::from_millis(300));
            ensure!(done.is_err(), "an outside client reached a ClusterIP without a route to it");
            tcp(family.node_port).map(drop)
        })?;
    }
    ensure!(world.counter("socket_translated")? == before, "an outside client's socket was translated");
    Ok(())
}

fn masquerade(world: &mut World) -> Result<()> {
    let before = world.counter("masquerade_new")?;
    for (id, family) in [PODS[0], PODS[1]].into_iter().flat_map(|id| FAMILIES.map(|family| (id, family))) {
        let server = SocketAddr::new(family.client, PORT);
        world.pod(id).run(|| {
            for _ in 0..50 {
                ensure!(seen_as(tcp(server)?, family.node)?.0 == 0, "another server answered");
                seen_as(udp(server, false)?, family.node)?;
            }
            bulk(&mut connect(server)?)?;
            ping(family.client)
        })?;
    }
    let flows = world.counter("masquerade_new")? - before;
    ensure!(flows >= 400, "masqueraded flows: {flows}");
    Ok(())
}

fn direct(world: &mut World) -> Result<()> {
    for family in FAMILIES {
        let (to, net) = (family.pod(PODS[2]), family.pod(0));
        let server = SocketAddr::new(to, PORT);
        world.outside.route("eth0", net, if net.is_ipv4() { 24 } else { 64 }, Some(family.node))?;
        world.outside.run(|| {
            ensure!(seen_as(tcp(server)?, family.client)?.0 == PODS[2]);
            seen_as(udp(server, false)?, family.client)?;
            ping(to)
        })?;
        // Host to pod and pod to pod, too.
        ensure!(tcp(server)?.0 == PODS[2]);
        world.pod(PODS[0]).run(|| seen_as(tcp(server)?, family.pod(PODS[0])))?;
    }
    Ok(())
}

fn refused(world: &mut World) -> Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, PermissionDenied};
    world.serve_by(&[])?;
    for family in FAMILIES {
        for address in [family.vip, family.node_port] {
            let Err(error) = TcpStream::connect_timeout(&address, patience()) else { bail!("{address} answered") };
            // Kernels before 5.18 have one answer for every hook that says no.
            ensure!(matches!(error.kind(), ConnectionRefused | PermissionDenied), "{address}: {error}");
        }
        let outside = world.outside.run(|| Ok(TcpStream::connect_timeout(&family.node_port, patience())))?;
        ensure!(outside.is_err_and(|error| error.kind() == ConnectionRefused), "outside was not refused");
    }
    world.serve_by(&PODS)
}

/// A few connections by every path.
fn open_connections(world: &World) -> Result<Vec<(TcpStream, u8)>> {
    let mut open = Vec::new();
    for family in FAMILIES.into_iter().cycle().take(6) {
        open.push(connect(family.vip)?);
        open.push(world.pod(PODS[0]).run(|| connect(family.vip))?);
        open.push(world.pod(STRANGER).run(|| connect(family.vip))?);
        open.push(world.outside.run(|| connect(family.node_port))?);
        open.push(world.pod(PODS[1]).run(|| connect(SocketAddr::new(family.client, PORT)))?);
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
        let allowed = |(id, _): Seen| {
            ensure!(ends.contains(&id), "a new connection went to {id}, not in {ends:?}");
            Ok(())
        };
        for family in FAMILIES.into_iter().cycle().take(20) {
            allowed(tcp(family.vip)?)?;
            allowed(udp(family.vip, false)?)?;
            world.pod(STRANGER).run(|| allowed(tcp(family.vip)?))?;
            world.outside.run(|| allowed(tcp(family.node_port)?))?;
            world.outside.run(|| allowed(udp(family.node_port, false)?))?;
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
        let id = name.trim_start_matches("pod").parse()?;
        let addresses = FAMILIES.map(|family| family.pod(id)).to_vec();
        pods.push(PodInterface { name: name.into(), ifindex, addresses, mac: [0; 6], netns_cookie });
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
    for family in FAMILIES {
        even(90, || tcp(family.vip))?;
        world.outside.run(|| even(1000, || tcp(family.node_port)))?;
    }

    let mut datapath = open(&bpffs, world.sandbox.cgroup(), &pods)?;
    let report = datapath.sync_all(services(&PODS))?;
    ensure!(report.steps == 0, "adoption rewrote {} entries", report.steps);
    world.datapath = Some(datapath);
    still_open(&mut open_before).context("after adoption")?;
    world.serve_by(&[12])?;
    ensure!(tcp(V4.vip)?.0 == 12 && tcp(V6.vip)?.0 == 12);
    still_open(&mut open_during).context("after a change")?;
    world.serve_by(&PODS)
}

fn remove(world: &mut World) -> Result<()> {
    world.datapath = None;
    let bpffs = world.sandbox.bpffs();
    fairlead_datapath::remove(&bpffs)?;
    ensure!(!bpffs.join("fairlead").exists(), "pins are left in {}", bpffs.display());
    let done = TcpStream::connect_timeout(&V4.vip, Duration::from_millis(500));
    ensure!(done.is_err(), "a ClusterIP answers without a data path");
    Ok(())
}
