//! Desired services to kernel tables, and the programs that read them.
//!
//! One [`Datapath`] per node owns the BPF programs and maps. It is handed joined services (from `fairlead-source`) and
//! the interfaces of uplinks and pods; everything it creates is pinned, so that a daemon that dies and comes back
//! adopts what is there without losing a flow.
#![forbid(unsafe_code)]

mod config;
mod error;

pub use config::{Config, Finding, FindingState, PodInterface, SyncReport, Uplink, UplinkMode};
pub use error::DatapathError;

use std::collections::BTreeMap;
use std::path::Path;

use fairlead_source::{Service, ServiceName};

/// The node's data path: loaded programs, their maps and what they are attached to.
#[derive(Debug)]
pub struct Datapath {
    config: Config,
}

impl Datapath {
    /// Loads the programs, or adopts what an earlier daemon pinned: maps are reused and links updated in place.
    pub fn open(config: Config) -> Result<Self, DatapathError> {
        let _ = Self { config };
        Err(DatapathError::NotBuilt)
    }

    /// Attaches to an uplink; again for one already attached returns it as it is.
    pub fn attach_uplink(&mut self, name: &str) -> Result<Uplink, DatapathError> {
        Err(DatapathError::NoInterface(format!("{name} of {:?}", self.config.bpffs)))
    }

    /// Detaches from an uplink; nothing happens if it is not attached.
    pub fn detach_uplink(&mut self, _name: &str) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Uplinks attached now.
    pub fn uplinks(&self) -> Vec<Uplink> {
        Vec::new()
    }

    /// Attaches to a pod's host-side interface and lets its sockets be translated. Idempotent.
    pub fn attach_pod(&mut self, _pod: &PodInterface) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Forgets a pod, by the name of its host-side interface, which may be gone already. Idempotent.
    pub fn detach_pod(&mut self, _name: &str) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Forgets every pod that is not in the list: after a restart, with the pods that are really there.
    pub fn retain_pods(&mut self, _pods: &[PodInterface]) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Puts changed services in force; `None` removes one. When it returns, the kernel's tables hold the change.
    pub fn sync(&mut self, _changed: Vec<(ServiceName, Option<Service>)>) -> Result<SyncReport, DatapathError> {
        Ok(SyncReport::default())
    }

    /// Makes these services, and no others, the ones in force. The first call after [`Datapath::open`] must be this.
    pub fn sync_all(&mut self, _services: Vec<Service>) -> Result<SyncReport, DatapathError> {
        Ok(SyncReport::default())
    }

    /// Packets by verdict: every name in `fairlead_abi::Counter`, summed over CPUs.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }
}

/// Looks for everything the data path needs, before anything is touched.
pub fn preflight(_config: &Config) -> Vec<Finding> {
    Vec::new()
}

/// Detaches and unpins everything under this BPF file system. Nothing of ours is left, and nothing else is touched.
pub fn remove(_bpffs: &Path) -> Result<(), DatapathError> {
    Ok(())
}

/// The kernel's cookie of a network namespace: the caller's own for `None`, else that of a bind-mounted or /proc path.
/// 0 where the kernel has none (before 5.14).
pub fn netns_cookie(_path: Option<&Path>) -> Result<u64, DatapathError> {
    Ok(0)
}
