//! The runtime's side of the node: which pods it holds, and a sign when one of them may have changed.
//!
//! containerd's own event stream tells of starts and ends within milliseconds; a list of everything is the safety net,
//! slow while the stream stands and every second where there is none (another runtime, or a broken stream).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use containerd_client::events::{TaskCreate, TaskDelete, TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use k8s_cri::v1 as wire;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::config::{Config, OWNER_LABEL};
use crate::cri::{Cri, CriError, channel};
use crate::pod::{PodName, labels};

/// Between two lists while events flow, and while they do not.
pub(crate) const RELIST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// What the runtime holds of ours, by pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// By UID: the pod's name, and a fingerprint of its sandboxes and containers and their states.
    pub(crate) pods: BTreeMap<String, (PodName, Vec<(String, i32)>)>,
    /// Pod UID by sandbox or container.
    pub(crate) owners: HashMap<String, String>,
}

/// Lists everything of ours.
pub(crate) async fn list(cri: &Cri, config: &Config) -> Result<Listing, CriError> {
    let owner = config.owner();
    let label = (OWNER_LABEL, owner.as_str());
    let (sandboxes, containers) = futures::try_join!(cri.sandboxes(label), cri.containers(label))?;
    let mut listing = Listing::default();
    let sandboxes = sandboxes.into_iter().map(|wire::PodSandbox { id, labels, state, .. }| (id, labels, state));
    let containers = containers.into_iter().map(|wire::Container { id, labels, state, .. }| (id, labels, state));
    for (id, labels, state) in sandboxes.chain(containers) {
        let get = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let name =
            PodName { namespace: get(labels::POD_NAMESPACE), name: get(labels::POD_NAME), uid: get(labels::POD_UID) };
        listing.owners.insert(id.clone(), name.uid.clone());
        let (_, states) = listing.pods.entry(name.uid.clone()).or_insert_with(|| (name, Vec::new()));
        states.push((id, state));
    }
    for (_, states) in listing.pods.values_mut() {
        states.sort();
    }
    Ok(listing)
}

/// Follows containerd's events: the id of each container something happened to. `alive` says whether the stream stands.
pub(crate) async fn follow(
    config: Config,
    happened: mpsc::Sender<String>,
    alive: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let mut told = false;
    loop {
        let ended = tokio::select! {
            ended = stream(&config, &happened, &alive) => ended,
            () = shutdown.cancelled() => return,
        };
        let stood = alive.send_replace(false);
        if let Err(error) = ended {
            if !stood && !told {
                info!(error, "no event stream from the runtime; its state is listed every second instead");
                told = true;
            }
            debug!(error, "the runtime's event stream ended");
        }
        tokio::select! {
            () = tokio::time::sleep(RELIST.1) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn stream(config: &Config, happened: &mpsc::Sender<String>, alive: &watch::Sender<bool>) -> Result<(), String> {
    let channel = channel(&config.runtime_endpoint).map_err(|error| error.to_string())?;
    let mut client = EventsClient::new(channel);
    let request = SubscribeRequest { filters: vec!["namespace==k8s.io,topic~=\"^/tasks/\"".into()] };
    let mut events = client.subscribe(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    alive.send_replace(true);
    while let Some(envelope) = events.message().await.map_err(|status| status.message().to_owned())? {
        let Some(event) = envelope.event else { continue };
        let body = event.value.as_slice();
        let id = match envelope.topic.as_str() {
            "/tasks/exit" => TaskExit::decode(body).map(|event| event.container_id),
            "/tasks/start" => TaskStart::decode(body).map(|event| event.container_id),
            "/tasks/create" => TaskCreate::decode(body).map(|event| event.container_id),
            "/tasks/delete" => TaskDelete::decode(body).map(|event| event.container_id),
            "/tasks/oom" => TaskOom::decode(body).map(|event| event.container_id),
            _ => continue,
        };
        let Ok(id) = id else { continue };
        if happened.send(id).await.is_err() {
            return Ok(());
        }
    }
    Err("the runtime closed it".into())
}
