//! Who may call: certificates in, identity out.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::ServeError;
use crate::config::Config;

/// The API server's name towards nodes.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Members may do anything.
const MASTERS: &str = "system:masters";

/// Name and groups from the client certificate; empty without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    name: String,
    groups: Vec<String>,
}

impl Caller {
    fn may(&self) -> bool {
        self.name == API_SERVER || self.groups.iter().any(|group| group == MASTERS)
    }
}

/// TLS with the node's certificate; clients may show one of the cluster's CA.
pub(super) fn acceptor(config: &Config) -> Result<TlsAcceptor, ServeError> {
    let wrong = |path: &std::path::Path, why: String| ServeError::Certificate { path: path.display().to_string(), why };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&config.server_cert)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&config.server_cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&config.server_key)
        .map_err(|error| wrong(&config.server_key, error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&config.client_ca)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&config.client_ca, error.to_string()))?;
    for authority in authorities {
        roots.add(authority).map_err(|error| wrong(&config.client_ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong(&config.client_ca, error.to_string()))?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&config.server_cert, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&config.server_cert, error.to_string()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// Who is at the other end.
pub(super) fn caller(connection: &rustls::ServerConnection) -> Caller {
    let Some(certificate) = connection.peer_certificates().and_then(|chain| chain.first()) else {
        return Caller::default();
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Caller::default() };
    let subject = certificate.subject();
    Caller {
        name: subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
        groups: subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect(),
    }
}

/// Lets the API server and administrators through.
pub(super) async fn authorize(request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    if caller.may() {
        return next.run(request).await;
    }
    if caller == Caller::default() {
        return (StatusCode::UNAUTHORIZED, "Unauthorized\n").into_response();
    }
    let text = format!("Forbidden (user={}): only the API server may use this port\n", caller.name);
    (StatusCode::FORBIDDEN, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server_and_masters_may() {
        let caller = |name: &str, group: &str| Caller { name: name.into(), groups: vec![group.into()] };
        assert!(caller("kube-apiserver-kubelet-client", "x").may());
        assert!(caller("kubernetes-admin", "system:masters").may());
        assert!(!caller("system:node:n1", "system:nodes").may());
        assert!(!Caller::default().may());
    }
}
