//! `fairlead preflight`: what this machine has and lacks, without touching it. `up` and `node` ask the same first.

use std::path::PathBuf;

use anyhow::{Result, bail};
use caps::{CapSet, Capability};
use fairlead_datapath::{Finding, FindingState};

use crate::mounts;

/// Arguments of `fairlead preflight`.
#[derive(Debug, clap::Args)]
pub(crate) struct PreflightArguments {
    /// A container runtime to look at too.
    #[arg(long, value_name = "SOCK")]
    runtime_endpoint: Option<PathBuf>,
}

/// Capabilities and what needs each of them. CAP_SYS_RESOURCE is not among them: nothing here needs it.
const CAPABILITIES: [(Capability, &str); 10] = [
    (Capability::CAP_BPF, "loading BPF programs and maps"),
    (Capability::CAP_NET_ADMIN, "pod interfaces, routes, and attaching programs to interfaces"),
    (Capability::CAP_NET_RAW, "containers' default capabilities"),
    (Capability::CAP_PERFMON, "BPF programs that read kernel memory"),
    (Capability::CAP_SYS_ADMIN, "network namespaces and mounts"),
    (Capability::CAP_CHOWN, "ownership of volumes and image layers"),
    (Capability::CAP_DAC_OVERRIDE, "files of other users in volumes"),
    (Capability::CAP_KILL, "ending containers of other users"),
    (Capability::CAP_MKNOD, "device files in containers"),
    (Capability::CAP_SYS_CHROOT, "entering containers' file systems"),
];

/// What a service proxy needs at start; it gives up more than these as soon as it has begun.
const PROXY_CAPABILITIES: [(Capability, &str); 4] = [
    (Capability::CAP_BPF, "loading BPF programs and maps"),
    (Capability::CAP_NET_ADMIN, "attaching programs to interfaces"),
    (Capability::CAP_PERFMON, "BPF programs that read kernel memory"),
    (Capability::CAP_SYS_ADMIN, "mounting a BPF file system, and the pods' network namespaces"),
];

/// One thing looked at.
#[derive(Debug)]
struct Line {
    name: String,
    verdict: &'static str,
    detail: String,
}

/// Prints every finding; fails if something needed is missing.
pub(crate) async fn run(arguments: PreflightArguments) -> Result<()> {
    let mut lines: Vec<Line> = CAPABILITIES
        .iter()
        .map(|(capability, purpose)| {
            let there = has(*capability);
            Line {
                name: capability.to_string(),
                verdict: if there { "ok" } else { "missing" },
                detail: format!("for {purpose}"),
            }
        })
        .collect();
    lines.extend(findings().into_iter().map(|finding| Line {
        name: finding.name.to_owned(),
        verdict: match finding.state {
            FindingState::Present => "ok",
            FindingState::Fallback => "fallback",
            FindingState::Missing => "missing",
        },
        detail: finding.detail,
    }));
    if let Some(socket) = &arguments.runtime_endpoint {
        lines.extend(fairlead_kubelet::preflight(socket).await.into_iter().map(|check| Line {
            name: check.name.to_owned(),
            // The pod network is there once a node has made it.
            verdict: match (check.ok, check.name) {
                (true, _) => "ok",
                (false, "pod network") => "later",
                (false, _) => "missing",
            },
            detail: check.found,
        }));
    }
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    for line in &lines {
        println!("{:<width$}  {:<8}  {}", line.name, line.verdict, line.detail);
    }
    match lines.iter().filter(|line| line.verdict == "missing").count() {
        0 => Ok(()),
        count => bail!("{count} of {} things a node needs are missing", lines.len()),
    }
}

/// Root and capabilities, or an error that names every one that is missing and what needs it.
pub(crate) fn privileges() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a node needs root (it loads BPF programs and makes interfaces): run it with sudo");
    }
    require(&CAPABILITIES)
}

/// The same for a service proxy alone, which need not be root if it has the capabilities.
pub(crate) fn proxy_privileges() -> Result<()> {
    require(&PROXY_CAPABILITIES)
}

fn require(needed: &[(Capability, &str)]) -> Result<()> {
    let missing: Vec<String> = needed
        .iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(capability, purpose)| format!("{capability} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this process lacks {}: run it as full root, or give its container these capabilities (or --privileged)",
        missing.join(", ")
    )
}

/// Everything the kernel must have, or an error that names what is missing.
pub(crate) fn kernel() -> Result<()> {
    let missing: Vec<String> = findings()
        .into_iter()
        .filter(|finding| finding.state == FindingState::Missing)
        .map(|finding| format!("{}: {}", finding.name, finding.detail))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this kernel lacks what the data path needs:\n  {}", missing.join("\n  "))
}

/// What the data path finds. Its BPF file system is mounted by the node itself, so the kernel's word that it has one is
/// what counts here.
fn findings() -> Vec<Finding> {
    const FILE_SYSTEM: &str = "BPF file system";
    let config = fairlead_datapath::Config::new(PathBuf::new(), mounts::cgroup_root().unwrap_or_default());
    let mut findings = fairlead_datapath::preflight(&config);
    findings.retain(|finding| finding.name != FILE_SYSTEM);
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let there = known.lines().any(|line| line.split_whitespace().last() == Some("bpf"));
    findings.push(Finding {
        name: FILE_SYSTEM,
        state: if there { FindingState::Present } else { FindingState::Missing },
        detail: "since Linux 4.4; a kernel with CONFIG_BPF_SYSCALL".to_owned(),
    });
    findings
}

fn has(capability: Capability) -> bool {
    let set = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    // Before 5.8 CAP_SYS_ADMIN was what CAP_BPF and CAP_PERFMON are now, and it still covers them.
    let covered = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    set(capability) || (covered && set(Capability::CAP_SYS_ADMIN))
}
