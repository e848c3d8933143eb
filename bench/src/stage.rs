//! What all workloads of a run share: the options, and where data paths of the run's own can be put.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::options::Options;
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
    sandbox: Sandbox,
}

impl Stage {
    /// On this thread, which must be the process's first: mounts are made that it alone sees.
    ///
    /// # Errors
    /// A mount is refused.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self { options, sandbox: Sandbox::new()? })
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
}
