//! Commands in containers, and a container's own streams: a WebSocket at this end, SPDY at the runtime's.
//!
//! The WebSocket speaks `v5.channel.k8s.io` or `v4.channel.k8s.io`: the first byte of a message is its channel. In v5 a
//! message on channel 255 ends the channel it names, which is how standard input ends. The outcome, exit code included,
//! comes from the runtime as a `Status` and goes through on the error channel. A client that speaks SPDY itself is passed
//! through to the runtime as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use k8s_cri::v1 as wire;
use tokio::sync::mpsc;
use tracing::debug;

use super::passthrough;
use super::pods::{Refusal, containers};
use crate::context::Context;
use crate::spdy::{self, Received, SpdyError, Streams};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// What the runtime speaks.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Normal closure of a WebSocket.
const NORMAL: u16 = 1_000;

/// The client's wish for a WebSocket, if it has one.
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// What a query asks for. The API server's names (`input`) and the API's own (`stdin`) both count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn parse(query: &str) -> Self {
        let mut wanted = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
            let on = matches!(value.as_str(), "" | "1" | "true");
            match key {
                "command" => wanted.command.push(value),
                "stdin" | "input" => wanted.stdin = on,
                "stdout" | "output" => wanted.stdout = on,
                "stderr" | "error" => wanted.stderr = on,
                "tty" => wanted.tty = on,
                _ => {}
            }
        }
        // A terminal has one output.
        wanted.stderr &= !wanted.tty;
        wanted
    }
}

/// `GET /exec/NS/POD/UID/CONTAINER?command=…`.
pub(super) async fn exec(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, _, container)): Path<(String, String, String, String)>,
    query: RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    open(context, namespace, pod, container, query, upgrade, request, true).await
}

/// `GET /exec/NS/POD/CONTAINER?command=…`.
pub(super) async fn exec_by_name(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    query: RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    open(context, namespace, pod, container, query, upgrade, request, true).await
}

/// `GET /attach/NS/POD/UID/CONTAINER`.
pub(super) async fn attach(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, _, container)): Path<(String, String, String, String)>,
    query: RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    open(context, namespace, pod, container, query, upgrade, request, false).await
}

/// `GET /attach/NS/POD/CONTAINER`.
pub(super) async fn attach_by_name(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    query: RawQuery,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    open(context, namespace, pod, container, query, upgrade, request, false).await
}

#[allow(clippy::too_many_arguments, reason = "the parts of one request, taken apart by the router")]
async fn open(
    context: Arc<Context>,
    namespace: String,
    pod: String,
    container: String,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
    request: Request,
    exec: bool,
) -> Result<Response, Refusal> {
    let wanted = Wanted::parse(query.as_deref().unwrap_or_default());
    if exec && wanted.command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container".into()));
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Refusal(StatusCode::BAD_REQUEST, text.into()));
    }
    let (_, found) = containers(&context, &namespace, &pod, &container).await?;
    let running = wire::ContainerState::ContainerRunning as i32;
    let id = found.into_iter().find(|found| found.state == running).map(|found| found.id);
    let missing = || Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"));
    let id = id.ok_or_else(missing)?;
    let url = if exec {
        let request = wire::ExecRequest {
            container_id: id,
            cmd: wanted.command.clone(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        context.cri.exec(request).await
    } else {
        let request = wire::AttachRequest {
            container_id: id,
            stdin: wanted.stdin,
            tty: wanted.tty,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        context.cri.attach(request).await
    };
    let failed = |text: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
    let url = url.map_err(|error| failed(error.to_string()))?;
    if passthrough::is_spdy(&request) {
        return passthrough::spdy(request, &url).await;
    }
    let upgrade = upgrade.map_err(|why| Refusal(StatusCode::BAD_REQUEST, why.to_string()))?;
    let (mut writer, reader) = spdy::connect(&url, PROTOCOL).await.map_err(|error| failed(error.to_string()))?;
    let kinds = BTreeMap::from([
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty),
    ]);
    let streams = Streams::open(&mut writer, &kinds).await.map_err(|error| failed(error.to_string()))?;
    Ok(upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]).on_upgrade(move |socket| async move {
        let v5 = socket.protocol().is_some_and(|protocol| protocol.as_bytes() == b"v5.channel.k8s.io");
        bridge(socket, writer, reader, streams, v5).await;
    }))
}

/// Carries messages both ways until the runtime has closed its end, or the client its own.
async fn bridge(socket: WebSocket, writer: spdy::Writer, reader: spdy::Reader, streams: Streams, v5: bool) {
    let (sink, source) = socket.split();
    let (ping_sender, pings) = mpsc::channel(4);
    let up = upward(source, writer, streams.clone(), pings, v5);
    let down = downward(sink, reader, streams, ping_sender);
    tokio::pin!(up, down);
    let ended = tokio::select! {
        ended = &mut down => ended,
        // The client has gone: the connection to the runtime closes, and the command loses its input.
        ended = &mut up => ended,
    };
    if let Err(error) = ended {
        debug!(error = %error, "a remote command's connection failed");
    }
}

/// From the client to the runtime.
async fn upward(
    mut source: SplitStream<WebSocket>,
    mut writer: spdy::Writer,
    streams: Streams,
    mut pings: mpsc::Receiver<u32>,
    v5: bool,
) -> Result<(), SpdyError> {
    loop {
        let message = tokio::select! {
            Some(number) = pings.recv() => {
                writer.pong(number).await?;
                continue;
            }
            message = source.next() => match message {
                Some(Ok(message)) => message,
                _ => return Ok(()),
            },
        };
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match (data.first(), &streams) {
            (Some(&STDIN), Streams { stdin: Some(stream), .. }) => writer.send(*stream, &data[1..], false).await?,
            (Some(&RESIZE), Streams { resize: Some(stream), .. }) => writer.send(*stream, &data[1..], false).await?,
            (Some(&CLOSE), Streams { stdin: Some(stream), .. }) if v5 && data.get(1) == Some(&STDIN) => {
                writer.send(*stream, &[], true).await?;
            }
            _ => {}
        }
    }
}

/// From the runtime to the client.
async fn downward(
    mut sink: SplitSink<WebSocket, Message>,
    mut reader: spdy::Reader,
    streams: Streams,
    pings: mpsc::Sender<u32>,
) -> Result<(), SpdyError> {
    let mut outcome = Vec::new();
    while let Some(received) = reader.next().await? {
        let (stream, data) = match received {
            Received::Data { stream, data, last } => {
                if stream == streams.error {
                    outcome.extend_from_slice(&data);
                    if last {
                        break;
                    }
                    continue;
                }
                (stream, data)
            }
            Received::Reset { stream } if stream == streams.error => break,
            Received::Reset { .. } | Received::GoAway => continue,
            Received::Ping(number) => {
                // Nobody left to answer means that the connection ends anyway.
                let _ = pings.send(number).await;
                continue;
            }
        };
        let channel = match Some(stream) {
            stream if stream == streams.stdout => STDOUT,
            stream if stream == streams.stderr => STDERR,
            _ => continue,
        };
        if !data.is_empty() && sink.send(message(channel, &data)).await.is_err() {
            return Ok(());
        }
    }
    if !outcome.is_empty() && sink.send(message(ERROR, &outcome)).await.is_err() {
        return Ok(());
    }
    let close = CloseFrame { code: NORMAL, reason: "".into() };
    if sink.send(Message::Close(Some(close))).await.is_err() {
        debug!("the client of a remote command left before its end");
    }
    Ok(())
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_both_kinds_are_read() {
        let want = Wanted {
            command: vec!["sh".into(), "-c".into(), "echo a&b c+d".into()],
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        assert_eq!(
            Wanted::parse("command=sh&command=-c&command=echo+a%26b%20c%2Bd&stdin=true&stdout=true&stderr=true"),
            want
        );
        assert_eq!(
            Wanted::parse("command=sh&command=-c&command=echo%20a%26b%20c%2Bd&input=1&output=1&error=1&tty=0"),
            want
        );
        assert!(!Wanted::parse("stdout=1&stderr=1&tty=1").stderr);
    }
}
