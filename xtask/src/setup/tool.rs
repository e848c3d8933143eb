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

const ROWS: [Row; 4] = [
    Row {
        name: "busybox",
        package: "busybox-static",
        version: "",
        suites: &["bookworm", "trixie"],
        inside: &["bin/busybox", "usr/bin/busybox"],
        needs: &[Need::Image, Need::Vm],
    },
    // The shell of the echo image: busybox' own prefers its applets to the image's programs.
    Row {
        name: "bash-static",
        package: "bash-static",
        version: "",
        suites: &["bookworm", "trixie"],
        inside: &["bin/bash-static", "usr/bin/bash-static"],
        needs: &[Need::Image],
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
        // A dynamic program does not start in an image or a bare initramfs.
        if self.needs.contains(&Need::Image) && read_static(&path).is_err() {
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

/// kubectl is asked (it takes 50 ms); the others say it in the first line of their help.
fn version_of(name: &str, path: &Path) -> String {
    // The name of the package's folder would do, but the program may be one that somebody else put there.
    let args: &[&str] = if name.starts_with("kubectl") { &["version", "--client"] } else { &["--help"] };
    let said = run::read(Command::new(path).args(args)).unwrap_or_default();
    said.lines().next().and_then(version_in).unwrap_or_default()
}

/// The first word that is a number, perhaps after a `v`: `1.36.4` in `Client Version: v1.36.4`.
fn version_in(line: &str) -> Option<String> {
    let mut words = line.split([' ', '(', ',']).map(|word| word.trim_start_matches('v'));
    words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let check = |line: &str, version: &str| assert_eq!(version_in(line).as_deref(), Some(version), "{line}");
        check("Client Version: v1.36.4", "1.36.4");
        check("BusyBox v1.35.0 (Debian 1:1.35.0-4+deb12u1+b1) multi-call binary.", "1.35.0");
        check("GNU bash, version 5.2.15(1)-release-(x86_64-pc-linux-gnu)", "5.2.15");
        assert_eq!(version_in("no number"), None);
    }
}
