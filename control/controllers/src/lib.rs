//! The loops that make the cluster what its objects say.
//!
//! Each loop watches a few kinds through shared caches, and for one key at a time observes, plans and applies. The plan
//! is a pure function of what was observed; applying is a list of writes.
//!
//! Invariants:
//! - `LEVEL`: what a loop does depends on the present state, never on which event woke it.
//! - A loop acts on a key only after its caches have seen its own earlier writes, so it never creates or deletes twice
//!   because a cache lags.
//!
//! - `loop`: the workers around a loop; `caches`: what they share; `writer`: writes that are waited for.
//! - `deployment`, `replicaset`: workloads. `endpointslice`, `endpoints`: Services' backends.
//! - `namespace`, `serviceaccount`, `root_ca`: what a namespace begins and ends with.
//! - `garbage`, `pod_gc`, `event_ttl`: what nobody needs any more.
//! - `node`, `eviction`, `ipam`: the nodes.
#![forbid(unsafe_code)]

mod backends;
mod caches;
mod claim;
mod deployment;
mod endpoints;
mod endpointslice;
mod event_ttl;
mod eviction;
mod garbage;
mod ipam;
mod r#loop;
mod meta;
mod namespace;
mod node;
mod pod;
mod pod_gc;
mod replicaset;
mod root_ca;
mod serviceaccount;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;

use fairlead_api::client::Client;
use fairlead_informer::Clock;
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caches::Caches;
use crate::r#loop::Shared;

/// What the loops need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where nodes' pod CIDRs come from.
    pub cluster_cidr: Ipv4Net,
    /// The cluster CA as PEM, for the ConfigMap `kube-root-ca.crt` of every namespace.
    pub root_ca: String,
    /// Names of loops that shall not run; see [`Controllers::names`].
    pub disabled: BTreeSet<String>,
    /// The time.
    pub now: Clock,
}

/// A configuration that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A name in `disabled` is no loop's.
    #[error("there is no controller `{name}` to disable; the controllers are {known}")]
    UnknownController {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The cluster CIDR has no room for a node's /24.
    #[error("the cluster CIDR {cidr} is too small for pod CIDRs of /24, one per node; give at least a /24")]
    ClusterCidrTooSmall {
        /// The network given.
        cidr: Ipv4Net,
    },
}

type Start = fn(&Arc<Shared>);

/// Every loop, by name.
const LOOPS: &[(&str, Start)] = &[
    ("deployment", deployment::start),
    ("replicaset", replicaset::start),
    ("endpointslice", endpointslice::start),
    ("endpoints", endpoints::start),
    ("namespace", namespace::start),
    ("serviceaccount", serviceaccount::start),
    ("root-ca-certificate-publisher", root_ca::start),
    ("garbage-collector", garbage::start),
    ("node-lifecycle", node::start),
    ("taint-eviction", eviction::start),
    ("node-ipam", ipam::start),
    ("pod-garbage-collector", pod_gc::start),
    ("event-ttl", event_ttl::start),
];

/// All loops.
#[derive(Debug)]
pub struct Controllers;

impl Controllers {
    /// The names of all loops.
    pub fn names() -> impl Iterator<Item = &'static str> {
        LOOPS.iter().map(|(name, _)| *name)
    }

    /// Runs every loop that is not disabled, until `shutdown`. Fails at once or not at all.
    pub async fn run(config: Config, client: Arc<dyn Client>, shutdown: CancellationToken) -> Result<(), ConfigError> {
        config.check()?;
        let tasks = TaskTracker::new();
        let disabled = config.disabled.clone();
        let shared = Arc::new(Shared::new(config, client, Caches::new(), tasks.clone(), shutdown.clone()));
        for (_, start) in LOOPS.iter().filter(|(name, _)| !disabled.contains(*name)) {
            start(&shared);
        }
        for cache in shared.caches.every() {
            let (cache, client, shutdown) = (cache.clone(), shared.client.clone(), shutdown.clone());
            tasks.spawn(async move { cache.run(client, shutdown).await });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.disabled.iter().find(|name| !Controllers::names().any(|known| known == *name)) {
            let known = Controllers::names().collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownController { name: name.clone(), known });
        }
        if self.cluster_cidr.prefix_len() > ipam::NODE_PREFIX {
            return Err(ConfigError::ClusterCidrTooSmall { cidr: self.cluster_cidr });
        }
        Ok(())
    }
}
