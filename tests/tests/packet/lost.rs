//! Drops that take more than a packet to provoke, and that every kind of drop is provoked.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use fairlead_abi::{Backend, Counter, FlowKey, FlowValue, SocketKey, SocketValue, V4, V6, map, mapped};
use fairlead_source::Protocol;
use fairlead_tests::harness::packet::node::{Fate, Node, PODS, Way, maps};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;
use fairlead_tests::wait_for;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::services::{PROTOCOLS, doors, knocker};
use crate::{Kind, Subject};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("counted_a_flow_that_the_table_does_not_take_is_dropped", full_table),
    ("counted_datagrams_of_a_socket_whose_endpoint_ended_are_dropped", ended),
    ("counted_every_drop_has_a_row_that_provokes_it", every_drop),
];

/// Where the rows are.
const ROWS: [&str; 10] = [
    include_str!("awkward.rs"),
    include_str!("choice.rs"),
    include_str!("errors.rs"),
    include_str!("forward.rs"),
    include_str!("life.rs"),
    include_str!("lost.rs"),
    include_str!("refuse.rs"),
    include_str!("services.rs"),
    include_str!("slow.rs"),
    include_str!("source.rs"),
];

/// A row names what its packets must be counted as.
fn every_drop(_: &mut Subject) -> Result<()> {
    let drops = Counter::ALL.iter().map(|counter| counter.name()).filter(|name| name.starts_with("drop_"));
    let is_named = |name: &&str| ROWS.iter().any(|rows| rows.contains(&format!("\"{name}\"")));
    let missing: Vec<_> = drops.filter(|name| !is_named(name)).collect();
    ensure!(missing.is_empty(), "no row provokes {missing:?}");
    Ok(())
}

/// Tables of flows, for a data path to find pinned, that refuse what they have no room for: the usual ones forget what was
/// not used for longest, and refuse only under a storm of flows.
pub(crate) fn full_tables(bpffs: &Path) -> Result<()> {
    let maps = maps(bpffs);
    fs::create_dir_all(&maps)?;
    HashMap::<MapData, FlowKey<V4>, FlowValue<V4>>::create(1, 0)?.pin(maps.join(map::FLOWS4))?;
    HashMap::<MapData, FlowKey<V6>, FlowValue<V6>>::create(1, 0)?.pin(maps.join(map::FLOWS6))?;
    Ok(())
}

fn empty<K: Pod, V: Pod>(node: &Node, name: &str) -> Result<()> {
    let mut flows: HashMap<_, K, V> = opened(node, name)?;
    for key in flows.keys().collect::<Result<Vec<_>, _>>()? {
        flows.remove(&key)?;
    }
    Ok(())
}

fn opened<M: TryFrom<Map, Error = aya::maps::MapError>>(node: &Node, name: &str) -> Result<M> {
    let data = MapData::from_pin(node.maps().join(name)).with_context(|| name.to_owned())?;
    Ok(M::try_from(Map::from_map_data(data)?)?)
}

fn full_table(subject: &mut Subject) -> Result<()> {
    let node = subject.node(Kind::Full)?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            node.services(vec![plan.service(7, protocol, vec![plan.here(21)])])?;
            for (way, _) in doors() {
                let packet = Packet::new(knocker(node, plan, way), plan.doors(7)[0], Body::opening(number(protocol)));
                node.expect(way, &packet, Fate::Dropped, &packet, &["drop_flow_insert"])?;
                empty::<FlowKey<V4>, FlowValue<V4>>(node, map::FLOWS4)?;
                empty::<FlowKey<V6>, FlowValue<V6>>(node, map::FLOWS6)?;
            }
        }
    }
    Ok(())
}

/// Notes that the next sockets of this thread were given an endpoint. The kernel gives every packet of a test run a socket
/// of its own, and numbers sockets on each CPU one after the other; others may be made in between.
fn give_next_sockets(node: &Node, service: SocketAddr, endpoint: SocketAddr) -> Result<()> {
    let backends: Array<_, Backend> = opened(node, map::BACKENDS)?;
    let bytes = |ip| match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    };
    let is_it = |backend: &Backend| {
        let address = if endpoint.is_ipv4() { &bytes(endpoint.ip())[12..] } else { &bytes(endpoint.ip())[..] };
        backend.addr.starts_with(address)
            && backend.port == endpoint.port().to_be_bytes()
            && backend.proto == proto::UDP
            && backend.state() == Backend::ACTIVE
    };
    let mut found = backends.iter().zip(0..).filter_map(|(backend, id)| Some((backend.ok()?, id)));
    let (backend, id) = found.find(|(backend, _)| is_it(backend)).context("the endpoint is in no table")?;
    let last = Socket::new(Domain::IPV4, Type::DGRAM, None)?.cookie()?;
    let mut sockets: HashMap<_, SocketKey, SocketValue> = opened(node, map::SOCKETS)?;
    let port = endpoint.port().to_be_bytes();
    let (addr, life) = (bytes(endpoint.ip()), backend.life);
    let value =
        SocketValue { addr: bytes(service.ip()), port: service.port().to_be_bytes(), pad: 0, backend: id, life };
    for cookie in last..last + 4096 {
        sockets.insert(SocketKey { cookie, addr, port, back: 1, proto: proto::UDP, pad: 0 }, value, 0)?;
    }
    Ok(())
}

fn ended(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let everywhere = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpu)?;
    for plan in Plan::BOTH {
        let (here, there) = (plan.here(PODS[0]), plan.there(21));
        let ends = [here.address, there.address];
        node.services(vec![plan.service(7, Protocol::Udp, vec![here, there, plan.here(22)])])?;
        for end in ends {
            give_next_sockets(node, plan.doors(7)[0], end)?;
        }
        let client = SocketAddr::new(plan.pod(PODS[1]), 5000);
        let (near, far) = (Packet::new(client, ends[0], Body::udp(9)), Packet::new(client, ends[1], Body::udp(9)));
        let ways = [(Way::FromPod(1), &near), (Way::ToPod(0), &near), (Way::FromPod(1), &far), (Way::Leave, &far)];
        // Their endpoints live, and the sockets' datagrams are none of our business.
        for (way, packet) in ways {
            node.untouched(way, packet)?;
        }
        node.services(vec![plan.service(7, Protocol::Udp, vec![plan.here(22)])])?;
        for (way, packet) in ways {
            node.expect(way, packet, Fate::Dropped, packet, &["drop_endpoint_gone"])?;
            // What other sockets send there passes, and so does another protocol.
            node.untouched(way, &packet.clone().with(Body::tcp(0)))?;
            node.untouched(way, &packet.clone().to(SocketAddr::new(packet.dst, 9)))?;
        }
        // All sockets are closed, and nobody looks any more.
        wait_for("the end of closing", Duration::from_secs(10), || {
            ways.iter().try_for_each(|(way, packet)| node.untouched(*way, packet))
        })?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &everywhere)?)
}
