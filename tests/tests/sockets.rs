//! Sockets of a node and of its pods that ask services: which endpoint they are given, what they are shown, and that
//! they are closed when their endpoint is gone.
//!
//! The test's process lives in the node's namespace and in a cgroup whose socket hooks are attached.

#[path = "sockets/flood.rs"]
mod flood;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairlead_datapath::{Config, Datapath, PodInterface, find_pods, netns_cookie};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use fairlead_tests::harness::dialogue::{PORT, ask, ask_datagram, connect, serve, tcp, udp, udp_socket};
use fairlead_tests::harness::namespace::{Inhabitant, Namespace};
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::suite;
use fairlead_tests::wait_for;

/// Pods that serve.
const SERVERS: [u8; 2] = [11, 12];
/// A pod that asks; it is in the source ranges.
const CLIENT: u8 = 20;
/// Another, which is not.
const OTHER: u8 = 21;
const NODE_PORT: u16 = 30_080;
/// What `ends` says when the drain is over.
const DRAIN: Duration = Duration::from_secs(2);

/// The services of one family, and the mapped form of the first.
const ECHO: [IpAddr; 2] = [v4(10, 96, 0, 7), v6(0x96, 7)];
const TWIN: [IpAddr; 2] = [v4(10, 96, 0, 8), v6(0x96, 8)];
const STICKY: [IpAddr; 2] = [v4(10, 96, 0, 9), v6(0x96, 9)];
const LOCAL: [IpAddr; 2] = [v4(10, 96, 0, 10), v6(0x96, 10)];
const LIMITED: [IpAddr; 2] = [v4(203, 0, 113, 1), v6(0x1b, 1)];
const MAPPED: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv4Addr::new(10, 96, 0, 7).to_ipv6_mapped()), 80);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host))
}

fn pod_addresses(id: u8) -> [IpAddr; 2] {
    [v4(10, 244, 0, id), v6(0x244, id.into())]
}

struct World {
    pods: BTreeMap<u8, Namespace>,
    interfaces: Vec<(String, u32)>,
    datapath: Datapath,
    sandbox: Sandbox,
    _inhabitants: Vec<Inhabitant>,
}

fn main() -> ExitCode {
    suite::run(
        World::new,
        &[
            ("pods_of_others_are_found_with_all_they_have", finding),
            ("mapped_addresses_are_translated_and_shown_as_asked", mapped),
            ("no_address_is_this_node_and_a_loopback_node_port_is_the_nodes_own", loopback),
            ("a_connected_socket_that_names_its_service_stays_with_its_endpoint", connected_by_name),
            ("source_ranges_bind_pods_and_not_the_node", ranges),
            ("affinity_holds_until_its_timeout_or_its_endpoints_end", affinity),
            ("a_local_policy_without_endpoints_refuses_at_once", local),
            ("datagram_sockets_of_a_removed_endpoint_are_closed_and_no_others", datagrams),
            ("connections_to_a_removed_endpoint_drain_and_are_then_closed", connections),
            ("an_endpoint_that_another_service_still_has_keeps_its_sockets", shared),
            ("a_daemon_that_comes_later_closes_them_too_and_looks_for_none_where_there_are_none", later),
            ("no_datagram_reaches_an_endpoint_once_it_is_removed_however_fast_they_come", flood::flood),
        ],
    )
}

impl World {
    fn new() -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        let node = Namespace::new()?;
        node.enter()?;
        node.forward()?;
        let mut pods = BTreeMap::new();
        let mut interfaces = Vec::new();
        let mut inhabitants = Vec::new();
        for id in SERVERS.into_iter().chain([CLIENT, OTHER]) {
            let pod = Namespace::new()?;
            let host = format!("pod{id}");
            node.connect(&host, &pod, "eth0")?;
            let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            for ((address, gateway), all) in pod_addresses(id).into_iter().zip(pod_addresses(1)).zip(everywhere) {
                let alone = if address.is_ipv4() { 32 } else { 128 };
                node.address(&host, gateway, alone)?;
                node.route(&host, address, alone, None)?;
                pod.address("eth0", address, alone)?;
                pod.route("eth0", gateway, alone, None)?;
                pod.route("eth0", all, 0, Some(gateway))?;
            }
            serve(&pod, id)?;
            inhabitants.push(pod.inhabit()?);
            interfaces.push((host.clone(), nix::net::if_::if_nametoindex(host.as_str())?));
            pods.insert(id, pod);
        }
        sandbox.enter()?;
        let mut datapath = Datapath::open(Self::config(&sandbox)).context("cannot open the data path")?;
        datapath.retain_pods(&find_pods(&interfaces)?)?;
        let mut world = Self { pods, interfaces, datapath, sandbox, _inhabitants: inhabitants };
        world.served_by(&SERVERS)?;
        Ok(world)
    }

    fn config(sandbox: &Sandbox) -> Config {
        Config {
            node_port_loopback: true,
            node_addresses: vec![pod_addresses(1)[0], pod_addresses(1)[1]],
            drain: DRAIN,
            ..Config::new(sandbox.bpffs(), sandbox.cgroup())
        }
    }

    /// Puts all services in force, with these endpoints.
    fn served_by(&mut self, ids: &[u8]) -> Result<()> {
        let services = vec![
            Service { cluster_ips: ECHO.to_vec(), ..service("echo", Some(NODE_PORT), ids) },
            Service { cluster_ips: TWIN.to_vec(), ..service("twin", None, &SERVERS) },
            Service {
                cluster_ips: STICKY.to_vec(),
                affinity: Some(Duration::from_secs(2)),
                ..service("sticky", None, ids)
            },
            Service { cluster_ips: LOCAL.to_vec(), internal_local: true, ..elsewhere("local") },
            Service {
                load_balancer_ips: LIMITED.to_vec(),
                source_ranges: pod_addresses(CLIENT).map(ipnet::IpNet::from).to_vec(),
                ..service("limited", None, ids)
            },
        ];
        let report = self.datapath.sync_all(services)?;
        ensure!(report.rejected.is_empty(), "{:?}", report.rejected);
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.datapath.counters()?[name])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = fairlead_datapath::remove(&self.sandbox.bpffs()) {
            eprintln!("{error}");
        }
    }
}

fn service(name: &str, node_port: Option<u16>, ids: &[u8]) -> Service {
    let mut endpoints: Vec<Endpoint> = ids
        .iter()
        .flat_map(|id| pod_addresses(*id).map(|address| Endpoint::local(SocketAddr::new(address, PORT))))
        .collect();
    endpoints.sort();
    let port =
        |name: &str, protocol| Port { name: name.into(), protocol, port: 80, node_port, endpoints: endpoints.clone() };
    Service {
        name: ServiceName { namespace: "default".into(), name: name.into() },
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..Service::default()
    }
}

/// One whose endpoints are all on another node.
fn elsewhere(name: &str) -> Service {
    let mut service = service(name, None, &SERVERS);
    for endpoint in service.ports.iter_mut().flat_map(|port| &mut port.endpoints) {
        endpoint.local = false;
    }
    service
}

/// Every server answers, over TCP and over UDP both ways, and is shown as what was asked.
fn all_answer(address: SocketAddr) -> Result<()> {
    let ways: [(&str, &dyn Fn() -> Result<u8>); 3] = [
        ("tcp", &|| Ok(tcp(address)?.0)),
        ("udp", &|| Ok(udp(address, false)?.0)),
        ("connected udp", &|| Ok(udp(address, true)?.0)),
    ];
    for (way, ask) in ways {
        let answered = (0..20).map(|_| ask()).collect::<Result<BTreeSet<u8>>>().with_context(|| way.to_owned())?;
        ensure!(answered == BTreeSet::from(SERVERS), "{way} {address}: {answered:?} answered");
    }
    Ok(())
}

/// Fails at once, over TCP and over UDP; before 6.1 the hooks cannot say why.
fn is_refused(address: SocketAddr) -> Result<()> {
    let is_no = |kind| matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied);
    let Err(error) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { bail!("{address} is open") };
    ensure!(is_no(error.kind()), "{address}: {error}");
    let Err(error) = udp_socket(address)?.connect(address) else { bail!("{address} takes datagrams") };
    ensure!(is_no(error.kind()), "{address}: {error}");
    Ok(())
}

fn finding(world: &mut World) -> Result<()> {
    let mut interfaces = world.interfaces.clone();
    interfaces.push(("lo".into(), 1));
    let found = find_pods(&interfaces)?;
    ensure!(found.len() == interfaces.len());
    for ((id, pod), found) in world.pods.iter().zip(&found) {
        let expected = PodInterface {
            name: format!("pod{id}"),
            ifindex: nix::net::if_::if_nametoindex(format!("pod{id}").as_str())?,
            addresses: pod_addresses(*id).to_vec(),
            mac: found.mac,
            netns_cookie: netns_cookie(Some(&pod.path()))?,
        };
        ensure!(*found == expected && found.mac != [0; 6], "{found:?} is not {expected:?}");
    }
    let lo = found.last().context("nothing was found")?;
    ensure!(lo.addresses.is_empty() && lo.netns_cookie == 0, "{lo:?} is a pod's");
    Ok(())
}

fn mapped(world: &mut World) -> Result<()> {
    all_answer(MAPPED)?;
    world.pods[&CLIENT].run(|| all_answer(MAPPED))
}

fn loopback(world: &mut World) -> Result<()> {
    let own: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let nobody: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    for (own, nobody) in own.into_iter().zip(nobody) {
        let (own, nobody) = (SocketAddr::new(own, NODE_PORT), SocketAddr::new(nobody, NODE_PORT));
        all_answer(own)?;
        ensure!(connect(nobody)?.peer_addr()? == own, "{nobody} is not shown as {own}");
        world.pods[&CLIENT].run(|| {
            for address in [own, nobody] {
                let refused =
                    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
                ensure!(refused, "a pod reached the node's own {address}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn connected_by_name(_: &mut World) -> Result<()> {
    for address in ECHO.map(|ip| SocketAddr::new(ip, 80)) {
        for _ in 0..10 {
            let socket = udp_socket(address)?;
            socket.connect(address)?;
            let first = ask_datagram(&socket, address, true, 5)?.0;
            ensure!(ask_datagram(&socket, address, false, 5)?.0 == first, "another endpoint of {address} was asked");
            // It turns to the endpoint itself, and is shown that.
            let direct = SocketAddr::new(pod_addresses(first)[usize::from(address.is_ipv6())], PORT);
            socket.connect(direct)?;
            ensure!(socket.peer_addr()? == direct, "{direct} is shown as {}", socket.peer_addr()?);
            ask_datagram(&socket, direct, true, 5)?;
        }
    }
    Ok(())
}

fn ranges(world: &mut World) -> Result<()> {
    let before = world.counter("socket_out_of_range")?;
    for address in LIMITED.map(|ip| SocketAddr::new(ip, 80)) {
        all_answer(address)?;
        world.pods[&CLIENT].run(|| all_answer(address))?;
        world.pods[&OTHER].run(|| is_refused(address))?;
    }
    ensure!(world.counter("socket_out_of_range")? - before == 4);
    Ok(())
}

fn affinity(world: &mut World) -> Result<()> {
    let before = world.counter("affinity_hit")?;
    for address in STICKY.map(|ip| SocketAddr::new(ip, 80)) {
        for place in [None, Some(CLIENT), Some(OTHER)] {
            let ask = || {
                let answered = (0..10).map(|_| Ok(tcp(address)?.0)).collect::<Result<BTreeSet<u8>>>()?;
                ensure!(answered.len() == 1, "{answered:?} answered one client");
                Ok(answered)
            };
            place.map_or_else(ask, |id| world.pods[&id].run(ask))?;
        }
    }
    ensure!(world.counter("affinity_hit")? - before >= 54, "affinity did not decide");
    // Its endpoint ends before the timeout does.
    let address = SocketAddr::new(STICKY[0], 80);
    let first = tcp(address)?.0;
    let other = SERVERS.into_iter().find(|id| *id != first).context("there is one server alone")?;
    world.served_by(&[other])?;
    ensure!(tcp(address)?.0 == other, "the endpoint that is gone was asked");
    world.served_by(&SERVERS)?;
    ensure!(tcp(address)?.0 == other, "affinity moved back");
    // Turns go around again once nothing is remembered.
    let mut answered = BTreeSet::new();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(4500));
        answered.insert(tcp(address)?.0);
        if answered.len() == SERVERS.len() {
            return Ok(());
        }
    }
    bail!("{answered:?} alone answered, long after the timeout")
}

fn local(world: &mut World) -> Result<()> {
    let before = world.counter("socket_no_endpoint")?;
    for address in LOCAL.map(|ip| SocketAddr::new(ip, 80)) {
        is_refused(address)?;
        world.pods[&CLIENT].run(|| is_refused(address))?;
    }
    ensure!(world.counter("socket_no_endpoint")? - before == 8);
    Ok(())
}

/// What clients of the first server's may ask: it by a service, and it by itself.
fn targets() -> Vec<SocketAddr> {
    let services = ECHO.map(|ip| SocketAddr::new(ip, 80)).into_iter().chain([MAPPED]);
    services.chain(pod_addresses(SERVERS[0]).map(|ip| SocketAddr::new(ip, PORT))).collect()
}

/// Opens some clients of each target, in the node and in a pod.
fn open<C: Send>(
    world: &World,
    one: impl Fn(SocketAddr) -> Result<(C, u8)> + Sync,
) -> Result<Vec<(SocketAddr, C, u8)>> {
    let some = || {
        let targets = targets();
        let four = targets.iter().flat_map(|target| [*target; 4]);
        four.map(|target| one(target).map(|(client, id)| (target, client, id))).collect::<Result<Vec<_>>>()
    };
    let mut all = some()?;
    all.extend(world.pods[&CLIENT].run(some)?);
    Ok(all)
}

/// Whether a client is one of the service's that was given the server that goes.
fn loses(target: SocketAddr, id: u8) -> bool {
    id == SERVERS[0] && target.port() != PORT
}

fn open_datagrams(world: &World) -> Result<Vec<(SocketAddr, UdpSocket, u8)>> {
    open(world, |target| {
        let socket = udp_socket(target)?;
        socket.connect(target)?;
        let id = ask_datagram(&socket, target, true, 5)?.0;
        Ok((socket, id))
    })
}

fn datagrams(world: &mut World) -> Result<()> {
    let clients = open_datagrams(world)?;
    let doomed = clients.iter().filter(|(target, _, id)| loses(*target, *id)).count() as u64;
    ensure!(doomed > 0, "no client was given the first server");
    let before = world.datapath.closed_sockets();
    world.served_by(&SERVERS[1..])?;
    let start = Instant::now();
    wait_for("closing of sockets", Duration::from_secs(5), || {
        let closed = world.datapath.closed_sockets() - before;
        ensure!(closed >= doomed, "{closed} of {doomed} are closed");
        Ok(())
    })?;
    println!("{doomed} sockets were closed within {:?}", start.elapsed());
    // The second look finds nobody who must stay.
    thread::sleep(Duration::from_secs(1));
    ensure!(world.datapath.closed_sockets() - before == doomed, "too many sockets were closed");
    for (target, socket, id) in clients {
        if loses(target, id) {
            let error = socket.recv(&mut [0]).err().context("a socket of a removed endpoint was left open")?;
            ensure!(error.kind() == ErrorKind::ConnectionAborted, "{target}: {error}");
            ensure!(socket.send(b"hello").is_err(), "something was sent to a removed endpoint");
            // The socket itself may connect again.
            socket.connect(target)?;
            ensure!(ask_datagram(&socket, target, true, 5)?.0 == SERVERS[1]);
        } else {
            ensure!(ask_datagram(&socket, target, true, 5)?.0 == id, "{target} moved");
        }
    }
    world.served_by(&SERVERS)
}

/// What the hooks noted outlasts the daemon; and where they noted nothing, nobody is looked for.
fn later(world: &mut World) -> Result<()> {
    let address = SocketAddr::new(ECHO[0], 80);
    let socket = udp_socket(address)?;
    socket.connect(address)?;
    let id = ask_datagram(&socket, address, true, 5)?.0;
    let stays = SERVERS.into_iter().find(|other| *other != id).context("there is one server alone")?;
    world.datapath = Datapath::open(World::config(&world.sandbox)).context("cannot open the data path again")?;
    world.datapath.retain_pods(&find_pods(&world.interfaces)?)?;
    world.served_by(&[stays])?;
    wait_for("closing of a socket", Duration::from_secs(5), || {
        ensure!(world.datapath.closed_sockets() > 0, "it is open");
        Ok(())
    })?;
    let error = socket.recv(&mut [0]).err().context("a socket of a removed endpoint was left open")?;
    ensure!(error.kind() == ErrorKind::ConnectionAborted, "{error}");
    world.served_by(&SERVERS)?;
    // Endpoints that nobody asks, and who asked for those before are looked for once more.
    thread::sleep(Duration::from_secs(1));
    let unasked = |ids: &[u8]| Service { cluster_ips: vec![v4(10, 96, 0, 66)], ..service("unasked", None, ids) };
    let before = world.datapath.socket_searches();
    for ids in [&SERVERS[..], &SERVERS[1..], &SERVERS[..], &[]] {
        let service = unasked(ids);
        world.datapath.sync(vec![(service.name.clone(), Some(service))])?;
    }
    world.datapath.tick(Instant::now() + DRAIN)?;
    thread::sleep(Duration::from_secs(1));
    let searches = world.datapath.socket_searches() - before;
    ensure!(searches == 0, "sockets of endpoints that nobody was given were looked for {searches} times");
    world.served_by(&SERVERS)
}

fn connections(world: &mut World) -> Result<()> {
    let mut clients = open(world, |target| {
        let mut stream = connect(target)?;
        let id = ask(&mut stream)?.0;
        Ok((stream, id))
    })?;
    let doomed = clients.iter().filter(|(target, _, id)| loses(*target, *id)).count() as u64;
    ensure!(doomed > 0, "no client was given the first server");
    let before = world.datapath.closed_sockets();
    world.served_by(&SERVERS[1..])?;
    world.datapath.tick(Instant::now())?;
    for (target, stream, _) in &mut clients {
        ask(stream).with_context(|| format!("{target} while its endpoint drains"))?;
    }
    world.datapath.tick(Instant::now() + DRAIN)?;
    wait_for("closing of connections", Duration::from_secs(5), || {
        let closed = world.datapath.closed_sockets() - before;
        ensure!(closed == doomed, "{closed} of {doomed} are closed");
        Ok(())
    })?;
    for (target, mut stream, id) in clients {
        let answered = ask(&mut stream);
        ensure!(answered.is_err() == loses(target, id), "{target} of {id}: {answered:?}");
    }
    world.served_by(&SERVERS)
}

fn shared(world: &mut World) -> Result<()> {
    let before = world.datapath.closed_sockets();
    let twin = SocketAddr::new(TWIN[0], 80);
    let sockets: Vec<UdpSocket> = (0..8)
        .map(|_| {
            let socket = udp_socket(twin)?;
            socket.connect(twin)?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    world.served_by(&SERVERS[1..])?;
    thread::sleep(Duration::from_secs(1));
    for socket in &sockets {
        ask_datagram(socket, twin, true, 5)?;
    }
    ensure!(world.datapath.closed_sockets() == before, "sockets of another service were closed");
    world.served_by(&SERVERS)
}
