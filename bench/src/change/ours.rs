//! Our data path without a network around it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairlead_datapath::{Config, Datapath, SyncReport};
use fairlead_source::{Endpoint, Service};

use crate::peers::services::Spec;
use crate::rig::namespace::Namespace;
use crate::stage::Stage;

/// A data path in force.
#[derive(Debug)]
pub(super) struct Ours {
    datapath: Datapath,
    spec: Spec,
    net: Namespace,
    bpffs: PathBuf,
}

impl Ours {
    /// An empty one with room for these services.
    pub(super) fn new(stage: &mut Stage, name: &str, spec: Spec) -> Result<Self> {
        let place = stage.place(name)?;
        let net = Namespace::new()?;
        let datapath = net.run(|| {
            let mut config = Config::new(&place.bpffs, &place.cgroup);
            // The measured service has three ports; changes leave endpoints behind until these have drained.
            config.services = config.services.max(spec.services + 16);
            config.backends = config.backends.max(spec.services * spec.endpoints * 3 + 1024);
            Ok(Datapath::open(config)?)
        })?;
        Ok(Self { datapath, spec, net, bpffs: place.bpffs })
    }

    /// Puts all services in force; how long that took.
    pub(super) fn all(&mut self) -> Result<(Duration, SyncReport)> {
        let services = self.spec.all();
        let start = Instant::now();
        let report = self.datapath.sync_all(services)?;
        let took = start.elapsed();
        accepted(&report)?;
        Ok((took, report))
    }

    /// Gives a service another last endpoint; how long that took.
    pub(super) fn one(&mut self, turn: u32) -> Result<(Duration, SyncReport)> {
        let (service, others) = self.changed(turn);
        let changes = vec![(service.name.clone(), Some(service))];
        let start = Instant::now();
        let report = self.datapath.sync(changes)?;
        let took = start.elapsed();
        accepted(&report)?;
        if turn.is_multiple_of(others.max(64)) {
            // As the daemon does every second.
            self.datapath.tick(Instant::now())?;
        }
        Ok((took, report))
    }

    /// A service that is not where the last one was, and how many there are.
    fn changed(&self, turn: u32) -> (Service, u32) {
        const STRIDE: u32 = 7919;
        let Spec { services, endpoints } = self.spec;
        let others = (services - 1).max(1);
        let number = (u64::from(turn) * u64::from(STRIDE) % u64::from(others)) as u32;
        let mut service = self.spec.service(number);
        if let Some(last) = service.ports.first_mut().and_then(|port| port.endpoints.last_mut()) {
            let other = self.spec.elsewhere(number + services * (1 + turn / others % 2), endpoints - 1);
            *last = Endpoint::local(other.into());
        }
        (service, others)
    }
}

fn accepted(report: &SyncReport) -> Result<()> {
    let refused = report.rejected.first().map(|(name, reason)| format!("{name}: {reason}"));
    ensure!(refused.is_none(), "a service was refused: {}", refused.unwrap_or_default());
    Ok(())
}

impl Drop for Ours {
    fn drop(&mut self) {
        let removed = self.net.run(|| Ok(fairlead_datapath::remove(&self.bpffs)?));
        if let Err(error) = removed.context("cannot remove a data path") {
            eprintln!("{error:#}");
        }
    }
}
