//! The opposite of everything: what `fairlead down` has the kubelet take away.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::debug;

use crate::cgroup::Cgroups;
use crate::config::{OWNER_LABEL, log_root, owner};
use crate::cri::{Cri, CriError};
use crate::volume;

/// For how long a pod that resists is tried again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What could not be removed; the rest has been.
#[derive(Debug, thiserror::Error)]
#[error("could not remove everything: {}", .0.join("; "))]
pub struct RemoveError(pub Vec<String>);

/// Stops and removes every sandbox and container that carries this data directory's label, unmounts volumes, deletes
/// `pods/` and `logs/`, and removes the pods' cgroups below `cgroup`. Says how many pods were removed. Safe to repeat.
pub async fn remove_all(runtime_endpoint: &Path, data_dir: &Path, cgroup: &str) -> Result<usize, RemoveError> {
    let mut failed = Vec::new();
    let removed = match Cri::new(runtime_endpoint) {
        Ok(cri) => pods(&cri, &owner(data_dir), &mut failed).await,
        Err(error) => {
            failed.push(error.to_string());
            0
        }
    };
    for dir in [data_dir.join("pods"), log_root(data_dir)] {
        if let Err(error) = volume::remove(&dir) {
            failed.push(format!("{}: {error}", dir.display()));
        }
    }
    if let Err(error) = Cgroups::probe(cgroup).remove_all() {
        failed.push(format!("cgroup {cgroup}: {error}"));
    }
    if failed.is_empty() { Ok(removed) } else { Err(RemoveError(failed)) }
}

async fn pods(cri: &Cri, owner: &str, failed: &mut Vec<String>) -> usize {
    let label = (OWNER_LABEL, owner);
    let (containers, sandboxes) = match futures::try_join!(cri.containers(label), cri.sandboxes(label)) {
        Ok(both) => both,
        Err(error) => {
            failed.push(format!("cannot list pods: {error}"));
            return 0;
        }
    };
    let mut tasks = JoinSet::new();
    for sandbox in sandboxes {
        let cri = cri.clone();
        let mine: Vec<String> =
            containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id).map(|c| c.id.clone()).collect();
        tasks.spawn(async move {
            let begun = Instant::now();
            loop {
                match pod(&cri, &sandbox.id, &mine).await {
                    // A container in the middle of its start can be neither stopped nor removed.
                    Err(error) if begun.elapsed() < PATIENCE => {
                        debug!(error = %error, "trying again to remove a pod");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    ended => return ended,
                }
            }
        });
    }
    let mut removed = 0;
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(Ok(())) => removed += 1,
            Ok(Err(error)) => failed.push(error.to_string()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    removed
}

async fn pod(cri: &Cri, sandbox: &str, containers: &[String]) -> Result<(), CriError> {
    for id in containers {
        cri.stop(id, Duration::ZERO).await?;
        cri.remove(id).await?;
    }
    cri.stop_sandbox(sandbox).await?;
    cri.remove_sandbox(sandbox).await
}
