//! The data path's flags, the same for a whole node and for the service proxy alone.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ArgAction;
use fairlead_datapath::Config;
use fairlead_source::Dsr;
use ipnet::IpNet;

/// How services are forwarded on this node.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Data path")]
pub(crate) struct DatapathArguments {
    /// Interface to the outside, where NodePorts are answered and pods are masqueraded; the default route's when absent.
    /// One that is not there yet is used once it appears. May be repeated.
    #[arg(long = "uplink", value_name = "IFACE")]
    uplinks: Vec<String>,
    /// Address the node is reached by, besides those of its uplinks. May be repeated, both families.
    #[arg(long = "node-ip", value_name = "ADDR")]
    pub(super) node_ips: Vec<IpAddr>,
    /// cgroup v2 directory whose processes' connections are translated; the hierarchy's root when absent.
    #[arg(long, value_name = "DIR")]
    pub(super) cgroup: Option<PathBuf>,
    /// Addresses of all pods of the cluster, one network per family. Without it the proxy masquerades nothing.
    #[arg(long = "cluster-cidr", value_name = "CIDR")]
    pub(super) cluster_cidrs: Vec<IpNet>,
    /// Answer NodePorts only on addresses in this network, or (`primary`) only on those of --node-ip. May be repeated.
    #[arg(long = "nodeport-addresses", value_name = "CIDR|primary")]
    nodeport_addresses: Vec<NodePortAddresses>,
    /// Answer NodePorts on 127.0.0.1 and ::1 too, for processes of this node.
    #[arg(long)]
    nodeport_localhost: bool,
    /// Answer on Services' externalIPs. Whoever may create a Service can then take any address over (CVE-2020-8554).
    #[arg(long)]
    external_ips: bool,
    /// Direct server return, where a Service does not say: endpoints on other nodes answer clients themselves.
    #[arg(long, value_enum, default_value = "off")]
    dsr: DsrArgument,
    /// Another address to translate sources to, besides each uplink's first. May be repeated.
    #[arg(long = "snat-address", value_name = "ADDR")]
    snat_addresses: Vec<IpAddr>,
    /// Network outside the cluster that pods reach under their own address. May be repeated.
    #[arg(long = "non-masquerade-cidr", value_name = "CIDR")]
    non_masquerade_cidrs: Vec<IpNet>,
    /// Whether pods leave the cluster under the node's address.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    masquerade: bool,
    /// Redirect packets between uplinks and pods past the host's stack and its netfilter rules.
    #[arg(long)]
    redirect: bool,
    /// How long connections to a removed endpoint go on before they are reset.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
    /// Where /healthz and /livez are answered, as kube-proxy does; `off` for nowhere.
    #[arg(long, value_name = "ADDR:PORT|off", default_value = "0.0.0.0:10256")]
    pub(super) healthz_bind: HealthzBind,
    /// Capacity for addresses and ports of services, per family.
    #[arg(long, value_name = "COUNT")]
    max_services: Option<u32>,
    /// Capacity for endpoints.
    #[arg(long, value_name = "COUNT")]
    max_endpoints: Option<u32>,
    /// Capacity for choices: a service takes one per endpoint, and a ring if it is reachable from outside.
    #[arg(long, value_name = "COUNT")]
    max_slots: Option<u32>,
    /// Capacity for flows, per family; a translated connection takes two.
    #[arg(long, value_name = "COUNT")]
    max_flows: Option<u32>,
}

impl DatapathArguments {
    /// For the data path; refuses what makes no sense together.
    pub(super) fn config(&self, bpffs: PathBuf, cgroup: PathBuf) -> Result<Config> {
        for family in [true, false] {
            let count = self.cluster_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == family).count();
            let name = if family { "IPv4" } else { "IPv6" };
            ensure!(count <= 1, "--cluster-cidr names {count} {name} networks: at most one per family");
        }
        let mut config = Config::new(bpffs, cgroup);
        config.node_addresses.clone_from(&self.node_ips);
        config.node_port_networks = self.node_port_networks()?;
        config.node_port_loopback = self.nodeport_localhost;
        config.external_ips = self.external_ips;
        config.cluster_cidrs.clone_from(&self.cluster_cidrs);
        config.masquerade = self.masquerade;
        config.non_masquerade.clone_from(&self.non_masquerade_cidrs);
        config.source_addresses.clone_from(&self.snat_addresses);
        config.dsr = self.dsr.into();
        config.redirect = self.redirect;
        config.drain = self.drain_timeout;
        config.services = self.max_services.unwrap_or(config.services);
        config.backends = self.max_endpoints.unwrap_or(config.backends);
        config.slots = self.max_slots.unwrap_or(config.slots);
        config.flows = self.max_flows.unwrap_or(config.flows);
        Ok(config)
    }

    /// The uplinks named, or the default route's interface.
    pub(super) fn uplinks(&self) -> Result<Vec<String>> {
        if !self.uplinks.is_empty() {
            return Ok(self.uplinks.clone());
        }
        let found = fairlead_network::default_uplink().context("cannot look for the default route")?;
        let found =
            found.context("this machine has no default route, so name the interface to the outside with --uplink")?;
        Ok(vec![found])
    }

    /// Whether NodePorts answer only on some of the node's addresses.
    pub(super) fn filters_node_ports(&self) -> bool {
        !self.nodeport_addresses.is_empty()
    }

    fn node_port_networks(&self) -> Result<Vec<IpNet>> {
        let mut networks = Vec::new();
        for addresses in &self.nodeport_addresses {
            match addresses {
                NodePortAddresses::Network(network) => networks.push(*network),
                NodePortAddresses::Primary if self.node_ips.is_empty() => {
                    bail!("--nodeport-addresses=primary means the addresses of --node-ip, of which there is none")
                }
                NodePortAddresses::Primary => networks.extend(self.node_ips.iter().copied().map(IpNet::from)),
            }
        }
        Ok(networks)
    }
}

#[derive(Clone, Copy, Debug)]
enum NodePortAddresses {
    Primary,
    Network(IpNet),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            _ => {
                text.parse().map(Self::Network).map_err(|_| "neither a network such as 10.0.0.0/8 nor `primary`".into())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DsrArgument {
    /// The source is translated, and answers come back through this node.
    Off,
    /// Encapsulated, IP in IP.
    Ipip,
    /// By the hardware address of the endpoint's node, on the same link.
    L2,
}

impl From<DsrArgument> for Dsr {
    fn from(argument: DsrArgument) -> Self {
        match argument {
            DsrArgument::Off => Self::Off,
            DsrArgument::Ipip => Self::Ipip,
            DsrArgument::L2 => Self::L2,
        }
    }
}

/// Where health is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct HealthzBind(pub(super) Option<SocketAddr>);

impl FromStr for HealthzBind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|address| Self(Some(address))).map_err(|_| "neither ADDR:PORT nor `off`".into()),
        }
    }
}

/// `30s`, `500ms`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| millis != 0);
    let total = number.and_then(|number| number.checked_mul(millis));
    total.map(Duration::from_millis).ok_or_else(|| "no time such as 30s, 500ms, 2m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["30", "s", "", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn primary_node_ports_need_an_address() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            datapath: DatapathArguments,
        }
        let config = |line: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from(["x"].iter().chain(line)).map_err(|e| e.to_string())?;
            line.datapath.config("/b".into(), "/c".into()).map_err(|e| e.to_string())
        };
        let primary = config(&["--node-ip=10.0.0.1", "--node-ip=fd00::1", "--nodeport-addresses=primary"]).unwrap();
        assert_eq!(primary.node_port_networks, ["10.0.0.1/32".parse().unwrap(), "fd00::1/128".parse().unwrap()]);
        assert!(config(&["--nodeport-addresses=primary"]).unwrap_err().contains("--node-ip"));
        assert!(config(&["--cluster-cidr=10.0.0.0/8", "--cluster-cidr=11.0.0.0/8"]).unwrap_err().contains("IPv4"));
        assert!(config(&[]).unwrap().cluster_cidrs.is_empty(), "a proxy knows no pods unless told");
        assert!(!config(&["--masquerade=false"]).unwrap().masquerade);
        assert!(config(&["--masquerade"]).unwrap().masquerade);
    }
}
