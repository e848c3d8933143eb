//! The command itself: from arguments to results, on the terminal and in a folder.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::compare::Comparison;
use crate::options::{Options, Output};
use crate::results::Results;
use crate::session::{self, Half};
use crate::{report, run, table, targets};

/// What `main` asks before it reads its arguments: true in a process beside a run, once it has done its work.
pub fn is_aside() -> bool {
    crate::rig::agent::is_agent() || crate::rig::guard::is_guard()
}

/// The command's arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Something else than a run.
    #[command(subcommand)]
    instead: Option<Instead>,
    /// How a run is made.
    #[command(flatten)]
    options: Options,
}

/// What can be done with runs that were made.
#[derive(Clone, Debug, clap::Subcommand)]
enum Instead {
    /// Tell what moved between two runs, beyond their noise.
    Compare {
        /// The earlier run: results.json, or its folder.
        before: PathBuf,
        /// The later one.
        after: PathBuf,
        /// What is printed.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Hold a run against the project's targets: the table of docs/benchmarks.md.
    Targets {
        /// The run: results.json, or its folder.
        run: PathBuf,
    },
    /// Write report.html anew from results.json.
    Report {
        /// The folder of a run.
        folder: PathBuf,
    },
}

/// Measures, or looks at what was measured. A run must be made on the process's first thread, before there are others.
///
/// # Errors
/// Something that all of it needs is missing.
pub fn bench(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.instead {
        None => measure(&arguments.options),
        Some(Instead::Compare { before, after, output }) => {
            let comparison = Comparison::new(&Results::read(before)?, &Results::read(after)?);
            let mut out = std::io::stdout().lock();
            match output {
                Output::Table => write!(out, "{comparison}")?,
                Output::Json => {
                    serde_json::to_writer_pretty(&mut out, &comparison)?;
                    writeln!(out)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Instead::Targets { run }) => {
            print!("{}", targets::Table(targets::lines(&Results::read(run)?)));
            Ok(ExitCode::SUCCESS)
        }
        Some(Instead::Report { folder }) => {
            println!("{}", report::write(&Results::read(folder)?, folder)?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Measures. Must be called on the process's first thread, before there are others.
///
/// # Errors
/// Something that all of it needs is missing.
fn measure(options: &Options) -> Result<ExitCode> {
    if options.list {
        let list = run::chosen(options)?;
        let width = list.iter().map(|workload| workload.name().len()).max().unwrap_or(0);
        for workload in list {
            println!("{:width$}  {}", workload.name(), workload.title());
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Before the work and not after it.
    run::chosen(options)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a run makes network namespaces and loads BPF programs, which takes root: run `sudo fairlead bench`"
    );
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut interrupt = match session::split()? {
        Half::Waiter(code) => return Ok(code),
        Half::Worker(interrupt) => interrupt,
    };
    let results = run::run(options, &mut interrupt)?;
    if let Some(folder) = &options.out {
        results.write(folder)?;
        report::write(&results, folder)?;
    }
    let mut out = std::io::stdout().lock();
    match options.output {
        Output::Table => {
            let has_colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            out.write_all(table::render(&results, has_colour).as_bytes())?;
            if let Some(folder) = &options.out {
                writeln!(out, "\nresults are in {}", folder.display())?;
            }
        }
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &results)?;
            writeln!(out)?;
        }
    }
    Ok(if results.meta.interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}
