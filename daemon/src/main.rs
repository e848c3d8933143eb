//! `fairlead`: the node daemon and the operator's tool.
//!
//! One file per command, each of them wiring: what a node does lives in the crates beside this one. `up` and `down` own
//! the processes of a one-machine cluster, `node` is the daemon, `cni` what the container runtime calls, and the rest
//! asks a running daemon or the machine.
#![forbid(unsafe_code)]

mod admin;
mod cni;
mod down;
mod explain;
mod image;
mod layout;
mod logging;
mod mounts;
mod node;
mod preflight;
mod privileges;
mod process;
mod progress;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Kubernetes rebuilt around the node: an eBPF service load balancer, a kubelet, and a slim control plane.
#[derive(Debug, Parser)]
#[command(name = "fairlead", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine: control plane, container runtime and node.
    Up(up::UpArguments),
    /// Remove what `up` made: pods, interfaces, routes, pins, cgroups, mounts and processes.
    Down(down::DownArguments),
    /// Run the node daemon in the foreground.
    Node(Box<node::NodeArguments>),
    /// Answer the container runtime: the CNI plugin (its input is the environment and standard input).
    Cni,
    /// Work with the container runtime's images.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Show what the node daemon is and does.
    Status(status::StatusArguments),
    /// Tell what would become of a packet, and why: the services and flows it meets, and the endpoint it gets.
    Explain(explain::ExplainArguments),
    /// Measure services on this machine: ours beside kube-proxy's modes and no proxy at all.
    Bench(Box<fairlead_bench::Arguments>),
    /// Check that this machine has what a node needs, and change nothing.
    Preflight(preflight::PreflightArguments),
}

/// Where a cluster keeps everything.
#[derive(Clone, Debug, clap::Args)]
struct DataDir {
    /// Data directory: all state, logs, sockets and mounts of the cluster are below it.
    #[arg(long = "data-dir", value_name = "DIR", default_value = "/var/lib/fairlead", env = "FAIRLEAD_DATA_DIR")]
    path: PathBuf,
}

/// How a command prints what the daemon answered.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

/// The daemon that is asked: that of a cluster, or a service proxy alone.
#[derive(Clone, Debug, clap::Args)]
struct Daemon {
    #[command(flatten)]
    data_dir: DataDir,
    /// Directory of a service proxy alone (`fairlead node --proxy-only`), instead of a data directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Daemon {
    fn layout(&self) -> anyhow::Result<layout::Layout> {
        match &self.state_dir {
            Some(dir) => layout::Layout::proxy(dir),
            None => layout::Layout::new(&self.data_dir.path),
        }
    }
}

fn main() -> ExitCode {
    // Clients and servers of a benchmark are this binary once more.
    if fairlead_bench::is_aside() {
        return ExitCode::SUCCESS;
    }
    // The runtime starts the plugin by a link to this binary, without arguments: the environment tells.
    if std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some() {
        return cni::run();
    }
    // The arrow of `explain` looks like an option; it says nothing that the order of the words does not.
    let command = Arguments::parse_from(std::env::args_os().filter(|argument| argument != "->")).command;
    if matches!(command, Command::Cni) {
        return cni::run();
    }
    // One provider for every connection; a second installation could only be this same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match &command {
        // It enters namespaces and makes mounts, and so must begin as the only thread.
        Command::Bench(arguments) => fairlead_bench::bench(arguments),
        _ => run(command).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fairlead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // Capabilities are a thread's own: what the daemon gives up it has to give up before there are others.
    let prepared = match &command {
        Command::Node(arguments) => {
            fairlead_datapath::share_free_memory();
            Some(node::prepare(arguments)?)
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match (command, prepared) {
            (Command::Node(arguments), Some(prepared)) => node::run(*arguments, prepared).await,
            (Command::Up(arguments), _) => up::run(arguments).await,
            (Command::Down(arguments), _) => down::run(arguments).await,
            (Command::Image(command), _) => image::run(command).await,
            (Command::Status(arguments), _) => status::run(arguments).await,
            (Command::Explain(arguments), _) => explain::run(arguments).await,
            (Command::Preflight(arguments), _) => preflight::run(arguments).await,
            (Command::Bench(_) | Command::Cni | Command::Node(_), _) => Ok(()),
        }
    });
    // A blocking call that hangs (a runtime that does not answer) must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}
