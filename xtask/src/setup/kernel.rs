//! Debian kernels for the virtual machines: unpacked into the cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::Suite;
use super::part::{Need, Part, State};
use crate::place;

/// A kernel of the matrix in KERNELS.md.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// `6.1`.
    pub(crate) version: &'static str,
    suite: &'static str,
    /// The ends of the matrix are a part of every test run; those between are asked for by `vm all`.
    need: Need,
}

/// The smaller flavour; it has all that the tests need.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// Packages that hold a kernel's parts, where Debian has split it.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];
/// From the oldest that is supported to the newest that Debian has.
const MATRIX: [Kernel; 4] = [
    Kernel { version: "5.10", suite: "bullseye", need: Need::Vm },
    Kernel { version: "6.1", suite: "bookworm", need: Need::AllKernels },
    Kernel { version: "6.12", suite: "bookworm-backports", need: Need::AllKernels },
    Kernel { version: "7", suite: "trixie-backports", need: Need::Vm },
];

pub(crate) fn parts() -> Vec<Part> {
    let part = |kernel: &'static Kernel| {
        let needs = std::slice::from_ref(&kernel.need);
        Part::new(format!("kernel {}", kernel.version), needs, || kernel.probe(), || kernel.fetch())
    };
    MATRIX.iter().map(part).collect()
}

/// All versions, oldest first.
pub(crate) fn versions() -> Vec<&'static str> {
    MATRIX.iter().map(|kernel| kernel.version).collect()
}

impl Kernel {
    /// The kernel of this version.
    ///
    /// # Errors
    /// It is not in the matrix.
    pub(crate) fn find(version: &str) -> Result<&'static Self> {
        MATRIX.iter().find(|kernel| kernel.version == version).with_context(|| {
            let known: Vec<&str> = MATRIX.iter().map(|kernel| kernel.version).collect();
            format!("kernel {version} is not in the matrix; there are: {}", known.join(", "))
        })
    }

    /// What must be in the cache for this kernel to boot.
    pub(crate) fn need(&self) -> Need {
        self.need
    }

    /// The boot image and the folder of its modules.
    ///
    /// # Errors
    /// The kernel is not unpacked.
    pub(crate) fn files(&self) -> Result<(PathBuf, PathBuf)> {
        let home = self.home()?;
        let packages: Vec<PathBuf> = entries(&home)?.into_iter().map(|name| home.join(name)).collect();
        // Newer Debians have everything below /usr, and since 7.0 the image among the modules.
        let folders = |at: &'static str| packages.iter().map(move |package| package.join(at));
        let releases: Vec<PathBuf> = folders("lib/modules")
            .chain(folders("usr/lib/modules"))
            .flat_map(|folder| entries(&folder).into_iter().flatten().map(move |release| folder.join(release)))
            .collect();
        let in_boot = folders("boot").find_map(|boot| {
            let names = entries(&boot).ok()?;
            names.into_iter().find(|name| name.starts_with("vmlinuz-")).map(|name| boot.join(name))
        });
        let image = in_boot.or_else(|| releases.iter().map(|release| release.join("vmlinuz")).find(|at| at.is_file()));
        let image = image.with_context(|| format!("{} holds no kernel", home.display()))?;
        let modules = releases.into_iter().find(|release| release.join("kernel").is_dir());
        let modules = modules.with_context(|| format!("{} has no modules", home.display()))?;
        Ok((image, modules))
    }

    fn home(&self) -> Result<PathBuf> {
        place::cached(&format!("kernels/{}", self.version))
    }

    fn probe(&self) -> State {
        match self.files() {
            Ok((_, modules)) => State::Present(
                modules.file_name().map(|release| release.to_string_lossy().into_owned()).unwrap_or_default(),
            ),
            Err(_) => State::Missing("not in the cache".to_owned()),
        }
    }

    fn fetch(&self) -> Result<String> {
        let suite = Suite::debian(&[self.suite])?;
        if suite.dependencies(METAPACKAGE).is_empty() {
            suite.update()?;
        }
        let image = suite.dependencies(METAPACKAGE).into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("Debian {} has no {METAPACKAGE}", self.suite))?;
        // Since 7.0 the image's package is empty and depends on those that hold its parts.
        let parts =
            suite.dependencies(&image).into_iter().filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
        drop(fs::remove_dir_all(self.home()?));
        let mut unpacked = Vec::new();
        for package in parts.chain([image]) {
            let version = suite.unpack(&package, &self.home()?.join(&package), |_| true)?;
            unpacked.push(format!("{package} {version}"));
        }
        Ok(format!("unpacked {}", unpacked.join(", ")))
    }
}

/// The names in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
