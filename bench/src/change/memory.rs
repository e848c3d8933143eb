//! What the node daemon takes while so many services are in force: its own memory, and that of its tables in the kernel.
//!
//! It is the daemon itself (`fairlead node --proxy-only`), reading manifests from a folder, in a network namespace and a
//! mount namespace of the run's own. What of the tables is mapped into it counts with the tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{services, spec};
use crate::options::{Options, Peer};
use crate::peers::Proxy;
use crate::peers::services::Spec;
use crate::results::{Better, Cell};
use crate::rig::namespace::Namespace;
use crate::stage::Stage;
use crate::wait::wait_for;
use crate::workload::{Case, Figure, Sample, Workload};

/// Until all manifests are read and in force.
const DEADLINE: Duration = Duration::from_secs(120);
/// Manifests in one file.
const PER_FILE: usize = 1000;
/// A cell of its own: fewer services with more endpoints each.
const WIDE: Spec = Spec { services: 10_000, endpoints: 10 };

/// The memory of a daemon.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    daemons: BTreeMap<Cell, Daemon>,
}

impl Workload for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn title(&self) -> &'static str {
        "Memory of the node daemon"
    }

    fn figures(&self) -> &'static [Figure] {
        const fn bytes(name: &'static str) -> Figure {
            Figure { name, unit: "B", better: Better::Lower }
        }
        const FIGURES: [Figure; 3] = [bytes("resident"), bytes("tables"), bytes("entries of the tables")];
        &FIGURES
    }

    fn cases(&self, options: &Options) -> Vec<Case> {
        if !options.peers.iter().any(|peer: &Peer| Proxy::of(*peer) == Proxy::Ours) {
            return Vec::new();
        }
        let mut specs: Vec<Spec> =
            services(options).into_iter().map(|services| Spec { services, endpoints: options.endpoints }).collect();
        if options.services.is_empty() {
            specs.push(WIDE);
        }
        let name = |spec: &Spec| format!("{}, {} endpoints each", super::OURS, spec.endpoints);
        let cell = |spec: Spec| Cell::with_services(name(&spec), spec.services, spec.endpoints);
        specs.into_iter().map(|spec| Case { cell: cell(spec), reference: None, baseline: None }).collect()
    }

    fn prepare(&mut self, stage: &mut Stage, cell: &Cell) -> Result<()> {
        let daemon = Daemon::start(stage, spec(cell)?)?;
        self.daemons.insert(cell.clone(), daemon);
        Ok(())
    }

    fn run(&mut self, _stage: &mut Stage, cell: &Cell, _time: Duration) -> Result<Sample> {
        let daemon = self.daemons.get_mut(cell).context("nothing was prepared")?;
        Ok(Sample { figures: daemon.memory()?, ..Sample::default() })
    }

    fn lasts(&self, _cell: &Cell, _time: Duration) -> Duration {
        Duration::from_millis(20)
    }
}

/// A daemon that has services in force.
#[derive(Debug)]
struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    fn start(stage: &mut Stage, spec: Spec) -> Result<Self> {
        let place = stage.place(&format!("daemon-{}-{}", spec.services, spec.endpoints))?;
        let dir = tempfile::tempdir()?;
        // A file system that this process alone sees: what the daemon mounts in it goes with it.
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a folder for a daemon")?;
        let (state, manifests) = (dir.path().join("state"), dir.path().join("manifests"));
        fs::create_dir(&state)?;
        write_manifests(spec, &manifests)?;
        let net = Namespace::new()?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = dir.path().join("log");
        let child = net.run(|| {
            let mut command = Command::new(&program);
            command.args([
                "node",
                "--proxy-only",
                "--node-name",
                "bench",
                "--uplink",
                "none0",
                "--healthz-bind",
                "off",
            ]);
            command.arg("--state-dir").arg(&state).arg("--cgroup").arg(&place.cgroup);
            command.arg("--source").arg(format!("file:{}", manifests.display()));
            command.args(["--max-services", &(65_536.max(spec.services + 16)).to_string()]);
            command.args(["--max-endpoints", &(131_072.max(spec.services * spec.endpoints + 1024)).to_string()]);
            let out = fs::File::create(&log)?;
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
            command.spawn().context("cannot start the node daemon")
        })?;
        let mut daemon = Self { child, dir };
        stage.watch(&daemon.child, &state)?;
        wait_for("the node daemon having all services in force", DEADLINE, || daemon.look(&program, &net, spec))?;
        Ok(daemon)
    }

    /// Whether everything is in force, or why not.
    fn look(&mut self, program: &Path, net: &Namespace, spec: Spec) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            bail!("it has ended ({status}): {}", last.join("; "));
        }
        let state = self.dir.path().join("state");
        let said = net.run(|| {
            let mut command = Command::new(program);
            command.arg("status").arg("--state-dir").arg(&state).args(["--output", "json"]);
            Ok(command.stdin(Stdio::null()).stderr(Stdio::null()).output()?.stdout)
        })?;
        let facts: Value = serde_json::from_slice(&said).context("it does not answer yet")?;
        let change = facts["last change"].as_str().unwrap_or("none");
        ensure!(
            facts["services"].as_str() == Some(spec.services.to_string().as_str()) && change != "none",
            "it has {} services, last change: {change}",
            facts["services"]
        );
        Ok(())
    }

    /// Bytes: resident beside the tables, of the tables, and of their entries.
    fn memory(&mut self) -> Result<Vec<f64>> {
        ensure!(self.child.try_wait()?.is_none(), "the node daemon has ended");
        let proc = Path::new("/proc").join(self.child.id().to_string());
        let resident = resident(&fs::read_to_string(proc.join("smaps")).context("cannot look at its memory")?);
        let mut tables = BTreeMap::new();
        for info in fs::read_dir(proc.join("fdinfo"))?.flatten() {
            // One that was closed meanwhile.
            let Ok(text) = fs::read_to_string(info.path()) else { continue };
            tables.extend(table(&text));
        }
        ensure!(!tables.is_empty(), "it has no tables");
        let sum = |part: fn(&(u64, u64)) -> u64| tables.values().map(part).sum::<u64>() as f64;
        Ok(vec![resident as f64, sum(|(memory, _)| *memory), sum(|(_, entries)| *entries)])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The BPF file system below it goes too, and everything that is pinned there.
        for mounted in [self.dir.path().join("state/bpf"), self.dir.path().to_owned()] {
            let _ = umount2(&mounted, MntFlags::MNT_DETACH);
        }
    }
}

/// Bytes of a process's memory that is resident, without BPF tables mapped into it.
fn resident(smaps: &str) -> u64 {
    let mut is_table = false;
    let mut kilobytes = 0;
    for line in smaps.lines() {
        match line.strip_prefix("Rss:") {
            Some(rest) if !is_table => {
                let number = rest.trim().trim_end_matches(" kB").parse::<u64>();
                kilobytes += number.unwrap_or(0);
            }
            Some(_) => {}
            // `7f0…-7f1… rw-s … anon_inode:bpf-map` begins another mapping; other lines are `Name: …`.
            None if line.split(' ').next().is_some_and(|first| first.contains('-')) => {
                is_table = line.ends_with("bpf-map");
            }
            None => {}
        }
    }
    kilobytes * 1024
}

/// From what the kernel tells of an open file, if it is a table: its id; its memory, and the bytes of its entries.
fn table(fdinfo: &str) -> Option<(u64, (u64, u64))> {
    /// Types that hold a value for each processor.
    const PER_CPU: [u64; 3] = [5, 6, 10];
    let number = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let [id, kind, key, value, most, memory] =
        ["map_id:", "map_type:", "key_size:", "value_size:", "max_entries:", "memlock:"].map(number);
    let values = if PER_CPU.contains(&kind?) { crate::machine::cores().len() as u64 } else { 1 };
    Some((id?, (memory?, most? * (key? + value? * values))))
}

/// Services and slices of endpoints, as files of the daemon's source.
fn write_manifests(spec: Spec, folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let all = spec.all();
    for (number, services) in all.chunks(PER_FILE).enumerate() {
        let items: Vec<Value> = services.iter().flat_map(manifests).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        fs::write(folder.join(format!("{number}.json")), serde_json::to_vec(&list)?)
            .context("cannot write manifests")?;
    }
    Ok(())
}

/// A Service and a slice of its endpoints.
fn manifests(service: &fairlead_source::Service) -> Vec<Value> {
    let name = &service.name;
    let ports = |of_service: bool| -> Vec<Value> {
        let port = |port: &fairlead_source::Port| {
            let target = port.endpoints.first().map_or(0, |endpoint| endpoint.address.port());
            let number = if of_service { port.port } else { target };
            let mut told = json!({ "name": port.name, "protocol": port.protocol.to_string(), "port": number });
            if let Some(node_port) = port.node_port.filter(|_| of_service) {
                told["nodePort"] = node_port.into();
            }
            told
        };
        service.ports.iter().map(port).collect()
    };
    let endpoints = service.ports.first().map(|port| port.endpoints.as_slice()).unwrap_or_default();
    let endpoints: Vec<Value> = endpoints
        .iter()
        .enumerate()
        .map(|(place, endpoint)| {
            json!({
                "addresses": [endpoint.address.ip()],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", place % 50),
                "targetRef": { "kind": "Pod", "namespace": name.namespace, "name": format!("{}-{place}", name.name) },
            })
        })
        .collect();
    let metadata =
        |name: String, labels: Value| json!({ "namespace": service.name.namespace, "name": name, "labels": labels });
    let has_node_port = service.ports.iter().any(|port| port.node_port.is_some());
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(name.name.clone(), json!({ "app": name.name })),
            "spec": {
                "type": if has_node_port { "NodePort" } else { "ClusterIP" },
                "clusterIP": service.cluster_ips.first(),
                "clusterIPs": service.cluster_ips,
                "selector": { "app": name.name },
                "ports": ports(true),
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata(format!("{}-1", name.name), json!({ "kubernetes.io/service-name": name.name })),
            "addressType": "IPv4",
            "ports": ports(false),
            "endpoints": endpoints,
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_tables_do_not_count_as_the_daemons_own() {
        let smaps = "55d0-55d9 r-xp 00000000 08:01 1 /usr/bin/fairlead\nSize: 36 kB\nRss:    32 kB\nPss: 32 kB\n\
                     7f00-7f10 rw-s 00000000 00:0e 13 anon_inode:bpf-map\nSize: 64 kB\nRss:     64 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 [heap]\nRss:    16 kB\nVmFlags: rd wr\n";
        assert_eq!(resident(smaps), 48 * 1024);
    }

    #[test]
    fn a_table_is_known_by_what_the_kernel_tells_of_it() {
        let info = "pos:\t0\nflags:\t02000002\nmap_type:\t9\nkey_size:\t16\nvalue_size:\t28\nmax_entries:\t100\n\
                    memlock:\t12000\nmap_id:\t7\nfrozen:\t0\n";
        assert_eq!(table(info), Some((7, (12_000, 4400))));
        assert_eq!(table("pos:\t0\nprog_id:\t7\nmemlock:\t4096\n"), None);
    }

    #[test]
    fn manifests_say_what_the_services_are() {
        let spec = Spec { services: 2, endpoints: 3 };
        let told: Vec<Value> = spec.all().iter().flat_map(manifests).collect();
        assert_eq!(told.len(), 4);
        assert_eq!(told[1]["endpoints"].as_array().map(Vec::len), Some(3));
        assert_eq!(told[2]["spec"]["type"], "NodePort");
        assert_eq!(told[3]["metadata"]["labels"]["kubernetes.io/service-name"], told[2]["metadata"]["name"]);
    }
}
