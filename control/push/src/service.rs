//! The gRPC service: thin around the hub and the reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_api::{Client, Status};
use fairlead_proto::push::v1;
use fairlead_proto::push::v1::push_server::{Push, PushServer};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Streaming};

use crate::feed::Feed;
use crate::hub::Hub;
use crate::identity::PeerIdentity;
use crate::report;

/// How far a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeProgress {
    /// A stream is open.
    pub connected: bool,
    /// The last revision said to be in force on the node; 0 if never said.
    pub acknowledged: u64,
    /// The last revision sent.
    pub sent: u64,
    /// Objects refused with the last acknowledgement.
    pub rejected: usize,
}

/// The push service. Clones share everything.
#[derive(Clone)]
pub struct PushService {
    client: Arc<dyn Client>,
    hub: Arc<Hub>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for PushService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushService").field("nodes", &self.acknowledged()).finish_non_exhaustive()
    }
}

impl PushService {
    /// Starts following the feed. Sessions end at `shutdown`; all tasks are in `tasks`.
    pub fn new(client: Arc<dyn Client>, feed: Arc<dyn Feed>, tasks: &TaskTracker, shutdown: CancellationToken) -> Self {
        let hub = Arc::new(Hub::default());
        let (following, until) = (hub.clone(), shutdown.clone());
        tasks.spawn(async move { until.run_until_cancelled(following.follow(&*feed)).await });
        Self { client, hub, tasks: tasks.clone(), shutdown }
    }

    /// Every node seen, and how far it is.
    pub fn acknowledged(&self) -> BTreeMap<String, NodeProgress> {
        self.hub.progress()
    }
}

/// The service as routes, for the server that shares its port with it.
pub fn router(service: PushService) -> tonic::service::Routes {
    tonic::service::Routes::new(PushServer::new(service))
}

#[tonic::async_trait]
impl Push for PushService {
    type SyncStream = ReceiverStream<Result<v1::Update, tonic::Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SyncStream>, tonic::Status> {
        let node = node_of(&request)?;
        // A place for one message: everything else waits as a place in the world, not in a queue.
        let (sender, receiver) = mpsc::channel(1);
        let (hub, shutdown) = (self.hub.clone(), self.shutdown.clone());
        let inbound = request.into_inner().boxed();
        self.tasks.spawn(async move { hub.serve(node, inbound, sender, shutdown).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, tonic::Status> {
        let node = node_of(&request)?;
        let mut outcomes = Vec::new();
        for one in request.into_inner().reports {
            outcomes.push(report::take(&*self.client, &node, one).await);
        }
        Ok(Response::new(v1::ReportReply { outcomes }))
    }
}

fn node_of<T>(request: &Request<T>) -> Result<String, tonic::Status> {
    let Some(peer) = request.extensions().get::<PeerIdentity>() else {
        return Err(tonic::Status::unauthenticated("a node must show a client certificate of the cluster"));
    };
    peer.node().map(str::to_owned).map_err(|status: Status| tonic::Status::new(Code::PermissionDenied, status.message))
}

#[cfg(test)]
mod tests;
