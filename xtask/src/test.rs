//! `cargo xtask test`: every layer that exists, from pure logic to kubectl and other kernels.
//!
//! Layers share one build profile, so that everything is compiled once. What a layer cannot do here is skipped and said so;
//! where `CI` or `REQUIRE` is set, a skip is a failure.

mod outcome;
mod pure;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fmt, fs};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

pub(crate) use outcome::Outcome;

use crate::build::{self, Embedded};
use crate::setup::{self, Need};
use crate::{place, run, vm};

/// A layer that takes longer hangs.
const LAYER_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Kernels of the `vm` layer: the newest of the matrix. The others, five to ten minutes each, are asked for with `cargo xtask vm`.
const KERNELS: [&str; 1] = ["7"];

/// Tests of the programs and of the data path in a process of their own: a kernel is all they need.
const KERNEL: [&str; 4] = ["packet", "netns", "sockets", "uplinks"];
/// Tests of the built binary in network namespaces: node daemons, the benchmark.
const NODES: [&str; 3] = ["behaviour", "bench", MATRIX];
/// The one of them that other kernels run, too: what a machine's own kernel lacks, such as SCTP, is seen there.
const MATRIX: &str = "matrix";
/// The kubelet's tests against a real runtime.
const RUNTIME: &str = "runtime";

/// A layer of tests, from fast to slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layer {
    /// Format, lints, rules, unit and property tests, documentation.
    Pure,
    /// The compiled programs through the kernel's test run.
    Packet,
    /// Clients, nodes and pods as network namespaces.
    Netns,
    /// A cluster, asked with unmodified kubectl, and killed in parts.
    Cluster,
    /// The packet and namespace tests on other kernels.
    Vm,
}

impl Layer {
    const ALL: [Self; 5] = [Self::Pure, Self::Packet, Self::Netns, Self::Cluster, Self::Vm];

    fn needs(self) -> &'static [Need] {
        match self {
            Self::Pure => &[Need::Build, Need::Lint],
            Self::Packet | Self::Netns => &[Need::Build],
            Self::Cluster => &[Need::Build, Need::Image, Need::Run, Need::Kubectl],
            Self::Vm => &[Need::Build, Need::Vm],
        }
    }

    /// The test programs of a layer: the files of `tests/tests`. Those that ask the kernel alone are known by name, and
    /// so are those that ask node daemons without a cluster; all others ask a cluster, and with them goes the kubelet's
    /// own, which asks a container runtime.
    fn programs(self) -> Vec<String> {
        let kernel = |name: &String| KERNEL.contains(&name.as_str());
        let mut names = all_programs();
        match self {
            Self::Pure => names.clear(),
            Self::Packet => names.retain(|name| name == "packet"),
            Self::Netns => names.retain(|name| name != "packet" && (kernel(name) || NODES.contains(&name.as_str()))),
            Self::Cluster => {
                names.retain(|name| !kernel(name) && !NODES.contains(&name.as_str()));
                names.push(RUNTIME.to_owned());
            }
            Self::Vm => names.retain(|name| kernel(name) || name == MATRIX),
        }
        names
    }

    /// Whether its tests start the built binaries.
    fn starts_binaries(self) -> bool {
        matches!(self, Self::Netns | Self::Cluster | Self::Vm)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// One row of the table at the end.
#[derive(Debug)]
struct Row {
    layer: Layer,
    took: Duration,
    outcome: Outcome,
}

pub(crate) fn command(layers: &[Layer]) -> Result<ExitCode> {
    let start = Instant::now();
    let layers: Vec<Layer> =
        Layer::ALL.into_iter().filter(|layer| layers.is_empty() || layers.contains(layer)).collect();
    let mut needs: Vec<Need> = layers.iter().flat_map(|layer| layer.needs()).copied().collect();
    needs.dedup();
    setup::ensure(&needs)?;

    println!("build");
    let built = Instant::now();
    let embedded = build::embedded()?;
    if layers.iter().any(|layer| layer.starts_binaries()) {
        run::step(
            "fairlead, fairlead-control",
            workspace(&embedded, "build").args(["--bin", "fairlead", "--bin", "fairlead-control"]),
        )?;
    }
    let building = built.elapsed();

    let mut rows = Vec::new();
    for layer in layers {
        println!("{layer}");
        let start = Instant::now();
        let outcome = perform(layer, &embedded).unwrap_or_else(|error| Outcome::failure(format!("{error:#}")));
        rows.push(Row { layer, took: start.elapsed(), outcome });
    }
    Ok(report(&rows, building, start.elapsed()))
}

/// True where a test that cannot run has failed.
pub(crate) fn required() -> bool {
    env::var_os("REQUIRE").is_some() || env::var("CI").is_ok_and(|value| value == "true")
}

/// True for a line that tells the result of one test.
pub(crate) fn is_result(line: &str) -> bool {
    outcome::result_of(line).is_some()
}

/// A cargo over everything that is built for the host. Always the same selection, because cargo chooses the features of
/// shared dependencies by it and would build them twice otherwise.
fn workspace(embedded: &Embedded, verb: &str) -> Command {
    let mut cargo = embedded.cargo();
    cargo.args([verb, "--workspace", "--exclude", "fairlead-programs"]);
    cargo
}

fn perform(layer: Layer, embedded: &Embedded) -> Result<Outcome> {
    if layer == Layer::Pure {
        return Ok(pure::perform(embedded));
    }
    // QEMU needs no root, and the virtual machine has its own.
    if layer != Layer::Vm && !run::is_root() {
        return Ok(Outcome::skip("root is needed; run `sudo -E cargo xtask test`"));
    }
    let programs = compile(embedded, &layer.programs())?;
    if programs.is_empty() {
        return Ok(Outcome::skip("tests/tests holds no such test"));
    }
    let mut outcome = Outcome::default();
    match layer {
        Layer::Vm => {
            let load = vm::Load { programs, daemon: daemon() };
            for kernel in KERNELS {
                outcome.add(vm::perform(kernel, &load, false)?.outcome);
            }
        }
        _ => {
            for (name, path) in &programs {
                outcome.add(execute(name, path, embedded)?);
            }
        }
    }
    Ok(outcome)
}

/// Builds what virtual machines run.
///
/// # Errors
/// It does not compile.
pub(crate) fn kernel_tests() -> Result<vm::Load> {
    let embedded = build::embedded()?;
    run::step("fairlead", workspace(&embedded, "build").args(["--bin", "fairlead"]))?;
    Ok(vm::Load { programs: compile(&embedded, &Layer::Vm.programs())?, daemon: daemon() })
}

/// The binary that tests of nodes start.
fn daemon() -> PathBuf {
    place::target().join("debug/fairlead")
}

/// The names of the files in `tests/tests`, sorted.
fn all_programs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(place::root().join("tests/tests")) else { return Vec::new() };
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = files.filter_map(|file| file.strip_suffix(".rs").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Compiles the named test programs; returns where they are.
fn compile(embedded: &Embedded, names: &[String]) -> Result<Vec<(String, PathBuf)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut cargo = workspace(embedded, "test");
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    for name in names {
        cargo.args(["--test", name]);
    }
    let finished = run::step(&format!("compile {}", names.join(", ")), &mut cargo)?;
    let artifacts = finished.lines.iter().filter(|line| line.starts_with('{'));
    let found: Vec<(String, PathBuf)> = artifacts.filter_map(|line| executable(line)).collect();
    for name in names {
        if !found.iter().any(|(known, _)| known == name) {
            bail!("cargo built no test program `{name}`");
        }
    }
    Ok(found)
}

/// The name and the file of a test program in one line of cargo's messages.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str()?;
    let target = &message["target"];
    (target["kind"][0] == "test").then(|| Some((target["name"].as_str()?.to_owned(), PathBuf::from(path))))?
}

/// Runs one test program here and counts what it says.
fn execute(name: &str, path: &Path, embedded: &Embedded) -> Result<Outcome> {
    let mut command = Command::new(path);
    command
        .args(["--test-threads=1", "--show-output"])
        .current_dir(place::root().join("tests"))
        .env("FAIRLEAD_BIN_DIR", place::target().join("debug"))
        .env("FAIRLEAD_ECHO_IMAGE", &embedded.echo);
    if let Some(busybox) = place::program("busybox") {
        command.env("FAIRLEAD_BUSYBOX", busybox);
    }
    if required() {
        command.env("REQUIRE", "1");
    }
    let ended = run::watch(name, &mut command, LAYER_LIMIT, is_result)
        .with_context(|| format!("cannot run the test program {name}"))?;
    let mut outcome = Outcome::read(&ended.lines);
    if !ended.success && outcome.failed.is_empty() {
        let how = if ended.timed_out { "took too long" } else { "ended badly" };
        outcome.failed.push(format!("{name} {how}"));
    }
    if !outcome.failed.is_empty() {
        println!("{}", ended.lines.join("\n"));
    }
    Ok(outcome)
}

/// The table at the end; its last line is meant for programs, too.
fn report(rows: &[Row], building: Duration, total: Duration) -> ExitCode {
    println!();
    println!("{:<8} {:>14} {:>7} {:>7} {:>8}", "layer", "took", "passed", "failed", "skipped");
    println!("{:<8} {:>14}", "build", run::seconds(building));
    let mut sum = Outcome::default();
    for Row { layer, took, outcome } in rows {
        let counts = (outcome.passed, outcome.failed.len(), outcome.skipped.len());
        println!("{layer:<8} {:>14} {:>7} {:>7} {:>8}", run::seconds(*took), counts.0, counts.1, counts.2);
    }
    println!("{:<8} {:>14}", "all", run::seconds(total));
    for Row { layer, outcome, .. } in rows {
        outcome.failed.iter().for_each(|what| println!("FAILED   {layer}: {what}"));
        outcome.skipped.iter().for_each(|why| println!("skipped  {layer}: {why}"));
        sum.add(outcome.clone());
    }
    if required() && !sum.skipped.is_empty() {
        println!("a skip is a failure here, because CI or REQUIRE is set");
        sum.failed.append(&mut sum.skipped);
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed.len(), sum.skipped.len());
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_found_in_the_messages_of_cargo() {
        let test =
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"packet"},"executable":"/t/packet-1"}"#;
        assert_eq!(executable(test), Some(("packet".to_owned(), PathBuf::from("/t/packet-1"))));
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":"/t/x-1"}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
