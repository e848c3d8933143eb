//! The API as operations on objects: what the REST paths and the loops' client both go through.

use std::net::Ipv4Addr;
use std::sync::Arc;

use fairlead_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allocate::{AddressRange, PortRange};
use crate::cache::Cache;

/// What the operations need to know of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where ClusterIPs come from.
    pub service_range: AddressRange,
    /// Where NodePorts come from.
    pub node_ports: PortRange,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            service_range: AddressRange::new(Ipv4Addr::new(10, 96, 0, 0), 12),
            node_ports: PortRange { first: 30_000, last: 32_767 },
        }
    }
}

/// Store, cache and rules: the state behind every request.
#[derive(Debug)]
pub struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) config: ClusterConfig,
    pub(crate) shutdown: CancellationToken,
}

impl Api {
    /// Reads the store and follows it, in a task of `tasks`, until `shutdown`.
    pub async fn open(
        store: Arc<dyn Store>,
        config: ClusterConfig,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let cache = Arc::new(Cache::load(store.clone()).await?);
        tasks.spawn(cache.clone().follow(shutdown.clone()));
        Ok(Arc::new(Self { store, cache, config, shutdown }))
    }

    /// The read path, for those who follow objects without being a client: push.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }
}
