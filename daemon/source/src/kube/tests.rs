//! The source against a small API server: lists in pages, watches, outages and expiry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::update::{ObjectName, Update};
use crate::view::View;

/// How it refuses a revision that is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// By an event of the stream, as kube-apiserver does.
    Event,
    /// By the answer's status.
    Status,
}

/// An API server's store, with all that ever happened.
#[derive(Debug, Default)]
struct Store {
    revision: u64,
    objects: BTreeMap<(String, String), Value>,
    events: Vec<(u64, String, Value)>,
    /// Older revisions are expired.
    compacted: u64,
    requests: Vec<String>,
}

#[derive(Clone)]
struct Server {
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
    expiry: Expiry,
    address: std::net::SocketAddr,
    /// Lets in whom its authority has signed, and nobody else.
    tls: Option<TlsAcceptor>,
}

impl Server {
    async fn new(expiry: Expiry, tls: Option<TlsAcceptor>) -> (Self, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Self { store: Arc::default(), changed: watch::Sender::new(0), expiry, address, tls };
        let up = server.serve(listener);
        (server, up)
    }

    /// Answers until the token is cancelled; then every connection breaks.
    fn serve(&self, listener: TcpListener) -> CancellationToken {
        let (server, up) = (self.clone(), CancellationToken::new());
        let token = up.clone();
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
                let (server, token) = (server.clone(), token.clone());
                tasks.spawn(async move {
                    let answered = async {
                        match &server.tls {
                            None => server.answer(stream).await,
                            Some(tls) => {
                                if let Ok(stream) = Box::pin(tls.accept(stream)).await {
                                    server.answer(stream).await;
                                }
                            }
                        }
                    };
                    token.run_until_cancelled(Box::pin(answered)).await
                });
            }
        });
        up
    }

    async fn again(&self) -> CancellationToken {
        self.serve(TcpListener::bind(self.address).await.expect("the port is free"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happen(&self, what: &str, mut object: Value) {
        let mut store = self.lock();
        store.revision += 1;
        let revision = store.revision;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let key = (text("kind"), object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        if what == "DELETED" {
            store.objects.remove(&key);
        } else {
            store.objects.insert(key, object.clone());
        }
        store.events.push((revision, what.to_owned(), object));
        drop(store);
        self.changed.send_replace(revision);
    }

    async fn answer(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if request.is_empty() {
                request = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        self.lock().requests.push(request.clone());
        let (path, query) = request.split_once('?').unwrap_or((&request, ""));
        let parameter = |name: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let kind = match path {
            "/api/v1/services" => "Service",
            "/apis/discovery.k8s.io/v1/endpointslices" => "EndpointSlice",
            "/api/v1/nodes" => "Node",
            other => panic!("nobody asks for {other}"),
        };
        if parameter("watch").is_some() {
            let from = parameter("resourceVersion").and_then(|text| text.parse().ok()).expect("a revision");
            self.watch(stream.into_inner(), kind, from).await;
        } else {
            let skipped = parameter("continue").and_then(|text| text.parse().ok()).unwrap_or(0);
            let (page, rest) = self.page(kind, skipped);
            let body = json!({"apiVersion": "v1", "kind": "List", "items": page,
                "metadata": {"resourceVersion": self.lock().revision.to_string(), "continue": rest}});
            respond(stream.into_inner(), "200 OK", &body.to_string()).await;
        }
    }

    /// Two objects at a time; the objects of a list do not say their kind.
    fn page(&self, kind: &str, skipped: usize) -> (Vec<Value>, String) {
        let store = self.lock();
        let all: Vec<&Value> =
            store.objects.iter().filter(|(key, _)| key.0 == kind).map(|(_, object)| object).collect();
        let page = all.iter().skip(skipped).take(2).map(|object| {
            let mut object = (*object).clone();
            for field in ["apiVersion", "kind"] {
                object.as_object_mut().map(|fields| fields.remove(field));
            }
            object
        });
        let page = page.collect();
        (page, if all.len() > skipped + 2 { (skipped + 2).to_string() } else { String::new() })
    }

    async fn watch(&self, mut stream: impl AsyncWrite + Unpin, kind: &str, mut from: u64) {
        let mut changes = self.changed.subscribe();
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
        let is_expired = from < self.lock().compacted;
        if is_expired && self.expiry == Expiry::Status {
            return respond(stream, "410 Gone", &gone.to_string()).await;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        if is_expired {
            let _ = stream.write_all(format!("{}\n", json!({"type": "ERROR", "object": gone})).as_bytes()).await;
            return;
        }
        loop {
            let (lines, last) = {
                let store = self.lock();
                let new =
                    store.events.iter().filter(|(revision, _, object)| *revision > from && object["kind"] == kind);
                let lines = new.map(|(_, what, object)| json!({"type": what, "object": object}).to_string() + "\n");
                (lines.collect::<String>(), store.revision)
            };
            from = last;
            if stream.write_all(lines.as_bytes()).await.is_err() || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn respond(mut stream: impl AsyncWrite + Unpin, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + body).as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn service(name: &str, port: impl Into<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": port.into()}]}})
}

fn slice(name: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.244.0.2"]}]})
}

/// The source at work.
struct Rig {
    feed: Feed,
    view: View,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Rig {
    async fn new(server: &Server) -> Self {
        Self::with(&format!("server: 'http://{}'", server.address), "token: secret").await
    }

    /// With these lines of the kubeconfig about the cluster and the user.
    async fn with(cluster: &str, user: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
        );
        std::fs::write(&path, text).expect("written");
        let source = Kube::open(&path, "n1").await.expect("a kubeconfig");
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let feed = Box::new(source).start(&tasks, shutdown.clone());
        Self { feed, view: View::new("n1"), shutdown, tasks }
    }

    /// Applies updates until the services are these.
    async fn until(&mut self, expected: &[&str]) -> Vec<Update> {
        let mut updates = Vec::new();
        while self.services() != expected {
            let update = tokio::time::timeout(Duration::from_secs(20), self.feed.updates.recv()).await;
            let update = update.unwrap_or_else(|_| panic!("{:?} never become {expected:?}", self.services()));
            let update = update.expect("the source goes on");
            self.view.apply(update.clone());
            updates.push(update);
        }
        updates
    }

    fn services(&self) -> Vec<String> {
        self.view.services().map(|one| one.name.name.clone()).collect()
    }

    async fn contact(&mut self, is_up: bool) {
        let wanted =
            |contact: &Contact| if is_up { *contact == Contact::Up } else { matches!(contact, Contact::Lost(_)) };
        let reached = tokio::time::timeout(Duration::from_secs(20), self.feed.contact.wait_for(wanted)).await;
        assert!(reached.is_ok_and(|reached| reached.is_ok()), "contact: up is {is_up}");
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn lives_through_outages(expiry: Expiry) {
    let (server, up) = Server::new(expiry, None).await;
    for name in ["a", "b", "c"] {
        server.happen("ADDED", service(name, 80));
    }
    server.happen("ADDED", slice("a"));
    server.happen("ADDED", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    let mut rig = Rig::new(&server).await;
    let updates = rig.until(&["a", "b", "c"]).await;
    assert!(updates.len() == 1 && updates[0].snapshot && updates[0].complete, "{updates:?}");
    let one = rig.view.services().next().expect("a");
    assert_eq!(one.ports[0].endpoints.len(), 1);
    assert!(rig.view.node().is_some());
    rig.contact(true).await;
    assert!(server.lock().requests.iter().any(|request| request.contains("fieldSelector=metadata.name%3Dn1")));

    server.happen("ADDED", service("d", 80));
    assert_eq!(rig.until(&["a", "b", "c", "d"]).await.len(), 1);
    server.happen("MODIFIED", service("d", "eighty"));
    let update = rig.feed.updates.recv().await.expect("an update");
    assert_eq!(update.rejected.len(), 1, "refused alone, and the watch goes on: {update:?}");

    // Away and back: nothing is removed meanwhile, and the watch goes on where it was.
    up.cancel();
    rig.contact(false).await;
    server.happen("DELETED", service("b", 80));
    server.happen("ADDED", service("e", 80));
    let lists = |server: &Server| server.lock().requests.iter().filter(|request| request.contains("limit=")).count();
    let before = lists(&server);
    let up = server.again().await;
    let updates = rig.until(&["a", "c", "d", "e"]).await;
    assert!(updates.iter().all(|update| !update.snapshot), "{updates:?}");
    rig.contact(true).await;
    assert_eq!(lists(&server), before, "it resumed");

    // Away for so long that the revision is expired: the list that comes is compared.
    up.cancel();
    rig.contact(false).await;
    server.happen("DELETED", service("c", 80));
    server.happen("ADDED", service("f", 80));
    server.lock().compacted = u64::MAX;
    let up = server.again().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.lock().compacted = 0;
    let updates = rig.until(&["a", "d", "e", "f"]).await;
    let removed: Vec<_> = updates.iter().flat_map(|update| &update.removed).collect();
    assert_eq!(removed, [&ObjectName::Service("default".into(), "c".into())]);
    rig.contact(true).await;
    assert!(lists(&server) > before, "it listed again");
    up.cancel();
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_good_the_source_lives_through_outages_and_expiry_by_event() {
    lives_through_outages(Expiry::Event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_good_the_source_lives_through_outages_and_expiry_by_status() {
    lives_through_outages(Expiry::Status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_the_node_prove_who_they_are() {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let root = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(authority, authority_key);
    let signed = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (parameters.signed_by(&key, &issuer).expect("a certificate"), key)
    };
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder(roots.into()).build().expect("a verifier");
    let (certificate, key) = signed("127.0.0.1");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a configuration");
    let (server, up) = Server::new(Expiry::Event, Some(TlsAcceptor::from(Arc::new(config)))).await;
    server.happen("ADDED", service("a", 80));

    let data = |text: &str| base64(text.as_bytes());
    let cluster = format!("server: 'https://{}', certificate-authority-data: {}", server.address, data(&root.pem()));
    let mut stranger = Rig::with(&cluster, "token: secret").await;
    stranger.contact(false).await;
    stranger.end().await;
    let (certificate, key) = signed("n1");
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}",
        data(&certificate.pem()),
        data(&key.serialize_pem())
    );
    let mut rig = Rig::with(&cluster, &user).await;
    rig.until(&["a"]).await;
    rig.contact(true).await;
    up.cancel();
    rig.end().await;
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()))
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .expect("text")
}

#[tokio::test]
async fn a_kubeconfig_that_is_none_is_named() {
    let error = Kube::open(Path::new("/nowhere/kubeconfig"), "n1").await.expect_err("there is none");
    assert!(error.to_string().contains("/nowhere/kubeconfig"), "{error}");
}
