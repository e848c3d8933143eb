//! `cargo xtask bench`: `fairlead bench`, built for speed; the criterion benchmarks of single functions; and a gate that
//! keeps instructions from becoming more.

mod gate;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, place, run, setup};

/// First argument for the benchmarks of functions.
const CRITERION: &str = "criterion";
/// First argument for the gate, and the one that has it record.
const GATE: [&str; 2] = ["--gate", "--record"];

/// Runs them in the foreground; both report by themselves.
pub(crate) fn command(args: &[String]) -> Result<()> {
    setup::ensure(&[setup::Need::Build])?;
    let embedded = build::embedded()?;
    if args.first().is_some_and(|first| first == GATE[0]) {
        return match &args[1..] {
            [] => gate::command(&embedded, false),
            [record] if record == GATE[1] => gate::command(&embedded, true),
            _ => bail!("`--gate` takes nothing but `--record`"),
        };
    }
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
