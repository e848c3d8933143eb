//! The environment variables by which a pod's containers find Services: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, and
//! the form Docker's links once had. Names, values and order are upstream's, since programs read them.

use k8s_openapi::api::core::v1::Service;

/// What of a Service its variables tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its ClusterIP, if it has one.
    ip: Option<Box<str>>,
    ports: Box<[Port]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Option<Box<str>>,
    port: i32,
    /// Absent: TCP.
    protocol: Option<Box<str>>,
}

impl Facts {
    pub(crate) fn of(service: &Service) -> Self {
        const TCP: &str = "TCP";
        let Some(spec) = &service.spec else { return Self::default() };
        let ports = spec.ports.iter().flatten().map(|port| Port {
            name: port.name.as_deref().filter(|name| !name.is_empty()).map(Box::from),
            port: port.port,
            protocol: port.protocol.as_deref().filter(|text| !text.is_empty() && *text != TCP).map(Box::from),
        });
        let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
        Self { ip: ip.map(Box::from), ports: ports.collect() }
    }

    /// True if the Service has a ClusterIP, and so variables.
    pub(crate) fn has_address(&self) -> bool {
        self.ip.is_some()
    }
}

/// The variables of these Services, in their order; those without a ClusterIP have none.
pub(crate) fn variables<'a>(services: impl Iterator<Item = (&'a str, &'a Facts)>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (name, facts) in services {
        add(name, facts, &mut variables);
    }
    variables
}

fn add(name: &str, facts: &Facts, variables: &mut Vec<(String, String)>) {
    let Some(ip) = facts.ip.as_deref() else { return };
    let ports = &facts.ports;
    let Some(first) = ports.first() else { return };
    let prefix = variable_name(name);

    variables.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
    variables.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    for port in ports {
        if let Some(name) = port.name.as_deref() {
            variables.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
        }
    }

    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        variables.push((port_prefix.clone(), url));
        variables.push((format!("{port_prefix}_PROTO"), lower));
        variables.push((format!("{port_prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{port_prefix}_ADDR"), ip.to_owned()));
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "my-web"}, "spec": spec})).expect("a Service")
    }

    fn lines(service: &Service) -> Vec<String> {
        let name = service.metadata.name.as_deref().expect("a name");
        variables(std::iter::once((name, &Facts::of(service))))
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn variables_are_upstreams() {
        let service = service(json!({"clusterIP": "10.96.0.7", "ports": [
            {"name": "http-alt", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
        ]}));
        let expected = [
            "MY_WEB_SERVICE_HOST=10.96.0.7",
            "MY_WEB_SERVICE_PORT=80",
            "MY_WEB_SERVICE_PORT_HTTP_ALT=80",
            "MY_WEB_SERVICE_PORT_DNS=53",
            "MY_WEB_PORT=tcp://10.96.0.7:80",
            "MY_WEB_PORT_80_TCP=tcp://10.96.0.7:80",
            "MY_WEB_PORT_80_TCP_PROTO=tcp",
            "MY_WEB_PORT_80_TCP_PORT=80",
            "MY_WEB_PORT_80_TCP_ADDR=10.96.0.7",
            "MY_WEB_PORT_53_UDP=udp://10.96.0.7:53",
            "MY_WEB_PORT_53_UDP_PROTO=udp",
            "MY_WEB_PORT_53_UDP_PORT=53",
            "MY_WEB_PORT_53_UDP_ADDR=10.96.0.7",
        ];
        assert_eq!(lines(&service), expected);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_in_urls_only() {
        let lines = lines(&service(json!({"clusterIP": "fd00::7", "ports": [{"port": 80}]})));
        assert!(lines.contains(&"MY_WEB_SERVICE_HOST=fd00::7".to_owned()));
        assert!(lines.contains(&"MY_WEB_PORT=tcp://[fd00::7]:80".to_owned()));
        assert!(lines.contains(&"MY_WEB_PORT_80_TCP_ADDR=fd00::7".to_owned()));
    }

    #[test]
    fn without_a_cluster_ip_there_are_none() {
        for ip in ["None", ""] {
            assert_eq!(lines(&service(json!({"clusterIP": ip, "ports": [{"port": 80}]}))), Vec::<String>::new());
        }
    }
}
