//! The compiled programs under BPF_PROG_TEST_RUN: packet in, verdict, packet out, counters.
//!
//! One row per feature and per awkward packet, in a file per subject; `random` drives whatever else there is through the
//! programs and a model of the rules.

#[path = "packet/awkward.rs"]
mod awkward;
#[path = "packet/choice.rs"]
mod choice;
#[path = "packet/errors.rs"]
mod errors;
#[path = "packet/forward.rs"]
mod forward;
#[path = "packet/life.rs"]
mod life;
#[path = "packet/load.rs"]
mod load;
#[path = "packet/lost.rs"]
mod lost;
#[path = "packet/random.rs"]
mod random;
#[path = "packet/refuse.rs"]
mod refuse;
#[path = "packet/services.rs"]
mod services;
#[path = "packet/slow.rs"]
mod slow;
#[path = "packet/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::process::ExitCode;

use anyhow::Result;
use fairlead_tests::harness::packet::node::{Node, Shape};
use fairlead_tests::harness::suite::{self, Case};

/// How a node is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// External IPs answer; packets to pods take the host's path.
    Plain,
    /// External IPs do not; packets are redirected between uplink and pods, past the host's stack.
    Redirect,
    /// Nothing is masqueraded, and NodePorts answer on no address.
    Bare,
    /// Its uplink has no IPv6 address, and no way leads anywhere but to its neighbours.
    Poor,
}

/// The nodes of these tests, each made when it is first asked for.
#[derive(Debug, Default)]
struct Subject {
    nodes: BTreeMap<Kind, Node>,
}

impl Subject {
    /// A node of this kind, without services, with the calling thread in it.
    fn node(&mut self, kind: Kind) -> Result<&mut Node> {
        let node = match self.nodes.entry(kind) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(room) => room.insert(make(kind)?),
        };
        node.enter()?;
        node.services(Vec::new())?;
        Ok(node)
    }

    fn plain(&mut self) -> Result<&mut Node> {
        self.node(Kind::Plain)
    }
}

fn make(kind: Kind) -> Result<Node> {
    let shape = if kind == Kind::Poor { Shape::Poor } else { Shape::Usual };
    Node::new(shape, |config| match kind {
        Kind::Plain | Kind::Poor => config.external_ips = true,
        Kind::Redirect => config.redirect = true,
        Kind::Bare => {
            config.masquerade = false;
            config.node_port_networks = vec!["172.31.0.0/16".parse().expect("a network")];
        }
    })
}

fn main() -> ExitCode {
    let suites: [&[Case<Subject>]; 12] = [
        load::CASES,
        services::CASES,
        refuse::CASES,
        choice::CASES,
        forward::CASES,
        source::CASES,
        life::CASES,
        lost::CASES,
        awkward::CASES,
        errors::CASES,
        slow::CASES,
        random::CASES,
    ];
    suite::run(|| Ok(Subject::default()), &suites.concat())
}
