//! Connections whose SPDY frames go through unread: forwarded ports, and commands of clients that speak SPDY themselves.
//!
//! A port is forwarded over SPDY with the sub-protocol `portforward.k8s.io`, either as an upgraded connection or, by newer
//! clients, inside the binary messages of a WebSocket. The runtime speaks the same, so frames pass as they are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::Upgrades;
use super::pods::Refusal;
use crate::context::Context;
use crate::pod::{PodName, labels};
use crate::spdy;

/// The sub-protocol of forwarded ports.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The same inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const VERSION: &str = "x-stream-protocol-version";
const BUFFER: usize = 32 << 10;

/// Whether the client wants to switch to SPDY.
pub(super) fn is_spdy(request: &Request) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"))
}

/// `/portForward/NS/POD/UID`.
pub(super) async fn port_forward(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, _)): Path<(String, String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&context, &namespace, &pod, upgrade, request).await
}

/// `/portForward/NS/POD`.
pub(super) async fn port_forward_by_name(
    State(context): State<Arc<Context>>,
    Path((namespace, pod)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&context, &namespace, &pod, upgrade, request).await
}

async fn forward(
    context: &Context,
    namespace: &str,
    pod: &str,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let sandbox = sandbox(context, namespace, pod).await?;
    let url = context.cri.port_forward(&sandbox).await.map_err(|error| failed(&error))?;
    if is_spdy(&request) {
        return spdy(request, &url).await;
    }
    let upgrade = upgrade.map_err(|why| Refusal(StatusCode::BAD_REQUEST, why.to_string()))?;
    let (runtime, _) = spdy::switch(&url, &[PORT_FORWARD]).await.map_err(|error| failed(&error))?;
    Ok(upgrade.protocols([TUNNEL]).on_upgrade(|socket| async move {
        if let Err(error) = tunnel(socket, runtime).await {
            debug!(%error, "a forwarded port ended");
        }
    }))
}

/// The pod's sandbox, which must be running.
async fn sandbox(context: &Context, namespace: &str, pod: &str) -> Result<String, Refusal> {
    let missing =
        || Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found in namespace \"{namespace}\" on this node"));
    let object = context.view().pod(namespace, pod).ok_or_else(missing)?;
    let uid = PodName::of(&object).uid;
    let sandboxes = context.cri.sandboxes((labels::POD_UID, &uid)).await.map_err(|error| failed(&error))?;
    let ready = wire::PodSandboxState::SandboxReady as i32;
    let running = sandboxes.into_iter().filter(|sandbox| sandbox.state == ready);
    let newest = running.max_by_key(|sandbox| sandbox.created_at);
    let stopped = || Refusal(StatusCode::BAD_REQUEST, format!("pod \"{pod}\" is not running"));
    newest.map(|sandbox| sandbox.id).ok_or_else(stopped)
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Switches the client's connection and the runtime's to SPDY and joins them.
pub(super) async fn spdy(mut request: Request, url: &str) -> Result<Response, Refusal> {
    let protocols: Vec<String> = request
        .headers()
        .get_all(VERSION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .collect();
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    let upgrades = request.extensions().get::<Upgrades>().cloned().unwrap_or_default();
    let (mut runtime, chosen) = spdy::switch(url, &protocols).await.map_err(|error| failed(&error))?;
    let client = hyper::upgrade::on(&mut request);
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1");
    if let Some(chosen) = chosen {
        response = response.header(VERSION, chosen);
    }
    let response = response.body(Body::empty()).map_err(|error| failed(&error))?;
    upgrades.spawn(async move {
        let Ok(client) = client.await else { return };
        if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut runtime).await {
            debug!(%error, "a passed connection ended");
        }
    });
    Ok(response)
}

/// Carries frames between a WebSocket's messages and the runtime's connection.
async fn tunnel(socket: WebSocket, runtime: TcpStream) -> std::io::Result<()> {
    let (mut sink, mut source) = socket.split();
    let (mut read, mut write) = runtime.into_split();
    let up = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) => write.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok(())
    };
    let down = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = read.read(&mut buffer).await?;
            if length == 0 || sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
