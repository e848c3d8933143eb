//! Who gets which share, what stays where it is when endpoints change, and what affinity adds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use fairlead_source::{Endpoint, Protocol, Service};
use fairlead_tests::harness::packet::node::{DOORS, Door, Fate, Node, PODS, Way};
use fairlead_tests::harness::packet::plan::{PORT, Plan};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;

pub(crate) const CASES: &[Case<Subject>] = &[
    ("clients_are_spread_evenly", even),
    ("shares_follow_the_weights", weights),
    ("an_endpoint_of_weight_zero_gets_nothing", weight_zero),
    ("an_endpoint_that_leaves_moves_its_own_share_alone", disruption),
    ("every_way_in_chooses_the_same", doors_agree),
    ("affinity_keeps_a_client_at_its_endpoint", affinity),
    ("affinity_ends_with_its_timeout", affinity_timeout),
    ("affinity_moves_when_its_endpoint_goes", affinity_moves),
    ("affinity_never_leads_out_of_a_local_policy", affinity_local),
];

/// A client that nobody was before: an address of its own for each `i`.
fn client(plan: Plan, i: u32) -> SocketAddr {
    let base = if plan.v4 { 0xc612_0000u32 } else { 0 };
    let ip = if plan.v4 {
        std::net::Ipv4Addr::from(base + i).into()
    } else {
        std::net::Ipv6Addr::from(0x2001_0db8_000d_0000_0000_0000_0000_0000u128 + u128::from(i)).into()
    };
    SocketAddr::new(ip, 1024 + (i.wrapping_mul(7919) % 30_000) as u16)
}

/// Numbers for [`client`] that no test has had.
fn fresh(count: u32) -> std::ops::Range<u32> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0x1_0000);
    let first = NEXT.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    first..first + count
}

/// How many of `draws` new clients go where. UDP, local endpoints.
fn shares(node: &mut Node, plan: Plan, service: SocketAddr, draws: u32) -> Result<BTreeMap<SocketAddr, u32>> {
    let mut shares = BTreeMap::new();
    for i in fresh(draws) {
        let packet = Packet::new(client(plan, i), service, Body::opening(proto::UDP));
        let (fate, out) = node.send(Way::Arrive(Door::Tc), &packet)?;
        ensure!(fate == Fate::On, "{packet} is {fate:?} as {out}");
        *shares.entry(out.destination()).or_insert(0) += 1;
    }
    Ok(shares)
}

/// Judges shares by chi-square. The bound is the mean and six standard deviations of the statistic: a fair choice is
/// blamed less than once in a million runs (and these draws are the same in every run).
fn fair(shares: &BTreeMap<SocketAddr, u32>, expected: &BTreeMap<SocketAddr, f64>) -> Result<()> {
    ensure!(shares.keys().eq(expected.keys()), "{shares:?}, expected {expected:?}");
    let chi: f64 = shares.iter().map(|(end, n)| (f64::from(*n) - expected[end]).powi(2) / expected[end]).sum();
    let freedom = expected.len() as f64 - 1.0;
    let bound = freedom + 6.0 * (2.0 * freedom).sqrt() + 12.0;
    ensure!(chi <= bound, "chi-square {chi:.1} is above {bound:.1}: {shares:?}, expected {expected:?}");
    Ok(())
}

fn even(subject: &mut Subject) -> Result<()> {
    const DRAWS: u32 = 2000;
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for n in [3, 20] {
            let ends: Vec<Endpoint> = (0..n).map(|i| plan.here(21 + i)).collect();
            node.services(vec![plan.service(7, Protocol::Udp, ends.clone())])?;
            let expected = ends.iter().map(|end| (end.address, f64::from(DRAWS) / f64::from(n))).collect();
            for service in plan.doors(7) {
                fair(&shares(node, plan, service, DRAWS)?, &expected)?;
            }
        }
    }
    Ok(())
}

fn weights(subject: &mut Subject) -> Result<()> {
    const DRAWS: u32 = 2000;
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let weights: [u16; 4] = [1, 2, 3, 10];
        let ends: Vec<Endpoint> =
            weights.iter().zip(21..).map(|(weight, n)| Endpoint { weight: *weight, ..plan.here(n) }).collect();
        node.services(vec![plan.service(7, Protocol::Udp, ends.clone())])?;
        let expected = ends.iter().map(|end| (end.address, f64::from(DRAWS) * f64::from(end.weight) / 16.0)).collect();
        for service in plan.doors(7) {
            fair(&shares(node, plan, service, DRAWS)?, &expected)?;
        }
    }
    Ok(())
}

fn weight_zero(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let idle = |n| Endpoint { weight: 0, ..plan.here(n) };
        for (ends, expected) in [
            (vec![plan.here(21), idle(22)], vec![plan.here(21).address]),
            (vec![idle(21), idle(22)], vec![plan.here(21).address, plan.here(22).address]),
        ] {
            node.services(vec![plan.service(7, Protocol::Udp, ends)])?;
            for service in plan.doors(7) {
                let got: Vec<_> = shares(node, plan, service, 200)?.into_keys().collect();
                ensure!(got == expected, "{service}: {got:?}, not {expected:?}");
            }
        }
    }
    Ok(())
}

/// Measured at packet level: the same clients before and after, in flows of their own.
fn disruption(subject: &mut Subject) -> Result<()> {
    const CLIENTS: u32 = 1500;
    let node = subject.plain()?;
    let mut worst = 0f64;
    for plan in Plan::BOTH {
        for n in [3u16, 10] {
            let ends: Vec<Endpoint> = (0..n).map(|i| plan.here(21 + i)).collect();
            // Balancer and NodePort: what outside clients find by Maglev. An affinity of none, flows all new: the same
            // addresses and ports ask two services that differ in nothing but the set.
            let target = plan.doors(7)[1];
            let place = |node: &mut Node, ends: Vec<Endpoint>| -> Result<Vec<SocketAddr>> {
                // Another name, so that the flows of before are of endpoints that are gone.
                node.services(Vec::new())?;
                node.drained()?;
                node.services(vec![plan.service(7, Protocol::Udp, ends)])?;
                (0..CLIENTS)
                    .map(|i| {
                        let packet = Packet::new(client(plan, i), target, Body::opening(proto::UDP));
                        Ok(node.send(Way::Arrive(Door::Tc), &packet)?.1.destination())
                    })
                    .collect()
            };
            let before = place(node, ends.clone())?;
            let again = place(node, ends.clone())?;
            ensure!(
                before == again,
                "{n} endpoints: the same clients were sent elsewhere after all was removed and made again"
            );
            for gone in [0, ends.len() - 1] {
                let mut fewer = ends.clone();
                let gone = fewer.remove(gone).address;
                let after = place(node, fewer)?;
                let had = before.iter().filter(|end| **end == gone).count();
                let moved = before.iter().zip(&after).filter(|(b, a)| a != b).count();
                // What had to move is the share of the one that left. The ring's own promise (1.05 of 1/N of its slots)
                // is tested with the ring; here are 1,500 draws from it, so a margin of five sigma of the sample is on top.
                let ideal = f64::from(CLIENTS) / f64::from(n);
                let extra = (moved - had) as f64;
                let sigma = (f64::from(CLIENTS) * 0.05 / f64::from(n)).sqrt();
                worst = worst.max(moved as f64 / had as f64);
                ensure!(
                    extra <= 0.05 * ideal + 5.0 * sigma,
                    "{n} endpoints: {moved} of {CLIENTS} clients moved, {had} had to (ideal {ideal:.0})"
                );
            }
        }
    }
    println!("disruption: at worst {worst:.3} of the share that had to move moved");
    Ok(())
}

/// XDP and tc are one decision: whoever comes by the other door next time finds the same endpoint.
fn doors_agree(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends: Vec<Endpoint> = (21..28).map(|n| plan.here(n)).collect();
        for (i, service) in (0..12).flat_map(|i| plan.doors(7).map(|service| (i, service))) {
            let mut found = Vec::new();
            for door in DOORS {
                if i == 0 || found.is_empty() {
                    node.services(Vec::new())?;
                    node.drained()?;
                    node.services(vec![plan.service(7, Protocol::Udp, ends.clone())])?;
                }
                let packet = Packet::new(client(plan, i), service, Body::opening(proto::UDP));
                found.push(node.send(Way::Arrive(door), &packet)?.1.destination());
            }
            ensure!(found.iter().all(|end| *end == found[0]), "{service}: {found:?}");
        }
    }
    Ok(())
}

const HOURS: Duration = Duration::from_secs(10_800);

fn sticky(plan: Plan, ends: Vec<Endpoint>, affinity: Duration) -> Service {
    Service { affinity: Some(affinity), ..plan.service(7, Protocol::Tcp, ends) }
}

/// Opens a connection from a client address that the test chose, on a new port; where it goes.
fn open(node: &mut Node, way: Way, from: std::net::IpAddr, to: SocketAddr) -> Result<(SocketAddr, bool)> {
    let packet = Packet::new(SocketAddr::new(from, node.port()), to, Body::opening(proto::TCP));
    let ((fate, out), counted) = node.counted(|node| node.send(way, &packet))?;
    ensure!(fate != Fate::Dropped, "{way:?}: {packet} is dropped: {counted:?}");
    ensure!(counted.get("flow_new") == Some(&1), "{way:?}: {packet} is {out}, counted: {counted:?}");
    Ok((out.destination(), counted.get("affinity_hit") == Some(&1)))
}

fn affinity(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends: Vec<Endpoint> = (21..29).map(|n| plan.here(n)).collect();
        node.services(vec![sticky(plan, ends.clone(), HOURS)])?;
        let mut used = std::collections::BTreeSet::new();
        for n in 0..20 {
            node.services(vec![sticky(plan, ends.clone(), HOURS)])?;
            let from = plan.client(100 + n);
            let (first, hit) = open(node, Way::Arrive(Door::Card), from, plan.doors(7)[0])?;
            ensure!(!hit, "{from} is new");
            used.insert(first);
            for door in DOORS {
                for service in plan.doors(7) {
                    let (next, hit) = open(node, Way::Arrive(door), from, service)?;
                    ensure!(
                        next == first && hit,
                        "{from} by {door:?} to {service}: {next}, before {first}; hit: {hit}"
                    );
                }
            }
            // More endpoints change nothing for those who have one.
            let more: Vec<Endpoint> = ends.iter().cloned().chain([plan.here(40 + n)]).collect();
            node.services(vec![sticky(plan, more, HOURS)])?;
            let (next, hit) = open(node, Way::Arrive(Door::Tc), from, plan.doors(7)[1])?;
            ensure!(next == first && hit, "{from}: {next} after another endpoint came, before {first}");
        }
        ensure!(used.len() > 2, "all clients went to {used:?}");
        // Pods have theirs.
        let from = plan.pod(PODS[0]);
        let (first, _) = open(node, Way::FromPod(0), from, plan.doors(7)[0])?;
        for service in plan.doors(7) {
            let (next, hit) = open(node, Way::FromPod(0), from, service)?;
            ensure!(next == first && hit, "a pod to {service}: {next}, before {first}; hit: {hit}");
        }
    }
    Ok(())
}

fn affinity_timeout(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let ends = |plan: Plan| (21..29).map(|n| plan.here(n)).collect::<Vec<_>>();
    node.services(
        Plan::BOTH
            .map(|plan| Service {
                name: fairlead_source::ServiceName { namespace: "default".into(), name: format!("v4-{}", plan.v4) },
                ports: vec![fairlead_source::Port {
                    node_port: None,
                    ..plan.service(7, Protocol::Tcp, ends(plan)).ports[0].clone()
                }],
                ..sticky(plan, ends(plan), Duration::from_secs(2))
            })
            .to_vec(),
    )?;
    let way = Way::Arrive(Door::Card);
    for plan in Plan::BOTH {
        for n in 0..10 {
            open(node, way, plan.client(130 + n), plan.doors(7)[0])?;
        }
    }
    // A tick is about a second, counted down: after five the timeout of two is over whatever the rounding.
    std::thread::sleep(Duration::from_secs(5));
    for plan in Plan::BOTH {
        for n in 0..10 {
            let (_, hit) = open(node, way, plan.client(130 + n), plan.doors(7)[0])?;
            ensure!(!hit, "client {n} was held after its timeout");
            let (_, hit) = open(node, way, plan.client(130 + n), plan.doors(7)[0])?;
            ensure!(hit, "client {n} was not held within its timeout");
        }
    }
    Ok(())
}

fn affinity_moves(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends: Vec<Endpoint> = (21..25).map(|n| plan.here(n)).collect();
        node.services(vec![sticky(plan, ends.clone(), HOURS)])?;
        for n in 0..8 {
            let from = plan.client(150 + n);
            let service = plan.doors(7)[1];
            node.services(vec![sticky(plan, ends.clone(), HOURS)])?;
            let (first, _) = open(node, Way::Arrive(Door::Tc), from, service)?;
            let fewer: Vec<Endpoint> = ends.iter().filter(|end| end.address != first).cloned().collect();
            node.services(vec![sticky(plan, fewer.clone(), HOURS)])?;
            let (second, hit) = open(node, Way::Arrive(Door::Tc), from, service)?;
            ensure!(second != first && !hit, "{from} is held at {first}, which is gone");
            node.services(vec![sticky(plan, ends.clone(), HOURS)])?;
            let (third, hit) = open(node, Way::Arrive(Door::Tc), from, service)?;
            ensure!(third == second && hit, "{from} left {second} for {third}, because {first} came back");
        }
    }
    Ok(())
}

fn affinity_local(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        let ends = vec![plan.here(21), plan.there(21), plan.there(22), plan.there(23)];
        node.services(vec![Service { external_local: true, ..sticky(plan, ends, HOURS) }])?;
        for n in 0..10 {
            let from = plan.client(170 + n);
            open(node, Way::Arrive(Door::Tc), from, SocketAddr::new(plan.vip(7), PORT))?;
            for service in &plan.doors(7)[1..] {
                let (end, _) = open(node, Way::Arrive(Door::Tc), from, *service)?;
                ensure!(end == plan.here(21).address, "{from} to {service} went to {end}");
            }
        }
    }
    Ok(())
}
