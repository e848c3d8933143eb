//! `cargo xtask up` and `down`: from a checkout to a running one-machine cluster, and back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build, place, run, setup};

/// Where a cluster lives unless told otherwise; the kubelet's parent folder has a namesake for every distribution.
const DATA_DIR: &str = "/var/lib/fairlead";

/// Arguments of `cargo xtask up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Where the cluster keeps everything.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Passed on to `fairlead up`, such as --port 6443 --uplink eth1.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Arguments of `cargo xtask down`.
#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// The folder given to `up`.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Passed on to `fairlead down`, such as --purge.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Set-up, build, start, load the echo image, say what to type next.
pub(crate) fn up(arguments: &UpArguments) -> Result<()> {
    let start = Instant::now();
    if !run::is_root() {
        bail!("a cluster needs root (interfaces, mounts, BPF); run `sudo -E cargo xtask up`");
    }
    setup::ensure(&[setup::Need::Build, setup::Need::Image, setup::Need::Run])?;
    let built = build::all(build::Profile::Release)?;
    let (data_dir, args) = with_data_dir(&arguments.data_dir, &arguments.args);
    let fairlead = |verb: &[&str]| {
        let mut command = Command::new(&built.fairlead);
        command.args(verb).stdin(Stdio::null());
        command
    };
    foreground(fairlead(&["up", "--detach", "--data-dir"]).arg(&data_dir).args(args))?;
    foreground(fairlead(&["image", "load", "--data-dir"]).arg(&data_dir).arg(&built.echo))?;
    print_next(&data_dir);
    println!("from the checkout to here: {}", run::seconds(start.elapsed()));
    println!("ready");
    Ok(())
}

/// Removes what `up` made.
pub(crate) fn down(arguments: &DownArguments) -> Result<()> {
    let folders = ["release", "debug"].map(|profile| place::target().join(profile).join("fairlead"));
    let fairlead = folders.into_iter().find(|path| path.is_file());
    let fairlead = fairlead.context("fairlead is not built; run `cargo xtask build --release` first")?;
    let (data_dir, args) = with_data_dir(&arguments.data_dir, &arguments.args);
    foreground(Command::new(fairlead).args(["down", "--data-dir"]).arg(data_dir).args(args))
}

/// The data folder, absolute, and the other arguments. Whatever follows the first argument that is not ours is passed on,
/// so a `--data-dir` that was typed late stands among those.
fn with_data_dir(early: &Path, args: &[String]) -> (PathBuf, Vec<String>) {
    let mut data_dir = early.to_owned();
    let mut rest = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), word.strip_prefix("--data-dir=")) {
            ("--data-dir", _) => data_dir = words.next().map_or(data_dir, PathBuf::from),
            (_, Some(late)) => data_dir = PathBuf::from(late),
            _ => rest.push(word.clone()),
        }
    }
    (place::absolute(&data_dir), rest)
}

/// Runs one of our own programs, which show their progress themselves.
fn foreground(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let verb = command.get_args().next().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("`fairlead {verb}` failed ({status}); what it said is above");
    }
    Ok(())
}

fn print_next(data_dir: &Path) {
    let checkout = std::env::current_dir().ok();
    let manifest = place::root().join("examples/echo.yaml");
    let manifest = checkout.and_then(|here| manifest.strip_prefix(here).ok().map(Path::to_owned)).unwrap_or(manifest);
    println!();
    println!("The echo image is loaded. With that KUBECONFIG:");
    println!("  kubectl apply -f {}", manifest.display());
    println!("  kubectl rollout status deployment/echo");
    println!("  curl http://$(kubectl get service echo -o jsonpath='{{.spec.clusterIP}}')");
    println!();
    println!("  cargo xtask down --data-dir {}    removes the cluster", data_dir.display());
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], data_dir: &str, rest: &[&str]) {
        let words: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let expected: Vec<String> = rest.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(with_data_dir(Path::new("/early"), &words), (PathBuf::from(data_dir), expected), "{args:?}");
    }

    #[test]
    fn the_data_folder_may_come_late() {
        check(&["--port", "7443"], "/early", &["--port", "7443"]);
        check(&["--port", "7443", "--data-dir", "/late"], "/late", &["--port", "7443"]);
        check(&["--purge", "--data-dir=/late"], "/late", &["--purge"]);
    }
}
