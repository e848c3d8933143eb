//! `cargo xtask setup`: a fresh Debian or Ubuntu machine with rustup's stable toolchain becomes one on which everything
//! builds and runs.
//!
//! A part is looked at (`probe`), and only when it is missing it is fetched. A part that cannot be had is named with what
//! depends on it, and the others go on. Packages come from the machine's own distribution; what has to be of another
//! Debian suite is unpacked into the cache and not installed, and apt is asked with a source list and state of our own, so
//! that the machine's stay as they are.

mod apt;
mod kernel;
mod package;
mod part;
mod rust;
mod tool;

use std::fs::{self, File};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub(crate) use kernel::{Kernel, versions as kernels};
pub(crate) use part::Need;

use crate::setup::part::{Part, State};
use crate::{place, run};

/// `cargo xtask setup`: one line per part.
pub(crate) fn command() -> Result<ExitCode> {
    let start = Instant::now();
    let _lock = lock()?;
    let missing = bring_about(&parts())?;
    let took = run::seconds(start.elapsed());
    if missing.is_empty() {
        println!("everything is in place ({took})");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} not to be had here: {} ({took})", missing.len(), missing.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Makes sure of the parts these needs have. Quiet when nothing is missing.
///
/// # Errors
/// A part without which nothing of this works cannot be had.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let mut wanted = parts();
    wanted.retain(|part| part.needs.iter().any(|need| needs.contains(need)));
    // The common case costs no lock: nobody waits for a download that another command is busy with.
    wanted.retain(|part| matches!(part.probe(), State::Missing(_)));
    if wanted.is_empty() {
        return Ok(());
    }
    println!("setting up this machine (once):");
    let missing = {
        let _lock = lock()?;
        bring_about(&wanted)?
    };
    let vital = wanted.iter().filter(|part| missing.contains(&part.name) && part.vital_for(needs));
    let vital: Vec<&str> = vital.map(|part| part.name.as_str()).collect();
    if !vital.is_empty() {
        bail!("this machine lacks {}; the lines above say why and what would help", vital.join(", "));
    }
    Ok(())
}

/// Every part, in the order in which one needs the other.
fn parts() -> Vec<Part> {
    let mut parts = package::parts();
    parts.extend(rust::parts());
    parts.extend(tool::parts());
    parts.extend(kernel::parts());
    parts
}

/// Probes, fetches what is missing, prints a line for each; returns the names of those that could not be had.
fn bring_about(parts: &[Part]) -> Result<Vec<String>> {
    install_together(parts);
    let mut missing = Vec::new();
    for part in parts {
        let start = Instant::now();
        let (state, version, deed) = match part.probe() {
            State::Present(version) => ("ok", version, String::new()),
            State::Missing(why) => match part.fetch().and_then(|deed| match part.probe() {
                State::Present(version) => Ok((version, deed)),
                State::Missing(still) => bail!("{deed}, and yet {still}"),
            }) {
                Ok((version, deed)) => ("new", version, format!("{deed} in {}", run::seconds(start.elapsed()))),
                Err(error) => {
                    missing.push(part.name.clone());
                    let loss = part.needs.iter().map(Need::what).collect::<Vec<_>>().join(", ");
                    ("MISSING", why, format!("{error:#}; without it: no {loss}"))
                }
            },
        };
        let line = format!("  {:<14} {state:<8} {version:<26} {deed}", part.name);
        println!("{}", line.trim_end());
    }
    Ok(missing)
}

/// One run of apt for all missing packages takes half the time of one for each. If it fails, each part tries for itself and
/// says what is wrong.
fn install_together(parts: &[Part]) {
    let missing = parts.iter().filter(|part| !part.packages.is_empty() && matches!(part.probe(), State::Missing(_)));
    let packages: Vec<&str> = missing.flat_map(|part| part.packages.iter().copied()).collect();
    if packages.len() > 1 && apt::install(&packages).is_ok() {
        println!("  installed {}", packages.join(" "));
    }
}

/// One set-up at a time on a machine: two apts or two `cargo install`s get into each other's way.
fn lock() -> Result<File> {
    let folder = place::cache()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("waiting for another set-up on this machine to end");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
