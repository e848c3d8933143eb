//! `--detach`: the same command again in the background; its lines are shown until it is ready or has failed.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::LOOK;
use crate::layout::Layout;
use crate::process::own_program;

/// Starts it and stays until it is ready.
pub(super) async fn run(layout: &Layout) -> Result<()> {
    layout.create()?;
    let path = layout.up_log();
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let same = log.try_clone().context("cannot share the log")?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut child = Command::new(own_program()?)
        .args(arguments)
        .arg("--background")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(same)
        .spawn()
        .context("cannot start `fairlead up` in the background")?;
    let mut said = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    loop {
        let ended = child.try_wait().context("cannot watch the background process")?;
        let before = text.len();
        said.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
        // Whoever reads our output may have gone; the cluster starts all the same.
        let _ = std::io::stdout().write_all(&text.as_bytes()[before..]);
        if text.lines().any(|line| line == "ready") {
            return Ok(());
        }
        if let Some(status) = ended {
            bail!("the cluster did not start ({status}); what it said is in {}", path.display());
        }
        tokio::time::sleep(LOOK).await;
    }
}
