//! Desired services to kernel tables, and the programs that read them.
//!
//! One [`Datapath`] per node owns the BPF programs and maps. It is handed joined services (from `fairlead-source`) and
//! the interfaces of uplinks and pods. `desired` says what the tables should hold for a service, `tables` plans the
//! writes, `kernel` carries them out; `loader` and `attach` bring programs to where they run.
//!
//! Everything made here is pinned below `fairlead/v<ABI>` of the BPF file system: a daemon that dies leaves a data path
//! that works on, and the next one adopts it. Maps are reused and links get the new programs in place, so no flow is
//! lost. [`remove`] is the only thing that takes it away.
#![deny(unsafe_code)]

mod attach;
mod config;
mod desired;
mod error;
mod kernel;
mod loader;
pub mod maglev;
mod netlink;
mod netns;
mod preflight;
mod sockets;
#[allow(unsafe_code, reason = "the one module that may, see its own comment")]
mod sys;
pub mod tables;

pub use config::{Config, Finding, FindingState, PodInterface, SyncReport, Uplink, UplinkMode};
pub use desired::{Want, wants};
pub use error::DatapathError;
pub use netns::{find_pods, netns_cookie};
pub use preflight::preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use fairlead_source::{Service, ServiceName};

use kernel::Kernel;
use loader::Pins;
use tables::Tables;

/// The node's data path: loaded programs, their maps and what they are attached to.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
    ebpf: Ebpf,
    pins: Pins,
    kernel: Kernel,
    tables: Tables,
    /// As last synchronised; NodePorts are planned anew when the node gets another address.
    services: BTreeMap<ServiceName, Service>,
    uplinks: BTreeMap<String, Uplink>,
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
        attach::sockets(&mut ebpf, &pins, &config.cgroup)?;
        loader::forget_other_versions(&config.bpffs)?;
        let mut datapath = Self {
            config,
            ebpf,
            pins,
            kernel,
            tables,
            services: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            pods: BTreeMap::new(),
        };
        datapath.adopt_uplinks()?;
        Ok(datapath)
    }

    /// Attaches again to the uplinks of an earlier daemon, so that their addresses are known before the first
    /// synchronisation, and forgets those that are gone.
    fn adopt_uplinks(&mut self) -> Result<(), DatapathError> {
        let mut names = attach::pinned_interfaces(&self.pins, "tc_uplink")?;
        names.extend(attach::pinned_interfaces(&self.pins, "xdp_service")?);
        for name in names {
            match self.attach_uplink(&name) {
                Err(DatapathError::NoInterface(_) | DatapathError::NoAddress(_)) => self.detach_uplink(&name)?,
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Attaches to an uplink; again for one already attached returns it as it is. NodePorts answer on its addresses
    /// from then on.
    pub fn attach_uplink(&mut self, name: &str) -> Result<Uplink, DatapathError> {
        if let Some(uplink) = self.uplinks.get(name) {
            return Ok(uplink.clone());
        }
        let ifindex = nix::net::if_::if_nametoindex(name).map_err(|_| DatapathError::NoInterface(name.to_owned()))?;
        let addresses = addresses(name)?;
        let first = *addresses.first().ok_or_else(|| DatapathError::NoAddress(name.to_owned()))?;
        self.kernel.put_uplink(ifindex, first)?;
        let (mode, reason) = attach::uplink(&mut self.ebpf, &self.pins, name, ifindex)?;
        let uplink = Uplink { name: name.to_owned(), ifindex, addresses, mode, reason };
        self.uplinks.insert(name.to_owned(), uplink.clone());
        self.replan()?;
        Ok(uplink)
    }

    /// Detaches from an uplink; nothing happens if it is not attached.
    pub fn detach_uplink(&mut self, name: &str) -> Result<(), DatapathError> {
        if let Some(uplink) = self.uplinks.remove(name) {
            self.kernel.drop_uplink(uplink.ifindex)?;
        }
        attach::detach(&self.pins, name)?;
        self.replan()
    }

    /// Uplinks attached now, those of an earlier daemon included.
    pub fn uplinks(&self) -> Vec<Uplink> {
        self.uplinks.values().cloned().collect()
    }

    /// Attaches to a pod's host-side interface and lets its sockets be translated. Idempotent.
    pub fn attach_pod(&mut self, pod: &PodInterface) -> Result<(), DatapathError> {
        if self.pods.get(&pod.name) == Some(pod) {
            return Ok(());
        }
        attach::pod(&mut self.ebpf, &self.pins, &pod.name)?;
        if pod.netns_cookie != 0 {
            self.kernel.put_netns(pod.netns_cookie)?;
        }
        self.pods.insert(pod.name.clone(), pod.clone());
        Ok(())
    }

    /// Forgets a pod, by the name of its host-side interface, which may be gone already. Idempotent.
    pub fn detach_pod(&mut self, name: &str) -> Result<(), DatapathError> {
        if let Some(pod) = self.pods.remove(name) {
            self.kernel.drop_netns(pod.netns_cookie)?;
        }
        attach::detach(&self.pins, name)
    }

    /// Makes these pods, and no others, the ones attached: after a restart, with the pods that are really there.
    pub fn retain_pods(&mut self, pods: &[PodInterface]) -> Result<(), DatapathError> {
        for pod in pods {
            self.attach_pod(pod)?;
        }
        let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        for name in attach::pinned_interfaces(&self.pins, "tc_from_pod")? {
            if !names.contains(name.as_str()) {
                self.detach_pod(&name)?;
            }
        }
        self.pods.retain(|name, _| names.contains(name.as_str()));
        for cookie in self.kernel.netns()? {
            if !pods.iter().any(|pod| pod.netns_cookie == cookie) {
                self.kernel.drop_netns(cookie)?;
            }
        }
        Ok(())
    }

    /// Puts changed services in force; `None` removes one. When it returns, the kernel's tables hold the change.
    pub fn sync(&mut self, changed: Vec<(ServiceName, Option<Service>)>) -> Result<SyncReport, DatapathError> {
        let mut report = SyncReport::default();
        // What goes makes room, and may give its address to what comes.
        let (gone, put): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(_, service)| service.is_none());
        for (name, service) in gone.into_iter().chain(put) {
            match service {
                Some(service) => self.services.insert(name.clone(), service),
                None => self.services.remove(&name),
            };
            self.plan(&name, &mut report)?;
        }
        Ok(report)
    }

    /// Makes these services, and no others, the ones in force. The first call after [`Datapath::open`] must be this:
    /// until then what was adopted stays as it was.
    pub fn sync_all(&mut self, services: Vec<Service>) -> Result<SyncReport, DatapathError> {
        let services: BTreeMap<_, _> = services.into_iter().map(|service| (service.name.clone(), service)).collect();
        let gone: Vec<_> = self.tables.services().filter(|name| !services.contains_key(*name)).cloned().collect();
        self.services = services;
        let mut report = SyncReport::default();
        let names: Vec<_> = gone.into_iter().chain(self.services.keys().cloned()).collect();
        for name in names {
            self.plan(&name, &mut report)?;
        }
        for step in self.tables.plan_orphans(Instant::now()) {
            self.kernel.apply(&step)?;
            report.steps += 1;
        }
        Ok(report)
    }

    /// Packets by verdict: every name in `fairlead_abi::Counter`, summed over CPUs.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        self.kernel.counters()
    }

    /// Runs a program on a packet without sending it (`BPF_PROG_TEST_RUN`), on the real tables: its verdict, and the
    /// packet as the program left it.
    pub fn run(&mut self, name: &'static str, packet: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = self.test_run(name, options)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// The mean time of a run over many on the same buffer: what one run leaves is what the next one gets.
    pub fn time(&mut self, name: &'static str, packet: &[u8], repeat: u32) -> Result<Duration, DatapathError> {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        Ok(self.test_run(name, options)?.duration)
    }

    fn test_run(&mut self, name: &'static str, options: TestRunOptions<'_>) -> Result<TestRunResult, DatapathError> {
        let result = if loader::XDP.contains(&name) {
            loader::program::<Xdp>(&mut self.ebpf, name)?.test_run(options)
        } else {
            loader::program::<SchedClassifier>(&mut self.ebpf, name)?.test_run(options)
        };
        result.map_err(|source| DatapathError::Program { program: name, source: Box::new(source) })
    }

    fn plan(&mut self, name: &ServiceName, report: &mut SyncReport) -> Result<(), DatapathError> {
        let node_addresses = self.node_addresses();
        let wanted = self.services.get(name).map(|service| wants(service, &node_addresses)).unwrap_or_default();
        let (steps, refusal) = self.tables.plan(name, &wanted, Instant::now());
        for step in &steps {
            self.kernel.apply(step)?;
        }
        report.steps += steps.len();
        if let Some(refusal) = refusal {
            report.rejected.push((name.clone(), refusal.to_string()));
        }
        Ok(())
    }

    /// Plans everything again, after a change of the node's addresses.
    fn replan(&mut self) -> Result<(), DatapathError> {
        let mut report = SyncReport::default();
        for name in self.services.keys().cloned().collect::<Vec<_>>() {
            self.plan(&name, &mut report)?;
        }
        for (name, reason) in report.rejected {
            tracing::warn!(svc = %name, error = reason, "a service was refused");
        }
        Ok(())
    }

    fn node_addresses(&self) -> Vec<Ipv4Addr> {
        let uplinks = self.uplinks.values().flat_map(|uplink| uplink.addresses.iter().copied());
        let all: BTreeSet<Ipv4Addr> = self.config.node_addresses.iter().copied().chain(uplinks).collect();
        all.into_iter().collect()
    }
}

/// IPv4 addresses of an interface, in the kernel's order.
fn addresses(name: &str) -> Result<Vec<Ipv4Addr>, DatapathError> {
    let all = nix::ifaddrs::getifaddrs().map_err(|errno| DatapathError::Io {
        action: "list the addresses of",
        path: name.into(),
        source: errno.into(),
    })?;
    let of_this = all.filter(|entry| entry.interface_name == name);
    Ok(of_this.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip())).collect())
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
