//! kube-proxy's iptables mode: filter and nat chains, one rule per service in one chain, endpoints drawn by probability.

use std::fmt::Write;

use anyhow::Result;

use super::program;
use super::services::{CLUSTER, Entry, Spec, hash};
use crate::rig::node::Node;

/// With more endpoints than this kube-proxy leaves comments out.
const COMMENTED: usize = 1000;
const MARK: &str = "0x00004000";

/// Which of the kernel's tables the rules go into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    /// The older ones.
    Legacy,
    /// nftables'.
    Nft,
}

/// Puts the rules in force.
pub(super) fn program(node: &Node, spec: Spec, tables: Tables) -> Result<()> {
    program::feed(&node.net, tables.restore(), "iptables", &["-w", "5"], &rules(&spec.entries()))
}

impl Tables {
    /// The program that takes rules.
    pub(super) fn restore(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy-restore",
            Self::Nft => "iptables-nft-restore",
        }
    }
}

/// Input for `iptables-restore --noflush`, when one entry has changed: the chains that all entries share as a whole, of
/// the others only those of this entry.
pub(super) fn part(entries: &[Entry], changed: &Entry) -> String {
    let id = hash(&format!("{}{}", changed.name, changed.protocol));
    let of_endpoint =
        |endpoint| format!("KUBE-SEP-{}", hash(&format!("{}{}{endpoint}", changed.name, changed.protocol)));
    let mut own: Vec<String> = changed.endpoints.iter().map(of_endpoint).collect();
    own.extend([format!("KUBE-SVC-{id}"), format!("KUBE-EXT-{id}")]);
    let is_part = |line: &&str| {
        let chain = line.strip_prefix(':').or(line.strip_prefix("-A ")).and_then(|rest| rest.split(' ').next());
        chain.is_none_or(|chain| {
            let is_shared = chain.starts_with("KUBE-")
                && !["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-"].iter().any(|kind| chain.starts_with(kind));
            is_shared || own.iter().any(|own| own == chain)
        })
    };
    rules(entries).lines().filter(is_part).flat_map(|line| [line, "\n"]).collect()
}

/// Input for `iptables-restore`.
pub(super) fn rules(entries: &[Entry]) -> String {
    let mut text = String::from(FILTER);
    text.push_str(NAT_CHAINS);
    let endpoints: usize = entries.iter().map(|entry| entry.endpoints.len()).sum();
    let comment = |words: &str| {
        if endpoints > COMMENTED { String::new() } else { format!("-m comment --comment \"{words}\" ") }
    };
    let mut rules = String::new();
    let mut node_ports = String::new();
    for entry in entries {
        let Entry { name, vip, protocol, port, node_port, .. } = entry;
        let id = hash(&format!("{name}{protocol}"));
        let (service, external) = (format!("KUBE-SVC-{id}"), format!("KUBE-EXT-{id}"));
        let cluster_ip = comment(&format!("{name} cluster IP"));
        let to = format!("{cluster_ip}-m {protocol} -p {protocol} -d {vip} --dport {port}");
        let _ = writeln!(text, ":{service} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-SERVICES {to} -j {service}");
        if let Some(node_port) = node_port {
            let _ = writeln!(text, ":{external} - [0:0]");
            let (named, masquerade) =
                (comment(name), comment(&format!("masquerade traffic for {name} external destinations")));
            let _ = writeln!(
                node_ports,
                "-A KUBE-NODEPORTS {named}-m {protocol} -p {protocol} --dport {node_port} -j {external}"
            );
            let _ = writeln!(rules, "-A {external} {masquerade}-j KUBE-MARK-MASQ\n-A {external} -j {service}");
        }
        let _ = writeln!(rules, "-A {service} {to} ! -s {CLUSTER} -j KUBE-MARK-MASQ");
        for (place, endpoint) in entry.endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{}", hash(&format!("{name}{protocol}{endpoint}")));
            let left = entry.endpoints.len() - place;
            let share = if left == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            };
            let _ = writeln!(text, ":{chain} - [0:0]");
            let _ = writeln!(rules, "-A {service} {}{share}-j {chain}", comment(&format!("{name} -> {endpoint}")));
            let _ = writeln!(rules, "-A {chain} {}-s {} -j KUBE-MARK-MASQ", comment(name), endpoint.ip());
            let _ = writeln!(
                rules,
                "-A {chain} {}-m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}",
                comment(name)
            );
        }
    }
    text.push_str(NAT_TOP);
    text.push_str(&rules);
    text.push_str(&node_ports);
    text.push_str(LAST);
    text.push_str("COMMIT\n");
    text.replace("MARK_BIT", MARK)
}

const FILTER: &str = r#"*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark MARK_BIT/MARK_BIT -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

const NAT_CHAINS: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const NAT_TOP: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark MARK_BIT/MARK_BIT -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark MARK_BIT
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark MARK_BIT
"#;

const LAST: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(services: u32, endpoints: u32) -> String {
        rules(&Spec { services, endpoints }.entries())
    }

    #[test]
    fn every_chain_that_is_jumped_to_is_declared_once() {
        let text = of(3, 3);
        let nat = text.split("*nat").nth(1).unwrap();
        let mut declared: Vec<&str> =
            nat.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
        let jumped = nat.lines().filter_map(|line| line.rsplit_once("-j KUBE-").map(|(_, chain)| chain));
        for chain in jumped {
            assert!(declared.contains(&format!("KUBE-{chain}").as_str()), "{chain}");
        }
        let all = declared.len();
        declared.sort_unstable();
        declared.dedup();
        assert_eq!(declared.len(), all);
    }

    #[test]
    fn endpoints_are_as_likely_as_each_other() {
        let text = of(1, 4);
        for share in ["0.2500000000", "0.3333333333", "0.5000000000"] {
            assert!(text.contains(&format!("--probability {share}")), "{share}");
        }
    }

    #[test]
    fn a_part_has_all_services_and_the_chains_of_one() {
        let entries = Spec { services: 50, endpoints: 2 }.entries();
        let text = part(&entries, &entries[7]);
        assert_eq!(text.matches("-A KUBE-SERVICES ").count(), entries.len() + 1);
        assert_eq!(text.matches("\n:KUBE-SVC-").count(), 1);
        assert_eq!(text.matches("\n:KUBE-SEP-").count(), 2);
        assert_eq!(text.matches("-j DNAT").count(), 2);
        // What `--noflush` would add once more is not in it.
        assert!(!text.contains("-A PREROUTING") && !text.contains(":INPUT") && text.matches("COMMIT").count() == 2);
    }

    #[test]
    fn comments_go_where_there_are_many_endpoints() {
        assert!(of(400, 2).contains("cluster IP"));
        let text = of(600, 2);
        assert!(!text.contains("cluster IP") && text.contains("kubernetes service portals"));
    }

    #[test]
    fn node_ports_come_last_and_are_masqueraded() {
        let text = of(2, 2);
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0] == "COMMIT" && last[1].ends_with("--dst-type LOCAL -j KUBE-NODEPORTS"), "{last:?}");
        assert!(text.contains("--dport 30080 -j KUBE-EXT-") && text.contains("MASQUERADE --random-fully"));
    }
}
