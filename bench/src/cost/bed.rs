//! Our data path and the programs it is held against, loaded and given the same services.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapError};
use aya::programs::ProgramFd;
use fairlead_datapath::{Config, Datapath};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

use super::others;
use crate::rig::namespace::Namespace;
use crate::stage::Stage;
use crate::{programs, service};

/// Where the measured service answers: as a load balancer's address over TCP, and to sockets over UDP.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// An address like it that is no service's.
pub(super) const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// Port of the service over TCP, and over UDP.
pub(super) const PORTS: (u16, u16) = (80, 53);
/// Where sockets come out, so that they need no network.
pub(super) const SOCKETS_TO: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9);
/// Endpoints of the service over TCP.
const ENDPOINTS: u32 = 100;
/// Endpoints of the service over UDP, in the table of the minimal programs.
const FIRST_SOCKET_ENDPOINT: u32 = 1000;
const SOCKET_ENDPOINTS: u32 = 2;

/// Everything that is measured.
#[derive(Debug)]
pub(super) struct Bed {
    /// The benchmark's own programs.
    pub(super) ebpf: Ebpf,
    pub(super) datapath: Datapath,
    /// Whose hooks are ours.
    pub(super) cgroup: PathBuf,
    pub(super) net: Namespace,
    bpffs: PathBuf,
}

impl Bed {
    /// With room for this many flows.
    pub(super) fn new(stage: &mut Stage, name: &str, flows: u32) -> Result<Self> {
        let place = stage.place(name)?;
        let net = Namespace::new()?;
        let others = others(stage.options.quick);
        let sizes = [
            ("MINIMAL_SERVICES", 65_536),
            ("MINIMAL_FLOWS", flows),
            ("MINIMAL_ENDPOINTS", 65_536),
            ("MINIMAL_COUNTS", 65_536),
        ];
        let mut ebpf = programs::open_with(&sizes)?;
        fill(&mut ebpf, others)?;
        let datapath = net.run(|| {
            let mut config = Config::new(&place.bpffs, &place.cgroup);
            // A flow of ours takes an entry for each direction.
            config.flows = flows.saturating_mul(2);
            let mut datapath = Datapath::open(config)?;
            let all = (1..=others).map(|number| service(number, 0, 2)).chain([measured(), sockets()]);
            let report = datapath.sync_all(all.collect())?;
            ensure!(report.rejected.is_empty(), "services were refused: {:?}", report.rejected);
            Ok(datapath)
        })?;
        Ok(Self { ebpf, datapath, cgroup: place.cgroup, net, bpffs: place.bpffs })
    }

    /// A program of ours, to be called by another one.
    pub(super) fn ours(&mut self, name: &'static str) -> Result<ProgramFd> {
        Ok(self.datapath.program(name)?)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let removed = self.net.run(|| Ok(fairlead_datapath::remove(&self.bpffs)?));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

/// The service that packets are for. Its endpoints are on this node, so that packets are rewritten and go on.
fn measured() -> Service {
    let endpoint = |number| Endpoint::local(SocketAddr::from((endpoint(number), 8080)));
    let endpoints = (0..ENDPOINTS).map(endpoint).collect();
    let port = Port { name: String::new(), protocol: Protocol::Tcp, port: PORTS.0, node_port: None, endpoints };
    Service {
        name: ServiceName { namespace: "bench".into(), name: "packets".into() },
        load_balancer_ips: vec![IpAddr::V4(VIP)],
        ports: vec![port],
        ..Service::default()
    }
}

/// The service that sockets connect to.
fn sockets() -> Service {
    let endpoint = |_| Endpoint::local(SocketAddr::from(SOCKETS_TO));
    let endpoints = (0..1).map(endpoint).collect();
    let port = Port { name: String::new(), protocol: Protocol::Udp, port: PORTS.1, node_port: None, endpoints };
    Service {
        name: ServiceName { namespace: "bench".into(), name: "sockets".into() },
        cluster_ips: vec![IpAddr::V4(VIP)],
        ports: vec![port],
        ..Service::default()
    }
}

fn endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0af4_f000 + number)
}

/// Gives the minimal programs the same services.
fn fill(ebpf: &mut Ebpf, others: u32) -> Result<()> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let mut services = HashMap::<_, [u8; 8], u64>::try_from(map(ebpf, "MINIMAL_SERVICES")?)?;
    let set = |first: u32, count: u32| u64::from(first) << 32 | u64::from(count);
    for number in 1..=others {
        let at = service(number, 0, 2);
        let Some(IpAddr::V4(vip)) = at.cluster_ips.first() else { continue };
        services.insert(address(*vip, PORTS.0, TCP), set(0, 2), 0)?;
    }
    services.insert(address(VIP, PORTS.0, TCP), set(0, ENDPOINTS), 0)?;
    services.insert(address(VIP, PORTS.1, UDP), set(FIRST_SOCKET_ENDPOINT, SOCKET_ENDPOINTS), 0)?;
    let mut endpoints = Array::<_, [u8; 8]>::try_from(map(ebpf, "MINIMAL_ENDPOINTS")?)?;
    for number in 0..ENDPOINTS {
        endpoints.set(number, address(endpoint(number), 8080, TCP), 0)?;
    }
    for number in 0..SOCKET_ENDPOINTS {
        let (to, port) = SOCKETS_TO;
        endpoints.set(FIRST_SOCKET_ENDPOINT + number, address(to, port, UDP), 0)?;
    }
    Ok(())
}

/// Gives the minimal programs one service of one endpoint, asked over UDP.
pub(crate) fn fill_one(ebpf: &mut Ebpf, service: SocketAddrV4, endpoint: SocketAddrV4) -> Result<()> {
    const UDP: u8 = 17;
    let at = |to: SocketAddrV4| address(*to.ip(), to.port(), UDP);
    let mut services = HashMap::<_, [u8; 8], u64>::try_from(map(ebpf, "MINIMAL_SERVICES")?)?;
    services.insert(at(service), 1, 0)?;
    let mut endpoints = Array::<_, [u8; 8]>::try_from(map(ebpf, "MINIMAL_ENDPOINTS")?)?;
    Ok(endpoints.set(0, at(endpoint), 0)?)
}

/// As the programs know an address.
fn address(address: Ipv4Addr, port: u16, protocol: u8) -> [u8; 8] {
    let ([a, b, c, d], [p, q]) = (address.octets(), port.to_be_bytes());
    [a, b, c, d, p, q, protocol, 0]
}

/// A map of the object, which programs that are not loaded yet still find there.
fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name).with_context(|| format!("no map {name} in the benchmark's BPF object"))
}

/// A map of the object, to be kept. It must be kept until all programs are loaded.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf.take_map(name).with_context(|| format!("no map {name} in the benchmark's BPF object"))?;
    Ok(M::try_from(map)?)
}
