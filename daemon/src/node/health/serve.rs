//! The servers: one for the proxy's own health, and one per address and Service with a health check.
//!
//! A port that is taken is said once, with the Service's name, and tried again: whoever has it may go.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use fairlead_source::ServiceName;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Checks, Health, Verdict};

/// How often ports that were taken are tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A connection ends after this: nobody asks for longer.
const LONGEST: Duration = Duration::from_secs(30);

/// What a server is for, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    subject: Subject,
    address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Proxy,
    Service(ServiceName),
}

/// Serves until `shutdown`: the proxy's health at `own`, if anywhere, and the Services' where they want it.
pub(in crate::node) async fn serve(
    health: Health,
    own: Option<SocketAddr>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut checks = health.checks.subscribe();
    let mut running: BTreeMap<Server, (CancellationToken, JoinHandle<()>)> = BTreeMap::new();
    let mut complained = BTreeSet::new();
    loop {
        let wanted = wanted(own, &checks.borrow_and_update());
        let unwanted: Vec<Server> = running.keys().filter(|server| !wanted.contains(server)).cloned().collect();
        for server in unwanted {
            if let Some((token, task)) = running.remove(&server) {
                token.cancel();
                // The next one may want the same port: it is free once the task has ended, however it did.
                let _ = task.await;
            }
        }
        complained.retain(|server| wanted.contains(server));
        for server in wanted {
            if running.contains_key(&server) {
                continue;
            }
            match listen(server.address) {
                Ok(listener) => {
                    complained.remove(&server);
                    let token = shutdown.child_token();
                    let accepting =
                        accept(listener, server.subject.clone(), health.clone(), tasks.clone(), token.clone());
                    running.insert(server, (token, tasks.spawn(accepting)));
                }
                Err(error) if complained.insert(server.clone()) => complain(&server, &error),
                Err(_) => {}
            }
        }
        tokio::select! {
            changed = checks.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !complained.is_empty() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn complain(server: &Server, error: &io::Error) {
    let address = server.address;
    match &server.subject {
        Subject::Proxy => {
            tracing::warn!(%address, %error, "the proxy's health cannot be served (another proxy? choose --healthz-bind); tried again");
        }
        Subject::Service(name) => {
            tracing::warn!(svc = %name, %address, %error, "a Service's health check port cannot be served; tried again");
        }
    }
}

/// Two Services that want one port: the first by name has it.
fn wanted(own: Option<SocketAddr>, checks: &Checks) -> BTreeSet<Server> {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let addresses = checks.addresses.as_deref().unwrap_or(&everywhere);
    let services = checks.services.iter().flat_map(|(name, check)| {
        let subject = Subject::Service(name.clone());
        addresses.iter().map(move |ip| Server { subject: subject.clone(), address: (*ip, check.port).into() })
    });
    own.map(|address| Server { subject: Subject::Proxy, address }).into_iter().chain(services).collect()
}

/// The unspecified address means both families, where the machine has both.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    if address.ip() == Ipv4Addr::UNSPECIFIED {
        match bind((Ipv6Addr::UNSPECIFIED, address.port()).into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind(address)
}

async fn accept(listener: TcpListener, subject: Subject, health: Health, tasks: TaskTracker, end: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: others will be freed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = answer_all(stream, subject.clone(), health.clone());
        let end = end.clone();
        tasks.spawn(async move { end.run_until_cancelled(tokio::time::timeout(LONGEST, connection)).await });
    }
}

async fn answer_all(stream: TcpStream, subject: Subject, health: Health) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&subject, request.uri().path(), &health);
        async move { Ok::<_, Infallible>(answer) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a health connection broke off");
    }
}

fn answer(subject: &Subject, path: &str, health: &Health) -> Response<Full<Bytes>> {
    let verdict = health.verdict();
    let (fine, body, weight) = match (subject, path) {
        (Subject::Proxy, "/healthz") => (verdict.healthy && verdict.eligible, own_health(verdict, true), None),
        (Subject::Proxy, "/livez") => (verdict.healthy, own_health(verdict, false), None),
        (Subject::Proxy, _) => return respond(StatusCode::NOT_FOUND, "ask for /healthz or /livez\n".to_owned(), None),
        (Subject::Service(name), _) => {
            let count = health.checks.borrow().services.get(name).map_or(0, |check| check.local_endpoints);
            (count > 0 && verdict.healthy, service_health(name, count, verdict.healthy), Some(count))
        }
    };
    respond(if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body, weight)
}

fn respond(status: StatusCode, body: String, weight: Option<usize>) -> Response<Full<Bytes>> {
    let mut builder = Response::builder()
        .status(status)
        .header("Content-Type", "application/json")
        .header("X-Content-Type-Options", "nosniff");
    if let Some(weight) = weight {
        builder = builder.header("X-Load-Balancing-Endpoint-Weight", weight);
    }
    builder.body(Full::new(Bytes::from(body))).expect("constant headers and a number are always valid")
}

fn own_health(verdict: Verdict, with_node: bool) -> String {
    let now = serde_json::json!({
        "lastUpdated": time(verdict.updated),
        "currentTime": time(SystemTime::now()),
    });
    let mut body = now;
    if with_node {
        body["nodeEligible"] = verdict.eligible.into();
    }
    body.to_string()
}

fn service_health(name: &ServiceName, count: usize, healthy: bool) -> String {
    serde_json::json!({
        "service": { "namespace": name.namespace, "name": name.name },
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    })
    .to_string()
}

fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::health::Check;
    use http_body_util::BodyExt;

    fn name() -> ServiceName {
        ServiceName { namespace: "default".to_owned(), name: "web".to_owned() }
    }

    async fn ask(subject: &Subject, path: &str, health: &Health) -> (u16, serde_json::Value, Option<String>) {
        let answer = answer(subject, path, health);
        let weight = answer.headers().get("x-load-balancing-endpoint-weight");
        let weight = weight.map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default(), weight)
    }

    #[tokio::test]
    async fn answers_are_kube_proxys() {
        let health = Health::new(true);
        let (status, body, _) = ask(&Subject::Proxy, "/healthz", &health).await;
        assert_eq!((status, &body["nodeEligible"]), (200, &true.into()));
        assert_eq!(ask(&Subject::Proxy, "/livez", &health).await.1.get("nodeEligible"), None);
        assert_eq!(ask(&Subject::Proxy, "/", &health).await.0, 404);
        let subject = Subject::Service(name());
        assert_eq!(ask(&subject, "/", &health).await.0, 503);
        health.checks.send_modify(|checks| {
            checks.services.insert(name(), Check { port: 1, local_endpoints: 3 });
        });
        let (status, body, weight) = ask(&subject, "/", &health).await;
        assert_eq!((status, weight.as_deref()), (200, Some("3")));
        let expected = serde_json::json!({
            "service": { "namespace": "default", "name": "web" }, "localEndpoints": 3, "serviceProxyHealthy": true,
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn servers_come_and_go_with_their_services() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let health = Health::new(true);
        health.answer_on(vec![free.ip()]);
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(serve(health.clone(), None, tasks.clone(), end.clone()));
        assert!(TcpStream::connect(free).await.is_err());
        health.checks.send_modify(|checks| {
            checks.services.insert(name(), Check { port: free.port(), local_endpoints: 0 });
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(free).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "no server appeared");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        health.look_at(&name(), None);
        while TcpStream::connect(free).await.is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "the server stayed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        end.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_server_moves_from_everywhere_to_one_address() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut checks = Checks { addresses: None, services: BTreeMap::new() };
        checks.services.insert(name(), Check { port, local_endpoints: 0 });
        let addresses = |checks: &Checks| wanted(None, checks).iter().map(|server| server.address).collect::<Vec<_>>();
        assert_eq!(addresses(&checks), [SocketAddr::from(([0, 0, 0, 0], port))]);
        checks.addresses = Some(vec!["127.0.0.1".parse().unwrap()]);
        assert_eq!(addresses(&checks), [SocketAddr::from(([127, 0, 0, 1], port))]);
        checks.addresses = Some(Vec::new());
        assert!(addresses(&checks).is_empty(), "no address is not every address");

        let health = Health::new(true);
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        health.checks.send_modify(|checks| {
            checks.services.insert(name(), Check { port, local_endpoints: 0 });
        });
        tasks.spawn(serve(health.clone(), None, tasks.clone(), end.clone()));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let reach = async |address: &str| {
            while TcpStream::connect((address, port)).await.is_err() {
                assert!(tokio::time::Instant::now() < deadline, "nobody answers on {address}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        reach("127.0.0.2").await;
        health.answer_on(vec!["127.0.0.1".parse().unwrap()]);
        while TcpStream::connect(("127.0.0.2", port)).await.is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "it stayed everywhere");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reach("127.0.0.1").await;
        end.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
