//! `cargo xtask bench`: `fairlead bench`, built for speed; and the criterion benchmarks of single functions.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, place, run, setup};

/// First argument for the benchmarks of functions.
const CRITERION: &str = "criterion";

/// Runs them in the foreground; both report by themselves.
pub(crate) fn command(args: &[String]) -> Result<()> {
    setup::ensure(&[setup::Need::Build])?;
    let embedded = build::embedded()?;
    let mut command = match args.split_first() {
        Some((first, rest)) if first == CRITERION => {
            let mut cargo = embedded.cargo();
            cargo.args(["bench", "--package", "fairlead-bench", "--"]).args(rest);
            cargo
        }
        _ => {
            let mut cargo = embedded.cargo();
            run::step("fairlead", cargo.args(["build", "--release", "--package", "fairlead"]))?;
            let mut command = Command::new(place::target().join("release/fairlead"));
            command.arg("bench").args(args);
            command
        }
    };
    let status = command.status().context("cannot start the benchmarks")?;
    if !status.success() {
        bail!("the benchmarks failed");
    }
    Ok(())
}
