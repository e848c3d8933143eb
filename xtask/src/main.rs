//! The project's own commands: `cargo xtask COMMAND`, one file each.
//!
//! Two of them are all a newcomer needs: `up` (build everything, start a cluster) and `test` (every layer that exists).
//! Both bring the machine into shape first, by way of `setup`.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod cluster;
mod image;
mod place;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Fairlead's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring this machine to a state in which everything builds and runs.
    Setup,
    /// Build everything: BPF programs, images, and the two binaries that hold them.
    Build {
        /// Optimised, into target/release.
        #[arg(long)]
        release: bool,
    },
    /// Turn a static binary into an OCI image archive.
    Image(image::ImageArguments),
    /// Build, start a one-machine cluster, and say what to type next.
    Up(cluster::UpArguments),
    /// Remove the cluster that `up` started: pods, interfaces, mounts, processes.
    Down(cluster::DownArguments),
    /// Run the test layers, all of them unless some are named.
    Test {
        /// pure, packet, netns, cluster, vm
        layers: Vec<test::Layer>,
    },
    /// Boot a Debian kernel in QEMU and run the packet and namespace tests in it.
    Vm {
        /// Kernel versions, as in KERNELS.md, or `all`.
        #[arg(default_value = "all")]
        kernels: Vec<String>,
        /// Keep the initramfs and the serial log.
        #[arg(long)]
        keep: bool,
    },
    /// Check the rules that no compiler checks.
    Tidy,
    /// Build for speed and measure: `fairlead bench` with these arguments, the benchmarks of single functions with
    /// `criterion` as the first, or, with `--gate`, whether anything takes more instructions than recorded (`--gate
    /// --record` records).
    Bench {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => return setup::command(),
        Command::Build { release } => {
            setup::ensure(&[setup::Need::Build, setup::Need::Image])?;
            let built = build::all(if release { build::Profile::Release } else { build::Profile::Dev })?;
            let shown = |path: &PathBuf| println!("{}", path.display());
            [&built.fairlead, &built.control, &built.echo].into_iter().for_each(shown);
        }
        Command::Image(arguments) => image::command(&arguments)?,
        Command::Up(arguments) => cluster::up(&arguments)?,
        Command::Down(arguments) => cluster::down(&arguments)?,
        Command::Test { layers } => return test::command(&layers),
        Command::Vm { kernels, keep } => return vm::command(&kernels, keep),
        Command::Tidy => tidy::command()?,
        Command::Bench { args } => bench::command(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
