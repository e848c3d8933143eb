//! `cargo xtask bench --gate`: has anything become slower, told by what no other load on the machine changes.
//!
//! Times cannot tell five percent on a busy machine; numbers of instructions can. Of BPF programs they are those that the
//! kernel holds, and those that its verifier went through, which follow every branch; they belong to one kernel, so on
//! another one programs are not compared. Of user space they are those executed on fixed paths, counted by callgrind; they
//! belong to one compiler, and within the tolerance to all. `--record` notes what is found as what is to be kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::build::Embedded;
use crate::setup::{self, Need};
use crate::{place, run};

/// By how much a count may be above what was recorded.
const TOLERANCE: f64 = 0.05;
/// The file of what was recorded, below the checkout's root.
const RECORD: &str = "bench/instructions.json";

/// What was counted.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    /// The kernel that programs were loaded into, without its patch level.
    kernel: String,
    /// The compiler.
    rustc: String,
    /// Of BPF programs.
    programs: BTreeMap<String, Program>,
    /// Executed, by path of user space.
    paths: BTreeMap<String, u64>,
}

/// Instructions of a BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    /// That the kernel holds.
    held: u64,
    /// That its verifier went through.
    followed: u64,
}

/// A count that is not what it was.
#[derive(Debug, PartialEq)]
struct Change {
    what: String,
    before: u64,
    after: u64,
}

impl Change {
    fn part(&self) -> f64 {
        self.after as f64 / self.before.max(1) as f64 - 1.0
    }

    fn is_regression(&self) -> bool {
        self.after as f64 > self.before as f64 * (1.0 + TOLERANCE)
    }
}

/// Counts, and compares or records.
///
/// # Errors
/// Something takes more than it may, or cannot be counted here.
pub(super) fn command(embedded: &Embedded, record: bool) -> Result<()> {
    setup::ensure(&[Need::Gate])?;
    ensure!(run::is_root(), "the gate loads BPF programs, which takes root");
    let counter = built(embedded)?;
    let counts = Counts {
        kernel: kernel()?,
        rustc: run::read(Command::new("rustc").arg("--version"))?.trim().to_owned(),
        programs: programs(&counter)?,
        paths: paths(&counter)?,
    };
    let path = place::root().join(RECORD);
    if record {
        let mut text = serde_json::to_string_pretty(&counts)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("recorded {} programs and {} paths in {RECORD}", counts.programs.len(), counts.paths.len());
        return Ok(());
    }
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {RECORD}; `--gate --record` makes it"))?;
    let recorded: Counts =
        serde_json::from_str(&text).with_context(|| format!("{RECORD} is not what a gate records"))?;
    judge(&recorded, &counts)
}

/// Prints what changed; fails if anything takes more than it may.
fn judge(recorded: &Counts, counts: &Counts) -> Result<()> {
    if recorded.kernel != counts.kernel {
        println!(
            "programs were recorded on Linux {}; this is {}, so they are not compared",
            recorded.kernel, counts.kernel
        );
    }
    if recorded.rustc != counts.rustc {
        println!("recorded with {}; this is {}", recorded.rustc, counts.rustc);
    }
    let (changes, strangers) = compare(recorded, counts);
    for change in &changes {
        let verdict = if change.is_regression() { "TOO MANY" } else { "" };
        let line = format!(
            "  {:<40} {:>12} → {:<12} {:>+6.1} %  {verdict}",
            change.what,
            change.before,
            change.after,
            change.part() * 100.0
        );
        println!("{}", line.trim_end());
    }
    for stranger in &strangers {
        println!("  {stranger}");
    }
    let worse: Vec<&str> =
        changes.iter().filter(|change| change.is_regression()).map(|change| change.what.as_str()).collect();
    if !worse.is_empty() {
        bail!(
            "more than {:.0} % above what was recorded: {} (if that is what it takes: `cargo xtask bench --gate --record`)",
            TOLERANCE * 100.0,
            worse.join(", ")
        );
    }
    println!("no path and no program takes over {:.0} % more than recorded", TOLERANCE * 100.0);
    Ok(())
}

/// Counts that are not what they were, and names that only one side has.
fn compare(recorded: &Counts, counts: &Counts) -> (Vec<Change>, Vec<String>) {
    let flat = |counts: &Counts, programs: bool| -> BTreeMap<String, u64> {
        let of_programs = counts.programs.iter().filter(|_| programs).flat_map(|(name, program)| {
            [(format!("{name}, held"), program.held), (format!("{name}, verified"), program.followed)]
        });
        let of_paths = counts.paths.iter().map(|(name, count)| (format!("path {name}"), *count));
        of_programs.chain(of_paths).collect()
    };
    let is_same_kernel = recorded.kernel == counts.kernel;
    let (before, after) = (flat(recorded, is_same_kernel), flat(counts, is_same_kernel));
    let mut changes = Vec::new();
    let mut strangers = Vec::new();
    for (what, before) in &before {
        match after.get(what) {
            Some(after) if after != before => {
                changes.push(Change { what: what.clone(), before: *before, after: *after });
            }
            Some(_) => {}
            None => strangers.push(format!("{what}: recorded, and no longer there")),
        }
    }
    strangers.extend(
        after.keys().filter(|what| !before.contains_key(*what)).map(|what| format!("{what}: not recorded yet")),
    );
    (changes, strangers)
}

/// The program that does the counted work.
fn built(embedded: &Embedded) -> Result<PathBuf> {
    let mut cargo = embedded.cargo();
    cargo.args(["build", "--release", "--package", "fairlead-bench", "--bench", "count"]);
    let finished = run::step("what is counted", cargo.args(["--message-format", "json"]))?;
    let built = finished.lines.iter().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "count";
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    built.context("cargo does not say where it put the program")
}

/// Instructions of each BPF program, loaded in a place of its own.
fn programs(counter: &Path) -> Result<BTreeMap<String, Program>> {
    // Mounts are made in a mount namespace that ends with the command, and the cgroup is empty: nobody's sockets meet them.
    let script = r#"
        set -e
        dir=$(mktemp -d)
        mount -t tmpfs none "$dir"
        mkdir "$dir/bpf" "$dir/cgroup"
        mount -t bpf none "$dir/bpf"
        mount -t cgroup2 none "$dir/cgroup"
        own="$dir/cgroup/fairlead-gate-$$"
        mkdir "$own"
        trap 'rmdir "$own"; umount -l "$dir"; rmdir "$dir"' EXIT
        "$0" programs "$dir/bpf" "$own"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", script]).arg(counter);
    let said = run::read(&mut command).context("cannot load the BPF programs")?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (name, held, followed) = (words.next()?, words.next()?, words.next()?);
        Some((name.to_owned(), Program { held: held.parse().ok()?, followed: followed.parse().ok()? }))
    };
    let programs: BTreeMap<_, _> = said.lines().filter_map(line).collect();
    ensure!(!programs.is_empty(), "no BPF programs were loaded; are they built?");
    Ok(programs)
}

/// Instructions executed on each path.
fn paths(counter: &Path) -> Result<BTreeMap<String, u64>> {
    let names = run::read(Command::new(counter).arg("paths"))?;
    names.lines().map(|name| Ok((name.to_owned(), callgrind(counter, name)?))).collect()
}

fn callgrind(counter: &Path, path: &str) -> Result<u64> {
    let valgrind = place::program("valgrind").context("valgrind is missing")?;
    let mut command = Command::new(valgrind);
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_*")
        .arg(counter)
        .args(["path", path]);
    let finished = run::quiet_step(&format!("counting {path}"), &mut command, std::time::Duration::from_secs(600))?;
    let collected =
        finished.lines.iter().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
    let collected = collected.context("callgrind does not say what it counted")?;
    ensure!(collected > 0, "callgrind saw nothing of the path {path}");
    Ok(collected)
}

/// Such as `6.18`.
fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.split('.').take(2).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(kernel: &str, held: u64, path: u64) -> Counts {
        Counts {
            kernel: kernel.into(),
            rustc: "rustc".into(),
            programs: [("xdp_service".to_owned(), Program { held, followed: 1000 })].into(),
            paths: [("delta".to_owned(), path)].into(),
        }
    }

    #[test]
    fn five_percent_more_is_too_many_and_any_less_is_not() {
        assert!(judge(&counts("6.1", 1000, 1000), &counts("6.1", 1050, 10)).is_ok());
        let worse = judge(&counts("6.1", 1000, 1000), &counts("6.1", 1051, 1000)).unwrap_err().to_string();
        assert!(worse.contains("xdp_service, held") && !worse.contains("delta"), "{worse}");
        assert!(judge(&counts("6.1", 1000, 1000), &counts("6.1", 1000, 1060)).is_err());
    }

    #[test]
    fn programs_of_another_kernel_are_not_compared_but_paths_are() {
        assert!(judge(&counts("6.1", 1000, 1000), &counts("6.18", 9000, 1000)).is_ok());
        assert!(judge(&counts("6.1", 1000, 1000), &counts("6.18", 1000, 9000)).is_err());
    }

    #[test]
    fn what_only_one_side_has_is_named() {
        let mut later = counts("6.1", 1000, 1000);
        later.paths = [("maglev".to_owned(), 5)].into();
        let (changes, strangers) = compare(&counts("6.1", 1000, 1000), &later);
        assert!(changes.is_empty());
        assert_eq!(strangers, ["path delta: recorded, and no longer there", "path maglev: not recorded yet"]);
    }
}
