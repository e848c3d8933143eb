//! `fairlead bench`, the real binary, in the smallest run there is: every peer delivers, and nothing is left behind, also
//! when a run is interrupted or killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_bench::results::Results;
use fairlead_tests::harness::cluster::program;
use fairlead_tests::harness::sandbox::Sandbox;
use fairlead_tests::harness::{guard, suite};
use fairlead_tests::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Peers that need nothing but the kernel.
const OURS: [&str; 5] = ["direct", "fairlead-direct", "fairlead-socket", "fairlead-packet", "fairlead-xdp"];
/// Peers that need a program, which may be missing here.
const OTHERS: [&str; 4] = ["direct-ct", "iptables", "iptables-nft", "nftables"];
/// Of a run that is to go on until it is ended.
const ENDLESS: [&str; 6] = [
    "--peers=direct,fairlead-socket",
    "--services=2",
    "--rounds=10000",
    "--seconds=0.02",
    "--workloads",
    "connect-rate",
];
/// Everything is gone after that long.
const SOON: Duration = Duration::from_secs(20);

struct Subject {
    /// For the temporary files of runs.
    folder: PathBuf,
    /// Runs make a cgroup at the root of the hierarchy, which is seen here.
    cgroups: PathBuf,
    _sandbox: Sandbox,
}

fn main() -> ExitCode {
    if guard::is_guard() {
        return ExitCode::SUCCESS;
    }
    suite::run(
        Subject::new,
        &[
            ("every_peer_delivers_and_is_held_against_the_direct_way", delivers),
            ("what_is_not_measured_is_named_with_the_reason", missing),
            ("an_interrupted_run_ends_with_what_it_has_and_leaves_nothing", interrupted),
            ("a_killed_run_leaves_nothing", killed),
        ],
    )
}

impl Subject {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let folder = sandbox.dir().join("runs");
        fs::create_dir(&folder)?;
        let cgroups = sandbox.cgroup().parent().context("a cgroup below the root")?.to_owned();
        Ok(Self { folder, cgroups, _sandbox: sandbox })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("fairlead")?);
        command.arg("bench").args(arguments).env("TMPDIR", &self.folder).stdin(Stdio::null());
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)?.output().context("cannot start fairlead")
    }

    /// Starts a run and waits until it measures.
    fn start(&self) -> Result<Child> {
        let mut child = self.command(&ENDLESS)?.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stderr.take().context("no pipe")?).lines();
        let mut seen = Vec::new();
        for line in lines.map_while(Result::ok) {
            if line.starts_with("round 1 ") {
                return Ok(child);
            }
            seen.push(line);
        }
        bail!("it did not come to measuring: {}", seen.join("\n"))
    }

    /// What a run might leave behind.
    fn traces(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            found.insert(entry?.path());
        }
        for entry in fs::read_dir(&self.cgroups)?.flatten().filter(|entry| entry.path().is_dir()) {
            found.insert(entry.path());
        }
        for entry in fs::read_dir("/sys/class/net")? {
            found.insert(entry?.path());
        }
        for entry in fs::read_dir("/proc")?.flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if words.split(|byte| *byte == 0).any(|word| word == b"--bench-agent") {
                found.insert(entry.path());
            }
        }
        Ok(found)
    }

    /// Sees that nothing is there that was not there before.
    fn nothing_is_left(&self, before: &BTreeSet<PathBuf>) -> Result<()> {
        wait_for("the end of what a run made", SOON, || {
            let now = self.traces()?;
            let left: Vec<_> = now.difference(before).collect();
            ensure!(left.is_empty(), "left behind: {left:?}");
            Ok(())
        })
    }
}

fn delivers(subject: &mut Subject) -> Result<()> {
    let before = subject.traces()?;
    let out = subject.folder.join("out");
    let peers: Vec<&str> = OURS.into_iter().chain(OTHERS).collect();
    let peers = format!("--peers={}", peers.join(","));
    let output = subject.run(&[
        &peers,
        "--services=2",
        "--rounds=1",
        "--seconds=0.02",
        "--workloads=connect-rate,connect-time,exchange,streams,udp-new,outside-connect-rate,connect-rate-changing,xdp-forward",
        "--output=json",
        "--out",
        &out.display().to_string(),
    ])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "it failed: {told}");
    let results: Results = serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON; {told}"))?;
    ensure!(results == Results::read(&out)?, "results.json holds something else");
    fs::remove_dir_all(&out)?;

    let of = |workload: &str, peer: &str| {
        results.measurements.iter().find(|one| one.workload == workload && one.cell.peer == peer)
    };
    for (workload, peers) in [
        ("connect-rate", &OURS[..4]),
        ("connect-time", &OURS[..4]),
        ("exchange", &OURS[..4]),
        ("streams", &OURS[..4]),
        ("udp-new", &["direct", "fairlead-direct", "fairlead-packet"]),
        ("outside-connect-rate", &["direct", "fairlead-direct", "fairlead-xdp"]),
        ("connect-rate-changing", &["direct", "fairlead-socket", "fairlead-packet"]),
        ("xdp-forward", &["injector", "redirect", "kernel-forward", "fairlead-xdp"]),
    ] {
        for peer in peers {
            let found = of(workload, peer).with_context(|| format!("no {peer} in {workload}: {told}"))?;
            ensure!(found.rounds.len() == 1 && found.rounds[0] > 0.0, "{workload}: {peer}: {:?}", found.rounds);
        }
    }
    // Whatever else there is here delivers as well, or was named.
    for peer in OTHERS {
        let is_named = results.skipped.iter().any(|skipped| skipped.what.split(' ').next() == Some(peer));
        ensure!(of("connect-rate", peer).is_some() != is_named, "{peer}: {told}");
    }
    for measurement in results.measurements.iter().filter(|one| one.unit == "conn/s") {
        ensure!(measurement.failures == 0, "{}: {} failed", measurement.cell, measurement.failures);
        ensure!(results.summary(measurement).ratio.is_some(), "{} is held against nothing", measurement.cell);
    }
    let changes = results.measurements.iter().find(|one| one.figure == "changes" && one.cell.peer == "fairlead-packet");
    ensure!(changes.is_some_and(|changes| changes.rounds[0] > 0.0), "nothing changed");
    ensure!(!results.meta.kernel.is_empty() && !results.meta.interrupted, "{:?}", results.meta);
    subject.nothing_is_left(&before)
}

fn missing(subject: &mut Subject) -> Result<()> {
    let run =
        ["--peers=direct,nftables", "--services=10000", "--rounds=1", "--seconds=0.02", "--workloads=connect-rate"];
    let output = subject.run(&run)?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(told.contains("nftables: ") && told.contains("--slow-peers does it") && told.contains("direct "), "{told}");
    let output = subject.run(&["--workloads=connect-rate,nonsense"])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && told.contains("`nonsense`") && told.contains("xdp-forward"), "{told}");
    Ok(())
}

fn interrupted(subject: &mut Subject) -> Result<()> {
    let before = subject.traces()?;
    let mut run = subject.start()?;
    kill(Pid::from_raw(i32::try_from(run.id())?), Signal::SIGINT)?;
    let code = wait_for("the end of the run", SOON, || run.try_wait()?.context("it still runs"))?;
    let output = run.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(code.code() == Some(130) && told.contains("fairlead-socket"), "{code}: {told}");
    subject.nothing_is_left(&before)
}

fn killed(subject: &mut Subject) -> Result<()> {
    let before = subject.traces()?;
    let mut run = subject.start()?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id()))?;
    let worker = children.split_whitespace().next().context("nobody works")?.parse()?;
    kill(Pid::from_raw(worker), Signal::SIGKILL)?;
    let code = wait_for("the end of the run", SOON, || run.try_wait()?.context("it still runs"))?;
    ensure!(!code.success(), "a killed run ended well");
    subject.nothing_is_left(&before)
}
