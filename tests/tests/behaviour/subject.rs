//! The network that all tests here share, and Services on it.
//!
//! Node 1 has every option switched on that must be asked for, node 2 none.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::dialogue::{Seen, tcp};
use fairlead_tests::harness::lab::{FAMILIES, Family, Lab, Pod, Wiring};
use fairlead_tests::harness::manifest::{End, service, slices, with_load_balancer, with_node_port};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;
use serde_json::{Value, json};

/// How long a change may take to be in force. Far more than it needs: machines are slow.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long connections of a removed endpoint go on.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// Long enough for an answer, if there is to be one.
const SILENCE: Duration = Duration::from_millis(400);

/// What node 1 is started with, besides the grace.
pub(crate) const OPTIONS: [&str; 5] = [
    "--nodeport-localhost",
    "--external-ips",
    "--snat-address=192.0.2.71",
    "--snat-address=2001:db8::71",
    // Comes later.
    "--uplink=late",
];

pub(crate) struct Subject {
    pub(crate) lab: Lab,
}

impl Subject {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new(&[Wiring::Routed, Wiring::Bridged], 3)?;
        // More addresses to translate sources to must be the node's own.
        lab.at(1).net.address("eth0", "192.0.2.71".parse::<IpAddr>()?, 24)?;
        lab.at(1).net.address("eth0", "2001:db8::71".parse::<IpAddr>()?, 64)?;
        lab.write_nodes()?;
        let mut subject = Self { lab };
        subject.start()?;
        Ok(subject)
    }

    fn start(&mut self) -> Result<()> {
        let exclusions =
            FAMILIES.map(|family| format!("--non-masquerade-cidr={}/{}", family.client(2), family.alone()));
        // The second uplink comes later.
        let options: Vec<&str> = ["--uplink=eth1"].into_iter().chain(exclusions.iter().map(String::as_str)).collect();
        self.lab.start_one(1, &with_grace(&OPTIONS))?;
        self.lab.start_one(2, &with_grace(&options))
    }

    /// A test whose failure is not to be the next one's.
    pub(crate) fn afresh(&mut self, test: fn(&mut Self) -> Result<()>) -> Result<()> {
        let done = test(self);
        if done.is_err() {
            for file in fs::read_dir(self.lab.manifests.dir())?.flatten() {
                if file.file_name() != "nodes.json" {
                    fs::remove_file(file.path())?;
                }
            }
            for number in [1, 2] {
                // It may be dead already.
                let _ = self.lab.at_mut(number).kill();
            }
            self.start()?;
        }
        done
    }

    /// The pod with this number: `10 * node + 1, 2, 3`.
    pub(crate) fn pod(&self, id: u8) -> &Pod {
        &self.lab.at(id / 10).pods[usize::from(id % 10) - 1]
    }

    /// A ready endpoint on this pod.
    pub(crate) fn end(&self, id: u8) -> End {
        End::new(self.pod(id).addresses(), &self.lab.at(id / 10).name)
    }

    /// Publishes a Service of this number on all kinds of addresses, and waits until both nodes have it.
    pub(crate) fn publish(&self, number: u8, spec: Value, ends: &[u8]) -> Result<Front> {
        let front = self.write(number, spec, &ends.iter().map(|id| self.end(*id)).collect::<Vec<_>>())?;
        self.in_force(front, ends)?;
        Ok(front)
    }

    /// Writes the manifests of a Service, without waiting.
    pub(crate) fn write(&self, number: u8, spec: Value, ends: &[End]) -> Result<Front> {
        let front = Front(number);
        let mut objects = slices(&front.name(), ends);
        objects.push(front.manifest(spec));
        self.lab.manifests.put(&front.name(), &objects)?;
        Ok(front)
    }

    /// Waits until new connections from both nodes go to these pods and to no others.
    pub(crate) fn in_force(&self, front: Front, ends: &[u8]) -> Result<()> {
        let wanted: BTreeSet<u8> = ends.iter().copied().collect();
        for (node, family) in self.lab.nodes.iter().flat_map(|node| FAMILIES.map(|family| (node, family))) {
            let probe = || {
                let seen: BTreeSet<u8> =
                    node.net.run(|| (0..4 * ends.len()).map(|_| Ok(tcp(front.cluster_ip(family))?.0)).collect())?;
                ensure!(seen == wanted, "{seen:?} answered, not {wanted:?}");
                Ok(())
            };
            let what = format!("{} on {} by {family:?}", front.name(), node.name);
            wait_for(&what, SOON, probe).with_context(|| node.said())?;
        }
        Ok(())
    }

    /// Takes a Service away again.
    pub(crate) fn withdraw(&self, front: Front) -> Result<()> {
        self.lab.manifests.remove(&front.name())
    }
}

/// The same with the grace all nodes have.
pub(crate) fn with_grace<'a>(options: &[&'a str]) -> Vec<&'a str> {
    ["--drain-timeout", "3s"].into_iter().chain(options.iter().copied()).collect()
}

/// A Service and where it is reached.
#[derive(Clone, Copy)]
pub(crate) struct Front(pub(crate) u8);

impl Front {
    pub(crate) fn name(self) -> String {
        format!("s{}", self.0)
    }

    pub(crate) fn cluster_ip(self, family: Family) -> SocketAddr {
        (family.cluster_ip(self.0.into()), 80).into()
    }

    pub(crate) fn node_port(self, family: Family, node: u8) -> SocketAddr {
        (family.node(node), self.port()).into()
    }

    pub(crate) fn load_balancer(self, family: Family) -> SocketAddr {
        (family.load_balancer(self.0), 80).into()
    }

    pub(crate) fn port(self) -> u16 {
        30_000 + u16::from(self.0)
    }

    pub(crate) fn manifest(self, spec: Value) -> Value {
        let service = service(&self.name(), &FAMILIES.map(|family| family.cluster_ip(self.0.into())), spec);
        let service = with_node_port(service, self.port());
        with_load_balancer(service, &FAMILIES.map(|family| family.load_balancer(self.0)))
    }
}

/// No particular specification.
pub(crate) fn plain() -> Value {
    json!({})
}

/// The answer must be this server's, to this client.
pub(crate) fn seen_as(seen: Seen, id: u8, client: IpAddr) -> Result<()> {
    ensure!((seen.0, seen.1.ip()) == (id, client), "{} saw {}, not {id} {client}", seen.0, seen.1);
    Ok(())
}

/// How an attempt to connect ends that is not to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Refused,
    Silence,
    Success,
}

/// Tries to connect and says how that ended.
pub(crate) fn attempt(place: &Namespace, to: SocketAddr) -> Result<Ending> {
    use std::io::ErrorKind::{ConnectionRefused, PermissionDenied, TimedOut};
    place.run(|| match TcpStream::connect_timeout(&to, SILENCE) {
        Ok(_) => Ok(Ending::Success),
        // Kernels before 5.18 say that a hook forbids it, whatever the hook means.
        Err(error) if matches!(error.kind(), ConnectionRefused | PermissionDenied) => Ok(Ending::Refused),
        Err(error) if error.kind() == TimedOut => Ok(Ending::Silence),
        Err(error) => Err(error).with_context(|| format!("{to} ended strangely")),
    })
}

/// The attempt must end so.
pub(crate) fn ends(place: &Namespace, to: SocketAddr, ending: Ending) -> Result<()> {
    let seen = attempt(place, to)?;
    ensure!(seen == ending, "connecting to {to} ended in {seen:?}, not {ending:?}");
    Ok(())
}
