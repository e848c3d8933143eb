//! Who may know whom. Dependencies point downwards only, and the two processes meet only in `proto`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::cargo;
use crate::run;

/// Each package of ours and those of ours it may depend on; `ARCHITECTURE.md` has the same table for people.
const MAY_KNOW: [(&str, &[&str]); 21] = [
    ("fairlead-abi", &[]),
    ("fairlead-packet", &["fairlead-abi"]),
    ("fairlead-programs", &["fairlead-abi", "fairlead-packet"]),
    ("fairlead-proto", &[]),
    ("fairlead-api", &[]),
    ("fairlead-store", &[]),
    ("fairlead-push", &["fairlead-api", "fairlead-proto"]),
    ("fairlead-apiserver", &["fairlead-api", "fairlead-store", "fairlead-push"]),
    ("fairlead-informer", &["fairlead-api"]),
    ("fairlead-controllers", &["fairlead-api", "fairlead-informer"]),
    ("fairlead-scheduler", &["fairlead-api", "fairlead-informer"]),
    (
        "fairlead-control",
        &[
            "fairlead-api",
            "fairlead-apiserver",
            "fairlead-controllers",
            "fairlead-informer",
            "fairlead-proto",
            "fairlead-push",
            "fairlead-scheduler",
            "fairlead-store",
        ],
    ),
    ("fairlead-source", &["fairlead-proto"]),
    ("fairlead-datapath", &["fairlead-abi", "fairlead-packet", "fairlead-source"]),
    ("fairlead-network", &[]),
    ("fairlead-kubelet", &["fairlead-proto", "fairlead-source"]),
    (
        "fairlead",
        &[
            "fairlead-bench",
            "fairlead-datapath",
            "fairlead-kubelet",
            "fairlead-network",
            "fairlead-proto",
            "fairlead-source",
        ],
    ),
    ("fairlead-echo", &[]),
    ("fairlead-pause", &[]),
    ("xtask", &[]),
    // Measures pure parts of both halves, but starts neither process.
    ("fairlead-bench", &["fairlead-abi", "fairlead-api", "fairlead-datapath", "fairlead-packet", "fairlead-source"]),
];
/// Asks everything, from outside.
const KNOWS_ALL: &str = "fairlead-tests";

/// Never part of what we ship: a second crypto provider, a system library, a second HTTP client.
const FORBIDDEN: [&str; 4] = ["openssl", "openssl-sys", "reqwest", "ring"];

/// What cargo knows of the workspace, reduced to what the rules ask.
#[derive(Debug, Default)]
struct Workspace {
    /// Package to the packages of ours among its normal and build dependencies.
    ours: BTreeMap<String, BTreeSet<String>>,
    /// Package to its folder.
    folders: BTreeMap<String, String>,
    /// The names of all packages that normal dependencies reach.
    reached: BTreeSet<String>,
}

pub(crate) fn violations(root: &Path, map: &str) -> Result<Vec<String>> {
    let mut command = cargo();
    command.current_dir(root).args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&run::read(&mut command)?).context("cargo's metadata is no JSON")?;
    let mut workspace = Workspace::from_metadata(&metadata, root);
    // The metadata lists what features might bring; the tree shows what they do bring.
    let mut command = cargo();
    command.current_dir(root).args(["tree", "--workspace", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    workspace.reached = run::read(&mut command)?.lines().filter_map(first_word).collect();
    Ok(judge(&workspace, map))
}

/// The package in `ring v0.17.14`.
fn first_word(line: &str) -> Option<String> {
    line.split(' ').next().map(str::to_owned)
}

fn judge(workspace: &Workspace, map: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (package, known) in &workspace.ours {
        let allowed = MAY_KNOW.iter().find(|(name, _)| name == package).map(|(_, allowed)| *allowed);
        if allowed.is_none() && package != KNOWS_ALL {
            found.push(format!("package {package} is new: say in xtask/src/tidy/dependencies.rs whom it may know"));
        }
        for other in known.iter().filter(|other| allowed.is_some_and(|allowed| !allowed.contains(&other.as_str()))) {
            found.push(format!("{package} depends on {other}: dependencies point downwards only (ARCHITECTURE.md)"));
        }
        if let Some(folder) = workspace.folders.get(package)
            && !is_mapped(folder, map)
        {
            found.push(format!("{folder} ({package}) is missing in the code map of ARCHITECTURE.md"));
        }
    }
    for name in FORBIDDEN.iter().filter(|name| workspace.reached.contains(**name)) {
        found.push(format!(
            "{name} is in the dependency tree; `cargo tree --edges normal --invert {name}` says who brings it"
        ));
    }
    found
}

/// Binaries are told by their `src`, examples by their parent.
fn is_mapped(folder: &str, map: &str) -> bool {
    let parent = folder.split('/').next().unwrap_or(folder);
    let rows = [folder.to_owned(), format!("{folder}/src")];
    rows.iter().any(|row| map.contains(&format!("| `{row}` |")))
        || (parent == "examples" && map.contains("| `examples` |"))
}

impl Workspace {
    fn from_metadata(metadata: &Value, root: &Path) -> Self {
        let mut workspace = Self::default();
        let packages = metadata["packages"].as_array().into_iter().flatten();
        for package in packages.filter(|package| package["source"].is_null()) {
            let name = package["name"].as_str().unwrap_or_default();
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            // Tests may look at anything; what is built may not.
            let ours = dependencies.filter(|found| found["path"].is_string() && found["kind"] != "dev");
            let ours = ours.filter_map(|found| found["name"].as_str()).map(str::to_owned).collect();
            workspace.ours.insert(name.to_owned(), ours);
            let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
            let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root).ok());
            workspace.folders.extend(folder.map(|folder| (name.to_owned(), folder.display().to_string())));
        }
        workspace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(package: &str, knows: &str, folder: &str) -> Workspace {
        let mut workspace = Workspace::default();
        workspace.ours.insert(package.to_owned(), BTreeSet::from([knows.to_owned()]));
        workspace.folders.insert(package.to_owned(), folder.to_owned());
        workspace
    }

    #[test]
    fn the_daemon_may_not_know_the_control_plane() {
        let map = "| `daemon/kubelet` | `fairlead-kubelet` |";
        let found = judge(&workspace("fairlead-kubelet", "fairlead-api", "daemon/kubelet"), map);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("fairlead-kubelet depends on fairlead-api"), "{found:?}");
        assert_eq!(
            judge(&workspace("fairlead-kubelet", "fairlead-source", "daemon/kubelet"), map),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_new_crate_needs_a_row() {
        let found = judge(&workspace("fairlead-new", "fairlead-api", "control/new"), "");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn the_rules_themselves_keep_the_halves_apart() {
        let control = ["api", "store", "push", "apiserver", "informer", "controllers", "scheduler", "control"];
        let daemon = ["source", "datapath", "network", "kubelet"];
        for (package, allowed) in MAY_KNOW {
            let is = |set: &[&str], name: &str| set.iter().any(|half| name == format!("fairlead-{half}"));
            let (in_daemon, in_control) = (is(&daemon, package) || package == "fairlead", is(&control, package));
            assert!(!allowed.iter().any(|other| in_daemon && is(&control, other)), "{package}");
            assert!(
                !allowed.iter().any(|other| in_control && (is(&daemon, other) || *other == "fairlead")),
                "{package}"
            );
        }
    }

    #[test]
    fn forbidden_crates_are_found() {
        let workspace = Workspace { reached: BTreeSet::from(["ring".to_owned()]), ..Workspace::default() };
        assert!(judge(&workspace, "")[0].starts_with("ring "));
    }
}
