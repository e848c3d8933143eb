//! Desired services to kernel tables, and the programs that read them.
//!
//! One [`Datapath`] per node owns the BPF programs and maps. It is handed joined services (from `fairlead-source`) and
//! the interfaces of uplinks and pods. `desired` says what the tables should hold for a service, `tables` plans the
//! writes, `kernel` carries them out; `loader` and `attach` bring programs to where they run, `uplinks` and `pods` say
//! where that is. `explain` asks the programs what they would do.
//!
//! Everything made here is pinned below `fairlead/v<ABI>` of the BPF file system: a daemon that dies leaves a data path
//! that works on, and the next one adopts it. Maps are reused and links get the new programs in place, so no flow is
//! lost, unless the version of the tables is another. [`remove`] is the only thing that takes it away.
#![deny(unsafe_code)]

mod attach;
mod config;
mod desired;
mod error;
mod explain;
mod flows;
mod fragments;
mod frames;
mod interface;
mod kernel;
mod loader;
pub mod maglev;
mod netlink;
mod netns;
mod pods;
mod preflight;
mod run;
mod sockets;
#[allow(unsafe_code, reason = "the one module that may, see its own comment")]
mod sys;
pub mod tables;
mod uplinks;
mod verified;

pub use config::{Config, Finding, FindingState, PodInterface, SyncReport, Uplink, UplinkMode};
pub use desired::{Key, Label, Member, Site, Want, wants};
pub use error::DatapathError;
pub use explain::{Candidate, ExplainRequest, Explanation, Origin, Step as ExplainStep};
pub use netns::{find_pods, netns_cookie};
pub use preflight::preflight;
pub use tables::Ended;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aya::Ebpf;
use fairlead_abi::proto;
use fairlead_source::{Service, ServiceName};
use rustc_hash::{FxHashMap, FxHashSet};

use fragments::Fragments;
use kernel::Kernel;
use loader::Pins;
use sockets::SocketCloser;
use tables::{Plan, Tables};

/// The node's data path: loaded programs, their maps and what they are attached to.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
    ebpf: Ebpf,
    pins: Pins,
    kernel: Kernel,
    tables: Tables,
    closer: SocketCloser,
    /// Where there is a place for them.
    _fragments: Option<Fragments>,
    /// Those that may have to be planned again without being told of: refused, or answering on addresses of the node.
    kept: FxHashMap<ServiceName, Arc<Service>>,
    /// Services not in force as they are wanted, and why.
    rejected: BTreeMap<ServiceName, String>,
    /// What the services were planned for.
    site: Site,
    uplinks: BTreeMap<String, Uplink>,
    /// Names of interfaces that are uplinks as soon as they are there.
    wanted_uplinks: BTreeSet<String>,
    pods: BTreeMap<String, PodInterface>,
}

impl Datapath {
    /// Loads the programs, or adopts what an earlier daemon pinned: maps are reused and links updated in place.
    pub fn open(config: Config) -> Result<Self, DatapathError> {
        let missing: Vec<String> = preflight(&config)
            .into_iter()
            .filter(|finding| finding.state == FindingState::Missing)
            .map(|finding| format!("{} ({})", finding.name, finding.detail))
            .collect();
        if loader::OBJECT.is_empty() {
            return Err(DatapathError::NotBuilt);
        }
        if !missing.is_empty() {
            return Err(DatapathError::Unsupported(missing.join(", ")));
        }
        let (mut ebpf, pins) = loader::load(&config)?;
        let kernel = Kernel::open(&pins.maps)?;
        let tables = kernel.tables()?;
        let closer = SocketCloser::open(&pins.maps)?;
        let fragments = Fragments::start(&mut ebpf, &pins.maps);
        loader::inherit_links(&config.bpffs, &pins);
        attach::sockets(&mut ebpf, &pins, &config.cgroup)?;
        let mut datapath = Self {
            config,
            ebpf,
            pins,
            kernel,
            tables,
            closer,
            _fragments: fragments,
            kept: FxHashMap::default(),
            rejected: BTreeMap::new(),
            site: Site::default(),
            uplinks: BTreeMap::new(),
            wanted_uplinks: BTreeSet::new(),
            pods: BTreeMap::new(),
        };
        datapath.adopt_uplinks()?;
        datapath.site = datapath.site_now();
        loader::forget_other_versions(&datapath.config.bpffs)?;
        Ok(datapath)
    }

    /// Puts changed services in force; `None` removes one. When it returns, the kernel's tables hold the change. A
    /// service refused for an address that another one has comes in force when that one lets go of it.
    pub fn sync<S>(&mut self, changed: Vec<(ServiceName, Option<S>)>) -> Result<SyncReport, DatapathError>
    where
        S: Into<Arc<Service>>,
    {
        let mut report = SyncReport::default();
        let calls = self.kernel.calls;
        // What goes makes room, and may give its address to what comes.
        let (gone, put): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(_, service)| service.is_none());
        let mut names = Vec::with_capacity(gone.len() + put.len());
        let mut freed = false;
        for (name, service) in gone.into_iter().chain(put) {
            freed |= self.plan(&name, service.map(Into::into), &mut report)?;
            names.push(name);
        }
        self.retry(freed, &mut report)?;
        report.rejected = self.rejections(&names);
        report.system_calls = self.kernel.calls - calls;
        Ok(report)
    }

    /// Makes these services, and no others, the ones in force. The first call after [`Datapath::open`] must be this:
    /// until then what was adopted stays as it was.
    pub fn sync_all<S>(&mut self, services: Vec<S>) -> Result<SyncReport, DatapathError>
    where
        S: Into<Arc<Service>>,
    {
        let mut services: Vec<Arc<Service>> = services.into_iter().map(Into::into).collect();
        // Of two that want one address, the first by name has it.
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let names: FxHashSet<&ServiceName> = services.iter().map(|service| &service.name).collect();
        let gone: Vec<_> = self.tables.services().filter(|name| !names.contains(name)).cloned().collect();
        self.kept.retain(|name, _| names.contains(name));
        self.rejected.retain(|name, _| names.contains(name));
        drop(names);
        let mut report = SyncReport::default();
        let calls = self.kernel.calls;
        self.kernel.gather();
        let planned = self.plan_all(gone, services, &mut report);
        // What was gathered is on its way, whatever became of the rest.
        let flushed = self.kernel.flush();
        planned.and(flushed)?;
        // All that were not named are gone.
        report.rejected = self.rejected.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect();
        report.system_calls = self.kernel.calls - calls;
        Ok(report)
    }

    /// Services that are not in force as they are wanted, and why.
    pub fn rejected(&self) -> &BTreeMap<ServiceName, String> {
        &self.rejected
    }

    /// What time does; to be called about once a second. Connections to endpoints whose drain is over are reset from
    /// now on, by the programs and, where they go there without us, by closing their sockets. Returns these endpoints.
    pub fn tick(&mut self, now: Instant) -> Result<Vec<Ended>, DatapathError> {
        let plan = self.tables.tick(now, self.config.drain);
        for step in &plan.steps {
            self.kernel.apply(step)?;
        }
        if !plan.ended.is_empty() {
            self.closer.close(plan.ended.clone(), self.pod_interfaces(), None);
        }
        Ok(plan.ended)
    }

    /// Packets by verdict: every name in `fairlead_abi::Counter`, summed over CPUs.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        self.kernel.counters()
    }

    /// Entries in the tables of flows of IPv4 and IPv6: two per translated connection. Goes through all of them.
    pub fn flows(&self) -> (usize, usize) {
        self.kernel.flows()
    }

    /// How often sockets of endpoints that were gone were looked for, in all pods: when there might have been any.
    pub fn socket_searches(&self) -> u64 {
        self.closer.looks()
    }

    /// Sockets closed because their endpoint was gone.
    pub fn closed_sockets(&self) -> u64 {
        self.closer.closed()
    }

    /// Puts services in force, and takes away what is no service's.
    fn plan_all(
        &mut self,
        gone: Vec<ServiceName>,
        services: Vec<Arc<Service>>,
        report: &mut SyncReport,
    ) -> Result<(), DatapathError> {
        let mut freed = false;
        for name in gone {
            freed |= self.plan(&name, None, report)?;
        }
        for service in services {
            let name = service.name.clone();
            freed |= self.plan(&name, Some(service), report)?;
        }
        let orphans = self.tables.plan_orphans(Instant::now());
        freed |= self.carry_out(&orphans, report)?;
        self.retry(freed, report)
    }

    /// Puts a service in force, or says why not. True if that gave addresses free.
    fn plan(
        &mut self,
        name: &ServiceName,
        service: Option<Arc<Service>>,
        report: &mut SyncReport,
    ) -> Result<bool, DatapathError> {
        let wanted = service.as_ref().map(|service| wants(service, &self.site)).unwrap_or_default();
        let plan = self.tables.plan(name, &wanted, Instant::now());
        match service.filter(|service| plan.refusal.is_some() || heeds_addresses(service)) {
            Some(service) => self.kept.insert(name.clone(), service),
            None => self.kept.remove(name),
        };
        let freed = self.carry_out(&plan, report)?;
        match plan.refusal {
            Some(refusal) => self.rejected.insert(name.clone(), refusal.to_string()),
            None => self.rejected.remove(name),
        };
        Ok(freed)
    }

    /// Plans refused services again once addresses are free, as long as that helps any of them.
    fn retry(&mut self, freed: bool, report: &mut SyncReport) -> Result<(), DatapathError> {
        let mut before = usize::MAX;
        while freed && self.rejected.len() < before {
            before = self.rejected.len();
            for name in self.rejected.keys().cloned().collect::<Vec<_>>() {
                let service = self.kept.get(&name).cloned();
                self.plan(&name, service, report)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, plan: &Plan, report: &mut SyncReport) -> Result<bool, DatapathError> {
        // Connections drain; whoever sends datagrams shall not send another one there.
        let gone: Vec<_> = plan.ended.iter().filter(|ended| ended.proto == proto::UDP).copied().collect();
        let announced = (!gone.is_empty()).then(|| self.closer.announce());
        for step in &plan.steps {
            self.kernel.apply(step)?;
        }
        report.steps += plan.steps.len();
        if !gone.is_empty() {
            self.closer.close(gone, self.pod_interfaces(), announced);
        }
        Ok(plan.steps.iter().any(|step| matches!(step, tables::Step::Drop(_))))
    }

    fn rejections(&self, names: &[ServiceName]) -> Vec<(ServiceName, String)> {
        names.iter().filter_map(|name| Some((name.clone(), self.rejected.get(name)?.clone()))).collect()
    }

    /// Plans services anew for which the node's addresses count, if these have changed.
    fn replan(&mut self) -> Result<(), DatapathError> {
        let site = self.site_now();
        if site == self.site {
            return Ok(());
        }
        self.site = site;
        let kept = self.kept.iter().filter(|(_, service)| heeds_addresses(service));
        let mut concerned: Vec<_> = kept.map(|(name, _)| name.clone()).collect();
        concerned.sort_unstable();
        let mut report = SyncReport::default();
        let mut freed = false;
        for name in &concerned {
            freed |= self.plan(name, self.kept.get(name).cloned(), &mut report)?;
        }
        self.retry(freed, &mut report)?;
        for (name, reason) in self.rejections(&concerned) {
            tracing::warn!(svc = %name, error = reason, "a service was refused");
        }
        Ok(())
    }

    fn site_now(&self) -> Site {
        let addresses = self.node_addresses();
        let networks = &self.config.node_port_networks;
        let is_near = |addr: &std::net::IpAddr| networks.is_empty() || networks.iter().any(|net| net.contains(addr));
        Site {
            node_port_addresses: addresses.iter().copied().filter(is_near).collect(),
            addresses,
            loopback: self.config.node_port_loopback,
            external_ips: self.config.external_ips,
            dsr: self.config.dsr,
        }
    }
}

/// Whether the node's addresses have a say in where a Service answers.
fn heeds_addresses(service: &Service) -> bool {
    !service.load_balancer_ips.is_empty()
        || !service.external_ips.is_empty()
        || service.ports.iter().any(|port| port.node_port.is_some())
}

/// Gives the kernel back memory that was freed: after a start, or when thousands of services came at once. Loading
/// programs and reading objects take far more, for a moment, than what stays of them, and the allocator keeps it. The
/// same goes for the pages of the program that did it.
pub fn give_memory_back() {
    sys::trim_memory();
}

/// Makes memory that one thread frees serve all of them. For a daemon's beginning, while it has one thread.
pub fn share_free_memory() {
    sys::share_free_memory();
}

/// Detaches and unpins everything under this BPF file system. Nothing of ours is left, and nothing else is touched.
/// Interfaces must still be there to be freed of tc filters, where the kernel has no links for them.
pub fn remove(bpffs: &Path) -> Result<(), DatapathError> {
    for interface in nix::net::if_::if_nameindex().into_iter().flat_map(|list| {
        list.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    }) {
        attach::drop_filters(&interface);
    }
    let root = loader::pin_root(bpffs);
    for version in fs::read_dir(&root).into_iter().flatten().flatten() {
        attach::detach_all(&version.path().join("links"))?;
    }
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Io { action: "remove the pins in", path: root, source: error })
        }
        _ => Ok(()),
    }
}
