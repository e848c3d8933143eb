//! The port: accepts connections, speaks TLS, finds out who is there, and serves HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::Identity;
use crate::server::Server;

/// How long a peer may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections may take to finish once the server ends.
const GRACE: Duration = Duration::from_secs(3);
/// How often a silent HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const ALIVE: Duration = Duration::from_secs(10);
/// Requests at once over one HTTP/2 connection.
const STREAMS: u32 = 1000;

/// Serves until `shutdown`; connections then finish what they began.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    server: Arc<Server>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((tcp, _)) => {
                let connection = connection(tcp, acceptor.clone(), server.clone(), tasks.clone(), shutdown.clone());
                tasks.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to close some.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    server: Arc<Server>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let peer = tcp.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, peer, "cannot set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, peer, "a TLS handshake failed"),
        Err(_) => return tracing::debug!(peer, "a TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(|chain| chain.first());
    let identity = leaf.and_then(|leaf| Identity::from_certificate(leaf)).unwrap_or_else(Identity::anonymous);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (server, identity) = (server.clone(), identity.clone());
        async move { Ok::<_, std::convert::Infallible>(server.handle(identity, request.map(Body::new)).await) }
    });
    let mut builder = auto::Builder::new(Tracked(tasks));
    let mut http2 = builder.http2();
    http2.max_concurrent_streams(STREAMS).timer(hyper_util::rt::TokioTimer::new());
    http2.keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE);
    builder.http1().timer(hyper_util::rt::TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, peer, "a connection ended");
    }
}

/// Runs the tasks of HTTP/2 connections in the server's own tree.
#[derive(Clone, Debug)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
