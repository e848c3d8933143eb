//! The gRPC service.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_api::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::feed::Feed;

/// How far a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeProgress {
    /// A stream is open.
    pub connected: bool,
    /// Everything up to here is in force on the node; 0 if never said.
    pub acknowledged: u64,
    /// The last revision sent.
    pub sent: u64,
    /// Objects the node refuses at present.
    pub rejected: usize,
}

/// The push service. Clones share everything.
#[derive(Clone)]
pub struct PushService {
    client: Arc<dyn Client>,
}

impl std::fmt::Debug for PushService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushService").finish_non_exhaustive()
    }
}

impl PushService {
    /// Starts following the feed. Sessions end at `shutdown`; all tasks are in `tasks`.
    pub fn new(client: Arc<dyn Client>, feed: Arc<dyn Feed>, tasks: &TaskTracker, shutdown: CancellationToken) -> Self {
        let _ = (feed, tasks, shutdown);
        Self { client }
    }

    /// Every node seen, and how far it is.
    pub fn acknowledged(&self) -> BTreeMap<String, NodeProgress> {
        let _ = &self.client;
        BTreeMap::new()
    }
}

/// The service as routes, for the server that shares its port with it.
pub fn router(service: PushService) -> tonic::service::Routes {
    let _ = service;
    tonic::service::Routes::default()
}
