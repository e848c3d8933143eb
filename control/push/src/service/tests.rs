//! The service over real sockets, against the contract's own client stub as the node.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::Object;
use fairlead_apiserver::LocalClient;
use fairlead_proto::push::v1::push_client::PushClient;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::InterceptorLayer;
use tonic::transport::{Channel, Server};

use super::*;
use crate::feed::{Change, Commit, Opening, Record, kinds};

/// A feed that the test writes.
#[derive(Default)]
struct Written {
    opening: Mutex<Vec<Record>>,
    commits: Mutex<Option<mpsc::Receiver<Result<Commit, Status>>>>,
    opened: Mutex<u64>,
}

#[async_trait]
impl Feed for Written {
    async fn open(&self) -> Result<Opening, Status> {
        let commits = self.commits.lock().expect("no panic").take();
        let commits = commits.ok_or_else(|| Status::internal("no feed yet"))?;
        let records = self.opening.lock().expect("no panic").clone();
        let mut opened = self.opened.lock().expect("no panic");
        *opened += 10;
        let commits = ReceiverStream::new(commits).boxed();
        Ok(Opening { store_id: "s".into(), revision: *opened, records, commits })
    }
}

struct Rig {
    feed: Arc<Written>,
    service: PushService,
    channel: Channel,
    stop: CancellationToken,
}

impl Rig {
    async fn start(peer: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let feed = Arc::new(Written::default());
        let client = Arc::new(LocalClient::memory().await);
        let service = PushService::new(client, feed.clone(), &tasks, stop.clone());
        let peer = peer.map(|user| PeerIdentity { user: user.to_owned(), groups: vec!["system:nodes".to_owned()] });
        let identify = move |mut request: Request<()>| {
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            Ok(request)
        };
        let server = Server::builder().layer(InterceptorLayer::new(identify)).add_routes(router(service.clone()));
        let until = stop.clone();
        tasks.spawn(async move {
            until.run_until_cancelled(server.serve_with_incoming(TcpListenerStream::new(listener))).await
        });
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Self { feed, service, channel, stop }
    }

    /// Gives the feed a stream of commits; the service opens it.
    fn commits(&self) -> mpsc::Sender<Result<Commit, Status>> {
        let (sender, receiver) = mpsc::channel(8);
        *self.feed.commits.lock().expect("no panic") = Some(receiver);
        sender
    }

    async fn node(&self) -> Node {
        let (say, said) = mpsc::channel(4);
        say.send(hello()).await.expect("room");
        let answer = soon(PushClient::new(self.channel.clone()).sync(ReceiverStream::new(said))).await;
        Node { say, updates: answer.expect("a stream").into_inner() }
    }

    async fn until(&self, done: impl Fn(&NodeProgress) -> bool) -> NodeProgress {
        let watch = async {
            loop {
                match self.service.acknowledged().remove("n1") {
                    Some(progress) if done(&progress) => return progress,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        soon(watch).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Node {
    say: mpsc::Sender<v1::NodeMessage>,
    updates: Streaming<v1::Update>,
}

impl Node {
    async fn update(&mut self) -> v1::Update {
        soon(self.updates.message()).await.expect("readable").expect("an update")
    }

    async fn end(&mut self) -> tonic::Status {
        loop {
            match soon(self.updates.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
}

fn hello() -> v1::NodeMessage {
    let hello = v1::Hello { node: "n1".into(), ..v1::Hello::default() };
    v1::NodeMessage { body: Some(v1::node_message::Body::Hello(hello)) }
}

fn service_record(name: &str, revision: u64) -> Record {
    let tree = json!({"kind": "Service", "metadata": {"namespace": "default", "name": name}});
    let json = serde_json::to_vec(&tree).expect("JSON").into();
    let object: Object = serde_json::from_value(tree).expect("an object");
    Record { kind: kinds()[0], object: object.into(), json, revision }
}

fn commit(revision: u64, name: &str, removed: bool) -> Result<Commit, Status> {
    let change = Change { record: service_record(name, revision), removed };
    Ok(Commit { revision, committed_at: 5, changes: vec![change] })
}

fn names(update: &v1::Update) -> Vec<String> {
    let put = update.put.iter().flat_map(|put| &put.object).map(|object| object.name.clone());
    let mut names: Vec<String> = put.chain(update.removed.iter().map(|gone| format!("-{}", gone.name))).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_node_gets_a_snapshot_then_deltas_and_its_acknowledgements_are_kept() {
    let rig = Rig::start(Some("system:node:n1")).await;
    // The node may be there before the world is.
    let mut node = rig.node().await;
    rig.feed.opening.lock().expect("no panic").push(service_record("a", 3));
    let commits = rig.commits();
    let first = node.update().await;
    assert_eq!((first.snapshot, first.complete, first.revision, first.store_id.as_str()), (true, true, 10, "s"));
    assert_eq!(names(&first), ["a"]);
    commits.send(commit(11, "b", false)).await.expect("followed");
    let second = node.update().await;
    assert_eq!((second.snapshot, second.revision, second.committed_at), (false, 11, 5));
    assert_eq!(names(&second), ["b"]);
    let rejected = v1::Rejected { object: None, reason: "no".into() };
    let ack = v1::Ack { revision: 11, rejected: vec![rejected] };
    node.say.send(v1::NodeMessage { body: Some(v1::node_message::Body::Ack(ack)) }).await.expect("room");
    let progress = rig.until(|progress| progress.acknowledged == 11).await;
    assert_eq!(progress, NodeProgress { connected: true, acknowledged: 11, sent: 11, rejected: 1 });
    drop(node);
    rig.until(|progress| !progress.connected).await;
}

#[tokio::test]
async fn a_feed_that_ends_is_opened_again_and_nodes_converge() {
    let rig = Rig::start(Some("system:node:n1")).await;
    let commits = rig.commits();
    let mut node = rig.node().await;
    node.update().await;
    commits.send(commit(11, "a", false)).await.expect("followed");
    assert_eq!(names(&node.update().await), ["a"]);
    rig.feed.opening.lock().expect("no panic").push(service_record("b", 12));
    let again = rig.commits();
    commits.send(Err(Status::expired("fell behind"))).await.expect("followed");
    let update = node.update().await;
    assert!(update.snapshot, "what happened in between is unknown");
    assert_eq!((names(&update), update.revision), (vec!["b".to_owned()], 20));
    drop(again);
}

#[tokio::test]
async fn a_later_stream_of_a_node_takes_over() {
    let rig = Rig::start(Some("system:node:n1")).await;
    let commits = rig.commits();
    let mut first = rig.node().await;
    first.update().await;
    let mut second = rig.node().await;
    second.update().await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    commits.send(commit(11, "a", false)).await.expect("followed");
    assert_eq!(names(&second.update().await), ["a"]);
    assert!(rig.until(|progress| progress.sent == 11).await.connected);
    rig.stop.cancel();
    assert_eq!(second.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn only_nodes_are_served() {
    for (peer, code) in [(None, Code::Unauthenticated), (Some("admin"), Code::PermissionDenied)] {
        let rig = Rig::start(peer).await;
        let mut client = PushClient::new(rig.channel.clone());
        let refused = soon(client.sync(futures::stream::iter([hello()]))).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{refused}");
        let refused = soon(client.report(v1::ReportRequest::default())).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{refused}");
    }
    let rig = Rig::start(Some("system:node:another")).await;
    let mut node = rig.node().await;
    let refused = node.end().await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("another"), "{refused}");
}
