//! The client against a small control plane of the contract's own stubs, over real sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fairlead_proto::push::v1::push_server::{Push as PushContract, PushServer};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Streaming};

use super::*;
use crate::source::Contact;

type Answers = mpsc::Sender<Result<v1::Update, tonic::Status>>;
type Conversation = (Streaming<v1::NodeMessage>, Answers);

/// Hands each stream that a node opens to the test.
struct ControlPlane {
    streams: mpsc::Sender<Conversation>,
    outcomes: Mutex<Result<Vec<v1::Outcome>, tonic::Status>>,
}

#[tonic::async_trait]
impl PushContract for ControlPlane {
    type SyncStream = ReceiverStream<Result<v1::Update, tonic::Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SyncStream>, tonic::Status> {
        let (answers, receiver) = mpsc::channel(8);
        self.streams.send((request.into_inner(), answers)).await.expect("the test takes streams");
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(&self, _: Request<v1::ReportRequest>) -> Result<Response<v1::ReportReply>, tonic::Status> {
        self.outcomes.lock().await.clone().map(|outcomes| Response::new(v1::ReportReply { outcomes }))
    }
}

struct Rig {
    streams: mpsc::Receiver<Conversation>,
    control: Arc<ControlPlane>,
    address: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Rig {
    async fn start(tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (sender, streams) = mpsc::channel(1);
        let control = Arc::new(ControlPlane { streams: sender, outcomes: Mutex::new(Ok(Vec::new())) });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("server credentials");
        }
        let router = server.add_service(PushServer::from_arc(control.clone()));
        let until = stop.clone();
        tasks.spawn(async move {
            until.run_until_cancelled(router.serve_with_incoming(TcpListenerStream::new(listener))).await
        });
        Self { streams, control, address, tasks, stop }
    }

    fn push(&self) -> Push {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        Push::over(tuned(endpoint).connect_lazy(), "n1".into(), "v0".into())
    }

    fn feed(&self, push: Push) -> Feed {
        Source::start(Box::new(push), &self.tasks, self.stop.clone())
    }

    /// The next stream and its Hello.
    async fn greeted(&mut self) -> (v1::Hello, Streaming<v1::NodeMessage>, Answers) {
        let (mut messages, answers) = soon(self.streams.recv()).await.expect("a stream");
        let first = soon(messages.next()).await.expect("a message").expect("readable").body;
        let Some(v1::node_message::Body::Hello(hello)) = first else { panic!("not a Hello: {first:?}") };
        (hello, messages, answers)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
}

fn state(revision: u64, snapshot: bool, complete: bool) -> Result<v1::Update, tonic::Status> {
    Ok(v1::Update { revision, snapshot, complete, store_id: "s".into(), ..v1::Update::default() })
}

async fn acknowledged(messages: &mut Streaming<v1::NodeMessage>) -> u64 {
    let message = soon(messages.next()).await.expect("a message").expect("readable").body;
    let Some(v1::node_message::Body::Ack(ack)) = message else { panic!("not an Ack: {message:?}") };
    ack.revision
}

#[tokio::test]
async fn a_lost_stream_goes_on_at_the_revision_acknowledged() {
    let mut rig = Rig::start(None).await;
    let mut feed = rig.feed(rig.push());
    let (hello, mut messages, answers) = rig.greeted().await;
    assert_eq!((hello.node.as_str(), hello.revision, hello.store_id.as_str()), ("n1", 0, ""));
    for update in [state(4, true, false), state(4, true, true), state(6, false, true)] {
        answers.send(update).await.expect("an open stream");
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let update = soon(feed.updates.recv()).await.expect("an update");
        seen.push((update.revision, update.snapshot, update.first, update.complete));
    }
    assert_eq!(seen, [(4, true, true, false), (4, true, false, true), (6, false, false, true)]);
    assert_eq!(*feed.contact.borrow(), Contact::Up);
    feed.acknowledgements.give(4, Vec::new());
    assert_eq!(acknowledged(&mut messages).await, 4);

    answers.send(Err(tonic::Status::unavailable("restarting"))).await.expect("an open stream");
    drop((messages, answers));
    soon(feed.contact.wait_for(|contact| matches!(contact, Contact::Lost(why) if why.contains("restarting"))))
        .await
        .expect("lost");
    // Said too late: the next stream has not told of revision 6.
    feed.acknowledgements.give(6, Vec::new());
    let (hello, mut messages, answers) = rig.greeted().await;
    assert_eq!((hello.revision, hello.store_id.as_str()), (4, "s"));
    answers.send(state(9, false, true)).await.expect("an open stream");
    assert_eq!(soon(feed.updates.recv()).await.expect("an update").revision, 9);
    feed.acknowledgements.give(9, Vec::new());
    assert_eq!(acknowledged(&mut messages).await, 9);
    assert_eq!(*feed.contact.borrow(), Contact::Up);
}

#[tokio::test]
async fn outcomes_and_refusals_come_back_as_what_they_are() {
    let rig = Rig::start(None).await;
    let reporter = rig.push().reporter();
    let gone = || vec![Report::PodGone { namespace: "default".into(), name: "p".into(), uid: "u".into() }];
    let answer = |outcomes| async { *rig.control.outcomes.lock().await = outcomes };

    answer(Ok(vec![v1::Outcome { code: 404, message: "pods \"p\" not found".into(), ..v1::Outcome::default() }])).await;
    let outcomes = soon(reporter.report(gone())).await.expect("taken");
    assert!(outcomes[0].is_gone() && outcomes[0].message.contains("not found"));

    answer(Ok(Vec::new())).await;
    let error = soon(reporter.report(gone())).await.expect_err("one outcome is missing");
    assert!(matches!(error, ReportError::Protocol { .. }), "{error}");

    answer(Err(tonic::Status::permission_denied("not a node"))).await;
    let error = soon(reporter.report(gone())).await.expect_err("refused");
    assert!(matches!(&error, ReportError::Refused { reason } if reason == "not a node"), "{error}");

    let nobody = Endpoint::from_static("http://127.0.0.1:1");
    let error = soon(Push::over(nobody.connect_lazy(), "n1".into(), "v0".into()).reporter().report(gone())).await;
    let error = error.expect_err("nobody is there");
    assert!(matches!(error, ReportError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn the_connection_carries_the_clients_certificate_and_checks_the_servers() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    let server_key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
    let server = server.signed_by(&server_key, &authority).expect("a certificate");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server.pem(), server_key.serialize_pem()))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let mut rig = Rig::start(Some(tls)).await;

    let config = credentials(directory.path(), &authority, rig.address);
    let _feed = rig.feed(Push::open(config).expect("usable credentials"));
    let (hello, _messages, _answers) = rig.greeted().await;
    assert_eq!(hello.node, "n1");

    // The same node before a server of another cluster.
    let stranger = credentials(directory.path(), &self::authority(), rig.address);
    let mut feed = rig.feed(Push::open(stranger).expect("usable credentials"));
    let lost = soon(feed.contact.wait_for(|contact| matches!(contact, Contact::Lost(_)))).await.expect("lost").clone();
    assert!(matches!(&lost, Contact::Lost(why) if why.contains("certificate")), "{lost:?}");
}

#[tokio::test]
async fn what_cannot_work_says_so_before_it_is_tried() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = credentials(directory.path(), &authority(), ([127, 0, 0, 1], 1).into());
    let missing = Config { key: directory.path().join("absent.key"), ..config.clone() };
    let error = Push::open(missing).expect_err("no key");
    assert!(error.to_string().contains("client key") && error.to_string().contains("absent.key"), "{error}");
    let error = Push::open(Config { server: "not an address".into(), ..config.clone() }).expect_err("no address");
    assert!(error.to_string().contains("`not an address`"), "{error}");
    std::fs::write(&config.certificate, "nonsense").expect("written");
    let error = Push::open(config).expect_err("no certificate");
    assert!(matches!(error, PushError::Credentials { .. }), "{error}");
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a cluster's authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn credentials(directory: &Path, authority: &CertifiedIssuer<'static, KeyPair>, server: SocketAddr) -> Config {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    Config {
        server: format!("https://{server}"),
        node: "n1".into(),
        certificate: write("client.crt", certificate.pem()),
        key: write("client.key", key.serialize_pem()),
        authority: write("ca.crt", authority.pem()),
        server_name: None,
        version: "v0".into(),
    }
}
