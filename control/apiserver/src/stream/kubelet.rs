//! One connection to one kubelet: TLS with the API server's own client certificate, one request, its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use fairlead_api::{Kind, Object, Reason, Status, registry};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::api::Api;

/// How long a node may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Where kubelets listen unless their node says otherwise.
const PORT: u16 = 10_250;

/// How the server reaches kubelets.
#[derive(Clone)]
pub(crate) struct Kubelets {
    tls: TlsConnector,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubelets")
    }
}

/// Where a node's kubelet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) node: String,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

impl Kubelets {
    pub(crate) fn new(config: rustls::ClientConfig, tasks: TaskTracker) -> Self {
        Self { tls: TlsConnector::from(Arc::new(config)), tasks }
    }

    /// Sends a request and answers with the head of the response; an upgraded connection goes on through it.
    pub(crate) async fn send(&self, address: &Address, request: Request<Body>) -> Result<Response<Incoming>, Status> {
        let (ip, port) = (address.ip, address.port);
        let unreachable = |why: String| {
            let message = format!("cannot reach the kubelet of node {:?} at {ip}:{port}: {why}", address.node);
            Status::new(Reason::ServiceUnavailable, message)
        };
        let connect = async {
            let tcp = TcpStream::connect((ip, port)).await?;
            tcp.set_nodelay(true)?;
            self.tls.connect(ServerName::IpAddress(ip.into()), tcp).await
        };
        let stream = match tokio::time::timeout(CONNECT, connect).await {
            Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
            Err(_) => return Err(unreachable(format!("no answer within {} s", CONNECT.as_secs()))),
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(error.to_string()))?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to a kubelet ended");
            }
        });
        sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))
    }

    /// Keeps a task that splices two connections.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

/// Where the kubelet of a pod's node listens.
pub(crate) fn address(api: &Api, pod: &Object) -> Result<Address, Status> {
    let name = pod.str_at(&["spec", "nodeName"]);
    if name.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    let kind: &'static Kind = &registry::NODE;
    let node = api.cache.get(kind, "", name).ok_or_else(|| Status::not_found(kind.plural, kind.group, name))?;
    of_node(&node.object)
}

fn of_node(node: &Object) -> Result<Address, Status> {
    let list = node.at(&["status", "addresses"]).and_then(Value::as_array);
    let of_type = |wanted: &str| {
        let mut all = list.into_iter().flatten();
        all.find(|one| one["type"] == wanted)?["address"].as_str()?.parse::<IpAddr>().ok()
    };
    let ip = of_type("InternalIP").or_else(|| of_type("ExternalIP")).ok_or_else(|| {
        Status::new(Reason::ServiceUnavailable, format!("node {:?} has no address in its status", node.name()))
    })?;
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(PORT);
    Ok(Address { node: node.name().to_owned(), ip, port })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_says_where_its_kubelet_is() {
        let node = |status: Value| {
            let tree = json!({"metadata": {"name": "a"}, "status": status});
            of_node(&serde_json::from_value(tree).unwrap())
        };
        let addresses = json!([{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.1"}]);
        let found = node(json!({"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}}}));
        assert_eq!(found.unwrap(), Address { node: "a".into(), ip: "192.0.2.1".parse().unwrap(), port: 1234 });
        assert_eq!(node(json!({"addresses": addresses})).unwrap().port, PORT);
        assert!(node(json!({})).unwrap_err().message.contains("no address"));
    }
}
