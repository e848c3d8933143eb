//! `fairlead-control`: API server, scheduler, controllers and push in one process.
//!
//! Wiring and nothing else: [`config`] is what can be asked of it, [`run`] puts the parts together and takes them
//! apart, [`feed`] is the plug between the API server's cache and push.
#![forbid(unsafe_code)]

mod config;
mod feed;
mod run;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::config::{Cli, Command, LogFormat, Options};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Command::Run(options) = cli.command;
    log(options.log_format);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with the chain of causes, whatever the environment says about backtraces.
            eprintln!("fairlead-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Box<Options>) -> anyhow::Result<()> {
    // One provider for every TLS user in the process; a second installation would be a bug of ours.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build()?;
    runtime.block_on(Box::pin(run::run(options)))
}

/// To standard error; `RUST_LOG` says how much.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
