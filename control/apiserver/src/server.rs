//! One request through the chain: authentication, authorization, then what its path leads to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use fairlead_api::{Reason, Status};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::Instrument;

use crate::api::Api;
use crate::authn::Identity;
use crate::authz::authorize;
use crate::discovery::{self, Health};
use crate::http::query::Query;
use crate::http::request::{self, Target};
use crate::http::{body, respond};
use crate::pki::{Pki, PkiError};
use crate::rest::route::{self, Call};
use crate::stream::kubelet::Kubelets;
use crate::stream::pod::Stream;
use crate::tls;

/// The API server: everything behind an accepted connection.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    kubelets: Kubelets,
    grpc: Option<(String, axum::Router)>,
    address: String,
    ready: AtomicBool,
}

impl Server {
    /// A server of this API. `address` is where pods and nodes reach it, as discovery tells them.
    pub fn new(api: Arc<Api>, pki: &Pki, address: String, tasks: TaskTracker) -> Result<Self, PkiError> {
        let kubelets = Kubelets::new(tls::kubelet_client(pki)?, tasks);
        Ok(Self { api, kubelets, grpc: None, address, ready: AtomicBool::new(false) })
    }

    /// Serves a gRPC service on the same port, by the prefix of its paths. Requests carry [`Identity`] in their
    /// extensions; what it may do is for the service to say.
    #[must_use]
    pub fn with_grpc(mut self, prefix: &str, router: axum::Router) -> Self {
        self.grpc = Some((prefix.to_owned(), router));
        self
    }

    /// Turns `/readyz` green.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Answers a request of an authenticated peer.
    pub(crate) async fn handle(&self, identity: Identity, request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path(), user = identity.user);
        async {
            let headers = request.headers().clone();
            let head = request.method() == Method::HEAD;
            let mut response = match self.dispatch(identity, request).await {
                Ok(response) => respond::compress(&headers, response),
                Err(status) => respond::failure(&status),
            };
            if head {
                *response.body_mut() = Body::empty();
            }
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(code = response.status().as_u16(), micros, "answered");
            response
        }
        .instrument(span)
        .await
    }

    async fn dispatch(&self, identity: Identity, mut request: Request<Body>) -> respond::Answer {
        if request.headers().contains_key(AUTHORIZATION) && identity.is_anonymous() {
            // Tokens are not served yet: one that cannot be checked is not to be taken for nobody.
            return Err(Status::new(Reason::Unauthorized, "Unauthorized"));
        }
        if let Some((prefix, router)) = &self.grpc
            && request.uri().path().starts_with(prefix)
        {
            request.extensions_mut().insert(identity);
            let Ok(response) = router.clone().oneshot(request).await;
            return Ok(response);
        }
        let raw_query = request.uri().query().unwrap_or_default().to_owned();
        let path = request.uri().path().to_owned();
        let query = Query::parse(&raw_query);
        let method = request.method().clone();
        let (verb, target) = request::parse(&method, &path, &query);
        authorize(&identity, verb, &target, &path)?;
        let Target::Resource(target) = target else {
            return self.page(&path, &query, request.headers());
        };
        let kind = route::kind(&target)?;
        if kind.connects.iter().any(|connect| connect.name == target.subresource) {
            let headers = request.headers().clone();
            let client = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
            let stream = Stream {
                api: &self.api,
                kubelets: &self.kubelets,
                target: &target,
                query: &query,
                raw_query: &raw_query,
                method: &method,
                headers: &headers,
            };
            return stream.answer(client).await;
        }
        let (parts, body) = request.into_parts();
        let body = body::read(body).await?;
        let call = Call { api: &self.api, kind, verb, target: &target, query: &query, headers: &parts.headers, body };
        // Boxed: the verbs are large, and most of what runs here is small.
        Box::pin(call.answer()).await
    }

    fn page(&self, path: &str, query: &Query, headers: &HeaderMap) -> respond::Answer {
        let health = Health { ready: self.ready.load(Ordering::Acquire), serving: !self.api.shutdown.is_cancelled() };
        discovery::health(path, query, health)
            .unwrap_or_else(|| discovery::document(path, query, headers, &self.address))
    }
}
