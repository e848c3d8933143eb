//! Who reaches whom, by which address, and as whom: every sensible combination of client, server, kind of address, policy,
//! way and transport, over a network of three nodes that run the real daemon on manifests. Printed as a table.
//!
//! A part alone: the name of a test as argument.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use fairlead_tests::harness::dialogue::{PORT, Transport, has_sctp, once, ping, tcp};
use fairlead_tests::harness::lab::{FAMILIES, Family, Lab, Wiring, is_aside};
use fairlead_tests::harness::manifest::{End, service, slices, with_annotation, with_load_balancer, with_node_port};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::harness::suite;
use serde_json::{Value, json};

const NODES: [Wiring; 3] = [Wiring::Routed, Wiring::Routed, Wiring::Bridged];
/// Node of the client (or where a client outside comes in), and of the server.
const PLACES: [(u8, u8); 5] = [(1, 1), (1, 2), (1, 3), (3, 3), (3, 1)];
/// Pods of each node: one that serves, and one that asks.
const SERVING: usize = 0;
const ASKING: usize = 1;

fn main() -> ExitCode {
    if is_aside() {
        return ExitCode::SUCCESS;
    }
    suite::run(
        set_up,
        &[
            ("the_network_works_without_services", without_services),
            ("matrix_of_pods", |lab| matrix(lab, Client::Pod)),
            ("matrix_of_pods_that_bypass_the_hooks", |lab| matrix(lab, Client::Guest)),
            ("matrix_of_hosts", |lab| matrix(lab, Client::Host)),
            ("matrix_of_clients_outside", |lab| matrix(lab, Client::Outside)),
        ],
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// A pod, by sockets that the hooks see.
    Pod,
    /// A pod, by sockets that they do not see.
    Guest,
    Host,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    ClusterIp,
    NodePort,
    /// The NodePort of the server's node, asked by somebody on another.
    FarNodePort,
    LoadBalancer,
}

/// The variants of a Service that every server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Cluster,
    Ipip,
    L2,
    Local,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Cluster, Self::Ipip, Self::L2, Self::Local];

    fn policy(self) -> &'static str {
        if self == Self::Local { "Local" } else { "Cluster" }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pod => "pod",
            Self::Guest => "pod, bypassing",
            Self::Host => "host",
            Self::Outside => "outside",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::FarNodePort => "NodePort, far",
            Self::LoadBalancer => "LoadBalancer",
        })
    }
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    client: Client,
    at: u8,
    server: u8,
    address: Address,
    variant: Variant,
}

/// A number that no other variant of no other server has.
fn number(server: u8, variant: Variant) -> u8 {
    server * 10 + variant as u8
}

fn name(server: u8, variant: Variant) -> String {
    format!("n{server}-{variant:?}").to_lowercase()
}

fn set_up() -> Result<Lab> {
    let mut lab = Lab::new(&NODES, 2)?;
    for node in &lab.nodes {
        let server = &node.pods[SERVING];
        let ends = [End::new(server.addresses(), &node.name)];
        let objects: Vec<Value> = Variant::ALL
            .into_iter()
            .flat_map(|variant| {
                let mut objects = slices(&name(node.number, variant), &ends);
                objects.push(manifest(node.number, variant));
                objects
            })
            .collect();
        lab.manifests.put(&node.name, &objects)?;
    }
    // Other options for all daemons, to look at them by the same table.
    let more = std::env::var("FAIRLEAD_MATRIX_OPTIONS").unwrap_or_default();
    lab.start(&more.split_whitespace().collect::<Vec<_>>())?;
    Ok(lab)
}

fn manifest(server: u8, variant: Variant) -> Value {
    let number = number(server, variant);
    let addresses = FAMILIES.map(|family| family.cluster_ip(number.into()));
    let spec = json!({"internalTrafficPolicy": variant.policy(), "externalTrafficPolicy": variant.policy()});
    let service = service(&name(server, variant), &addresses, spec);
    let service = with_node_port(service, 30_000 + u16::from(number));
    let service = with_load_balancer(service, &FAMILIES.map(|family| family.load_balancer(number)));
    match variant {
        Variant::Cluster | Variant::Local => service,
        Variant::Ipip => with_annotation(service, "fairlead.io/dsr", "ipip"),
        Variant::L2 => with_annotation(service, "fairlead.io/dsr", "l2"),
    }
}

/// The rows of a client that make sense.
fn rows(client: Client) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, server) in PLACES {
        for address in [Address::ClusterIp, Address::NodePort, Address::FarNodePort, Address::LoadBalancer] {
            for variant in Variant::ALL {
                let row = Row { client, at, server, address, variant };
                if row.makes_sense() {
                    rows.push(row);
                }
            }
        }
    }
    rows
}

impl Row {
    fn makes_sense(&self) -> bool {
        let (far, outside) = (self.at != self.server, self.client == Client::Outside);
        if self.address == Address::FarNodePort && (!far || outside) {
            return false;
        }
        match self.variant {
            Variant::Cluster => true,
            // A way of packets from outside to another node.
            Variant::Ipip | Variant::L2 => far && outside && self.address != Address::ClusterIp,
            // Clients inside are bound by the internal policy alone.
            Variant::Local => {
                !far || self.address == Address::FarNodePort || (!outside && self.address != Address::ClusterIp)
            }
        }
    }

    fn target(&self, family: Family) -> SocketAddr {
        let number = number(self.server, self.variant);
        let node_port = 30_000 + u16::from(number);
        match self.address {
            Address::ClusterIp => (family.cluster_ip(number.into()), 80).into(),
            Address::NodePort => (family.node(self.at), node_port).into(),
            Address::FarNodePort => (family.node(self.server), node_port).into(),
            Address::LoadBalancer => (family.load_balancer(number), 80).into(),
        }
    }

    /// Whom the server must see.
    fn seen(&self, family: Family) -> IpAddr {
        let far = self.at != self.server;
        match self.client {
            // Asked from another node, a NodePort is outside the cluster, so its clients are masqueraded.
            Client::Pod | Client::Guest if self.address == Address::FarNodePort => family.node(self.at),
            Client::Pod | Client::Guest => family.pod(self.at, 12),
            Client::Host if far => family.node(self.at),
            Client::Host => family.gateway(self.at),
            Client::Outside if far && !self.returns_directly() => family.node(self.at),
            Client::Outside => family.client(self.at),
        }
    }

    /// Under a NodePort the server's node would not know a packet from its hardware address alone: the port counts on
    /// another node's address.
    fn returns_directly(&self) -> bool {
        match self.variant {
            Variant::Cluster | Variant::Local => false,
            Variant::Ipip => true,
            Variant::L2 => self.address == Address::LoadBalancer,
        }
    }

    fn seen_name(&self) -> String {
        match self.client {
            Client::Host => "the node".into(),
            _ if self.seen(Family::V4) == Family::V4.node(self.at) => format!("node n{}", self.at),
            _ => "itself".into(),
        }
    }

    fn place<'a>(&self, lab: &'a Lab) -> &'a Namespace {
        let node = lab.at(self.at);
        match self.client {
            Client::Pod => &node.pods[ASKING].net,
            Client::Guest => &node.pods[ASKING].bypass,
            Client::Host => &node.net,
            Client::Outside => lab.client(self.at),
        }
    }

    /// Asks by all of these, each of which must reach the right server and be seen as the right client.
    fn ask(&self, lab: &Lab, family: Family, transports: &[Transport]) -> Result<()> {
        let (target, expected) = (self.target(family), (self.server * 10 + 1, self.seen(family)));
        self.place(lab).run(|| {
            for transport in transports {
                let (id, seen) = once(*transport, target)?;
                ensure!((id, seen.ip()) == expected, "{id} saw {seen}, not {} {}", expected.0, expected.1);
            }
            Ok(())
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.variant {
            Variant::Ipip => "DSR, IPIP",
            Variant::L2 if self.returns_directly() => "DSR, L2",
            Variant::L2 => "L2 as SNAT",
            _ if self.client == Client::Outside && self.at != self.server => "SNAT",
            _ => "-",
        };
        let (at, server, policy) = (format!("n{}", self.at), format!("n{}", self.server), self.variant.policy());
        write!(f, "{:<14} {at:<3} {server:<6} {:<13} {policy:<8} {way:<10}", self.client, self.address)
    }
}

fn matrix(lab: &mut Lab, client: Client) -> Result<()> {
    let mut columns = vec![("TCP", vec![Transport::Tcp]), ("UDP", vec![Transport::Udp, Transport::UdpConnected])];
    if has_sctp() {
        columns.push(("SCTP", vec![Transport::Sctp]));
    } else {
        println!("SCTP is left out: this kernel does not have it");
    }
    let heads: String =
        columns.iter().map(|(name, _)| format!("{:<7}{:<7}", format!("{name}/4"), format!("{name}/6"))).collect();
    println!(
        "{:<14} {:<3} {:<6} {:<13} {:<8} {:<10} {heads}seen as",
        "client", "on", "server", "address", "policy", "way"
    );
    let mut wrong = Vec::new();
    let mut cells = 0;
    for row in rows(client) {
        let mut line = row.to_string();
        for ((name, transports), family) in columns.iter().flat_map(|column| FAMILIES.map(|family| (column, family))) {
            // The kernel calls no hook when an SCTP socket connects, and no interface sees what a host sends to itself.
            if client == Client::Host && *name == "SCTP" {
                line.push_str(" -     ");
                continue;
            }
            cells += 1;
            let verdict = match row.ask(lab, family, transports) {
                Ok(()) => "ok",
                Err(error) => {
                    wrong.push(format!("{row} {name} to {}: {error:#}", row.target(family)));
                    "WRONG"
                }
            };
            line.push_str(&format!(" {verdict:<6}"));
        }
        println!("{line} {}", row.seen_name());
    }
    ensure!(wrong.is_empty(), "{} of {cells} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    println!("{cells} cells");
    Ok(())
}

/// What the nodes' kernels do alone must work before a Service can.
fn without_services(lab: &mut Lab) -> Result<()> {
    for (at, server) in PLACES {
        for family in FAMILIES {
            let (asking, address) = (&lab.at(at).pods[ASKING], lab.at(server).pods[SERVING].address(family));
            for place in [&asking.net, &asking.bypass] {
                let (id, seen) = place.run(|| tcp((address, PORT).into()))?;
                ensure!(id == server * 10 + 1 && seen.ip() == asking.address(family), "{id} saw {seen}");
            }
            lab.at(at).net.run(|| ping(address))?;
        }
    }
    Ok(())
}
