//! What a peer is handed when services change: all of them at once, or one endpoint of one of them, as kube-proxy hands it.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};

use super::iptables::{self, Tables};
use super::services::{Entry, Spec};
use super::{Proxy, nftables, program};
use crate::rig::namespace::Namespace;

/// Input for a peer's program.
#[derive(Debug)]
pub(crate) struct Rules {
    program: &'static str,
    package: &'static str,
    /// Of its command line, for everything and for a part.
    arguments: [&'static [&'static str]; 2],
    all: String,
    /// The last endpoint of a service becomes another one, and the one it was.
    parts: [String; 2],
}

impl Rules {
    /// For so many services. The one that changes stands in the middle.
    pub(crate) fn new(proxy: Proxy, spec: Spec) -> Result<Self> {
        let entries = spec.entries();
        let place = entries.len() / 2;
        let mut changed = entries.clone();
        let other = spec.elsewhere(spec.services * 2, spec.endpoints - 1);
        set_last(changed.get_mut(place).context("there are services")?, other);
        let (before, after) = (&entries[place], &changed[place]);
        let of_tables = |tables: Tables| Self {
            program: tables.restore(),
            package: "iptables",
            arguments: [&["-w", "5"], &["-w", "5", "--noflush", "--counters"]],
            all: iptables::rules(&entries),
            parts: [iptables::part(&changed, after), iptables::part(&entries, before)],
        };
        Ok(match proxy {
            Proxy::Iptables => of_tables(Tables::Legacy),
            Proxy::IptablesNft => of_tables(Tables::Nft),
            Proxy::Nftables => Self {
                program: "nft",
                package: "nftables",
                arguments: [&["-f", "-"]; 2],
                all: nftables::rules(&entries),
                parts: [nftables::part(before, after), nftables::part(after, before)],
            },
            Proxy::None | Proxy::Conntrack | Proxy::Empty | Proxy::Ipvs | Proxy::Ours => bail!("it takes no rules"),
        })
    }

    /// Everything, into a namespace that has nothing yet.
    pub(crate) fn all(&self, net: &Namespace) -> Result<()> {
        program::feed(net, self.program, self.package, self.arguments[0], &self.all)
    }

    /// One endpoint. Turns alternate.
    pub(crate) fn part(&self, net: &Namespace, turn: usize) -> Result<()> {
        program::feed(net, self.program, self.package, self.arguments[1], &self.parts[turn % 2])
    }
}

fn set_last(entry: &mut Entry, endpoint: SocketAddrV4) {
    if let Some(last) = entry.endpoints.last_mut() {
        *last = endpoint;
    }
}
