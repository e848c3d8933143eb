//! Debian kernels for the virtual machines: unpacked into the cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::Suite;
use super::part::{Need, Part, State};
use crate::place;

/// A kernel of the matrix in KERNELS.md.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// `6.1`.
    pub(crate) version: &'static str,
    suite: &'static str,
}

/// The smaller flavour; it has all that the tests need.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
const MATRIX: [Kernel; 1] = [Kernel { version: "6.1", suite: "bookworm" }];

pub(crate) fn parts() -> Vec<Part> {
    let part = |kernel: &'static Kernel| {
        Part::new(format!("kernel {}", kernel.version), &[Need::Vm], || kernel.probe(), || kernel.fetch())
    };
    MATRIX.iter().map(part).collect()
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

    /// The boot image and the folder of its modules.
    ///
    /// # Errors
    /// The kernel is not unpacked.
    pub(crate) fn files(&self) -> Result<(PathBuf, PathBuf)> {
        let home = self.home()?;
        let release = release_in(&home.join("boot"))?;
        // Newer Debians have everything below /usr.
        let modules = ["lib/modules", "usr/lib/modules"].map(|folder| home.join(folder).join(&release));
        let modules = modules.into_iter().find(|folder| folder.is_dir());
        let modules = modules.with_context(|| format!("{} has no modules of {release}", home.display()))?;
        Ok((home.join("boot").join(format!("vmlinuz-{release}")), modules))
    }

    fn home(&self) -> Result<PathBuf> {
        place::cached(&format!("kernels/{}", self.version))
    }

    fn probe(&self) -> State {
        match self.files() {
            Ok((image, _)) => State::Present(
                image.file_name().map(|name| name.to_string_lossy().replace("vmlinuz-", "")).unwrap_or_default(),
            ),
            Err(_) => State::Missing("not in the cache".to_owned()),
        }
    }

    fn fetch(&self) -> Result<String> {
        let suite = Suite::debian(&[self.suite])?;
        if suite.dependencies(METAPACKAGE).is_empty() {
            suite.update()?;
        }
        let package = suite.dependencies(METAPACKAGE).into_iter().find(|name| name.starts_with("linux-image-"));
        let package = package.with_context(|| format!("Debian {} has no {METAPACKAGE}", self.suite))?;
        let version = suite.unpack(&package, &self.home()?, |_| true)?;
        Ok(format!("unpacked {package} {version}"))
    }
}

/// The kernel release whose image lies in a boot folder.
fn release_in(boot: &Path) -> Result<String> {
    let entries = fs::read_dir(boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut releases: Vec<String> = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).collect();
    releases.sort();
    match releases.pop() {
        Some(release) => Ok(release),
        None => bail!("{} holds no kernel", boot.display()),
    }
}
