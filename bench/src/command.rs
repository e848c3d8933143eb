//! The command itself: from arguments to results, on the terminal and in a folder.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::options::{Options, Output};
use crate::session::{self, Half};
use crate::{run, table};

/// What `main` asks before it reads its arguments: true in a process beside a run, once it has done its work.
pub fn is_aside() -> bool {
    crate::rig::agent::is_agent() || crate::rig::guard::is_guard()
}

/// Measures. Must be called on the process's first thread, before there are others.
///
/// # Errors
/// Something that all of it needs is missing.
pub fn bench(options: &Options) -> Result<ExitCode> {
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
