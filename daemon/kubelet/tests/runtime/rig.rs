//! A containerd of its own, a kubelet on it, and the two ends a control plane would hold.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fairlead_kubelet::{Config, Kubelet};
use fairlead_source::{Changes, Item, ObjectName, Outcome, Report, ReportError, Reporter, Update, View};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Everything reported, in order.
#[derive(Default)]
pub(crate) struct Seen {
    statuses: Mutex<Vec<Pod>>,
    events: Mutex<Vec<(String, String)>>,
    gone: Mutex<Vec<String>>,
}

#[async_trait]
impl Reporter for Seen {
    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Outcome>, ReportError> {
        let outcomes = reports.iter().map(|_| Outcome { code: 200, ..Default::default() }).collect();
        for report in reports {
            match report {
                Report::PodStatus(pod) => self.statuses.lock().expect("statuses").push(*pod),
                Report::Event(event) => {
                    let event = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                    self.events.lock().expect("events").push(event);
                }
                Report::PodGone { uid, .. } => self.gone.lock().expect("gone").push(uid),
                _ => {}
            }
        }
        Ok(outcomes)
    }
}

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    containerd: Containerd,
    view: Arc<RwLock<View>>,
    changes: mpsc::Sender<Changes>,
    seen: Arc<Seen>,
    kubelet: Option<(Kubelet, CancellationToken)>,
    revision: u64,
    pods: BTreeMap<String, Pod>,
    cgroup: String,
    begun: Instant,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("fl-kubelet-").tempdir().expect("a directory");
        certificates(dir.path());
        let containerd = containerd(dir.path());
        let socket = dir.path().join("c.sock");
        let begun = Instant::now();
        while fairlead_kubelet::image::list(&socket).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "containerd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (name, entry) in [("pause", vec!["/bin/busybox", "sleep", "100000"]), ("busybox", vec!["/bin/sh"])] {
            let archive = image(&format!("fairlead.local/{name}:1"), &entry);
            fairlead_kubelet::image::load_bytes(&socket, &archive).await.expect("imported");
        }
        let cgroup = format!("fairlead-test-{}", std::process::id());
        let (changes, receiver) = mpsc::channel(16);
        let mut rig = Self {
            dir,
            containerd,
            view: Arc::new(RwLock::new(View::new("n1"))),
            changes,
            seen: Arc::new(Seen::default()),
            kubelet: None,
            revision: 0,
            pods: BTreeMap::new(),
            cgroup,
            begun: Instant::now(),
        };
        rig.start_kubelet(receiver).await;
        rig
    }

    /// Says how far the test is, for who watches it.
    pub(crate) fn note(&self, what: &str) {
        println!("{:>8.3} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn start_kubelet(&mut self, changes: mpsc::Receiver<Changes>) {
        let file = |name: &str| self.dir.path().join(name);
        let config = Config {
            node_name: "n1".into(),
            node_ip: IpAddr::from([127, 0, 0, 1]),
            data_dir: self.dir.path().to_path_buf(),
            runtime_endpoint: file("c.sock"),
            cgroup: self.cgroup.clone(),
            port: 0,
            server_cert: file("server.crt"),
            server_key: file("server.key"),
            client_ca: file("ca.crt"),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            max_pods: 110,
            node_labels: Vec::new(),
        };
        let shutdown = CancellationToken::new();
        let kubelet = Kubelet::start(config, self.view.clone(), changes, self.seen.clone(), shutdown.clone())
            .await
            .expect("started");
        self.kubelet = Some((kubelet, shutdown));
    }

    /// Stops the kubelet and starts another on the same pods; the API meanwhile shows `status`.
    pub(crate) async fn restart_kubelet(&mut self, status: &PodStatus, name: &str) {
        let (kubelet, shutdown) = self.kubelet.take().expect("a kubelet");
        shutdown.cancel();
        kubelet.stopped().await;
        let pod = self.pods.get_mut(name).expect("a pod");
        pod.status = Some(status.clone());
        let pod = pod.clone();
        let (changes, receiver) = mpsc::channel(16);
        self.changes = changes;
        self.put(Item::Pod(Box::new(pod)));
        self.seen.statuses.lock().expect("statuses").clear();
        self.start_kubelet(receiver).await;
    }

    fn apply(&mut self, put: Vec<Item>, removed: Vec<ObjectName>) {
        self.revision += 1;
        let update = Update { revision: self.revision, complete: true, put, removed, ..Default::default() };
        let changes = self.view.write().expect("the view").apply(update);
        let _ = self.changes.try_send(changes);
    }

    fn put(&mut self, item: Item) {
        self.apply(vec![item], Vec::new());
    }

    pub(crate) fn pod(&mut self, name: &str, spec: &str) {
        let mut pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"default","uid":"uid-{name}"}},"spec":{spec}}}"#
        ))
        .expect("a pod in JSON");
        let spec = pod.spec.as_mut().expect("a spec");
        spec.host_network = Some(true);
        spec.node_name = Some("n1".into());
        self.pods.insert(name.into(), pod.clone());
        self.put(Item::Pod(Box::new(pod)));
    }

    pub(crate) fn config_map(&mut self, name: &str, json: &str) {
        let mut map: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_str(json).expect("a ConfigMap in JSON");
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("default".into());
        self.put(Item::ConfigMap(Box::new(map)));
    }

    pub(crate) fn delete(&mut self, name: &str, grace: i64) {
        let pod = self.pods.get_mut(name).expect("a pod");
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        let pod = pod.clone();
        self.put(Item::Pod(Box::new(pod)));
    }

    pub(crate) fn statuses(&self, name: &str) -> Vec<PodStatus> {
        let all = self.seen.statuses.lock().expect("statuses");
        all.iter()
            .filter(|pod| pod.metadata.name.as_deref() == Some(name))
            .filter_map(|pod| pod.status.clone())
            .collect()
    }

    pub(crate) fn latest(&self, name: &str) -> Option<PodStatus> {
        self.statuses(name).pop()
    }

    pub(crate) fn events(&self) -> Vec<(String, String)> {
        self.seen.events.lock().expect("events").clone()
    }

    pub(crate) async fn wait_pod(&self, name: &str, what: &str, holds: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.statuses(name).into_iter().find(|status| holds(status)) {
                self.note(&format!("{name} is {what}"));
                return status;
            }
            if begun.elapsed() > Duration::from_secs(40) {
                panic!("pod {name} is not {what}: {:#?}\n{:#?}", self.latest(name), self.events());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_gone(&mut self, name: &str) {
        let begun = Instant::now();
        while !self.seen.gone.lock().expect("gone").contains(&format!("uid-{name}")) {
            assert!(begun.elapsed() < Duration::from_secs(30), "pod {name} is not gone: {:#?}", self.latest(name));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.apply(Vec::new(), vec![ObjectName::Pod("default".into(), name.into())]);
    }

    fn port(&self) -> u16 {
        self.kubelet.as_ref().expect("a kubelet").0.address().port()
    }

    /// Asks the HTTPS server as the API server would.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let output = tokio::process::Command::new("curl")
            .args(["-sk", "-w", "%{http_code}", "--cert", &file("client.crt"), "--key", &file("client.key")])
            .arg(format!("https://127.0.0.1:{}{path}", self.port()))
            .output()
            .await
            .expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.split_at(text.len() - 3);
        (code.parse().expect("a status code"), body.to_owned())
    }

    /// Runs a command over a WebSocket; standard input ends after `input`.
    pub(crate) async fn exec(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
        input: Option<&str>,
    ) -> (String, Option<i32>) {
        use futures::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::Message;
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut query: Vec<String> = command
            .iter()
            .map(|word| {
                let escaped = percent_encoding::utf8_percent_encode(word, percent_encoding::NON_ALPHANUMERIC);
                format!("command={escaped}")
            })
            .collect();
        query.push(format!("stdin={}&stdout=true&stderr=true", input.is_some()));
        let url = format!("wss://127.0.0.1:{}/exec/default/{pod}/{container}?{}", self.port(), query.join("&"));
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().expect("a header"));
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port())).await.expect("connected");
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").expect("a name");
        let stream = connector(self.dir.path()).connect(name, stream).await.expect("TLS");
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
        if let Some(input) = input {
            let mut message = vec![0];
            message.extend_from_slice(input.as_bytes());
            socket.send(Message::Binary(message.into())).await.expect("sent");
            socket.send(Message::Binary(vec![255, 0].into())).await.expect("sent");
        }
        let mut output = String::new();
        let mut code = None;
        let reading = async {
            while let Some(Ok(message)) = socket.next().await {
                let Message::Binary(data) = message else { continue };
                match data.first() {
                    Some(1 | 2) => output.push_str(&String::from_utf8_lossy(&data[1..])),
                    Some(3) => {
                        let status: serde_json::Value = serde_json::from_slice(&data[1..]).expect("a Status");
                        let cause = &status["details"]["causes"][0]["message"];
                        code = match status["status"].as_str() {
                            Some("Success") => Some(0),
                            _ => cause.as_str().and_then(|code| code.parse().ok()),
                        };
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the command ends");
        (output, code)
    }

    pub(crate) async fn stop(mut self) {
        let (kubelet, shutdown) = self.kubelet.take().expect("a kubelet");
        shutdown.cancel();
        kubelet.stopped().await;
        let socket = self.dir.path().join("c.sock");
        fairlead_kubelet::remove_all(&socket, self.dir.path(), &self.cgroup).await.expect("everything is removed");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let socket = self.dir.path().join("c.sock");
        if std::thread::panicking() {
            let ctr = |args: &str| {
                let output =
                    Command::new("ctr").arg("-a").arg(&socket).args(["-n", "k8s.io"]).args(args.split(' ')).output();
                output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
            };
            for id in ctr("task ls -q").lines() {
                ctr(&format!("task kill -s KILL {id}"));
            }
            for id in ctr("task ls -q").lines() {
                ctr(&format!("task rm -f {id}"));
            }
        }
        if std::thread::panicking() {
            let script =
                format!("rmdir /sys/fs/cgroup/*/{0}/*/* /sys/fs/cgroup/*/{0}/* /sys/fs/cgroup/*/{0}", self.cgroup);
            let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
        }
        self.containerd.end();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside = self.dir.path().display().to_string();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|p| p.starts_with(&inside)) {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
}

fn containerd(dir: &Path) -> Containerd {
    let at = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        r#"version = 2
root = "{}"
state = "{}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "fairlead.local/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "{}"
"#,
        at("root"),
        at("state"),
        at("c.sock"),
        at("cni/bin"),
        at("cni/conf")
    );
    std::fs::write(dir.join("config.toml"), config).expect("written");
    let log = std::fs::File::create(dir.join("containerd.log")).expect("a log");
    let mut command = Command::new("containerd");
    command.args(["--config", &at("config.toml")]).stdout(Stdio::null()).stderr(log);
    Containerd(command.spawn().expect("containerd starts"))
}

/// The process of a containerd, which ends with the test, however far that got.
struct Containerd(Child);

impl Containerd {
    fn end(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            let _ = self.0.wait();
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.end();
    }
}

/// An image of busybox alone.
fn image(name: &str, entry: &[&str]) -> Vec<u8> {
    let digest = |data: &[u8]| -> String { Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect() };
    let busybox = std::env::var_os("FAIRLEAD_BUSYBOX").map_or_else(|| "/bin/busybox".into(), std::path::PathBuf::from);
    let missing = |error| panic!("no static busybox at {} ({error}); name one in FAIRLEAD_BUSYBOX", busybox.display());
    let busybox = std::fs::read(&busybox).unwrap_or_else(missing);
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice()).expect("appended");
    for link in ["sh", "cat", "echo", "sleep", "true"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{link}"), "busybox").expect("appended");
    }
    let layer = layer.into_inner().expect("a layer");
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entry, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}})
    .to_string();
    let reference = |kind: &str, data: &[u8]| {
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", digest(data)), "size": data.len()})
    };
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": reference("config.v1+json", config.as_bytes()), "layers": [reference("layer.v1.tar", &layer)]})
    .to_string();
    let mut entry = reference("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let blobs = [config.as_bytes(), manifest.as_bytes(), &layer];
    let mut files: Vec<(String, &[u8])> =
        blobs.iter().map(|data| (format!("blobs/sha256/{}", digest(data)), *data)).collect();
    files.push(("index.json".into(), index.as_bytes()));
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).expect("appended");
    }
    archive.into_inner().expect("an archive")
}

/// A CA, the node's certificate, and the API server's as a client.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a CA");
    std::fs::write(dir.join("ca.crt"), ca.pem()).expect("written");
    let issuer = Issuer::new(params, key);
    for (file, name, alternative) in
        [("server", "n1", vec!["127.0.0.1".to_owned()]), ("client", "kube-apiserver-kubelet-client", vec![])]
    {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(alternative).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).expect("written");
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).expect("written");
    }
}

fn connector(dir: &Path) -> tokio_rustls::TlsConnector {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let pem = |name: &str| -> PathBuf { dir.join(name) };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("ca.crt")).expect("a CA")).expect("usable");
    let chain = vec![CertificateDer::from_pem_file(pem("client.crt")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(pem("client.key")).expect("a key");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
    tokio_rustls::TlsConnector::from(Arc::new(config.expect("a configuration")))
}

pub(crate) fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn waiting(status: &PodStatus) -> Option<String> {
    status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}
