//! TLS: what the server shows, whom it believes, and how it names itself to kubelets.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::pki::{Pki, PkiError, certificates, private_key};

/// For the API's port: client certificates of our CA are believed, none is anonymous, any other is refused.
pub fn server(pki: &Pki) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| PkiError::Tls { what: "the client verifier", detail: error.to_string() })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_client_cert_verifier(verifier))
        .and_then(|builder| {
            let chain = certificates(&pki.server.certificate).ok().unwrap_or_default();
            let key = private_key(&pki.server.key).map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_single_cert(chain, key)
        })
        .map_err(|error| PkiError::Tls { what: "the serving certificate", detail: error.to_string() })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For connections to kubelets: their serving certificates must be of our CA.
pub(crate) fn kubelet_client(pki: &Pki) -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&pki.kubelet_client.certificate)?;
    let key = private_key(&pki.kubelet_client.key)?;
    let roots = roots(pki)?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|error| PkiError::Tls { what: "the kubelet client certificate", detail: error.to_string() })
}

fn roots(pki: &Pki) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&pki.ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| PkiError::Tls { what: "the CA's certificate", detail: error.to_string() })?;
    }
    Ok(roots)
}
