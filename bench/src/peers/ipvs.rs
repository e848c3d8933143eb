//! kube-proxy's IPVS mode: the kernel's own load balancer, and the addresses of services on an interface of the node, so
//! that packets to them come there at all.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};

use super::program;
use super::services::Spec;
use crate::rig::node::{Node, Side};

/// Puts the services in force.
pub(super) fn program(node: &Node, spec: Spec) -> Result<()> {
    let has_kernel = node.net.run(|| Ok(Path::new("/proc/thread-self/net/ip_vs").exists()))?;
    if !has_kernel {
        bail!("this kernel has no IPVS (CONFIG_IP_VS); `modprobe ip_vs` loads it where it is a module");
    }
    program::feed(&node.net, "ip", "iproute2", &["-batch", "-"], &addresses(spec))?;
    node.net.sysctl("ipv4/vs/conntrack", "1")?;
    program::feed(&node.net, "ipvsadm", "ipvsadm", &["--restore"], &servers(spec))
}

/// Input for `ip -batch`.
fn addresses(spec: Spec) -> String {
    let mut vips: Vec<_> = spec.entries().iter().map(|entry| entry.vip).collect();
    vips.dedup();
    let mut text = String::from("link add kube-ipvs0 type dummy\n");
    for vip in vips {
        let _ = writeln!(text, "address add {vip}/32 dev kube-ipvs0");
    }
    text
}

/// Input for `ipvsadm --restore`.
fn servers(spec: Spec) -> String {
    let mut text = String::new();
    for entry in spec.entries() {
        let kind = if entry.protocol == "udp" { "-u" } else { "-t" };
        let node_port = entry.node_port.map(|port| format!("{}:{port}", Side::Outside.gateway()));
        for virtual_server in [Some(format!("{}:{}", entry.vip, entry.port)), node_port].into_iter().flatten() {
            let _ = writeln!(text, "-A {kind} {virtual_server} -s rr");
            for endpoint in &entry.endpoints {
                let _ = writeln!(text, "-a {kind} {virtual_server} -r {endpoint} -m -w 1");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_the_nodes_and_every_port_a_virtual_server() {
        let spec = Spec { services: 3, endpoints: 2 };
        assert_eq!(addresses(spec).lines().count(), 4);
        let text = servers(spec);
        assert_eq!(text.lines().filter(|line| line.starts_with("-A")).count(), 8);
        assert_eq!(text.lines().filter(|line| line.starts_with("-a")).count(), 16);
        assert!(text.contains("-a -u 172.28.0.3:53 -r 10.244.9.2:8080 -m -w 1"));
    }
}
