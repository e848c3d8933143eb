//! What must hold before a node starts, as far as pods are concerned.

use std::path::Path;

use crate::cgroup::Cgroups;
use crate::cri::Cri;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found: a version, or the reason and the cure.
    pub found: String,
    /// Whether pods can run.
    pub ok: bool,
}

/// Asks the runtime for its version and readiness, and looks at the cgroup hierarchy.
pub async fn preflight(runtime_endpoint: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    match Cri::new(runtime_endpoint) {
        Err(error) => checks.push(Check { name: "container runtime", found: error.to_string(), ok: false }),
        Ok(cri) => {
            checks.push(match cri.version().await {
                Ok(version) => Check {
                    name: "container runtime",
                    found: format!(
                        "{} {}, CRI {}",
                        version.runtime_name, version.runtime_version, version.runtime_api_version
                    ),
                    ok: version.runtime_api_version.starts_with("v1") && !version.runtime_api_version.contains("alpha"),
                },
                Err(error) => Check {
                    name: "container runtime",
                    found: format!(
                        "{} does not answer ({error}): start containerd 1.6 or later with its cri plugin",
                        runtime_endpoint.display()
                    ),
                    ok: false,
                },
            });
            for condition in cri.status().await.unwrap_or_default() {
                let name = if condition.r#type == "NetworkReady" { "pod network" } else { "runtime state" };
                let found = if condition.status { "ready".into() } else { condition.message };
                checks.push(Check { name, found, ok: condition.status });
            }
        }
    }
    let cgroups = Cgroups::probe("fairlead");
    let found = cgroups.unusable().unwrap_or("v2 with cpu, memory and pids").to_owned();
    checks.push(Check { name: "cgroups", found, ok: true });
    checks
}
