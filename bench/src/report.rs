//! `report.html`: a run as a person would rather look at it than read it. One file that needs no other, light or dark as
//! its reader's system is.
//!
//! Everything is a view of [`Results`]: `group` sorts measurements into what is shown together, `bars`, `lines`,
//! `ridges` and `matrix` draw, each into one SVG that takes its colours from `page.css`, and `tables` says the same in
//! numbers. Nothing is computed here but places on paper.

mod axis;
mod bars;
mod group;
mod lines;
mod matrix;
mod page;
mod quantity;
mod ridges;
mod svg;
mod tables;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::results::Results;

pub use page::html;
pub use quantity::quantity;

/// Writes `report.html` into a folder.
///
/// # Errors
/// It cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("report.html");
    std::fs::write(&path, html(results)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
