//! kube-proxy's nftables mode: one map from address, protocol and port to a service's chain, in which an endpoint is drawn
//! from another map by a random number.

use std::fmt::Write;
use std::net::SocketAddrV4;

use anyhow::Result;

use super::program;
use super::services::{CLUSTER, Entry, SERVICES, Spec, hash};
use crate::rig::node::{Node, Side};

const TABLE: &str = "ip kube-proxy";

/// Puts the rules in force.
pub(super) fn program(node: &Node, spec: Spec) -> Result<()> {
    program::feed(&node.net, "nft", "nftables", &["-f", "-"], &rules(&spec.entries()))
}

/// Input for `nft -f` when the last endpoint of an entry has become another one.
pub(super) fn part(before: &Entry, after: &Entry) -> String {
    let Entry { name, vip, protocol, .. } = after;
    let service = service_chain(after);
    let (Some(old), Some(new)) = (before.endpoints.last(), after.endpoints.last()) else { return String::new() };
    let (gone, added) = (endpoint_chain(name, protocol, old), endpoint_chain(name, protocol, new));
    let choices: Vec<String> = after
        .endpoints
        .iter()
        .enumerate()
        .map(|(place, endpoint)| format!("{place} : goto {}", endpoint_chain(name, protocol, endpoint)))
        .collect();
    format!(
        "add chain {TABLE} {added}\nflush chain {TABLE} {added}\n\
         add rule {TABLE} {added} ip saddr {} jump mark-for-masquerade\n\
         add rule {TABLE} {added} meta l4proto {protocol} dnat to {new}\n\
         flush chain {TABLE} {service}\n\
         add rule {TABLE} {service} ip daddr {vip} ip saddr != {CLUSTER} jump mark-for-masquerade\n\
         add rule {TABLE} {service} numgen random mod {} vmap {{ {} }}\n\
         flush chain {TABLE} {gone}\ndelete chain {TABLE} {gone}\n",
        new.ip(),
        choices.len(),
        choices.join(" , ")
    )
}

fn path(name: &str, protocol: &str) -> String {
    name.replacen(':', &format!("/{protocol}/"), 1)
}

fn service_chain(entry: &Entry) -> String {
    format!("service-{}-{}", &hash(&entry.name)[..8], path(&entry.name, entry.protocol))
}

fn endpoint_chain(name: &str, protocol: &str, endpoint: &SocketAddrV4) -> String {
    let id = &hash(&format!("{name}{}", endpoint.ip()))[..8];
    format!("endpoint-{id}-{}__{}/{}", path(name, protocol), endpoint.ip(), endpoint.port())
}

/// Input for `nft -f`: one transaction.
pub(super) fn rules(entries: &[Entry]) -> String {
    let mut text = BASE
        .replace("TABLE", TABLE)
        .replace("SERVICES", SERVICES)
        .replace("NODE_ADDRESS", &Side::Outside.gateway().to_string());
    for entry in entries {
        let Entry { name, vip, protocol, port, node_port, .. } = entry;
        let service = service_chain(entry);
        let external = format!("external-{}-{}", &hash(name)[..8], path(name, protocol));
        let endpoints: Vec<(String, String)> = entry
            .endpoints
            .iter()
            .map(|endpoint| (endpoint_chain(name, protocol, endpoint), endpoint.to_string()))
            .collect();
        let _ = writeln!(text, "add chain {TABLE} {service}");
        for (chain, _) in &endpoints {
            let _ = writeln!(text, "add chain {TABLE} {chain}");
        }
        let choices: Vec<String> =
            endpoints.iter().enumerate().map(|(place, (chain, _))| format!("{place} : goto {chain}")).collect();
        let _ = writeln!(
            text,
            "add rule {TABLE} {service} ip daddr {vip} ip saddr != {CLUSTER} jump mark-for-masquerade\n\
             add rule {TABLE} {service} numgen random mod {} vmap {{ {} }}",
            choices.len(),
            choices.join(" , ")
        );
        if let Some(node_port) = node_port {
            let _ = writeln!(
                text,
                "add chain {TABLE} {external}\n\
                 add rule {TABLE} {external} jump mark-for-masquerade\n\
                 add rule {TABLE} {external} goto {service}\n\
                 add element {TABLE} service-nodeports {{ {protocol} . {node_port} : goto {external} }}"
            );
        }
        for ((chain, to), endpoint) in endpoints.iter().zip(&entry.endpoints) {
            let _ = writeln!(
                text,
                "add rule {TABLE} {chain} ip saddr {} jump mark-for-masquerade\n\
                 add rule {TABLE} {chain} meta l4proto {protocol} dnat to {to}",
                endpoint.ip()
            );
        }
        let _ = writeln!(
            text,
            "add element {TABLE} cluster-ips {{ {vip} }}\n\
             add element {TABLE} service-ips {{ {vip} . {protocol} . {port} : goto {service} }}"
        );
    }
    text
}

const BASE: &str = r#"add table TABLE { comment "rules for kube-proxy" ; }
add set TABLE cluster-ips { type ipv4_addr ; }
add set TABLE nodeport-ips { type ipv4_addr ; }
add map TABLE firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map TABLE no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map TABLE no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map TABLE service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map TABLE service-nodeports { type inet_proto . inet_service : verdict ; }
add chain TABLE cluster-ips-check
add chain TABLE filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain TABLE filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain TABLE filter-forward { type filter hook forward priority 0 ; }
add chain TABLE filter-input { type filter hook input priority 0 ; }
add chain TABLE filter-output { type filter hook output priority 0 ; }
add chain TABLE firewall-check
add chain TABLE mark-for-masquerade
add chain TABLE masquerading
add chain TABLE nat-output { type nat hook output priority -100 ; }
add chain TABLE nat-postrouting { type nat hook postrouting priority 100 ; }
add chain TABLE nat-prerouting { type nat hook prerouting priority -100 ; }
add chain TABLE nodeport-endpoints-check
add chain TABLE reject-chain
add chain TABLE services
add chain TABLE service-endpoints-check
add rule TABLE cluster-ips-check ip daddr @cluster-ips reject
add rule TABLE cluster-ips-check ip daddr { SERVICES } drop
add rule TABLE filter-prerouting-pre-dnat ct state new jump firewall-check
add rule TABLE filter-forward ct state new jump service-endpoints-check
add rule TABLE filter-forward ct state new jump cluster-ips-check
add rule TABLE filter-input ct state new jump nodeport-endpoints-check
add rule TABLE filter-input ct state new jump service-endpoints-check
add rule TABLE filter-output ct state new jump service-endpoints-check
add rule TABLE filter-output-pre-dnat ct state new jump firewall-check
add rule TABLE filter-output ct state new jump cluster-ips-check
add rule TABLE firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule TABLE mark-for-masquerade mark set mark or 0x4000
add rule TABLE masquerading mark and 0x4000 == 0 return
add rule TABLE masquerading mark set mark xor 0x4000
add rule TABLE masquerading masquerade fully-random
add rule TABLE nat-output jump services
add rule TABLE nat-postrouting jump masquerading
add rule TABLE nat-prerouting jump services
add rule TABLE nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule TABLE reject-chain reject
add rule TABLE services ip daddr . meta l4proto . th dport vmap @service-ips
add rule TABLE services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule TABLE service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add element TABLE nodeport-ips { NODE_ADDRESS }
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_an_element_and_every_endpoint_a_chain() {
        let text = rules(&Spec { services: 3, endpoints: 2 }.entries());
        assert_eq!(text.matches("} service-ips {").count() + text.matches("service-ips { 172").count(), 5);
        assert_eq!(text.matches("add chain ip kube-proxy endpoint-").count(), 10);
        assert_eq!(text.matches("numgen random mod 2").count(), 5);
        assert!(text.contains("service-nodeports { udp . 30053 : goto external-"));
        assert!(!text.contains("TABLE") && !text.contains("NODE_ADDRESS"));
    }
}
