//! Drops that take more than a packet to provoke, and that every kind of drop is provoked.

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use fairlead_abi::{
    Backend, Counter, Entry, FLOW_LOCKS, PLACES, SEEDS, Shape, SocketBucket, SocketKey, SocketValue, map, mapped,
};
use fairlead_packet::{bucket, choice};
use fairlead_source::Protocol;
use fairlead_tests::harness::packet::node::{Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;
use fairlead_tests::wait_for;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::Subject;
use crate::services::{PROTOCOLS, doors, knocker};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("counted_a_flow_that_the_table_does_not_take_is_dropped", held_lock),
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

fn opened<M: TryFrom<Map, Error = aya::maps::MapError>>(node: &Node, name: &str) -> Result<M> {
    let data = MapData::from_pin(node.maps().join(name)).with_context(|| name.to_owned())?;
    Ok(M::try_from(Map::from_map_data(data)?)?)
}

/// Words of a key: addresses, both ports, the protocol.
fn words(src: SocketAddr, dst: SocketAddr, proto: u8) -> Vec<u32> {
    let mut bytes = Vec::new();
    for end in [src, dst] {
        match end.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend([src.port().to_be_bytes(), dst.port().to_be_bytes()].concat());
    bytes.extend([proto, 0, 0, 0]);
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

fn hash_of(words: &[u32], seeds: &[u64; SEEDS]) -> Result<u32> {
    Ok(match words.len() {
        4 => bucket::hash::<4, SEEDS>(words.try_into()?, seeds),
        _ => bucket::hash::<10, SEEDS>(words.try_into()?, seeds),
    })
}

/// Somebody is at the lock of the bucket where the opening side's entry belongs, and stays there. The entry of the answers
/// is in another one, so a port is found.
fn held_lock(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let mut shapes: Array<_, Shape> = opened(node, map::SHAPE)?;
    let free = shapes.get(&0, 0)?;
    for plan in Plan::BOTH {
        let buckets = if plan.v4 { free.flows4 } else { free.flows6 };
        let lock = |src, dst, proto| -> Result<usize> {
            Ok(choice::place(hash_of(&words(src, dst, proto), &free.seeds)?, buckets) as usize % FLOW_LOCKS)
        };
        let end = plan.here(21);
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            node.services(vec![plan.service(7, protocol, vec![end.clone()])])?;
            let service = plan.doors(7)[0];
            for (way, _) in doors() {
                let mut client = knocker(node, plan, way);
                while lock(client, service, proto)? == lock(end.address, client, proto)? {
                    client = knocker(node, plan, way);
                }
                let mut taken = free;
                taken.flow_locks[lock(client, service, proto)?] = 1;
                shapes.set(0, taken, 0)?;
                let packet = Packet::new(client, service, Body::opening(proto));
                let seen = node.expect(way, &packet, Fate::Dropped, &packet, &["drop_flow_insert"]);
                shapes.set(0, free, 0)?;
                seen?;
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
    let mut found = backends.iter().zip(0u32..).filter_map(|(backend, id)| Some((backend.ok()?, id)));
    let (backend, id) = found.find(|(backend, _)| is_it(backend)).context("the endpoint is in no table")?;
    let last = Socket::new(Domain::IPV4, Type::DGRAM, None)?.cookie()?;
    let (p, q) = (endpoint.port().to_be_bytes(), service.port().to_be_bytes());
    let value =
        [&bytes(service.ip())[..], &[q[0], q[1], 0, 0], &id.to_ne_bytes(), &backend.life.to_ne_bytes()].concat();
    for cookie in last..last + 4096 {
        let rest = [p[0], p[1], 1, proto::UDP, 0, 0, 0, 0];
        give(node, &[&cookie.to_ne_bytes()[..], &bytes(endpoint.ip()), &rest].concat(), &value)?;
    }
    Ok(())
}

/// Writes an entry of the table of sockets, as the hooks do.
fn give(node: &Node, key: &[u8], value: &[u8]) -> Result<()> {
    let shape = opened::<Array<_, Shape>>(node, map::SHAPE)?.get(&0, 0)?;
    let words: Vec<u32> = key.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    let words: &[u32; 8] = words.as_slice().try_into()?;
    let (number, hash) = bucket::socket(words, &shape.seeds, shape.socket_step, shape.sockets);
    let mut sockets: Array<_, [u8; size_of::<SocketBucket>()]> = opened(node, map::SOCKETS)?;
    let mut bucket = sockets.get(&number, 0)?;
    let places = (hash as usize % PLACES..PLACES).chain(0..PLACES);
    let place = places.into_iter().find(|place| bucket[2 * place..2 * place + 2] == [0, 0]);
    let place = place.context("a bucket is full")?;
    bucket[2 * place..2 * place + 2].copy_from_slice(&bucket::tag(hash).to_ne_bytes());
    let start = offset_of!(SocketBucket, entries) + place * size_of::<Entry<SocketKey, SocketValue>>();
    bucket[start..start + key.len()].copy_from_slice(key);
    bucket[start + key.len()..start + key.len() + value.len()].copy_from_slice(value);
    Ok(sockets.set(number, bucket, 0)?)
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
