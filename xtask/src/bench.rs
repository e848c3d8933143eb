//! `cargo xtask bench`: the criterion benchmarks of the hot paths.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{place, setup};

/// Runs them in the foreground; criterion reports by itself.
pub(crate) fn command(args: &[String]) -> Result<()> {
    setup::ensure(&[setup::Need::Build])?;
    let status = Command::new(env!("CARGO"))
        .current_dir(place::root())
        .args(["bench", "--package", "fairlead-bench", "--"])
        .args(args)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the benchmarks failed");
    }
    Ok(())
}
