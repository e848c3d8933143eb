//! What a figure depends on besides what is measured: kernel, processor, mitigations, versions, settings.

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;

use crate::options::Options;
use crate::peers::version_of;
use crate::results::Meta;

/// Settings of the kernel that figures depend on.
const SETTINGS: [&str; 6] = [
    "kernel/sched_autogroup_enabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/netdev_budget",
    "net/ipv4/tcp_congestion_control",
    "net/netfilter/nf_conntrack_buckets",
];

/// The peers' own programs, and how they are asked for their version.
const PROGRAMS: [(&str, &str); 5] = [
    ("iptables-legacy", "--version"),
    ("iptables-nft", "--version"),
    ("nft", "--version"),
    ("ipvsadm", "--version"),
    ("ip", "-V"),
];

/// Everything that is known before a run.
pub(crate) fn describe(options: &Options, seed: u64) -> Meta {
    let started = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let mut versions: BTreeMap<String, String> = PROGRAMS
        .iter()
        .filter_map(|(program, argument)| Some(((*program).to_owned(), version_of(program, argument)?)))
        .collect();
    versions.insert("fairlead".to_owned(), format!("{} ({})", env!("CARGO_PKG_VERSION"), profile()));
    Meta {
        seed,
        started: started.to_string(),
        kernel: kernel(),
        cpu: cpu("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        hypervisor: hypervisor(),
        mitigations: mitigations(),
        versions,
        settings: settings(),
        load: [load(); 2],
        options: options.record(),
        ..Meta::default()
    }
}

/// Load averages.
pub(crate) fn load() -> [f64; 3] {
    let text = read("/proc/loadavg").unwrap_or_default();
    let mut figures = text.split_whitespace().map_while(|word| word.parse().ok());
    std::array::from_fn(|_| figures.next().unwrap_or_default())
}

/// Cores this process may run on, by number.
pub(crate) fn cores() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return vec![0] };
    (0..nix::sched::CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect()
}

/// A debug build drives the load more slowly; what it measures is good for trying things out only.
fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug build" } else { "release build" }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> String {
    let of = |name: &str| read(&format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    format!("{} {}", of("osrelease"), of("version"))
}

fn cpu(field: &str) -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn hypervisor() -> Option<String> {
    let is_guest = cpu("flags")?.split(' ').any(|flag| flag == "hypervisor");
    let named = ["sys_vendor", "product_name"].map(|name| read(&format!("/sys/class/dmi/id/{name}")));
    let name = named.into_iter().flatten().collect::<Vec<_>>().join(" ");
    is_guest.then(|| if name.is_empty() { "unknown".to_owned() } else { name })
}

fn mitigations() -> BTreeMap<String, String> {
    let folder = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let named = folder.filter_map(|entry| {
        let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
        Some((entry.file_name().into_string().ok()?, state))
    });
    named.filter(|(_, state)| state != "Not affected").collect()
}

fn settings() -> BTreeMap<String, String> {
    let known = |name: &str| Some((name.to_owned(), read(&format!("/proc/sys/{name}"))?));
    SETTINGS.iter().filter_map(|name| known(name)).collect()
}
