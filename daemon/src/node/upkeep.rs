//! What the data path needs beside services: time, the present state of interfaces and addresses, and, where pods are
//! another's, the interfaces that lead to them.
//!
//! The kernel's messages say when to look; a slow round looks in any case, so that a lost message costs seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fairlead_datapath::{Datapath, PodInterface};
use fairlead_network::{Changed, Search, Watch};
use fairlead_source::View;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::engine::chain;
use super::health::Health;
use super::pods::PodNetwork;

/// Changes come in bursts: an interface appears in half a dozen messages.
const BURST: Duration = Duration::from_millis(50);
/// Between two looks, where interfaces change …
const PAUSE: Duration = Duration::from_millis(250);
/// … and where only routes, neighbours or endpoints do, which on some networks never rest.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Without any message.
const ROUND: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Keeps the data path up with its surroundings.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) health: Health,
    /// Answer health checks only where NodePorts are; else on every address.
    pub(super) node_port_addresses_only: bool,
    /// Pods whose interfaces this daemon makes.
    pub(super) network: Option<PodNetwork>,
    /// Pods whose interfaces another makes.
    pub(super) pods: Option<ForeignPods>,
}

/// Pods whose interfaces another CNI makes.
#[derive(Debug)]
pub(super) struct ForeignPods {
    view: Arc<RwLock<View>>,
    uplinks: Vec<String>,
    patterns: Vec<String>,
    /// Endpoints changed: one of them may be behind an interface nobody has looked at.
    endpoints_changed: Arc<Notify>,
    /// The endpoints here that were looked for last.
    searched: BTreeSet<IpAddr>,
    /// What is attached, and what could not be, with the reason last said.
    attached: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    tidied: Tidied,
}

/// What an earlier daemon attached and is no pod's any more is forgotten once it is known where endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tidied {
    /// Services are not known yet.
    NotYet,
    /// They are.
    Due,
    Done,
}

impl Upkeep {
    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut watch = open_watch();
        let mut second = tokio::time::interval(SECOND);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let endpoints_changed = self.pods.as_ref().map(|pods| Arc::clone(&pods.endpoints_changed)).unwrap_or_default();
        let mut due = Changed::ALL;
        let mut endpoints_due = false;
        let mut due_since = tokio::time::Instant::now();
        let mut looked: Option<tokio::time::Instant> = None;
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let pause = if due.interfaces { PAUSE } else { LONG_PAUSE };
            let after_pause = looked.map_or(due_since, |looked| looked + pause);
            let changed = tokio::select! {
                _ = second.tick() => {
                    self.tick().await;
                    continue;
                }
                changed = next(&mut watch) => changed,
                () = endpoints_changed.notified() => {
                    if let Some(pods) = &mut self.pods {
                        pods.services_known();
                    }
                    if !due.any() && !endpoints_due {
                        due_since = tokio::time::Instant::now();
                    }
                    endpoints_due = true;
                    continue;
                }
                _ = round.tick() => {
                    watch = watch.or_else(open_watch);
                    Changed::ALL
                }
                () = tokio::time::sleep_until(after_pause.max(due_since + BURST)), if due.any() || endpoints_due => {
                    endpoints_due = false;
                    self.look(std::mem::take(&mut due)).await;
                    looked = Some(tokio::time::Instant::now());
                    continue;
                }
                () = shutdown.cancelled() => return,
            };
            if !due.any() && !endpoints_due {
                due_since = tokio::time::Instant::now();
            }
            due = due.and(changed);
        }
    }

    async fn tick(&self) {
        if let Err(error) = self.datapath.lock().await.tick(Instant::now()) {
            tracing::error!(error = %chain(&error), "endpoints that are gone could not be cleared away; tried again");
        }
    }

    async fn look(&mut self, changed: Changed) {
        if changed.interfaces {
            let mut datapath = self.datapath.lock().await;
            match datapath.refresh() {
                Ok(true) => tracing::info!(uplinks = ?names(&datapath), "interfaces or addresses changed"),
                Ok(false) => {}
                Err(error) => tracing::error!(error = %chain(&error), "uplinks could not be followed; tried again"),
            }
            if self.node_port_addresses_only {
                self.health.answer_on(datapath.node_port_addresses());
            }
        }
        if let Some(network) = &self.network {
            match network.restore_routes().await {
                Ok(0) => {}
                Ok(routes) => tracing::warn!(routes, "routes to pods were gone, and are back"),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "routes to pods could not be looked after; tried again"
                ),
            }
        }
        if let Some(pods) = &mut self.pods
            && let Some(endpoints) = pods.to_look_for(changed)
            && let Err(error) = pods.look_for(endpoints, &self.datapath).await
        {
            tracing::error!(error = format!("{error:#}"), "pods' interfaces could not be looked for; tried again");
        }
    }
}

impl ForeignPods {
    pub(super) fn new(shared: &Shared, uplinks: Vec<String>, patterns: Vec<String>) -> Self {
        Self {
            view: Arc::clone(&shared.view),
            uplinks,
            patterns,
            endpoints_changed: Arc::clone(&shared.services_changed),
            searched: BTreeSet::new(),
            attached: BTreeSet::new(),
            refused: BTreeMap::new(),
            tidied: Tidied::NotYet,
        }
    }

    fn search(&self) -> Search {
        Search {
            uplinks: self.uplinks.clone(),
            patterns: self.patterns.clone(),
            endpoints: self.searched.iter().copied().collect(),
        }
    }

    fn endpoints(&self) -> BTreeSet<IpAddr> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).local_addresses()
    }

    /// The endpoints here, unless nothing but endpoints changed, and none here: mostly those that do are other nodes'.
    fn to_look_for(&self, changed: Changed) -> Option<BTreeSet<IpAddr>> {
        let endpoints = self.endpoints();
        (changed.any() || self.tidied == Tidied::Due || endpoints != self.searched).then_some(endpoints)
    }

    /// Attaches what leads to pods, and forgets what is gone.
    pub(super) async fn look(&mut self, datapath: &Mutex<Datapath>) -> Result<()> {
        let endpoints = self.endpoints();
        self.look_for(endpoints, datapath).await
    }

    async fn look_for(&mut self, endpoints: BTreeSet<IpAddr>, datapath: &Mutex<Datapath>) -> Result<()> {
        self.searched = endpoints;
        let search = self.search();
        let wanted = tokio::task::spawn_blocking(move || find(&search)).await.context("the search was given up")??;
        self.attach(wanted, &mut *datapath.lock().await)
    }

    fn services_known(&mut self) {
        if self.tidied == Tidied::NotYet {
            self.tidied = Tidied::Due;
        }
    }

    fn attach(&mut self, wanted: Vec<PodInterface>, datapath: &mut Datapath) -> Result<()> {
        let present: BTreeSet<String> = wanted.iter().map(|pod| pod.name.clone()).collect();
        for gone in self.attached.difference(&present) {
            datapath.detach_pod(gone).with_context(|| format!("cannot detach from {gone}"))?;
            tracing::info!(interface = gone, "pod interface gone");
        }
        self.attached.retain(|name| present.contains(name));
        self.refused.retain(|name, _| present.contains(name));
        let mut attached = Vec::new();
        for pod in wanted {
            match datapath.attach_pod(&pod) {
                Ok(()) => {
                    self.refused.remove(&pod.name);
                    if self.attached.insert(pod.name.clone()) {
                        tracing::info!(interface = pod.name, addresses = ?pod.addresses, "pod interface attached");
                    }
                    attached.push(pod);
                }
                // Most likely it vanished just now.
                Err(error) => {
                    let reason = chain(&error);
                    if self.refused.get(&pod.name) != Some(&reason) {
                        tracing::warn!(
                            interface = pod.name,
                            error = reason,
                            "cannot attach to a pod's interface; tried again"
                        );
                    }
                    self.refused.insert(pod.name, reason);
                }
            }
        }
        if self.tidied == Tidied::Due {
            datapath.retain_pods(&attached).context("cannot forget pods that ended while no daemon ran")?;
            self.tidied = Tidied::Done;
        }
        Ok(())
    }
}

/// Pods' interfaces with all that can be known of what is behind them.
fn find(search: &Search) -> Result<Vec<PodInterface>> {
    let found = fairlead_network::discover(search).context("cannot ask the kernel for its interfaces")?;
    let asked: Vec<(String, u32)> = found.iter().map(|found| (found.name.clone(), found.ifindex)).collect();
    // What is in a namespace that cannot be entered is not known; its packets are translated all the same.
    let inside = fairlead_datapath::find_pods(&asked).unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "pods' network namespaces cannot be looked into");
        Vec::new()
    });
    let mut inside: BTreeMap<u32, PodInterface> = inside.into_iter().map(|pod| (pod.ifindex, pod)).collect();
    let pods = found.into_iter().map(|found| {
        let mut pod = inside.remove(&found.ifindex).unwrap_or_else(|| PodInterface {
            name: found.name.clone(),
            ifindex: found.ifindex,
            addresses: Vec::new(),
            mac: [0; 6],
            netns_cookie: 0,
        });
        pod.addresses.extend(
            found.addresses.iter().filter(|address| !pod.addresses.contains(address)).copied().collect::<Vec<_>>(),
        );
        pod.addresses.sort_unstable();
        if pod.mac == [0; 6] {
            pod.mac = found.mac;
        }
        pod
    });
    Ok(pods.collect())
}

fn names(datapath: &Datapath) -> Vec<String> {
    datapath.uplinks().into_iter().map(|uplink| uplink.name).collect()
}

fn open_watch() -> Option<Watch> {
    Watch::open()
        .inspect_err(|error| tracing::warn!(error = %chain(error), "the kernel's messages cannot be had; looked at every few seconds instead"))
        .ok()
}

async fn next(watch: &mut Option<Watch>) -> Changed {
    let Some(open) = watch else { return std::future::pending().await };
    match open.next().await {
        Ok(changed) => changed,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the kernel's messages broke off");
            *watch = None;
            Changed::ALL
        }
    }
}
