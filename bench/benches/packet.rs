//! Nanoseconds per packet of the loaded programs, under BPF_PROG_TEST_RUN, and the time to put services in force.
//!
//! The kernel runs a program on one buffer again and again, so the service measured has itself as its endpoint: each
//! run does all the work of a hit (parse, look up, rewrite, checksums) and leaves the packet as it was. Prints minimum
//! and median over rounds; the kernel's own loop costs some 25 ns of each figure. Needs root, a BPF file system at
//! `BPFFS` (default /sys/fs/bpf) and cgroup v2 at `CGROUP` (default /sys/fs/cgroup).

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fairlead_bench::service;
use fairlead_datapath::{Config, Datapath};

const ROUNDS: usize = 15;
const REPEAT: u32 = 500_000;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

fn main() -> Result<(), Box<dyn Error>> {
    let place = |name: &str, default: &str| std::env::var_os(name).map_or_else(|| default.into(), PathBuf::from);
    let bpffs = place("BPFFS", "/sys/fs/bpf");
    // A cgroup without processes: nobody's sockets are touched.
    let cgroup = place("CGROUP", "/sys/fs/cgroup").join(format!("fairlead-bench-{}", std::process::id()));
    std::fs::create_dir(&cgroup)?;
    let done = measure(&bpffs, &cgroup);
    fairlead_datapath::remove(&bpffs)?;
    std::fs::remove_dir(&cgroup)?;
    done
}

fn measure(bpffs: &Path, cgroup: &Path) -> Result<(), Box<dyn Error>> {
    if bpffs.join("fairlead").exists() {
        return Err(
            format!("a data path is in use at {}; set BPFFS to another BPF file system", bpffs.display()).into()
        );
    }
    let mut config = Config::new(bpffs, cgroup);
    config.cluster_cidrs = vec!["10.244.0.0/16".parse()?];
    let mut datapath = Datapath::open(config)?;
    let mut itself = service(0, 0, 1);
    itself.cluster_ips = vec![IpAddr::V4(VIP)];
    itself.ports[0].endpoints[0].address = SocketAddr::from((VIP, 80));

    for services in [0, 10_000] {
        let all = std::iter::once(itself.clone()).chain((1..=services).map(|number| service(number, 0, 2)));
        let all: Vec<_> = all.collect();
        let start = Instant::now();
        let report = datapath.sync_all(all)?;
        println!(
            "sync of {:>6} services: {:>9.3} ms, {} writes, {} system calls",
            services + 1,
            millis(start),
            report.steps,
            report.system_calls
        );
        let start = Instant::now();
        let changed = service(services.max(1), 1, 2);
        let report = datapath.sync(vec![(changed.name.clone(), Some(changed))])?;
        println!(
            "one endpoint among them:  {:>9.3} ms, {} writes, {} system calls",
            millis(start),
            report.steps,
            report.system_calls
        );
        for (program, flags) in [("xdp_service", 0x10), ("tc_uplink_in", 0x10), ("tc_from_pod", 0x10)] {
            let packet = packet(flags);
            datapath.run(program, &packet)?;
            let mut times = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                times.push(datapath.time(program, &packet, REPEAT)?.as_nanos());
            }
            times.sort_unstable();
            println!("{program:<14} hit: min {:>4} ns, median {:>4} ns", times[0], times[ROUNDS / 2]);
        }
    }
    Ok(())
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// The packet of the C programs it is compared with: 64 bytes, 10.100.0.0:1024 to 10.200.0.1:80 over TCP.
fn packet(flags: u8) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    packet.extend([0x45, 0, 0, 50, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 100, 0, 0]);
    packet.extend(VIP.octets());
    packet.extend([4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0x12, 0x34, 0, 0]);
    packet.resize(64, 0);
    packet
}
