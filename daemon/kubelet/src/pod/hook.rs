//! Lifecycle hooks: postStart and preStop, by command, request or sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::PodName;
use crate::cri::Cri;
use crate::probe::check;

/// A hook that asks for a page gets this long.
const HTTP: Duration = Duration::from_secs(30);

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HookError(pub(crate) String);

/// Runs a hook within `limit`.
pub(crate) async fn run(
    cri: &Cri,
    pod: &PodName,
    container: &Container,
    id: &str,
    ip: &str,
    handler: &LifecycleHandler,
    limit: Duration,
) -> Result<(), HookError> {
    let work = async {
        if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let answer = cri.exec_sync(id, &command, limit).await.map_err(|error| HookError(error.to_string()))?;
            if answer.exit_code != 0 {
                let output = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
                return Err(HookError(format!(
                    "command '{}' exited with {}: {output}",
                    command.join(" "),
                    answer.exit_code
                )));
            }
        } else if let Some(get) = &handler.http_get {
            let target = check::http_target(get, container, ip).map_err(HookError)?;
            check::http(&target, HTTP.min(limit)).await.map(drop).map_err(HookError)?;
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(HookError(format!("the hook of {pod} did not end within {} s", limit.as_secs()))),
    }
}
