//! `cargo xtask vm KERNEL…|all`: the packet and namespace tests on a Debian kernel, in QEMU.
//!
//! The machine lives from an initramfs of our own: busybox, the modules the tests need, the test programs with their
//! libraries, and an init that mounts what a Linux system has (cgroup v2 alone, as on current distributions), runs them
//! and switches off. Results are read from the serial console. Software emulation is enough, and runs everywhere.

mod cpio;
mod initramfs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::setup::{self, Kernel, Need};
use crate::test::{self, Outcome};
use crate::{place, run};

/// The emulator is some twenty times slower than the machine; beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A panic restarts, and a restart ends QEMU; every message before it is on the console. On a busy host the emulated timer
/// is too late for the kernel's check of it.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off random.trust_cpu=on no_timer_check";

/// What a virtual machine runs.
#[derive(Debug)]
pub(crate) struct Load {
    /// Test programs by name, in the order they run in.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// The binary that some of them start.
    pub(crate) daemon: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    /// Instructions that the verifier went through, by BPF program.
    verified: BTreeMap<String, u32>,
}

/// `cargo xtask vm 6.1 6.12 …`, or `vm all`
pub(crate) fn command(kernels: &[String], keep: bool) -> Result<ExitCode> {
    let all = kernels.iter().any(|kernel| kernel == "all");
    let kernels: Vec<&str> = if all { setup::kernels() } else { kernels.iter().map(String::as_str).collect() };
    let mut needs = vec![Need::Build, Need::Vm];
    for kernel in &kernels {
        needs.push(Kernel::find(kernel)?.need());
    }
    setup::ensure(&needs)?;
    let load = test::kernel_tests()?;
    let mut sum = Outcome::default();
    let mut verified = Vec::new();
    for kernel in kernels {
        println!("kernel {kernel}");
        let ran = perform(kernel, &load, keep)?;
        sum.add(ran.outcome);
        verified.push((kernel, ran.verified));
    }
    println!("{}", table(&verified));
    sum.skipped.iter().for_each(|why| println!("skipped  {why}"));
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed.len(), sum.skipped.len());
    let bad = !sum.failed.is_empty() || (test::required() && !sum.skipped.is_empty());
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Boots one kernel and runs the programs in it.
///
/// # Errors
/// The initramfs cannot be put together or QEMU cannot be started. What fails inside is in the outcome.
pub(crate) fn perform(version: &str, load: &Load, keep: bool) -> Result<Ran> {
    let kernel = Kernel::find(version)?;
    let (Ok((image, modules)), Some(qemu)) = (kernel.files(), place::program("qemu-system-x86_64")) else {
        let outcome = Outcome::skip(format!("kernel {version} or QEMU is missing; `cargo xtask setup` says why"));
        return Ok(Ran { outcome, ..Ran::default() });
    };
    let folder = place::target().join("vm").join(version);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (initramfs, log) = (folder.join("initramfs.cpio"), folder.join("serial.log"));
    let start = Instant::now();
    initramfs::write(&initramfs, &modules, load)?;
    println!("  {:<34} {}", format!("initramfs for {version}"), run::seconds(start.elapsed()));

    let boot =
        || run::watch(&format!("kernel {version}"), &mut machine(&qemu, &image, &initramfs), LIMIT, test::is_result);
    let mut ended = boot()?;
    if !ended.lines.iter().any(|line| line.starts_with(initramfs::START_MARK)) {
        println!("  the kernel did not get to its init; starting it once more");
        ended = boot()?;
    }
    let lines: Vec<String> = ended.lines.iter().map(|line| line.trim_end_matches('\r').to_owned()).collect();
    fs::write(&log, lines.join("\n")).with_context(|| format!("cannot write {}", log.display()))?;
    let outcome = judge(version, &load.programs, &lines, ended.timed_out);
    println!("  {:<34} {}", format!("kernel {version}, from power-on to off"), run::seconds(ended.took));

    if !outcome.failed.is_empty() {
        println!("{}", lines.join("\n"));
    }
    if !outcome.failed.is_empty() || keep {
        println!("  what its serial console said: {}", log.display());
    } else {
        drop(fs::remove_file(&log));
    }
    if keep {
        println!("  what it booted from: {}", initramfs.display());
    } else {
        drop(fs::remove_file(&initramfs));
    }
    Ok(Ran { outcome, verified: lines.iter().filter_map(|line| verified(line)).collect() })
}

/// The program and the number in `program NAME verified COUNT`.
fn verified(line: &str) -> Option<(String, u32)> {
    let (name, count) = line.trim().strip_prefix("program ")?.split_once(" verified ")?;
    Some((name.to_owned(), count.parse().ok()?))
}

/// What the verifiers of these kernels went through, as `KERNELS.md` has it.
fn table(kernels: &[(&str, BTreeMap<String, u32>)]) -> String {
    let names: BTreeSet<&String> = kernels.iter().flat_map(|(_, verified)| verified.keys()).collect();
    let mut table = String::from("\n| program |");
    kernels.iter().for_each(|(kernel, _)| table.push_str(&format!(" {kernel} |")));
    table.push_str(&format!("\n|---|{}\n", "---:|".repeat(kernels.len())));
    for name in names {
        let counts = kernels.iter().map(|(_, verified)| verified.get(name).map_or("-".to_owned(), u32::to_string));
        table.push_str(&format!("| `{name}` | {} |\n", counts.collect::<Vec<_>>().join(" | ")));
    }
    table
}

/// The virtual machine: two processors, no disk, no network, a serial console on standard output.
fn machine(qemu: &Path, image: &Path, initramfs: &Path) -> Command {
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", COMMAND_LINE]);
    command
}

/// What the console says about each program. A program that did not get to its end has failed, whatever its tests said.
fn judge(version: &str, programs: &[(String, PathBuf)], lines: &[String], timed_out: bool) -> Outcome {
    let mut outcome = Outcome::read(lines);
    let named = |text: String| format!("kernel {version}: {text}");
    outcome.failed = outcome.failed.into_iter().map(named).collect();
    outcome.skipped = outcome.skipped.into_iter().map(named).collect();
    for (name, _) in programs {
        let mark = format!("{}{name} ", initramfs::END_MARK);
        let code = lines.iter().find_map(|line| line.trim().strip_prefix(&mark));
        match code {
            Some("0") => {}
            Some(_) if !outcome.failed.is_empty() => {}
            Some(code) => outcome.failed.push(named(format!("{name} ended with {code}"))),
            None if timed_out => outcome.failed.push(named(format!("{name} did not end in time"))),
            None => outcome.failed.push(named(format!("{name} did not get to its end"))),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(console: &str, timed_out: bool, passed: usize, failed: &[&str]) {
        let programs = [("packet".to_owned(), PathBuf::new())];
        let lines: Vec<String> = console.lines().map(str::to_owned).collect();
        let outcome = judge("6.1", &programs, &lines, timed_out);
        assert_eq!(
            (outcome.passed, outcome.failed),
            (passed, failed.iter().map(|&what| what.to_owned()).collect()),
            "{console}"
        );
    }

    #[test]
    fn what_verifiers_went_through_is_read_and_set_side_by_side() {
        assert_eq!(verified("program tc_to_pod verified 58769\r"), Some(("tc_to_pod".to_owned(), 58_769)));
        assert_eq!(verified("test tc_to_pod ... ok"), None);
        let of = |lines: &[&str]| lines.iter().filter_map(|line| verified(line)).collect();
        let kernels =
            [("5.10", of(&["program a verified 10"])), ("7", of(&["program a verified 7", "program b verified 5"]))];
        let expected = "\n| program | 5.10 | 7 |\n|---|---:|---:|\n| `a` | 10 | 7 |\n| `b` | - | 5 |\n";
        assert_eq!(table(&kernels), expected);
    }

    #[test]
    fn a_program_counts_only_when_it_gets_to_its_end() {
        check("test a ... ok\n== end of packet 0", false, 1, &[]);
        check("test a ... ok\nKernel panic", false, 1, &["kernel 6.1: packet did not get to its end"]);
        check("test a ... ok", true, 1, &["kernel 6.1: packet did not end in time"]);
        check("test a ... FAILED\n== end of packet 1", false, 0, &["kernel 6.1: a"]);
        check("== end of packet 127", false, 0, &["kernel 6.1: packet ended with 127"]);
    }
}
