//! What `fairlead explain` asks, in the operator's words, as the packet it means.
//!
//! Names are looked up here and not in the command: only the daemon knows them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fairlead_datapath::{ExplainRequest, Origin};
use fairlead_proto::admin::v1::ExplainRequest as Asked;
use fairlead_source::{Port, Protocol, Service, ServiceName, View};

/// A client's port where none is given.
const CLIENT_PORT: u16 = 40_000;

/// What names and addresses are looked up in.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) view: &'a View,
    /// Addresses of pods of this node.
    pub(super) pods: BTreeSet<IpAddr>,
    /// The node's own.
    pub(super) node: Vec<IpAddr>,
}

/// Reads a question; an error is for the operator.
pub(super) fn read(asked: &Asked, around: &Surroundings<'_>) -> Result<ExplainRequest, String> {
    let src = source(&asked.source)?;
    let (dst, protocol) = destination(&asked.destination, src.is_ipv4(), around.view)?;
    if dst.is_ipv4() != src.is_ipv4() {
        return Err(format!("{src} and {dst} are of different families"));
    }
    let from = origin(&asked.from, src.ip(), around)?;
    Ok(ExplainRequest { src, dst, protocol, from })
}

fn source(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = text.parse::<SocketAddr>();
    with_port
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, CLIENT_PORT)))
        .map_err(|_| format!("`{text}` is no source: ADDR, ADDR:PORT or [ADDR]:PORT"))
}

/// `ADDR:PORT/PROTO`, or `NAMESPACE/NAME:PORT`, the port being a number or a name.
fn destination(text: &str, v4: bool, view: &View) -> Result<(SocketAddr, Protocol), String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, "tcp" | "TCP")) => (rest, Some(Protocol::Tcp)),
        Some((rest, "udp" | "UDP")) => (rest, Some(Protocol::Udp)),
        Some((rest, "sctp" | "SCTP")) => (rest, Some(Protocol::Sctp)),
        _ => (text, None),
    };
    if let Ok(address) = rest.parse() {
        return Ok((address, protocol.unwrap_or(Protocol::Tcp)));
    }
    let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
    let (namespace, name) = name.split_once('/').ok_or_else(|| {
        format!("`{text}` is no destination: ADDR:PORT/PROTO, [ADDR]:PORT/PROTO or NAMESPACE/SERVICE:PORT")
    })?;
    let name = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
    let service = view.service(&name).ok_or_else(|| {
        format!(
            "no Service {name} is in force here (it may be headless, of type ExternalName, another proxy's, or refused)"
        )
    })?;
    let port = choose(&service, port, protocol)?;
    let family = if v4 { "IPv4" } else { "IPv6" };
    let address = service.cluster_ips.iter().find(|address| address.is_ipv4() == v4);
    let address = address.ok_or_else(|| format!("Service {name} has no {family} ClusterIP: name an address"))?;
    Ok((SocketAddr::new(*address, port.port), port.protocol))
}

fn choose<'a>(service: &'a Service, wanted: Option<&str>, protocol: Option<Protocol>) -> Result<&'a Port, String> {
    let fits = |port: &&Port| {
        let named = wanted.is_none_or(|wanted| port.name == wanted || port.port.to_string() == wanted);
        named && protocol.is_none_or(|protocol| port.protocol == protocol)
    };
    let mut fitting = service.ports.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(port), None) => Ok(port),
        (Some(_), Some(_)) => Err(format!("Service {} has several such ports: say which, and /PROTO", service.name)),
        (None, _) => Err(format!("Service {} has no port {}", service.name, wanted.unwrap_or("of that protocol"))),
    }
}

/// Where the packet starts: as told, or as its source suggests.
fn origin(from: &str, source: IpAddr, around: &Surroundings<'_>) -> Result<Origin, String> {
    match from {
        "" if around.pods.contains(&source) => Ok(Origin::Pod(source)),
        "" if around.node.contains(&source) || source.is_loopback() => Ok(Origin::Host),
        "" | "uplink" => Ok(Origin::Uplink),
        "host" => Ok(Origin::Host),
        "pod" => Ok(Origin::Pod(source)),
        _ => {
            let name = from
                .strip_prefix("pod/")
                .ok_or_else(|| format!("`{from}` is no origin: uplink, host, pod, pod/NAME or pod/NAMESPACE/NAME"))?;
            let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
            pod(namespace, name, source, around.view).map(Origin::Pod)
        }
    }
}

/// A pod's address, of the source's family.
fn pod(namespace: &str, name: &str, source: IpAddr, view: &View) -> Result<IpAddr, String> {
    let addresses = view.pod_addresses(namespace, name);
    if addresses.is_empty() {
        return Err(format!(
            "no address of a pod {namespace}/{name} is known here (a proxy alone knows pods that are endpoints: else use --from pod)"
        ));
    }
    let fits = addresses.into_iter().find(|address| address.is_ipv4() == source.is_ipv4());
    fits.ok_or_else(|| format!("pod {namespace}/{name} has no address of the source's family"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_source::{Item, Update};

    fn ask(source: &str, destination: &str, from: &str) -> Result<ExplainRequest, String> {
        let service = serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "default", "name": "web" },
            "spec": { "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ports": [
                { "name": "http", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 80, "protocol": "UDP" },
            ] },
        }))
        .unwrap();
        let mut view = View::new("n1");
        let put = vec![Item::Service(Box::new(service))];
        view.apply(Update { revision: 1, snapshot: true, first: true, complete: true, put, ..Update::default() });
        let pods = ["10.244.0.7".parse().unwrap()].into();
        let around = Surroundings { view: &view, pods, node: vec!["192.0.2.1".parse().unwrap()] };
        let asked = Asked { source: source.to_owned(), destination: destination.to_owned(), from: from.to_owned() };
        read(&asked, &around)
    }

    #[test]
    fn addresses_stand_for_themselves() {
        let packet = ask("198.51.100.7:4000", "192.0.2.1:30080/udp", "").unwrap();
        assert_eq!((packet.src.port(), packet.dst.port(), packet.protocol), (4000, 30080, Protocol::Udp));
        assert_eq!(packet.from, Origin::Uplink);
        let packet = ask("fd00::7", "[fd00::1]:80", "").unwrap();
        assert_eq!((packet.src.port(), packet.protocol), (CLIENT_PORT, Protocol::Tcp));
    }

    #[test]
    fn where_it_starts_follows_from_the_source_unless_told() {
        assert_eq!(ask("10.244.0.7", "1.2.3.4:1", "").unwrap().from, Origin::Pod("10.244.0.7".parse().unwrap()));
        assert_eq!(ask("192.0.2.1", "1.2.3.4:1", "").unwrap().from, Origin::Host);
        assert_eq!(ask("10.244.0.7", "1.2.3.4:1", "uplink").unwrap().from, Origin::Uplink);
        assert!(ask("10.244.0.7", "1.2.3.4:1", "pod/web-1").unwrap_err().contains("default/web-1"));
        assert!(ask("10.244.0.7", "1.2.3.4:1", "eth0").unwrap_err().contains("no origin"));
    }

    #[test]
    fn a_service_stands_for_its_cluster_ip() {
        let packet = ask("10.244.0.7", "default/web:http", "").unwrap();
        assert_eq!((packet.dst, packet.protocol), ("10.96.0.5:80".parse().unwrap(), Protocol::Tcp));
        assert_eq!(ask("10.244.0.7", "default/web:80/udp", "").unwrap().protocol, Protocol::Udp);
        assert!(ask("10.244.0.7", "default/web:80", "").unwrap_err().contains("several"));
        assert!(ask("10.244.0.7", "default/web:81", "").unwrap_err().contains("no port 81"));
        assert!(ask("10.244.0.7", "default/none:81", "").unwrap_err().contains("no Service default/none"));
        assert!(ask("fd00::7", "default/web:http", "").unwrap_err().contains("IPv6"));
    }

    #[test]
    fn nonsense_is_told_what_was_expected() {
        assert!(ask("me", "1.2.3.4:1", "").unwrap_err().contains("no source"));
        assert!(ask("1.2.3.4", "there", "").unwrap_err().contains("no destination"));
        assert!(ask("1.2.3.4", "[fd00::1]:80", "").unwrap_err().contains("different families"));
    }
}
