//! What a run can be told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// Something that brings traffic to the endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Peer {
    /// No service at all: the client knows the endpoint's address.
    Direct,
    /// The same on a node whose kernel tracks connections: what every netfilter proxy pays before it does anything.
    DirectCt,
    /// The same on a node with tc programs that do nothing where ours are: what every proxy pays that is one of these.
    DirectTc,
    /// kube-proxy's iptables mode, in the kernel's older tables.
    Iptables,
    /// The same on nftables' tables.
    IptablesNft,
    /// kube-proxy's nftables mode.
    Nftables,
    /// kube-proxy's IPVS mode.
    Ipvs,
    /// Ours, for a client that knows the endpoint's address: what it costs that our programs are there.
    FairleadDirect,
    /// Ours, for a pod whose sockets are translated when they connect.
    FairleadSocket,
    /// Ours, for a pod whose sockets the hooks do not see: every packet is translated at its interface.
    FairleadPacket,
    /// Ours, for a client outside: every packet is translated by XDP at the uplink.
    FairleadXdp,
}

impl Peer {
    /// As options, tables and results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectCt => "direct-ct",
            Self::DirectTc => "direct-tc",
            Self::Iptables => "iptables",
            Self::IptablesNft => "iptables-nft",
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
            Self::FairleadDirect => "fairlead-direct",
            Self::FairleadSocket => "fairlead-socket",
            Self::FairleadPacket => "fairlead-packet",
            Self::FairleadXdp => "fairlead-xdp",
        }
    }

    /// Its clients know the endpoint's address.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectCt | Self::DirectTc | Self::FairleadDirect)
    }

    /// It is ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::FairleadDirect | Self::FairleadSocket | Self::FairleadPacket | Self::FairleadXdp)
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Number of services at which the nftables peer locks cores up in the kernel while it is programmed.
const SLOW_NFTABLES: u32 = 5000;

/// How a run is made.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Peers to measure, side by side.
    #[arg(long, value_name = "PEER,…", value_delimiter = ',', default_values_t = [
        Peer::Direct, Peer::DirectCt, Peer::DirectTc, Peer::Iptables, Peer::IptablesNft, Peer::Nftables, Peer::Ipvs,
        Peer::FairleadDirect, Peer::FairleadSocket, Peer::FairleadPacket, Peer::FairleadXdp,
    ])]
    pub peers: Vec<Peer>,
    /// Numbers of services to measure each peer with; the one measured stands last [default: 1,100,1000,10000; with
    /// --quick 1,1000].
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub services: Vec<u32>,
    /// Endpoints of each service.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub endpoints: u32,
    /// Workloads to run [default: all]; `--list` names them.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Rounds; each visits every peer once, in random order [default: 9; with --quick 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Length of one sample [default: 0.5; with --quick what two minutes allow].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Be done in under two minutes: fewer services, fewer and shorter rounds.
    #[arg(long)]
    pub quick: bool,
    /// Measure nftables with 5,000 services and more, too: the kernel needs up to a minute to take them, and warns of
    /// locked-up cores meanwhile.
    #[arg(long)]
    pub slow_peers: bool,
    /// Put results.json and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What is printed at the end.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Of the random order of rounds [default: from the clock].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Core on which client, node and server share their work [default: the last one]; what drives them runs on others.
    #[arg(long, value_name = "CPU")]
    pub core: Option<usize>,
    /// Name the workloads and end.
    #[arg(long)]
    pub list: bool,
}

/// What is printed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For machines: what results.json holds.
    Json,
}

impl Options {
    /// Numbers of services.
    pub fn services(&self) -> Vec<u32> {
        match (self.services.is_empty(), self.quick) {
            (false, _) => self.services.clone(),
            (true, true) => vec![1, 1000],
            (true, false) => vec![1, 100, 1000, 10_000],
        }
    }

    /// Rounds that count.
    pub fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 5 } else { 9 }, |rounds| rounds as usize)
    }

    /// Whether this workload is to be run.
    pub fn wants(&self, workload: &str) -> bool {
        self.workloads.is_empty() || self.workloads.iter().any(|name| name == workload)
    }

    /// Why a peer is not measured with this many services although the machine could.
    pub fn refusal(&self, peer: Peer, services: u32) -> Option<String> {
        let is_slow = peer == Peer::Nftables && services >= SLOW_NFTABLES && !self.slow_peers;
        is_slow
            .then(|| "the kernel locks cores up while it takes them, for up to a minute; --slow-peers does it".into())
    }

    /// As they are recorded with the results.
    pub fn record(&self) -> BTreeMap<String, String> {
        let list = |items: Vec<String>| items.join(",");
        let peers = list(self.peers.iter().map(|peer| peer.name().to_owned()).collect());
        let services = list(self.services().iter().map(u32::to_string).collect());
        let workloads = if self.workloads.is_empty() { "all".to_owned() } else { list(self.workloads.clone()) };
        let pairs = [
            ("peers", peers),
            ("services", services),
            ("endpoints", self.endpoints.to_string()),
            ("workloads", workloads),
            ("rounds", self.rounds().to_string()),
            ("quick", self.quick.to_string()),
            ("slow-peers", self.slow_peers.to_string()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.01..=60.0).contains(&seconds) {
        return Err("between 0.01 and 60".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
