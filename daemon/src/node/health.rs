//! Whether this node's proxy works, and what it tells load balancers: the answers kube-proxy gives, on the ports it gives
//! them on.
//!
//! `/healthz` and `/livez` (port 10256): fine as long as no change has waited for the tables for too long; `/healthz` also
//! says no where the node is about to be deleted. One more server per Service with a `healthCheckNodePort` tells how many
//! of its ready endpoints are here. [`serve()`] does the listening.

mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fairlead_source::{Service, ServiceName, View};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

pub(super) use self::serve::serve;

/// How long a change may wait for the tables before the proxy counts as unhealthy; as kube-proxy has it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster autoscaler puts this on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Health {
    state: Arc<Mutex<State>>,
    checks: watch::Sender<Checks>,
}

#[derive(Debug)]
struct State {
    /// When the tables last held everything; at first when the daemon began.
    updated: SystemTime,
    /// The oldest change that they do not hold.
    pending: Option<Instant>,
    eligible: bool,
}

/// What load balancers may ask, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    /// Where; `None` for every address of the node.
    pub(super) addresses: Option<Vec<IpAddr>>,
    pub(super) services: BTreeMap<ServiceName, Check>,
}

/// A Service's health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) port: u16,
    pub(super) local_endpoints: usize,
}

/// How things stand at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    healthy: bool,
    eligible: bool,
    updated: SystemTime,
}

impl Health {
    /// Health checks are answered on every address, or on none until [`Health::answer_on`] says where.
    pub(super) fn new(everywhere: bool) -> Self {
        let state = State { updated: SystemTime::now(), pending: None, eligible: true };
        let checks = Checks { addresses: (!everywhere).then(Vec::new), services: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), checks: watch::Sender::new(checks) }
    }

    /// Changes came that the tables do not hold yet.
    pub(super) fn queued(&self) {
        self.lock().pending.get_or_insert_with(Instant::now);
    }

    /// The tables hold everything.
    pub(super) fn updated(&self) {
        let mut state = self.lock();
        state.pending = None;
        state.updated = SystemTime::now();
    }

    /// The node's object, and all services, as they are now.
    pub(super) fn look(&self, view: &View) {
        self.lock().eligible = view.node().is_none_or(|node| eligible(&node));
        let services: BTreeMap<_, _> =
            view.services().filter_map(|service| Some((service.name.clone(), check(&service)?))).collect();
        self.checks.send_if_modified(|checks| replace(&mut checks.services, services));
    }

    /// One Service, as it is now.
    pub(super) fn look_at(&self, name: &ServiceName, service: Option<&Service>) {
        let now = service.and_then(check);
        self.checks.send_if_modified(|checks| match now {
            Some(check) => checks.services.insert(name.clone(), check) != Some(check),
            None => checks.services.remove(name).is_some(),
        });
    }

    /// The node's object alone.
    pub(super) fn look_at_node(&self, node: Option<&Node>) {
        self.lock().eligible = node.is_none_or(eligible);
    }

    /// Where health checks are to be answered.
    pub(super) fn answer_on(&self, addresses: Vec<IpAddr>) {
        self.checks.send_if_modified(|checks| replace(&mut checks.addresses, Some(addresses)));
    }

    fn verdict(&self) -> Verdict {
        let state = self.lock();
        let healthy = state.pending.is_none_or(|since| since.elapsed() < PATIENCE);
        // As kube-proxy: the time of the last update is now, as long as there is nothing to update.
        let updated = if healthy { SystemTime::now() } else { state.updated };
        Verdict { healthy, eligible: state.eligible, updated }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

fn eligible(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none() && taints.iter().all(|taint| taint.key != TO_BE_DELETED)
}

/// Ready endpoints on this node, a pod counting once however many ports and families it has.
fn check(service: &Service) -> Option<Check> {
    let port = service.health_check_node_port?;
    let local = service.ports.iter().flat_map(|port| &port.endpoints).filter(|end| end.local && end.ready);
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        local.map(|end| end.address.ip()).partition(|address| address.is_ipv4());
    Some(Check { port, local_endpoints: v4.len().max(v6.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_source::{Endpoint, Port, Protocol};
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    fn service(endpoints: Vec<Endpoint>) -> Service {
        let port = |number| Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: number,
            node_port: None,
            endpoints: endpoints.clone(),
        };
        Service { health_check_node_port: Some(32000), ports: vec![port(80), port(443)], ..Service::default() }
    }

    #[test]
    fn a_pod_counts_once() {
        let ends = ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"].map(|text| Endpoint::local(text.parse().unwrap()));
        let mut ends = ends.to_vec();
        ends.push(Endpoint::remote("10.0.0.3:80".parse().unwrap()));
        ends.push(Endpoint { ready: false, ..Endpoint::local("10.0.0.4:80".parse().unwrap()) });
        assert_eq!(check(&service(ends)), Some(Check { port: 32000, local_endpoints: 2 }));
        assert_eq!(check(&Service::default()), None);
    }

    #[test]
    fn a_node_that_is_to_go_is_not_eligible() {
        let mut node = Node::default();
        assert!(eligible(&node));
        let taint = Taint { key: TO_BE_DELETED.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        node.spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
        assert!(!eligible(&node));
    }

    #[test]
    fn only_a_change_that_waits_long_is_ill() {
        let health = Health::new(true);
        assert!(health.verdict().healthy);
        health.queued();
        assert!(health.verdict().healthy, "it may wait a moment");
        health.lock().pending = Instant::now().checked_sub(PATIENCE);
        assert!(!health.verdict().healthy);
        health.updated();
        assert!(health.verdict().healthy);
    }
}
