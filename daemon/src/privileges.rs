//! What a daemon that only proxies services may do once it has begun: everything else is given up for good.
//!
//! Capabilities belong to threads, so this happens while there is one.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// What is kept, and why.
const KEPT: [(Capability, &str); 5] = [
    (Capability::CAP_BPF, "BPF programs and maps"),
    (Capability::CAP_PERFMON, "BPF programs that read packets"),
    (Capability::CAP_NET_ADMIN, "attaching programs to interfaces and cgroups, ending dead sockets"),
    (Capability::CAP_SYS_ADMIN, "entering the pods' network namespaces"),
    (Capability::CAP_SYS_PTRACE, "finding the pods' network namespaces"),
];

/// What only some proxies need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// A health port below 1024.
    pub(crate) low_ports: bool,
    /// A kubeconfig, keys or manifests, which may belong to anybody and change while the daemon runs.
    pub(crate) files: bool,
}

/// Keeps what is needed and drops the rest, from the bounding set too; says what was kept.
pub(crate) fn reduce(needs: Needs) -> Result<()> {
    let low_ports = needs.low_ports.then_some((Capability::CAP_NET_BIND_SERVICE, "the health port"));
    let files =
        needs.files.then_some((Capability::CAP_DAC_READ_SEARCH, "reading the source's files, whosever they are"));
    let wanted: Vec<_> = KEPT.into_iter().chain(low_ports).chain(files).collect();
    let held = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    // The bounding set goes first: dropping from it needs a capability that is not kept.
    if held.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context("cannot read the bounding set")?;
        for capability in bounding.iter().filter(|capability| wanted.iter().all(|(kept, _)| kept != *capability)) {
            caps::drop(None, CapSet::Bounding, *capability)
                .with_context(|| format!("cannot drop {capability} from the bounding set"))?;
        }
    }
    let kept: CapsHashSet =
        wanted.iter().map(|(capability, _)| *capability).filter(|kept| held.contains(kept)).collect();
    // Kernels before 4.3 have no ambient set, and then nothing in it.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Effective, &kept).context("cannot reduce the effective capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("cannot reduce the permitted capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("cannot clear the inheritable capabilities")?;
    for (capability, purpose) in wanted.iter().filter(|(capability, _)| kept.contains(capability)) {
        tracing::info!(capability = %capability, purpose, "capability kept");
    }
    tracing::info!(kept = kept.len(), dropped = held.len() - kept.len(), "all other capabilities dropped");
    Ok(())
}
