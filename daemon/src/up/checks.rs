//! Everything `up` can know to be wrong before it touches anything. Each error names the thing and the cure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::plan::{Plan, taken};
use super::{UpArguments, containerd};
use crate::layout::Layout;
use crate::preflight;
use crate::process::{Identity, own_program};

/// Checks and fills in defaults.
pub(super) fn run(arguments: &UpArguments, layout: &Layout) -> Result<Plan> {
    preflight::privileges()?;
    layout.check()?;
    if Identity::read(&layout.pid_file("up")).is_some_and(|up| up.pid != std::process::id().cast_signed()) {
        bail!(taken(layout));
    }
    let interfaces = interfaces()?;
    let uplinks = uplinks(arguments, &interfaces)?;
    let node_ip = node_ip(arguments, &uplinks, &interfaces)?;
    let node_name = node_name(arguments)?;
    networks(arguments, &interfaces)?;
    ports(arguments, layout)?;
    fairlead_network::check_cidr(&layout.network(), arguments.cluster_cidr)?;
    let control_program = control_program()?;
    match &arguments.runtime_endpoint {
        Some(socket) => endpoint(socket)?,
        None => containerd::check_installed()?,
    }
    preflight::kernel()?;
    Ok(Plan {
        port: arguments.port,
        kubelet_port: arguments.kubelet_port,
        uplinks,
        runtime_endpoint: arguments.runtime_endpoint.clone(),
        node_name,
        node_ip,
        service_cidr: arguments.service_cidr,
        cluster_cidr: arguments.cluster_cidr,
        control_program,
    })
}

/// An interface's IPv4 addresses and whether it is up.
#[derive(Debug, Default)]
struct Interface {
    up: bool,
    loopback: bool,
    addresses: Vec<Ipv4Addr>,
}

fn interfaces() -> Result<BTreeMap<String, Interface>> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs().context("cannot list the interfaces")? {
        let interface = found.entry(entry.interface_name).or_default();
        interface.up = entry.flags.contains(InterfaceFlags::IFF_UP);
        interface.loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = entry.address.as_ref().and_then(|address| address.as_sockaddr_in().map(|v4| v4.ip()));
        interface.addresses.extend(address);
    }
    Ok(found)
}

fn uplinks(arguments: &UpArguments, interfaces: &BTreeMap<String, Interface>) -> Result<Vec<String>> {
    if arguments.uplinks.is_empty() {
        let default = fairlead_network::default_uplink().context("cannot find the interface of the default route")?;
        // One without an address cannot be masqueraded behind, and nobody asked for it.
        let usable = default.filter(|name| interfaces.get(name).is_some_and(|found| !found.addresses.is_empty()));
        return Ok(usable.into_iter().collect());
    }
    for name in &arguments.uplinks {
        match interfaces.get(name) {
            None => {
                let names: Vec<&str> = interfaces.keys().map(String::as_str).collect();
                bail!("uplink {name} does not exist: this machine has {}", names.join(", "));
            }
            Some(found) if !found.up => bail!("uplink {name} is down: bring it up with `ip link set {name} up`"),
            Some(found) if found.addresses.is_empty() => {
                bail!("uplink {name} has no IPv4 address: give it one with `ip address add ADDRESS/LENGTH dev {name}`")
            }
            Some(_) => {}
        }
    }
    Ok(arguments.uplinks.clone())
}

fn node_ip(arguments: &UpArguments, uplinks: &[String], interfaces: &BTreeMap<String, Interface>) -> Result<Ipv4Addr> {
    let own = |address: &Ipv4Addr| interfaces.values().any(|interface| interface.addresses.contains(address));
    if let Some(address) = arguments.node_ip {
        if !own(&address) {
            bail!("node address {address} is not an address of this machine: `ip address` lists those it has");
        }
        return Ok(address);
    }
    let of_uplink = uplinks.first().and_then(|name| interfaces.get(name)?.addresses.first().copied());
    let of_any = || interfaces.values().filter(|i| i.up && !i.loopback).find_map(|i| i.addresses.first().copied());
    of_uplink.or_else(of_any).context(
        "this machine has no IPv4 address but loopback ones, and a node needs one: add an interface, or name one with --node-ip",
    )
}

fn node_name(arguments: &UpArguments) -> Result<String> {
    let name = match &arguments.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("cannot read the host's name")?.to_string_lossy().to_lowercase(),
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > 253 || !name.chars().all(valid) || !edge(name.chars().next()) || !edge(name.chars().last()) {
        bail!("`{name}` is no node name (lower-case letters, digits, `-` and `.`): choose one with --node-name");
    }
    Ok(name)
}

fn networks(arguments: &UpArguments, interfaces: &BTreeMap<String, Interface>) -> Result<()> {
    let (services, pods) = (arguments.service_cidr, arguments.cluster_cidr);
    if services.contains(&pods.network()) || pods.contains(&services.network()) {
        bail!("--service-cidr {services} and --cluster-cidr {pods} overlap: choose separate networks");
    }
    if pods.prefix_len() > 24 {
        bail!("--cluster-cidr {pods} is too small: a node takes a /24 of it");
    }
    for (flag, network) in [("--service-cidr", services), ("--cluster-cidr", pods)] {
        let inside = interfaces.iter().find_map(|(name, interface)| {
            let address = interface.addresses.iter().find(|address| network.contains(*address))?;
            Some((name, address))
        });
        if let Some((name, address)) = inside {
            bail!("{flag} {network} holds {address}, which interface {name} has: choose another network");
        }
    }
    Ok(())
}

/// The ports must be free, or held by what an earlier `up` of the same directory left (which is ended first).
fn ports(arguments: &UpArguments, layout: &Layout) -> Result<()> {
    if arguments.port == arguments.kubelet_port {
        bail!("--port and --kubelet-port are both {}: choose different ones", arguments.port);
    }
    let wanted = [("--port", arguments.port, "the API server"), ("--kubelet-port", arguments.kubelet_port, "the node")];
    for (flag, port, purpose) in wanted {
        let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) else { continue };
        let holder = holder(port);
        let ours = ["control", "node"].iter().filter_map(|name| Identity::read(&layout.pid_file(name)));
        if holder.as_ref().is_some_and(|(pid, _)| ours.into_iter().any(|left| left.pid == *pid)) {
            continue;
        }
        match holder {
            Some((pid, name)) => bail!(
                "port {port}, which {purpose} needs, is in use by {name} (process {pid}): end that, or choose another with {flag}"
            ),
            None => bail!("port {port}, which {purpose} needs, cannot be had ({error}): choose another with {flag}"),
        }
    }
    Ok(())
}

/// Who listens on a TCP port: pid and name.
fn holder(port: u16) -> Option<(i32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let link = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |path: PathBuf| std::fs::read_link(path).is_ok_and(|target| target == Path::new(&link));
        if files.flatten().any(|file| holds(file.path())) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// Inode of the listening socket with this local port, from `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (local == port && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// `fairlead-control` lies beside this program, or on PATH.
fn control_program() -> Result<PathBuf> {
    let own = own_program()?;
    let beside = own.with_file_name("fairlead-control");
    if beside.is_file() {
        return Ok(beside);
    }
    which("fairlead-control").with_context(|| {
        format!("fairlead-control is neither beside {} nor on PATH: build both with `cargo xtask build`", own.display())
    })
}

/// Finds a program on PATH.
pub(super) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

fn endpoint(socket: &Path) -> Result<()> {
    std::os::unix::net::UnixStream::connect(socket).map(drop).with_context(|| {
        format!("no container runtime answers on {}: start it, or leave --runtime-endpoint out", socket.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holder(port).map(|(pid, _)| pid), Some(std::process::id().cast_signed()));
        drop(listener);
        assert_eq!(holder(port), None);
    }

    #[test]
    fn only_listening_sockets_hold_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:192B 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
             1: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1\n";
        assert_eq!(listening_inode(table, 6443), Some(22));
        assert_eq!(listening_inode(table, 6444), None);
    }
}
