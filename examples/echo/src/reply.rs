//! The text of an answer. Lines of `key: value`, then an empty line and the bytes that were sent, so that both a person
//! and `sed` can read it.

use std::net::{IpAddr, SocketAddr};

/// The pod's name: `POD_NAME` from the downward API, else the host name, which is the pod's as well.
pub(crate) fn pod_name() -> String {
    let given = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    given.or_else(host).unwrap_or_else(|| "unknown".to_owned())
}

/// The answer to one request or datagram; `sent` holds further lines that describe it.
pub(crate) fn render(pod: &str, client: SocketAddr, sent: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("pod: {pod}\nclient: {}\n", plain(client));
    for (key, value) in sent {
        text.push_str(&format!("{key}: {value}\n"));
    }
    let mut answer = text.into_bytes();
    if !body.is_empty() {
        answer.push(b'\n');
        answer.extend_from_slice(body);
        if !body.ends_with(b"\n") {
            answer.push(b'\n');
        }
    }
    answer
}

/// An IPv4 client of a socket that serves both families, written the way it writes itself.
pub(crate) fn plain(client: SocketAddr) -> SocketAddr {
    match client.ip() {
        IpAddr::V6(mapped) => mapped.to_ipv4_mapped().map_or(client, |v4| SocketAddr::new(v4.into(), client.port())),
        IpAddr::V4(_) => client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_client_reads_as_ipv4() {
        let client = "[::ffff:10.244.0.7]:4000".parse().expect("an address");
        let answer = render("echo-1", client, &[("request", "GET /".to_owned())], b"hi");
        assert_eq!(String::from_utf8_lossy(&answer), "pod: echo-1\nclient: 10.244.0.7:4000\nrequest: GET /\n\nhi\n");
    }
}
