//! Any Kubernetes API server as a source: Services, EndpointSlices and the node's own Node, listed and watched.
//!
//! `watch` follows one kind and knows the protocol: pages, bookmarks, expiry, silence. `gather` makes updates of what
//! the three tell. A list after the first is compared with what is known, so that a server that was away, or a watch that
//! was too old, changes nothing that stayed the same; an error changes nothing at all (`LAST-GOOD`).

use std::path::{Path, PathBuf};

use kube::api::{ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::gather::Gathered;
use self::watch::{News, Watch};
use crate::source::{Contact, Feed, FeedWriter, Source, feed};

mod gather;
mod watch;

/// In place of a kubeconfig's path: the service account of the pod the daemon runs in.
pub const IN_CLUSTER: &str = "in-cluster";

/// News that may wait for their reader.
const NEWS_WAITING: usize = 256;
/// Only what kube-proxy, too, asks for: not another proxy's, and no headless Services' endpoints.
const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    EndpointSlice,
    Node,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Node];

    fn resource(self) -> ApiResource {
        match self {
            Self::Service => ApiResource::erase::<k8s_openapi::api::core::v1::Service>(&()),
            Self::EndpointSlice => ApiResource::erase::<k8s_openapi::api::discovery::v1::EndpointSlice>(&()),
            Self::Node => ApiResource::erase::<k8s_openapi::api::core::v1::Node>(&()),
        }
    }
}

/// Why an API server cannot be a source. That it does not answer is no reason: it is tried again for ever.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeError {
    /// The kubeconfig is not there, or is none.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// There is no service account.
    #[error("cannot find the service account of a pod (does the daemon run in one?)")]
    InCluster {
        /// Why.
        source: kube::config::InClusterError,
    },
    /// The credentials or the server's address cannot be used.
    #[error("cannot prepare the connection to the API server {server}")]
    Client {
        /// Its address.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// An API server, not yet asked.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    server: String,
    node: String,
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kube").field("server", &self.server).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Kube {
    /// Reads the kubeconfig's current context, or the pod's service account for [`IN_CLUSTER`]; connects when started.
    ///
    /// # Errors
    /// The kubeconfig or its credentials cannot be used.
    pub async fn open(kubeconfig: &Path, node: &str) -> Result<Self, KubeError> {
        let mut config = config(kubeconfig).await?;
        // Back-off is our own, and says what it waits for.
        config.default_retry = false;
        config.read_timeout = None;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|source| KubeError::Client { server: server.clone(), source: Box::new(source) })?;
        Ok(Self { client, server, node: node.to_owned() })
    }

    fn watch(&self, kind: Kind, news: mpsc::Sender<(Kind, News)>) -> Watch {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource());
        let (labels, fields) = match kind {
            Kind::Service | Kind::EndpointSlice => (Some(OURS.to_owned()), None),
            Kind::Node => (None, Some(format!("metadata.name={}", self.node))),
        };
        Watch::new(kind, api, labels, fields, news)
    }
}

async fn config(kubeconfig: &Path) -> Result<Config, KubeError> {
    if kubeconfig == Path::new(IN_CLUSTER) {
        return Config::incluster().map_err(|source| KubeError::InCluster { source });
    }
    let bad = |source| KubeError::Kubeconfig { path: kubeconfig.to_owned(), source };
    let read = Kubeconfig::read_from(kubeconfig).map_err(bad)?;
    let has_proxy = read.clusters.iter().flat_map(|named| &named.cluster).any(|cluster| cluster.proxy_url.is_some());
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(bad)?;
    if !has_proxy {
        // The environment's proxy is for the operator's shell, not for a node's way to its cluster.
        config.proxy_url = None;
    }
    Ok(config)
}

impl Source for Kube {
    fn start(self: Box<Self>, tasks: &TaskTracker, shutdown: CancellationToken) -> Feed {
        let (writer, feed) = feed();
        let (sender, news) = mpsc::channel(NEWS_WAITING);
        for kind in Kind::ALL {
            let (watch, shutdown) = (self.watch(kind, sender.clone()), shutdown.clone());
            tasks.spawn(async move { shutdown.run_until_cancelled(watch.run()).await });
        }
        tasks.spawn(async move { shutdown.run_until_cancelled(tell(news, writer, self.server)).await });
        feed
    }
}

/// Makes updates of the news until nobody reads them.
async fn tell(mut news: mpsc::Receiver<(Kind, News)>, feed: FeedWriter, server: String) {
    let mut gathered = Gathered::default();
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            count = news.recv_many(&mut batch, NEWS_WAITING) => {
                if count == 0 {
                    return;
                }
            }
            given = feed.acknowledgements.take() => {
                given.log();
                continue;
            }
            () = feed.updates.closed() => return,
        }
        for (kind, one) in batch {
            gathered.take(kind, one);
        }
        let contact = gathered.contact();
        if contact != *feed.contact.borrow() {
            match &contact {
                Contact::Lost(reason) if !matches!(*feed.contact.borrow(), Contact::Lost(_)) => {
                    tracing::warn!(
                        server,
                        error = reason,
                        "contact with the API server is lost, going on with what is known"
                    );
                }
                Contact::Up => tracing::info!(server, "in contact with the API server"),
                Contact::None | Contact::Lost(_) => {}
            }
            let _ = feed.contact.send(contact);
        }
        if let Some(update) = gathered.update()
            && feed.updates.send(update).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
