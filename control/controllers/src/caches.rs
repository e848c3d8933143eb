//! The caches all loops share: one per kind the registry knows, typed where a loop reads it.

use std::sync::Arc;

use fairlead_api::{Kind, Object, registry};
use fairlead_informer::{AnyCache, Cache, Raw};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The index of pods by node.
const BY_NODE: usize = 0;
/// The index of pods without a controller by namespace.
const ORPHANS: usize = 1;
/// The index of slices by Service, as `NAMESPACE/NAME`.
const BY_SERVICE: usize = 0;

/// The label that names a slice's Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One cache per kind.
#[derive(Debug)]
pub(crate) struct Caches {
    pub(crate) config_maps: Arc<Cache<ConfigMap>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) endpoints: Arc<Cache<Endpoints>>,
    pub(crate) events: Arc<Cache<Event>>,
    pub(crate) leases: Arc<Cache<Lease>>,
    pub(crate) namespaces: Arc<Cache<Namespace>>,
    pub(crate) nodes: Arc<Cache<Node>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) service_accounts: Arc<Cache<ServiceAccount>>,
    pub(crate) services: Arc<Cache<Service>>,
    pub(crate) slices: Arc<Cache<EndpointSlice>>,
    every: Vec<Arc<dyn AnyCache>>,
}

impl Caches {
    pub(crate) fn new() -> Self {
        let mut caches = Self {
            config_maps: Cache::new(&registry::CONFIG_MAP, &[]),
            deployments: Cache::new(&registry::DEPLOYMENT, &[]),
            endpoints: Cache::new(&registry::ENDPOINTS, &[]),
            events: Cache::new(&registry::EVENT, &[]),
            leases: Cache::new(&registry::LEASE, &[]),
            namespaces: Cache::new(&registry::NAMESPACE, &[]),
            nodes: Cache::new(&registry::NODE, &[]),
            pods: Cache::new(&registry::POD, &[node_of, orphan_in]),
            replica_sets: Cache::new(&registry::REPLICA_SET, &[]),
            service_accounts: Cache::new(&registry::SERVICE_ACCOUNT, &[]),
            services: Cache::new(&registry::SERVICE, &[]),
            slices: Cache::new(&registry::ENDPOINT_SLICE, &[service_of]),
            every: Vec::new(),
        };
        caches.every = vec![
            caches.config_maps.clone(),
            caches.deployments.clone(),
            caches.endpoints.clone(),
            caches.events.clone(),
            caches.leases.clone(),
            caches.namespaces.clone(),
            caches.nodes.clone(),
            caches.pods.clone(),
            caches.replica_sets.clone(),
            caches.service_accounts.clone(),
            caches.services.clone(),
            caches.slices.clone(),
        ];
        for kind in registry::all() {
            if caches.of(kind).is_none() {
                caches.every.push(Cache::<Raw>::new(kind, &[]));
            }
        }
        caches
    }

    /// Every cache.
    pub(crate) fn every(&self) -> &[Arc<dyn AnyCache>] {
        &self.every
    }

    /// The cache of a kind.
    pub(crate) fn of(&self, kind: &Kind) -> Option<&Arc<dyn AnyCache>> {
        self.every.iter().find(|cache| cache.kind() == kind)
    }

    /// The pods bound to a node.
    pub(crate) fn pods_of_node(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.by_index(BY_NODE, node)
    }

    /// The pods of a namespace that nobody controls.
    pub(crate) fn orphaned_pods(&self, namespace: &str) -> Vec<Arc<Pod>> {
        self.pods.by_index(ORPHANS, namespace)
    }

    /// The slices that name a Service.
    pub(crate) fn slices_of_service(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{name}"))
    }
}

fn node_of(pod: &Object, values: &mut Vec<String>) {
    let node = pod.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        values.push(node.to_owned());
    }
}

fn orphan_in(pod: &Object, values: &mut Vec<String>) {
    if pod.controller_uid().is_none() {
        values.push(pod.namespace().to_owned());
    }
}

fn service_of(slice: &Object, values: &mut Vec<String>) {
    if let Some(service) = slice.label(SERVICE_NAME) {
        values.push(format!("{}/{service}", slice.namespace()));
    }
}
