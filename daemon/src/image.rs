//! `fairlead image`: puts image archives into the container runtime, and lists what it has.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::DataDir;
use crate::layout::Layout;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Import OCI archives (made by `cargo xtask image`, `docker save`, `skopeo` …).
    Load {
        #[command(flatten)]
        runtime: Runtime,
        /// The archives.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the images the runtime has.
    List {
        #[command(flatten)]
        runtime: Runtime,
    },
}

/// Which runtime.
#[derive(Debug, clap::Args)]
pub(crate) struct Runtime {
    #[command(flatten)]
    data_dir: DataDir,
    /// Socket of the runtime, instead of the data directory's own.
    #[arg(long, value_name = "SOCK")]
    runtime_endpoint: Option<PathBuf>,
}

impl Runtime {
    fn socket(&self) -> Result<PathBuf> {
        match &self.runtime_endpoint {
            Some(socket) => Ok(socket.clone()),
            None => Ok(Layout::new(&self.data_dir.path)?.runtime_socket()),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Load { runtime, files } => {
            let socket = runtime.socket()?;
            for file in files {
                let names = fairlead_kubelet::image::load(&socket, &file)
                    .await
                    .with_context(|| format!("cannot load {} into {}", file.display(), socket.display()))?;
                names.iter().for_each(|name| println!("{name}"));
            }
        }
        ImageCommand::List { runtime } => {
            let socket = runtime.socket()?;
            let images = fairlead_kubelet::image::list(&socket)
                .await
                .with_context(|| format!("cannot list the images of {}", socket.display()))?;
            images.iter().for_each(|image| println!("{image}"));
        }
    }
    Ok(())
}
