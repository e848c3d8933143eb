//! The control plane as a process of the cluster, and when it is ready.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::plan::Plan;
use super::wait_for;
use crate::layout::Layout;
use crate::process::{Process, Service};

/// The process. It makes the cluster's authority and the node's credentials before it listens.
pub(super) fn service(plan: &Plan, layout: &Layout) -> Service {
    let node = layout.node();
    Service {
        title: "control plane",
        program: plan.control_program.clone(),
        arguments: vec![
            "run".to_owned(),
            format!("--data-dir={}", layout.control().display()),
            format!("--bind=0.0.0.0:{}", plan.port),
            format!("--advertise-address={}", plan.node_ip),
            format!("--service-cidr={}", plan.service_cidr),
            format!("--cluster-cidr={}", plan.cluster_cidr),
            format!("--kubeconfig={}", layout.kubeconfig().display()),
            format!("--issue-node={},{},{}", plan.node_name, plan.node_ip, node.display()),
        ],
        pid_file: layout.pid_file("control"),
        log: layout.log("control"),
    }
}

/// Waits until `/readyz` says so.
pub(super) async fn ready(
    plan: &Plan,
    layout: &Layout,
    service: &Service,
    process: Option<&mut Process>,
) -> Result<()> {
    let Some(process) = process else { bail!("the control plane was not started") };
    let mut last = String::new();
    wait_for(service, process, &mut last, async || {
        readyz(plan.port, layout).await.map_err(|error| format!("{error:#}"))
    })
    .await
}

async fn readyz(port: u16, layout: &Layout) -> Result<()> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.context("its port does not answer")?;
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(layout.authority()).context("its authority is not there yet")?;
    roots.add(authority).context("its authority cannot be used")?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").context("`localhost` is a name")?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("its certificate is refused")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    let request = hyper::Request::get("/readyz").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = tokio::select! {
        response = sender.send_request(request) => response?,
        ended = connection => {
            ended?;
            bail!("it closed the connection");
        }
    };
    if !response.status().is_success() {
        bail!("/readyz answers {}", response.status());
    }
    Ok(())
}
