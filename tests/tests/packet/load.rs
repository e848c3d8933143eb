//! Every program of the object is there, and what it costs.

use anyhow::{Result, ensure};
use fairlead_source::Protocol;
use fairlead_tests::harness::packet::node::{DOORS, Door, Way};
use fairlead_tests::harness::packet::plan::{Plan, number};
use fairlead_tests::harness::packet::{Body, Packet, proto};
use fairlead_tests::harness::suite::Case;

use crate::Subject;
use crate::services::{PROTOCOLS, doors};

pub(crate) const CASES: &[Case<Subject>] = &[
    ("load_every_program", every_program),
    ("what_a_known_flow_costs", cost),
    ("explaining_changes_nothing", explaining),
];

/// What every kernel must take. The `frags` variants are there from 5.18 on.
const PROGRAMS: [&str; 16] = [
    "xdp_service",
    "xdp_service_veth",
    "tc_uplink_in",
    "tc_uplink_out",
    "tc_from_pod",
    "tc_to_pod",
    "explain_uplink",
    "explain_pod",
    "sock_connect4",
    "sock_connect6",
    "sock_sendmsg4",
    "sock_sendmsg6",
    "sock_recvmsg4",
    "sock_recvmsg6",
    "sock_getpeername4",
    "sock_getpeername6",
];

/// Prints what the verifier went through, for `KERNELS.md`, and sees that each program leaves alone what is not ours.
fn every_program(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    let verified = node.datapath.verified()?;
    for (name, count) in &verified {
        println!("program {name} verified {count}");
    }
    for name in PROGRAMS {
        ensure!(verified.iter().any(|(loaded, _)| *loaded == name), "{name} is not loaded");
    }
    for plan in Plan::BOTH {
        let packet = Packet::new(node.client(plan), plan.target(plan.client(9)), Body::opening(proto::UDP));
        for (into, out) in doors() {
            node.untouched(into, &packet)?;
            node.untouched(out, &packet)?;
        }
    }
    Ok(())
}

/// Prints the mean time of a packet of a known flow. Nothing is asserted: the machine may be busy. The programs run on
/// one buffer again and again, so an answer's program gets its own output: it is one that nothing hits.
fn cost(subject: &mut Subject) -> Result<()> {
    const RUNS: u32 = 50_000;
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            // The endpoint is the service: what a run leaves is what the next one gets, and is hit again.
            let mut service = plan.service(7, protocol, vec![plan.here(21)]);
            service.load_balancer_ips = vec![plan.here(21).address.ip()];
            service.ports[0].port = plan.here(21).address.port();
            node.services(vec![service])?;
            let packet = Packet::new(node.client(plan), plan.here(21).address, Body::opening(number(protocol)));
            for door in DOORS {
                node.send(Way::Arrive(door), &packet)?;
            }
            let hit = packet.with(Body::later(number(protocol))).framed().bytes();
            for (program, door) in
                [("xdp_service", Door::Card), ("xdp_service_veth", Door::Veth), ("tc_uplink_in", Door::Tc)]
            {
                let time = node.datapath.time(program, &hit, RUNS)?;
                println!(
                    "cost {program} ({door:?}) {protocol:?} IPv{} hit: {} ns",
                    if plan.v4 { 4 } else { 6 },
                    time.as_nanos()
                );
            }
        }
        let foreign =
            Packet::new(node.client(plan), plan.target(plan.node()), Body::later(proto::TCP)).framed().bytes();
        for program in ["xdp_service", "tc_uplink_in", "tc_uplink_out", "tc_from_pod", "tc_to_pod"] {
            let time = node.datapath.time(program, &foreign, RUNS)?;
            println!("cost {program} not ours IPv{}: {} ns", if plan.v4 { 4 } else { 6 }, time.as_nanos());
        }
    }
    Ok(())
}

/// The programs behind `explain` leave the packet, the flows and the counters as they were.
fn explaining(subject: &mut Subject) -> Result<()> {
    let node = subject.plain()?;
    for plan in Plan::BOTH {
        for protocol in PROTOCOLS {
            let proto = number(protocol);
            for ends in [vec![plan.here(21), plan.here(22)], vec![plan.there(21)], vec![]] {
                node.services(vec![plan.service(7, protocol, ends)])?;
                let known = Packet::new(node.client(plan), plan.doors(7)[1], Body::opening(proto));
                node.send(Way::Arrive(Door::Tc), &known)?;
                // Counting them reads all buckets, which takes emulated machines long.
                let flows = node.datapath.flows();
                for to in plan.doors(7) {
                    for packet in [known.clone(), Packet::new(node.client(plan), to, Body::opening(proto))] {
                        let bytes = packet.clone().framed().bytes();
                        for program in ["explain_uplink", "explain_pod"] {
                            let ((_, out), counted) = node.counted(|node| node.alone(program, &bytes))?;
                            ensure!(out == bytes, "{program} changed {packet}");
                            ensure!(counted.is_empty(), "{program} counted {counted:?} for {packet}");
                        }
                    }
                }
                ensure!(node.datapath.flows() == flows, "explaining packets like {known} left a flow");
            }
        }
    }
    Ok(())
}
