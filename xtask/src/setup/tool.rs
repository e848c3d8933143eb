//! Single static programs, unpacked from Debian packages into the cache's tool folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::Suite;
use super::part::{Need, Part, State};
use crate::image::read_static;
use crate::{place, run};

/// A tool and where Debian has it.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// The name it gets in the tool folder.
    name: &'static str,
    package: &'static str,
    /// Its version begins like this.
    version: &'static str,
    /// Suites to look into, the likeliest first.
    suites: &'static [&'static str],
    /// Where it lies in the package.
    inside: &'static [&'static str],
    needs: &'static [Need],
}

const ROWS: [Row; 3] = [
    Row {
        name: "busybox",
        package: "busybox-static",
        version: "",
        suites: &["bookworm", "trixie"],
        inside: &["bin/busybox", "usr/bin/busybox"],
        needs: &[Need::Build, Need::Vm],
    },
    Row {
        name: "kubectl-1.32",
        package: "kubectl",
        version: "1.32.",
        suites: &["trixie"],
        inside: &["usr/bin/kubectl"],
        needs: &[Need::Kubectl],
    },
    Row {
        name: "kubectl-1.36",
        package: "kubectl",
        version: "1.36.",
        suites: &["forky", "sid"],
        inside: &["usr/bin/kubectl"],
        needs: &[Need::Kubectl],
    },
];

pub(crate) fn parts() -> Vec<Part> {
    ROWS.iter().map(|row| Part::new(row.name, row.needs, move || row.probe(), move || row.fetch())).collect()
}

impl Row {
    fn probe(&self) -> State {
        let Some(path) = place::program(self.name) else { return State::Missing("not here".to_owned()) };
        // A dynamic busybox does not start in an image or a bare initramfs.
        if self.name == "busybox" && read_static(&path).is_err() {
            return State::Missing(format!("{} is not static", path.display()));
        }
        State::Present(version_of(self.name, &path))
    }

    fn fetch(&self) -> Result<String> {
        let tools = place::cached("tools")?;
        fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
        let home = tools.join(format!("{}.package", self.name));
        let (version, suite) = self.unpack(&home)?;
        let found = self.inside.iter().map(|inside| home.join(inside)).find(|path| path.is_file());
        let program = found.with_context(|| format!("{} {version} holds no {}", self.package, self.name))?;
        let link = tools.join(self.name);
        drop(fs::remove_file(&link));
        symlink(&program, &link).with_context(|| format!("cannot link {}", link.display()))?;
        Ok(format!("unpacked {} {version} of Debian {suite}", self.package))
    }

    fn unpack(&self, home: &Path) -> Result<(String, &'static str)> {
        let mut refused = Vec::new();
        for &suite in self.suites {
            match Suite::debian(&[suite])
                .and_then(|apt| apt.unpack(self.package, home, |version| version.starts_with(self.version)))
            {
                Ok(version) => return Ok((version, suite)),
                Err(error) => refused.push(format!("{suite}: {error:#}")),
            }
        }
        bail!("{}", refused.join("; "))
    }
}

/// kubectl is asked (it takes 50 ms); busybox says it in its first line.
fn version_of(name: &str, path: &Path) -> String {
    let said = if name.starts_with("kubectl") {
        // The name of the package's folder would do, but the program may be one that somebody else put there.
        run::read(Command::new(path).args(["version", "--client"]))
    } else {
        run::read(Command::new(path).arg("--help"))
    };
    let text = said.unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("Client Version: v").split(" (").next().unwrap_or_default().to_owned()
}
