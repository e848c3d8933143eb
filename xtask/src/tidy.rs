//! `cargo xtask tidy`: the rules that no compiler checks. It runs as a unit test, too.
//!
//! What a crate may know is in [`dependencies`]; how a source file has to look is in [`sources`]; the promises of
//! `ARCHITECTURE.md` and where they are kept are in [`promises`].

mod dependencies;
mod promises;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::place;

/// Prints what is wrong.
pub(crate) fn command() -> Result<()> {
    let found = violations(&place::root())?;
    if found.is_empty() {
        println!("tidy");
        return Ok(());
    }
    found.iter().for_each(|violation| println!("{violation}"));
    bail!("{} rules broken", found.len())
}

/// Everything that is wrong in a checkout, one line each.
///
/// # Errors
/// It cannot be read or cargo does not understand it.
pub(crate) fn violations(root: &Path) -> Result<Vec<String>> {
    let files = sources_in(root)?;
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let mut found = dependencies::violations(root, &map)?;
    for file in &files {
        found.extend(sources::violations(file));
    }
    found.extend(promises::violations(&map, &files));
    Ok(found)
}

/// A Rust file of ours.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Relative to the checkout.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every Rust file of the checkout, sorted.
fn sources_in(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(read(root, &path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read(root: &Path, path: &PathBuf) -> Result<Source> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    Ok(Source { path: relative.display().to_string(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_checkout_keeps_the_rules() {
        let found = violations(&place::root()).expect("the checkout can be read");
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }
}
