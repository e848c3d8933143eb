//! What all workloads of a run share: the options, the nodes that peers have programmed, and where data paths of the run's
//! own can be put.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, anyhow};

use crate::options::Options;
use crate::peers::services::Spec;
use crate::peers::{Proxy, Rig};
use crate::plan::Draw;
use crate::rig::guard::Guard;
use crate::rig::sandbox::Sandbox;

/// A folder for pins and a cgroup, for one data path.
#[derive(Clone, Debug)]
pub struct Place {
    /// On a BPF file system.
    pub bpffs: PathBuf,
    /// Without processes.
    pub cgroup: PathBuf,
}

/// What all workloads of a run share.
#[derive(Debug)]
pub struct Stage {
    /// What the run was told.
    pub options: Options,
    /// Where clients, nodes and servers share their work.
    pub core: usize,
    /// Numbers that need not be the same twice.
    pub draw: Draw,
    /// What else figures depend on; recorded with the settings of the kernel.
    pub notes: BTreeMap<String, String>,
    /// Nodes, or why there is none.
    rigs: BTreeMap<(Proxy, Spec), Result<Rig, String>>,
    // After what is in it.
    sandbox: Sandbox,
    guard: Guard,
}

impl Stage {
    /// On this thread, which must be the process's first: mounts are made that it alone sees.
    ///
    /// # Errors
    /// A mount is refused.
    pub fn new(options: Options, core: usize, seed: u64) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let guard = Guard::start(&sandbox)?;
        Ok(Self { options, core, draw: Draw::new(seed), notes: BTreeMap::new(), rigs: BTreeMap::new(), sandbox, guard })
    }

    /// A folder for pins and a cgroup that nobody else uses. They go with the stage.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn place(&self, name: &str) -> Result<Place> {
        let place = Place { bpffs: self.sandbox.bpffs().join(name), cgroup: self.sandbox.cgroup().join(name) };
        for path in [&place.bpffs, &place.cgroup] {
            std::fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(place)
    }

    /// Has a process ended that would outlive this one, should it be killed; `mark` is in its command line.
    ///
    /// # Errors
    /// The process that looks after it is gone.
    pub fn watch(&self, child: &Child, mark: &Path) -> Result<()> {
        self.guard.watch(child, mark)
    }

    /// A node that is programmed so; made when it is asked for the first time, and kept.
    pub(crate) fn rig(&mut self, proxy: Proxy, spec: Spec) -> Result<&mut Rig> {
        let name = (proxy, spec);
        if !self.rigs.contains_key(&name) {
            let made = Rig::new(self, proxy, spec).map_err(|error| format!("{error:#}"));
            self.rigs.insert(name, made);
        }
        let made = self.rigs.get_mut(&name).context("the node is gone")?;
        made.as_mut().map_err(|reason| anyhow!(reason.clone()))
    }
}
