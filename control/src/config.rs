//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fairlead_apiserver::{AddressRange, PortRange};
use ipnet::Ipv4Net;

/// Fairlead's control plane: an API server for unmodified kubectl, scheduler, controllers, and the nodes' feed.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the control plane until SIGTERM.
    Run(Box<Options>),
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the store and the cluster's keys are; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where the API listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6443")]
    pub(crate) bind: SocketAddr,
    /// Under which address nodes and pods reach this server [default: the one towards the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Where ClusterIPs come from.
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    pub(crate) service_cidr: AddressRange,
    /// Where nodes' pod ranges come from, a /24 each.
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub(crate) cluster_cidr: Ipv4Net,
    /// Where NodePorts come from.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub(crate) node_port_range: PortRange,
    /// Writes an administrator's kubeconfig there.
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Writes the credentials of a node into a directory; may be repeated.
    #[arg(long, value_name = "NAME,IP,DIR")]
    pub(crate) issue_node: Vec<IssueNode>,
    /// A controller that shall not run; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) disable_controller: Vec<String>,
    /// How the log is written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A node to make credentials for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssueNode {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) dir: PathBuf,
}

impl FromStr for IssueNode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ',');
        let (Some(name), Some(ip), Some(dir)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("{text:?} is not NAME,IP,DIR"));
        };
        let ip = ip.parse().map_err(|_| format!("{ip:?} is not an IP address"))?;
        if name.is_empty() || dir.is_empty() {
            return Err(format!("{text:?} is not NAME,IP,DIR"));
        }
        Ok(Self { name: name.to_owned(), ip, dir: dir.into() })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nodes_to_issue() {
        let node: IssueNode = "a,192.0.2.1,/x,y".parse().unwrap();
        assert_eq!(node, IssueNode { name: "a".into(), ip: "192.0.2.1".parse().unwrap(), dir: "/x,y".into() });
        for bad in ["a", "a,b,/x", ",192.0.2.1,/x", "a,192.0.2.1,"] {
            assert!(bad.parse::<IssueNode>().is_err(), "{bad}");
        }
    }
}
