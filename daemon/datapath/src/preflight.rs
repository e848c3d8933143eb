//! What the data path needs of kernel and machine, looked for before anything is touched.

use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramType, SchedClassifier, TcAttachType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use crate::config::{Config, Finding, FindingState};
use crate::loader::{OBJECT, has_retval};
use crate::netns_cookie;
use crate::sockets::can_close;

/// Looks for everything the data path needs, before anything is touched.
pub fn preflight(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        needed("BPF programs", !OBJECT.is_empty(), "built into this binary; build it with `cargo xtask build`"),
        needed(
            "BPF file system",
            is_filesystem(&config.bpffs, BPF_FS_MAGIC),
            &format!("mounted at {0}; `mount -t bpf bpf {0}`", config.bpffs.display()),
        ),
        needed(
            "cgroup v2",
            is_filesystem(&config.cgroup, CGROUP2_SUPER_MAGIC),
            &format!("mounted at {0}; `mount -t cgroup2 cgroup2 {0}`", config.cgroup.display()),
        ),
    ];
    findings.extend(programs());
    findings.push(needed(
        "LRU hash maps",
        is_map_supported(MapType::LruHash).unwrap_or(false),
        "since Linux 4.10; run as root, on 5.10 or later",
    ));
    findings.push(needed(
        "bpf_jiffies64",
        is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_jiffies64).unwrap_or(false),
        "since Linux 5.6; run as root, on 5.10 or later",
    ));
    findings.push(wanted(
        "tcx links",
        SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
        "since Linux 6.6; without them tc filters below clsact are used",
    ));
    findings.push(wanted(
        "network namespace cookies",
        netns_cookie(None).is_ok_and(|cookie| cookie != 0),
        "since Linux 5.7; without them sockets of every process below the cgroup are translated, whatever its namespace",
    ));
    findings.push(wanted(
        "bpf_set_retval in socket hooks",
        has_retval(),
        "since Linux 6.1; without it a service without endpoints is refused with EPERM instead of ECONNREFUSED",
    ));
    findings.push(wanted(
        "closing sockets (SOCK_DESTROY)",
        can_close(),
        "CONFIG_INET_DIAG_DESTROY and CONFIG_INET_UDP_DIAG; without them connected UDP sockets keep talking to a removed endpoint until they time out",
    ));
    findings
}

fn programs() -> impl Iterator<Item = Finding> {
    let kinds = [
        ("XDP", ProgramType::Xdp),
        ("tc programs", ProgramType::SchedClassifier),
        ("cgroup socket hooks", ProgramType::CgroupSockAddr),
    ];
    kinds.into_iter().map(|(name, kind)| {
        let cure = "since Linux 4.17; run as root, on a kernel with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_NET_CLS_ACT";
        needed(name, is_program_supported(kind).unwrap_or(false), cure)
    })
}

fn is_filesystem(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == magic)
}

fn needed(name: &'static str, there: bool, detail: &str) -> Finding {
    let state = if there { FindingState::Present } else { FindingState::Missing };
    Finding { name, state, detail: detail.to_owned() }
}

fn wanted(name: &'static str, there: bool, detail: &str) -> Finding {
    let state = if there { FindingState::Present } else { FindingState::Fallback };
    Finding { name, state, detail: detail.to_owned() }
}
