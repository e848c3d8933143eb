//! The way up: what the node observed, handed to the control plane.

use fairlead_proto::push::v1::{Outcome, Report};
use futures::future::BoxFuture;

/// The control plane could not be reached, or did not answer as agreed; every report of the call must be sent again.
#[derive(Debug, thiserror::Error)]
#[error("cannot report to the control plane: {0}")]
pub struct Unreachable(pub String);

/// Where reports go: the push client, or a fake. As many outcomes come back as reports were given, in their order.
pub trait Reporter: Send + Sync + 'static {
    /// Sends a batch.
    fn report(&self, reports: Vec<Report>) -> BoxFuture<'_, Result<Vec<Outcome>, Unreachable>>;
}
