//! `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward`: checked here, answered by the pod's node.
//!
//! Here it is decided which container is meant; whether it runs is the node's to say, which knows it first.

use std::sync::Arc;

use axum::body::Body;
use fairlead_api::{Object, Reason, Status, registry};
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::kubelet::{self, Kubelets};
use crate::api::Api;
use crate::http::query::Query;
use crate::http::request::ResourceTarget;
use crate::http::respond::Answer;
use crate::rest::{get, options, route};

/// Splice buffers: exec moves files too.
const BUFFER: usize = 64 << 10;

/// A request for a stream of a pod.
pub(crate) struct Stream<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) kubelets: &'a Kubelets,
    pub(crate) target: &'a ResourceTarget,
    pub(crate) query: &'a Query,
    pub(crate) raw_query: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

impl Stream<'_> {
    /// Answers the request; `client` is where the client's side of an upgraded connection will be.
    pub(crate) async fn answer(self, client: Option<OnUpgrade>) -> Answer {
        let target = self.target;
        let pod = get::get(self.api, &registry::POD, &target.namespace, &target.name).await?.object.clone();
        match target.subresource.as_str() {
            "log" if *self.method == Method::GET => self.log(&pod).await,
            "log" => Err(options::not_allowed()),
            connect @ ("exec" | "attach" | "portforward") => {
                if !matches!(*self.method, Method::GET | Method::POST) {
                    return Err(options::not_allowed());
                }
                self.connect(&pod, connect, client).await
            }
            _ => Err(route::not_served()),
        }
    }

    async fn log(&self, pod: &Object) -> Answer {
        check_log_options(self.query)?;
        let container = container(pod, self.query.get("container"))?;
        if pod.str_at(&["spec", "nodeName"]).is_empty() {
            // Nothing has run yet, so there is nothing to read.
            return Ok(crate::http::respond::text(StatusCode::OK, ""));
        }
        let address = kubelet::address(self.api, pod)?;
        let parts = ["containerLogs", pod.namespace(), pod.name(), &container].map(encode);
        let uri = with_query(&parts, self.raw_query);
        let request = outgoing(Method::GET, &uri, &address, &HeaderMap::new())?;
        let (parts, body) = self.kubelets.send(&address, request).await?.into_parts();
        if parts.status.is_client_error() || parts.status.is_server_error() {
            let bytes = axum::body::to_bytes(Body::new(body), 64 << 10).await.unwrap_or_default();
            return Err(refused(parts.status, &bytes));
        }
        let mut response = Response::new(Body::new(body));
        let text = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, text);
        Ok(response)
    }

    async fn connect(&self, pod: &Object, what: &str, client: Option<OnUpgrade>) -> Answer {
        let address = kubelet::address(self.api, pod)?;
        let mut parts = vec![encode(what), encode(pod.namespace()), encode(pod.name()), encode(pod.uid())];
        if what == "portforward" {
            parts[0] = "portForward".to_owned();
        } else {
            let container = container(pod, self.query.get("container"))?;
            let asked = ["stdin", "stdout", "stderr", "tty"].map(|name| self.query.flag(name));
            if asked == [false; 4] {
                return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
            }
            if what == "exec" && self.query.get("command").is_empty() {
                return Err(Status::bad_request("you must specify at least one command for the container"));
            }
            parts.push(encode(&container));
        }
        let Some(client) = client.filter(|_| self.headers.contains_key(UPGRADE)) else {
            return Err(Status::bad_request("Upgrade request required"));
        };
        let uri = with_query(&parts, self.raw_query);
        let request = outgoing(self.method.clone(), &uri, &address, self.headers)?;
        let mut response = self.kubelets.send(&address, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        let node = hyper::upgrade::on(&mut response);
        self.kubelets.spawn(async move {
            if let Err(error) = splice(client, node).await {
                tracing::debug!(%error, "a stream ended");
            }
        });
        let (parts, _) = response.into_parts();
        Ok(Response::from_parts(parts, Body::empty()))
    }
}

async fn splice(client: OnUpgrade, node: OnUpgrade) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, node) = tokio::try_join!(client, node)?;
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut node, BUFFER, BUFFER).await?;
    Ok(())
}

/// The request to the kubelet: the client's upgrade headers and nothing of its credentials.
fn outgoing(
    method: Method,
    uri: &str,
    address: &kubelet::Address,
    headers: &HeaderMap,
) -> Result<Request<Body>, Status> {
    let mut request = Request::builder().method(method).uri(uri).header(HOST, host(address));
    let passes = |name: &HeaderName| {
        *name == CONNECTION
            || *name == UPGRADE
            || name.as_str().starts_with("sec-websocket-")
            || name.as_str() == "x-stream-protocol-version"
    };
    for (name, value) in headers.iter().filter(|(name, _)| passes(name)) {
        request = request.header(name, value);
    }
    request.body(Body::empty()).map_err(|error| Status::bad_request(format!("cannot forward the request: {error}")))
}

fn host(address: &kubelet::Address) -> String {
    std::net::SocketAddr::new(address.ip, address.port).to_string()
}

fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string().replace("%2D", "-").replace("%2E", ".")
}

fn with_query(parts: &[String], query: &str) -> String {
    let path = format!("/{}", parts.join("/"));
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn names<'a>(pod: &'a Object, list: &str) -> Vec<&'a str> {
    let list = pod.at(&["spec", list]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

/// The container asked for, or the only one, or the annotated one.
fn container(pod: &Object, asked: &str) -> Result<String, Status> {
    let (all, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let known =
        |name: &str| all.contains(&name) || init.contains(&name) || names(pod, "ephemeralContainers").contains(&name);
    if !asked.is_empty() {
        let unknown = || Status::bad_request(format!("container {asked} is not valid for pod {}", pod.name()));
        return if known(asked) { Ok(asked.to_owned()) } else { Err(unknown()) };
    }
    if let [only] = all[..] {
        return Ok(only.to_owned());
    }
    match pod.annotation("kubectl.kubernetes.io/default-container").filter(|name| known(name)) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let mut why = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                all.join(" ")
            );
            if !init.is_empty() {
                why = format!("{why} or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(why))
        }
    }
}

fn check_log_options(query: &Query) -> Result<(), Status> {
    let mut errors = Vec::new();
    for (name, least) in [("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)] {
        let value: Option<i64> = query.number(name)?;
        if let Some(value) = value.filter(|value| *value < least) {
            let why = format!("must be greater than or equal to {least}");
            errors.push(fairlead_api::status::FieldError::invalid(name, value, &why));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("PodLogOptions", "", "", errors)) }
}

/// The kubelet's refusal as a Status: its own if it sent one, else its text.
fn refused(code: StatusCode, body: &[u8]) -> Status {
    let tree: Option<Value> = serde_json::from_slice(body).ok();
    let message = tree.as_ref().and_then(|tree| tree["message"].as_str()).map(str::to_owned);
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    match code {
        StatusCode::NOT_FOUND => Status::new(Reason::NotFound, message),
        code if code.is_client_error() => Status::bad_request(message),
        _ => Status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_is_found_or_asked_for() {
        let pod = |tree: Value| serde_json::from_value::<Object>(tree).unwrap();
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let plain = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": two.clone()}}));
        assert_eq!(
            container(&plain, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(container(&plain, "b").unwrap(), "b");
        assert_eq!(container(&plain, "c").unwrap_err().message, "container c is not valid for pod p");
        let annotations = json!({"kubectl.kubernetes.io/default-container": "b"});
        let annotated = pod(json!({"metadata": {"annotations": annotations}, "spec": {"containers": two}}));
        assert_eq!(container(&annotated, "").unwrap(), "b");
    }
}
