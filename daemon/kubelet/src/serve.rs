//! The node's HTTPS server: health, the node's pods, container logs, and commands in containers.
//!
//! Only the API server (or an administrator) may call: the client certificate must come from the cluster's CA and name
//! `kube-apiserver-kubelet-client` or a member of `system:masters`. `/healthz` is for everybody with such a certificate
//! or none.

mod passthrough;
mod pods;
mod remote;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::debug;

use crate::context::Context;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is not to be had.
    #[error("cannot listen on {address} (is another kubelet running?)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate, key or CA cannot be used.
    #[error("cannot use {path}: {why}")]
    Certificate {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The server, bound but not yet serving.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    address: SocketAddr,
    context: Arc<Context>,
}

impl Server {
    pub(crate) async fn bind(context: Arc<Context>) -> Result<Self, ServeError> {
        let acceptor = tls::acceptor(&context.config)?;
        let wanted = SocketAddr::from(([0, 0, 0, 0], context.config.port));
        let failed = |source| ServeError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, acceptor, address, context })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then open connections end.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let upgrades = Upgrades { tasks: TaskTracker::new(), shutdown: shutdown.clone() };
        let tasks = upgrades.tasks.clone();
        let router = router(self.context);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        debug!(error = %error, "cannot accept a connection");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = shutdown.cancelled() => break,
            };
            let serve = connection(stream, self.acceptor.clone(), router.clone(), upgrades.clone());
            upgrades.spawn(async move {
                if let Err(error) = serve.await {
                    debug!(%peer, error, "a connection failed");
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Where tasks go that outlive their request: a connection that has switched protocols.
#[derive(Clone, Debug, Default)]
struct Upgrades {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Upgrades {
    /// Runs until it ends, or the server does.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    upgrades: Upgrades,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    let caller = tls::caller(stream.get_ref().1);
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(upgrades.clone());
        request.map(axum::body::Body::new)
    });
    Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
        .await
        .map_err(|error| error.to_string())
}

fn router(context: Arc<Context>) -> Router {
    let guarded = Router::new()
        .route("/pods", get(pods::pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(pods::logs))
        .route("/exec/{namespace}/{pod}/{container}", any(remote::exec_by_name))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(remote::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(remote::attach_by_name))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(remote::attach))
        .route("/portForward/{namespace}/{pod}", any(passthrough::port_forward_by_name))
        .route("/portForward/{namespace}/{pod}/{uid}", any(passthrough::port_forward))
        .layer(axum::middleware::from_fn(tls::authorize));
    Router::new().route("/healthz", get(|| async { "ok" })).merge(guarded).with_state(context)
}
