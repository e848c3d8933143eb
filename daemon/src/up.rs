//! `fairlead up`: a one-machine cluster. It looks before it touches anything, starts a container runtime, the control
//! plane and the node, says when each is ready, and stays to start again whatever ends.
//!
//! ```text
//!   checks ──► containerd ──► images ─┐
//!         └──► control plane ─────────┴──► node ──► Ready ──► supervise ──SIGTERM──► node, control plane, containerd end
//! ```
//!
//! Pods are nobody's children but the runtime's shims': they stay when everything here ends, and the next `up` adopts them.

mod checks;
mod containerd;
mod control;
mod detach;
mod plan;
mod supervise;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::layout::Layout;
use crate::node::READY;
use crate::process::{Process, Service};
use crate::progress::Progress;
use crate::{DataDir, status};

pub(crate) use self::containerd::service as containerd_service;
pub(crate) use self::plan::Settings;

use self::plan::Plan;
use self::supervise::Crew;

/// Arguments of `fairlead up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    data_dir: DataDir,
    /// Port of the API server.
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Interface to the outside; the default route's when absent. May be repeated.
    #[arg(long = "uplink", value_name = "IFACE")]
    uplinks: Vec<String>,
    /// Socket of a CRI runtime that runs already; without it a containerd of our own is started.
    #[arg(long, value_name = "SOCK")]
    runtime_endpoint: Option<PathBuf>,
    /// Name of the node; the host's name when absent.
    #[arg(long)]
    node_name: Option<String>,
    /// Address of the node; that of the first uplink when absent.
    #[arg(long)]
    node_ip: Option<Ipv4Addr>,
    /// Addresses of Services.
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cidr: Ipv4Net,
    /// Addresses of pods.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: Ipv4Net,
    /// Port of the node's HTTPS server for logs and exec.
    #[arg(long, default_value_t = 10250)]
    kubelet_port: u16,
    /// Return once the cluster is ready; it runs on until `fairlead down`.
    #[arg(long)]
    detach: bool,
    /// What `--detach` runs: a session of its own, its output in the log.
    #[arg(long, hide = true, conflicts_with = "detach")]
    background: bool,
}

/// How often something that gets ready is looked at.
const LOOK: Duration = Duration::from_millis(15);

/// How long a part may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the cluster and keeps it, or hands it to a background process.
pub(crate) async fn run(arguments: UpArguments) -> Result<()> {
    let layout = Layout::new(&arguments.data_dir.path)?;
    if arguments.background {
        // Fails where the process leads a group already, and is then alone in it anyway.
        let _ = nix::unistd::setsid();
    }
    let plan = checks::run(&arguments, &layout)?;
    if arguments.detach {
        return detach::run(&layout).await;
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    layout.create()?;
    let _lock = plan::lock(&layout)?;
    plan.settings().save(&layout)?;
    plan.settle(&layout).await?;

    let progress = Progress::new();
    let shutdown = CancellationToken::new();
    let mut crew = Crew::default();
    let began = Instant::now();
    let started = tokio::select! {
        started = start(&plan, &layout, &progress, &mut crew) => started,
        _ = terminate.recv() => Err(anyhow::anyhow!("stopped before it was ready")),
        _ = interrupt.recv() => Err(anyhow::anyhow!("stopped before it was ready")),
    };
    if let Err(error) = started {
        crew.stop().await;
        return Err(error);
    }
    farewell(&plan, &layout, &progress, began);
    let tasks = TaskTracker::new();
    let crew = crew.supervise(&tasks, &shutdown, &progress);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    progress.say("stopping; pods keep running and the next `fairlead up` adopts them");
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    crew.stop().await;
    progress.say("stopped");
    Ok(())
}

/// Everything up to a Ready node. What was started is in `crew`, also when it fails.
async fn start(plan: &Plan, layout: &Layout, progress: &Progress, crew: &mut Crew) -> Result<()> {
    let runtime = match &plan.runtime_endpoint {
        Some(socket) => {
            let (conf, bin) = (layout.cni_conf(), layout.cni_bin());
            progress.say(format!(
                "the runtime at {} must read its CNI configuration from {} and its plugins from {}",
                socket.display(),
                conf.display(),
                bin.display()
            ));
            None
        }
        None => Some(containerd::service(layout)?),
    };
    let control = control::service(plan, layout);
    let runtime_step = runtime.is_some().then(|| progress.step("containerd"));
    let control_step = progress.step("control plane");
    if let Some(service) = &runtime {
        containerd::configure(layout, service)?;
        crew.add(service.clone(), service.adopt_or_start()?);
    }
    let adopted = crew.last().is_some_and(|process| process.adopted());
    crew.add(control.clone(), control.start()?);
    let socket = plan.runtime_socket(layout);
    let (containers, api) = crew.last_two();
    let runtime_ready = async {
        containerd::ready(&socket, runtime.as_ref().zip(containers)).await?;
        if let Some(step) = runtime_step {
            step.done(format!("{} on {}", if adopted { "adopted" } else { "ready" }, socket.display()));
        }
        let step = progress.step("images");
        let names = containerd::load_pause(&socket).await?;
        step.done(names);
        Ok::<_, anyhow::Error>(())
    };
    let control_ready = async {
        control::ready(plan, layout, &control, api).await?;
        control_step.done(format!("ready on https://127.0.0.1:{}", plan.port));
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(runtime_ready, control_ready)?;

    let step = progress.step("node");
    let service = plan.node_service(layout)?;
    crew.add(service.clone(), service.start()?);
    let detail = node_ready(layout, &service, crew.last()).await?;
    step.done(detail);
    Ok(())
}

/// Waits until the node is Ready in the API's own eyes.
async fn node_ready(layout: &Layout, service: &Service, process: Option<&mut Process>) -> Result<String> {
    let Some(process) = process else { bail!("the node was not started") };
    let mut last = "its socket does not answer".to_owned();
    wait_for(service, process, &mut last, async || {
        let facts = status::facts(layout).await.map_err(|error| format!("{error:#}"))?;
        let ready = facts.iter().find(|(name, _)| name == READY).map(|(_, value)| value.clone());
        match ready.as_deref() {
            Some("True") => Ok(()),
            Some(other) => Err(format!("its Ready condition is {other}")),
            None => Err("it does not say whether it is Ready".to_owned()),
        }
    })
    .await?;
    let facts = status::facts(layout).await.unwrap_or_default();
    let uplinks: Vec<String> = facts
        .iter()
        .filter_map(|(name, value)| name.strip_prefix("uplink ").map(|uplink| format!("{uplink}: {value}")))
        .collect();
    Ok(if uplinks.is_empty() { "Ready, no uplink".to_owned() } else { format!("Ready, {}", uplinks.join(", ")) })
}

/// Asks `probe` until it succeeds, the process ends, or patience does.
async fn wait_for(
    service: &Service,
    process: &mut Process,
    last: &mut String,
    mut probe: impl AsyncFnMut() -> Result<(), String>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(()) => return Ok(()),
            Err(reason) => *last = reason,
        }
        if let Some(how) = process.ended() {
            bail!("the {} ended while it started ({how}); {}", service.title, service.last_words());
        }
        if Instant::now() > deadline {
            let waited = PATIENCE.as_secs();
            bail!("the {} was not ready after {waited} s: {last}; {}", service.title, service.last_words());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn farewell(plan: &Plan, layout: &Layout, progress: &Progress, began: Instant) {
    let kubeconfig = layout.kubeconfig();
    progress.say(format!("{:<16} {}", "kubeconfig", kubeconfig.display()));
    progress.say("");
    progress.say("What next:");
    progress.say(format!("  export KUBECONFIG={}", kubeconfig.display()));
    progress.say("  kubectl get nodes -o wide");
    progress.say("  kubectl apply -f examples/echo.yaml");
    progress.say(format!("  fairlead down --data-dir {}", layout.dir().display()));
    progress.say("");
    progress.say(format!(
        "node {} at {}, started in {:.2} s",
        plan.node_name,
        plan.node_ip,
        began.elapsed().as_secs_f64()
    ));
    progress.say("ready");
}
