//! The files that tell a pod who and where it is: resolver configuration and `/etc/hosts`. Pure.

use std::net::IpAddr;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// What a resolv.conf says.
pub(crate) fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config.servers.truncate(3);
    config
}

/// The resolver configuration of a pod, and whether `ClusterFirst` had to be given up for want of a cluster DNS.
pub(crate) fn of(pod: &Pod, node: &DnsConfig, cluster: &[IpAddr], domain: &str) -> (DnsConfig, bool) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wanted = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && spec.host_network != Some(true));
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if wanted && !cluster.is_empty() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(node.searches.iter().cloned());
            DnsConfig {
                servers: cluster.iter().map(IpAddr::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => node.clone(),
    };
    if let Some(extra) = &spec.dns_config {
        extend(&mut config.servers, extra.nameservers.iter().flatten());
        extend(&mut config.searches, extra.searches.iter().flatten());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|have| have.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    (config, wanted && cluster.is_empty())
}

fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The hostname of a pod.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let name = spec
        .and_then(|spec| spec.hostname_override.clone().or_else(|| spec.hostname.clone()))
        .unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The pod's /etc/hosts. In the host's network it is the host's own, passed as `host`.
pub(crate) fn hosts(pod: &Pod, ips: &[String], domain: &str, host: Option<&str>) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = match host {
        Some(host) => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let hostname = hostname(pod);
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for ip in ips {
                match &spec.subdomain {
                    Some(sub) => {
                        text.push_str(&format!("{ip}\t{hostname}.{sub}.{namespace}.svc.{domain}\t{hostname}\n"));
                    }
                    None => text.push_str(&format!("{ip}\t{hostname}\n")),
                }
            }
            text
        }
    };
    let aliases = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a resolv.conf.
    fn text(config: &DnsConfig) -> String {
        let mut text = String::new();
        for server in &config.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !config.searches.is_empty() {
            text.push_str(&format!("search {}\n", config.searches.join(" ")));
        }
        if !config.options.is_empty() {
            text.push_str(&format!("options {}\n", config.options.join(" ")));
        }
        text
    }

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{spec}}}"#))
            .expect("a pod in JSON")
    }

    #[test]
    fn cluster_first_falls_back_without_a_cluster_dns() {
        let node = parse("# comment\nnameserver 10.0.0.2\nsearch a b\noptions timeout:1\n");
        let plain = pod(r#"{"containers":[]}"#);
        assert_eq!(of(&plain, &node, &[], "cluster.local"), (node.clone(), true));
        let (config, gave_up) = of(&plain, &node, &["10.96.0.10".parse().expect("an address")], "cluster.local");
        assert!(!gave_up);
        assert_eq!(
            text(&config),
            "nameserver 10.96.0.10\nsearch n.svc.cluster.local svc.cluster.local cluster.local a b\noptions ndots:5\n"
        );
        let own = pod(
            r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"options":[{"name":"ndots","value":"2"}]}}"#,
        );
        assert_eq!(text(&of(&own, &node, &[], "cluster.local").0), "nameserver 1.1.1.1\noptions ndots:2\n");
    }

    #[test]
    fn hosts_names_the_pod_and_its_aliases() {
        let pod = pod(r#"{"containers":[],"subdomain":"s","hostAliases":[{"ip":"1.2.3.4","hostnames":["x","y"]}]}"#);
        let text = hosts(&pod, &["10.244.0.2".into()], "cluster.local", None);
        assert!(text.contains("10.244.0.2\tp.s.n.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\tx\ty\n"), "{text}");
    }
}
