//! Puts the control plane together: what can fail is tried first, in the order in which nothing is left half done.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::extract::Request;
use axum::middleware::{self, Next};
use fairlead_api::client::Client;
use fairlead_apiserver::pki::{Pki, ServingNames};
use fairlead_apiserver::{Api, ClusterConfig, Identity, LocalClient, Server, bootstrap, listen, tls};
use fairlead_controllers::Controllers;
use fairlead_push::{PeerIdentity, PushService};
use fairlead_scheduler::Scheduler;
use fairlead_store::Store;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Options;
use crate::feed::CacheFeed;

/// How long everything may take to end.
const GRACE: Duration = Duration::from_secs(8);
/// Paths of the nodes' service.
const PUSH: &str = "/fairlead.push.v1.Push/";

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(options: Box<Options>) -> Result<()> {
    check_ranges(&options)?;
    let controllers = controllers_config(&options)?;
    let listener = bind(options.bind).await?;
    let store: Arc<dyn Store> = Arc::new(open_store(&options.data_dir)?);
    let advertised = match options.advertise_address {
        Some(address) => address,
        None => default_address(),
    };
    let port = listener.local_addr().context("cannot read the address of the API's port")?.port();
    let pki = open_pki(&options, advertised)?;
    let tls = tls::server(&pki).context("cannot set up TLS")?;

    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    // The loops stop first; the API, through which they write, ends after them.
    let (loops, loops_shutdown) = (TaskTracker::new(), CancellationToken::new());
    let config = ClusterConfig { service_range: options.service_cidr, node_ports: options.node_port_range };
    let api = Api::open(store, config, &tasks, shutdown.clone()).await.context("cannot read the store")?;
    let client: Arc<dyn Client> = Arc::new(LocalClient::new(api.clone()));

    let feed = Arc::new(CacheFeed(api.cache().clone()));
    let push = PushService::new(client.clone(), feed, &tasks, shutdown.clone());
    let routes = fairlead_push::router(push).into_axum_router().layer(middleware::from_fn(introduce));
    let address = SocketAddr::new(advertised, port).to_string();
    let server = Server::new(api, &pki, address, tasks.clone()).context("cannot set up the API server")?;
    let server = Arc::new(server.with_grpc(PUSH, routes));
    tasks.spawn(listen::serve(listener, tls, server.clone(), tasks.clone(), shutdown.clone()));

    bootstrap::namespaces(&*client).await.context("cannot create the first namespaces")?;
    let service = bootstrap::kubernetes_service(&*client, &options.service_cidr, advertised, port).await;
    service.context("cannot create Service default/kubernetes")?;
    let controllers = fairlead_controllers::Config { root_ca: pki.ca.clone(), ..controllers };
    let mut failures = start_loops(controllers, &client, &loops, &loops_shutdown);
    server.set_ready();
    println!("ready");
    tracing::info!(address = %options.bind, advertised = %advertised, "ready");

    let failed = tokio::select! {
        signal = until_signalled() => {
            tracing::info!(signal = signal?, "ending");
            None
        }
        failed = failures.recv() => failed,
    };
    loops_shutdown.cancel();
    end(&loops).await;
    shutdown.cancel();
    end(&tasks).await;
    match failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Controllers and scheduler; what cannot run at all comes out of the channel.
fn start_loops(
    config: fairlead_controllers::Config,
    client: &Arc<dyn Client>,
    loops: &TaskTracker,
    shutdown: &CancellationToken,
) -> tokio::sync::mpsc::Receiver<anyhow::Error> {
    let (failed, failures) = tokio::sync::mpsc::channel(1);
    let (controllers_client, until) = (client.clone(), shutdown.clone());
    loops.spawn(async move {
        if let Err(error) = Controllers::run(config, controllers_client, until.clone()).await {
            // Full means that somebody else failed already.
            let _ = failed.try_send(error.into());
        }
        // Kept open to the end, so that the channel says nothing unless something failed.
        until.cancelled().await;
        drop(failed);
    });
    let config = fairlead_scheduler::Config { now: Timestamp::now };
    loops.spawn(Scheduler::run(config, client.clone(), shutdown.clone()));
    failures
}

/// What the controllers are to do; the CA is filled in once it is there.
fn controllers_config(options: &Options) -> Result<fairlead_controllers::Config> {
    if let Some(name) = options.disable_controller.iter().find(|name| !Controllers::names().any(|one| one == **name)) {
        let known = Controllers::names().collect::<Vec<_>>().join(", ");
        bail!("--disable-controller {name}: there is no such controller; there are {known}");
    }
    Ok(fairlead_controllers::Config {
        cluster_cidr: options.cluster_cidr,
        root_ca: String::new(),
        disabled: options.disable_controller.iter().cloned().collect(),
        now: Timestamp::now,
    })
}

/// Tells push who is calling, in its own words.
async fn introduce(mut request: Request, next: Next) -> axum::response::Response {
    if let Some(Identity { user, groups }) = request.extensions_mut().remove::<Identity>() {
        request.extensions_mut().insert(PeerIdentity { user, groups });
    }
    next.run(request).await
}

fn check_ranges(options: &Options) -> Result<()> {
    let cluster = options.cluster_cidr;
    let services = &options.service_cidr;
    let inside = services.contains(cluster.network()) || services.contains(cluster.broadcast());
    let around = services.nth(1).is_some_and(|first| cluster.contains(&first));
    if inside || around {
        bail!("--service-cidr {services} and --cluster-cidr {cluster} overlap: choose ranges that do not");
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        let port = address.port();
        format!("cannot listen on {address} (is another process using port {port}? `ss -ltnp 'sport = :{port}'` names it, --bind chooses another)")
    })
}

fn open_store(data_dir: &Path) -> Result<fairlead_store::Embedded> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make the directory {}", data_dir.display()))?;
    Ok(fairlead_store::open(data_dir.join("store.redb"))?)
}

fn open_pki(options: &Options, advertised: IpAddr) -> Result<Pki> {
    let port = options.bind.port();
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), "::1".parse()?, advertised];
    addresses.extend(options.service_cidr.nth(1).map(IpAddr::V4));
    addresses.extend(Some(options.bind.ip()).filter(|address| !address.is_unspecified()));
    addresses.extend(options.issue_node.iter().map(|node| node.ip));
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let serving = ServingNames { names: names.map(str::to_owned).to_vec(), addresses };
    let pki = Pki::open(&options.data_dir.join("pki"), &serving).context("cannot set up the cluster's keys")?;
    for node in &options.issue_node {
        let issued = pki.issue_node(&node.name, node.ip, &node.dir);
        issued.with_context(|| format!("cannot make credentials for node {}", node.name))?;
    }
    if let Some(path) = &options.kubeconfig {
        let host = match options.bind.ip() {
            address if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            address => address,
        };
        let url = format!("https://{}", SocketAddr::new(host, port));
        pki.write_kubeconfig(&url, path).context("cannot write the kubeconfig")?;
    }
    Ok(pki)
}

/// The address from which this machine would speak to the world; loopback if it could not.
fn default_address() -> IpAddr {
    let towards = || -> io::Result<IpAddr> {
        // Connecting a UDP socket sends nothing: it only asks the routing table.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    towards().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

async fn until_signalled() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

async fn end(tasks: &TaskTracker) {
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some tasks did not end in time");
    }
}
