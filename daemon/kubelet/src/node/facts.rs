//! What the host is: cores, memory, storage, kernel, distribution, and whether it is short of something.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// The Kubernetes version this node speaks.
const VERSION: &str = "v1.36.0";
/// Less memory than this is pressure.
const MEMORY: u64 = 100 << 20;

/// The host's facts; they do not change while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) cpus: usize,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes of the file system that holds the data directory.
    pub(crate) storage: u64,
    pub(crate) architecture: &'static str,
    pub(crate) info: NodeSystemInfo,
}

/// What the host is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// Reads the host's facts. `runtime` is its name and version, such as `containerd://1.6.20`.
pub(crate) fn read(data_dir: &Path, runtime: String) -> Facts {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory: meminfo("MemTotal"),
        storage: nix::sys::statvfs::statvfs(data_dir).map_or(0, |stat| stat.blocks() * stat.fragment_size()),
        architecture,
        info: NodeSystemInfo {
            architecture: architecture.to_owned(),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: runtime,
            kernel_version: line("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: line("/etc/machine-id"),
            operating_system: "linux".into(),
            os_image: os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            swap: None,
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
        },
    }
}

/// Looks at memory, disk and process numbers.
pub(crate) fn pressure(data_dir: &Path) -> Pressure {
    let disk = nix::sys::statvfs::statvfs(data_dir)
        .is_ok_and(|stat| is_scarce(stat.blocks() - stat.blocks_free(), stat.blocks_available()));
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let most = number("/proc/sys/kernel/pid_max").unwrap_or(u64::MAX);
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let tasks = loadavg.split_whitespace().nth(3).and_then(|part| part.split('/').nth(1)?.parse::<u64>().ok());
    Pressure { memory: meminfo("MemAvailable") < MEMORY, disk, pids: tasks.is_some_and(|tasks| tasks > most / 10 * 9) }
}

fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .map_or(0, |kib: u64| kib * 1_024)
}

fn os_image(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Under 5 % left of what may be used at all: as `df` counts, blocks that are held back for others are no capacity.
fn is_scarce(used: u64, available: u64) -> bool {
    available * 100 < (used + available) * 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_named() {
        assert_eq!(os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn a_disk_is_scarce_by_what_may_be_used() {
        assert!(is_scarce(96, 4));
        assert!(!is_scarce(95, 5));
        // Most of this file system is held back: what is left is plenty of what there ever was.
        assert!(!is_scarce(80, 12));
        assert!(!is_scarce(0, 0), "nothing is known of it");
    }
}
