//! The push stream: desired state from `fairlead-control` over one gRPC connection, reports back over the same.
//!
//! The connection carries the node's client certificate. A dead peer is noticed by HTTP/2 pings within ten seconds; a
//! stream that ends is opened again after a jittered pause and goes on at the revision last acknowledged.
//!
//! [`decode`] reads what comes over the wire, `pause` decides how long to wait, and `stream` runs one stream after
//! the other. None of them touches the [`View`](crate::View): what is known stays known without contact.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_proto::push::v1;
use fairlead_proto::push::v1::push_client::PushClient;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::report::{self, Outcome, Report, ReportError, Reporter};
use crate::source::{Feed, Source, feed};

pub mod decode;
mod stream;

/// A connection that does not come about in this time is tried again.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent peer is asked for a sign of life this often …
const PING_EVERY: Duration = Duration::from_secs(4);
/// … and is dead if there is none for this long.
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Reports that take longer have failed, as far as the caller is concerned.
const REPORT: Duration = Duration::from_secs(30);
/// Largest message taken; the control plane sends pieces of a MiB unless a single object is larger.
const LARGEST_MESSAGE: usize = 16 << 20;

/// How to reach the control plane, and as whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://HOST:PORT`.
    pub server: String,
    /// The node's name, as in the client certificate.
    pub node: String,
    /// Client certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Certificate of the cluster's authority, PEM.
    pub authority: PathBuf,
    /// Name to expect in the server's certificate; `None` takes the host of `server`.
    pub server_name: Option<String>,
    /// The daemon's version, for the control plane's log.
    pub version: String,
}

/// Why the push stream could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// A credential file is not there.
    #[error("cannot read the {what} {path} (has the node been given its credentials?)")]
    Read {
        /// Which of them.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server's address is none.
    #[error("the control plane's address `{server}` should look like https://HOST:PORT")]
    Address {
        /// As given.
        server: String,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// The credentials make no sense together.
    #[error("cannot use the client certificate {certificate}, its key and the authority's certificate for TLS")]
    Credentials {
        /// The certificate's path.
        certificate: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// The push stream, not yet started.
#[derive(Debug)]
pub struct Push {
    node: String,
    version: String,
    client: PushClient<Channel>,
}

impl Push {
    /// Reads the credentials and prepares the connection; connects when started. Must be called inside a runtime.
    pub fn open(config: Config) -> Result<Self, PushError> {
        let endpoint = endpoint(&config)?;
        Ok(Self::over(endpoint.connect_lazy(), config.node, config.version))
    }

    /// The same over a channel made elsewhere.
    fn over(channel: Channel, node: String, version: String) -> Self {
        let client = PushClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        Self { node, version, client }
    }

    /// The line for reports, over the same connection.
    pub fn reporter(&self) -> PushReporter {
        PushReporter { client: self.client.clone() }
    }
}

impl Source for Push {
    fn start(self: Box<Self>, tasks: &TaskTracker, shutdown: CancellationToken) -> Feed {
        let (writer, feed) = feed();
        let streams = stream::Streams::new(self.node, self.version, self.client, writer);
        tasks.spawn(async move { shutdown.run_until_cancelled(streams.run()).await });
        feed
    }
}

/// Makes reports over the push connection. Clones share it.
#[derive(Clone, Debug)]
pub struct PushReporter {
    client: PushClient<Channel>,
}

#[async_trait]
impl Reporter for PushReporter {
    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Outcome>, ReportError> {
        let reports = reports.iter().map(report::to_wire).collect::<Result<Vec<_>, _>>()?;
        let count = reports.len();
        let mut request = tonic::Request::new(v1::ReportRequest { reports });
        request.set_timeout(REPORT);
        let answer = self.client.clone().report(request).await.map_err(|status| refused(&status))?;
        let outcomes = answer.into_inner().outcomes;
        if outcomes.len() != count {
            let reason = format!("{count} reports were made, {} outcomes came back", outcomes.len());
            return Err(ReportError::Protocol { reason });
        }
        Ok(outcomes.into_iter().map(report::from_wire).collect())
    }
}

fn refused(status: &tonic::Status) -> ReportError {
    let reason = describe(status);
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => ReportError::Refused { reason },
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => ReportError::Protocol { reason },
        _ => ReportError::Unreachable { reason },
    }
}

/// A status with the chain of its causes: `transport error` alone helps nobody.
fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

fn endpoint(config: &Config) -> Result<Endpoint, PushError> {
    let certificate = read("client certificate", &config.certificate)?;
    let key = read("client key", &config.key)?;
    let authority = read("authority's certificate", &config.authority)?;
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority))
        .identity(Identity::from_pem(certificate, key));
    if let Some(name) = &config.server_name {
        tls = tls.domain_name(name);
    }
    let bad_address = |source| PushError::Address { server: config.server.clone(), source };
    let endpoint = Endpoint::from_shared(config.server.clone()).map_err(bad_address)?;
    let bad_credentials = |source| PushError::Credentials { certificate: config.certificate.clone(), source };
    tuned(endpoint).tls_config(tls).map_err(bad_credentials)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
}

fn read(what: &'static str, path: &std::path::Path) -> Result<Vec<u8>, PushError> {
    std::fs::read(path).map_err(|source| PushError::Read { what, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
