//! Uplinks of every kind: how the programs are attached to them, and that services are reached through them.
//!
//! Not every kernel knows bonds and VLANs; those of the virtual machines do, by modules.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use fairlead_datapath::{Config, Datapath, DatapathError, PodInterface, Uplink, UplinkMode, netns_cookie};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};
use fairlead_tests::harness::dialogue::{PORT, ask_datagram, bulk, connect, patience, serve, tcp, udp, udp_socket};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::suite;
use nix::errno::Errno;

const NODE_PORT: u16 = 30_080;
const SERVER: u8 = 11;
const POD: [IpAddr; 2] = [v4([10, 244, 0, 11]), v6([0xfd00, 0x244], 11)];
const GATEWAY: [IpAddr; 2] = [v4([10, 244, 0, 1]), v6([0xfd00, 0x244], 1)];
const EVERYWHERE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// The service's own addresses.
const VIP: [IpAddr; 2] = [v4([10, 96, 0, 7]), v6([0xfd00, 0x96], 7)];
/// Addresses of a service that has no endpoints.
const NOBODY: [IpAddr; 2] = [v4([203, 0, 113, 9]), v6([0x2001, 0x1b], 9)];

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b]: [u16; 2], host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, host))
}

/// The node's addresses on the link of an uplink, and the client's there.
fn link(n: u8) -> [[IpAddr; 2]; 2] {
    [1, 2].map(|host| [v4([192, 0, n, host]), v6([0x2001, 0xd00 + u16::from(n)], host.into())])
}

fn main() -> ExitCode {
    suite::run(
        Sandbox::new,
        &[
            ("a_bond_takes_tc_and_serves", bond),
            ("a_vlan_takes_tc_and_serves", vlan),
            ("a_vlan_and_the_interface_below_it_serve_both", vlan_and_below),
            ("a_vlan_in_a_vlan_serves_and_is_answered", vlan_in_vlan),
            ("a_bridge_takes_tc_and_serves", bridge),
            ("large_packets_take_xdp_in_parts", jumbo),
            ("one_uplink_serves_while_others_come_and_go", several),
        ],
    )
}

/// A node with one pod that serves, and somebody outside.
struct Lab<'a> {
    node: Namespace,
    outside: Namespace,
    pod: Namespace,
    sandbox: &'a Sandbox,
    datapath: Option<Datapath>,
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        self.datapath = None;
        if let Err(error) = fairlead_datapath::remove(&self.sandbox.bpffs()) {
            eprintln!("{error}");
        }
    }
}

impl<'a> Lab<'a> {
    fn new(sandbox: &'a Sandbox) -> Result<Self> {
        let (node, outside, pod) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        node.enter()?;
        node.forward()?;
        node.connect("pod0", &pod, "eth0")?;
        for family in [0, 1] {
            let alone = if family == 0 { 32 } else { 128 };
            node.address("pod0", GATEWAY[family], alone)?;
            node.route("pod0", POD[family], alone, None)?;
            pod.address("eth0", POD[family], alone)?;
            pod.route("eth0", GATEWAY[family], alone, None)?;
            pod.route("eth0", EVERYWHERE[family], 0, Some(GATEWAY[family]))?;
        }
        serve(&pod, SERVER)?;
        serve(&outside, 0)?;
        Ok(Self { node, outside, pod, sandbox, datapath: None })
    }

    /// Addresses on both ends of link `n`.
    fn address(&self, n: u8, uplink: &str, client: &str) -> Result<()> {
        let [near, far] = link(n);
        for family in [0, 1] {
            let net = if family == 0 { 24 } else { 64 };
            self.node.address(uplink, near[family], net)?;
            self.outside.address(client, far[family], net)?;
        }
        Ok(())
    }

    /// The data path, with these uplinks, and a service of the pod's.
    fn open(&mut self, uplinks: &[&str]) -> Result<Vec<Uplink>> {
        let cluster_cidrs = vec!["10.244.0.0/16".parse()?, "fd00:244::/64".parse()?];
        let config = Config { cluster_cidrs, ..Config::new(self.sandbox.bpffs(), self.sandbox.cgroup()) };
        let mut datapath = Datapath::open(config).context("cannot open the data path")?;
        let attached = uplinks.iter().map(|name| datapath.attach_uplink(name)).collect::<Result<Vec<_>, _>>()?;
        let pod = PodInterface {
            name: "pod0".into(),
            ifindex: nix::net::if_::if_nametoindex("pod0")?,
            addresses: POD.to_vec(),
            mac: [0; 6],
            netns_cookie: netns_cookie(Some(&self.pod.path()))?,
        };
        datapath.retain_pods(&[pod])?;
        let endpoints: Vec<Endpoint> = POD.map(|ip| Endpoint::local((ip, PORT).into())).to_vec();
        let port = |name: &str, protocol| Port {
            name: name.into(),
            protocol,
            port: 80,
            node_port: Some(NODE_PORT),
            endpoints: endpoints.clone(),
        };
        let service = Service {
            name: ServiceName { namespace: "default".into(), name: "echo".into() },
            cluster_ips: VIP.to_vec(),
            ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
            ..Service::default()
        };
        let ports = service.ports.iter().map(|port| Port { node_port: None, endpoints: Vec::new(), ..port.clone() });
        let nobody = Service {
            name: ServiceName { namespace: "default".into(), name: "nobody".into() },
            load_balancer_ips: NOBODY.to_vec(),
            cluster_ips: VIP.map(next).to_vec(),
            ports: ports.collect(),
            ..Service::default()
        };
        let report = datapath.sync_all(vec![service, nobody])?;
        ensure!(report.rejected.is_empty(), "{:?}", report.rejected);
        self.datapath = Some(datapath);
        for uplink in &attached {
            println!("uplink {}: {} ({})", uplink.name, uplink.mode, uplink.reason);
        }
        Ok(attached)
    }

    fn datapath(&mut self) -> Result<&mut Datapath> {
        self.datapath.as_mut().context("the data path is closed")
    }

    /// A client on link `n` reaches the pod by the NodePort, is seen as itself, and the pod reaches it behind the node.
    fn serves(&mut self, n: u8) -> Result<()> {
        let before = self.datapath()?.counters()?;
        let [node, client] = link(n);
        for family in [0, 1] {
            let target = SocketAddr::new(node[family], NODE_PORT);
            self.outside.run(|| {
                for seen in [tcp(target)?, udp(target, false)?, udp(target, true)?] {
                    ensure!(seen.0 == SERVER && seen.1.ip() == client[family], "{target}: seen as {seen:?}");
                }
                bulk(&mut connect(target)?).with_context(|| target.to_string())
            })?;
            let back = SocketAddr::new(client[family], PORT);
            self.pod.run(|| {
                for seen in [tcp(back)?, udp(back, false)?] {
                    ensure!(seen.0 == 0 && seen.1.ip() == node[family], "{back} sees a pod as {seen:?}");
                }
                bulk(&mut connect(back)?).with_context(|| back.to_string())
            })?;
        }
        let after = self.datapath()?.counters()?;
        let new = |name| after[name] - before[name];
        ensure!(
            new("flow_new") == 8 && new("masquerade_new") == 6,
            "{} and {}",
            new("flow_new"),
            new("masquerade_new")
        );
        let drops: Vec<_> = after.iter().filter(|(name, count)| name.starts_with("drop_") && **count > 0).collect();
        ensure!(drops.is_empty(), "{drops:?}");
        Ok(())
    }
}

/// The address after this one.
fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 1).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + 1).into()),
    }
}

/// Whether the kernel knows a kind of interface: what was to be made of that kind, if it is there.
fn known(made: Result<()>, kind: &str) -> Result<bool> {
    let Err(error) = made else { return Ok(true) };
    let unknown = error.chain().any(|cause| match cause.downcast_ref() {
        Some(rtnetlink::Error::NetlinkError(message)) => message.raw_code() == -(Errno::EOPNOTSUPP as i32),
        _ => false,
    });
    ensure!(unknown, "{error:#}");
    println!("this kernel knows no {kind}; those of `cargo xtask vm` do");
    Ok(false)
}

fn is_tc(uplink: &Uplink, kind: &str) -> Result<()> {
    ensure!(uplink.mode == UplinkMode::Tc, "{} is {}", uplink.name, uplink.mode);
    ensure!(uplink.reason.contains(kind), "the reason is `{}`", uplink.reason);
    Ok(())
}

fn bond(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    for (near, far) in [("up0", "eth0"), ("up1", "eth1")] {
        lab.node.connect(near, &lab.outside, far)?;
    }
    if !known(lab.node.bond("bond0", &["up0", "up1"]), "bonds")? {
        return Ok(());
    }
    // The other ends are a switch's.
    lab.outside.bridge("br0")?;
    lab.outside.enslave("eth0", "br0")?;
    lab.outside.enslave("eth1", "br0")?;
    lab.outside.up("br0")?;
    lab.address(2, "bond0", "br0")?;
    is_tc(&lab.open(&["bond0"])?[0], "bond")?;
    lab.serves(2)?;
    // One of the members is enough.
    lab.node.remove("up0")?;
    lab.serves(2)
}

fn vlan(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    if !known(lab.node.vlan("up0.5", "up0", 5), "VLANs")? {
        return Ok(());
    }
    lab.outside.vlan("eth0.5", "eth0", 5)?;
    lab.address(2, "up0.5", "eth0.5")?;
    is_tc(&lab.open(&["up0.5"])?[0], "vlan")?;
    lab.serves(2)
}

fn vlan_and_below(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    if !known(lab.node.vlan("up0.5", "up0", 5), "VLANs")? {
        return Ok(());
    }
    lab.outside.vlan("eth0.5", "eth0", 5)?;
    lab.address(2, "up0", "eth0")?;
    lab.address(5, "up0.5", "eth0.5")?;
    lab.open(&["up0", "up0.5"])?;
    lab.serves(2)?;
    lab.serves(5)
}

/// The interface below meets the frames first: one tag beside them, the other in their data.
fn vlan_in_vlan(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    if !known(lab.node.vlan("up0.5", "up0", 5), "VLANs")? {
        return Ok(());
    }
    lab.outside.vlan("eth0.5", "eth0", 5)?;
    lab.node.vlan("up0.5.6", "up0.5", 6)?;
    lab.outside.vlan("eth0.5.6", "eth0.5", 6)?;
    lab.address(2, "up0.5.6", "eth0.5.6")?;
    lab.open(&["up0", "up0.5.6"])?;
    lab.serves(2)?;
    let [node, _] = link(2);
    for family in [0, 1] {
        lab.outside.route("eth0.5.6", NOBODY[family], if family == 0 { 32 } else { 128 }, Some(node[family]))?;
        let target = SocketAddr::new(NOBODY[family], 80);
        lab.outside.run(|| {
            let socket = udp_socket(target)?;
            socket.connect(target)?;
            socket.send(b"anybody?")?;
            let refused = socket.recv(&mut [0]).err().map(|error| error.kind());
            ensure!(refused == Some(ErrorKind::ConnectionRefused), "a datagram to {target}: {refused:?}");
            let refused = TcpStream::connect_timeout(&target, patience()).err().map(|error| error.kind());
            ensure!(refused == Some(ErrorKind::ConnectionRefused), "a connection to {target}: {refused:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn bridge(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    lab.node.bridge("br0")?;
    lab.node.enslave("up0", "br0")?;
    lab.node.up("br0")?;
    lab.address(2, "br0", "eth0")?;
    is_tc(&lab.open(&["br0"])?[0], "bridge")?;
    lab.serves(2)
}

/// What one page does not hold.
fn jumbo(sandbox: &mut Sandbox) -> Result<()> {
    const MTU: u32 = 9000;
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    for (place, interface) in [(&lab.node, "up0"), (&lab.outside, "eth0"), (&lab.node, "pod0"), (&lab.pod, "eth0")] {
        place.mtu(interface, MTU)?;
    }
    lab.address(2, "up0", "eth0")?;
    let uplink = lab.open(&["up0"])?.remove(0);
    // Kernels before 5.18 have no XDP for that, and take tc.
    let parts = uplink.mode == UplinkMode::Native && uplink.reason.contains("many parts");
    ensure!(parts || uplink.mode == UplinkMode::Tc, "{} {}", uplink.mode, uplink.reason);
    lab.serves(2)?;
    let [node, _] = link(2);
    lab.outside.run(|| {
        for target in node.map(|ip| SocketAddr::new(ip, NODE_PORT)) {
            for length in [1400, 3800, 8900] {
                ensure!(ask_datagram(&udp_socket(target)?, target, false, length)?.0 == SERVER);
            }
        }
        Ok(())
    })
}

fn several(sandbox: &mut Sandbox) -> Result<()> {
    let mut lab = Lab::new(sandbox)?;
    lab.node.connect("up0", &lab.outside, "eth0")?;
    lab.address(2, "up0", "eth0")?;
    lab.open(&["up0"])?;
    lab.serves(2)?;
    let absent = lab.datapath()?.attach_uplink("up1");
    ensure!(matches!(absent, Err(DatapathError::NoInterface(_))), "{absent:?}");
    for round in 0..2 {
        ensure!(lab.datapath()?.missing_uplinks() == ["up1"]);
        lab.node.connect("up1", &lab.outside, "eth1")?;
        lab.address(3, "up1", "eth1")?;
        ensure!(lab.datapath()?.refresh()?, "nothing was seen to change");
        let names: Vec<_> = lab.datapath()?.uplinks().into_iter().map(|uplink| uplink.name).collect();
        ensure!(names == ["up0", "up1"], "{names:?} in round {round}");
        lab.serves(2)?;
        lab.serves(3)?;
        lab.node.remove("up1")?;
        ensure!(lab.datapath()?.refresh()?, "nothing was seen to change");
        lab.serves(2)?;
        ensure!(!lab.datapath()?.node_port_addresses().contains(&link(3)[0][0]), "a NodePort is left on it");
    }
    Ok(())
}
