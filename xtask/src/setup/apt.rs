//! Debian packages: installed from the machine's own sources, or fetched from another suite and unpacked.
//!
//! Another suite is read through a source list and a state folder in our cache, with the mirror that the machine itself
//! uses; the machine's own lists and preferences neither see it nor are seen by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{place, run};

/// For the mirror of a machine that is not Debian's, where kernels and tools still come from Debian.
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const POLICY: &str = "/usr/sbin/policy-rc.d";
const UPDATE_LIMIT: Duration = Duration::from_secs(300);
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// Installs packages without ever removing one, and without starting a service.
///
/// # Errors
/// Not root, no apt, no such package, or apt failed; the error holds what it said.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let system = Suite::system();
    if !run::is_root() {
        bail!("installing {} needs root; run `sudo -E cargo xtask setup`", packages.join(" "));
    }
    if packages.iter().any(|package| !system.has(package)) {
        system.update()?;
    }
    let first = system.install(packages);
    let Err(error) = first else { return Ok(()) };
    // Stale lists name files the mirror has no longer; an interrupted run leaves packages half configured.
    drop(run::quiet_step("dpkg", Command::new("dpkg").args(["--configure", "-a"]), INSTALL_LIMIT));
    system.update()?;
    system.install(packages).map_err(|second| second.context(format!("first it said: {}", short(&error))))
}

/// A suite apt can be asked about.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    options: Vec<String>,
}

impl Suite {
    /// What the machine itself is set up for.
    pub(crate) fn system() -> Self {
        Self { name: "this machine's sources".to_owned(), options: Vec::new() }
    }

    /// A Debian suite, such as `trixie-backports`; of several, the last is preferred.
    ///
    /// # Errors
    /// The cache cannot be written or Debian's keys are not here.
    pub(crate) fn debian(suites: &[&str]) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            install(&["debian-archive-keyring"]).context("Debian's archive keys are needed")?;
        }
        let name = suites.join("+");
        let folder = place::cached(&format!("apt/{name}"))?;
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let list = folder.join("sources.list");
        let mirror = mirror();
        let lines = suites.iter().map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(&list, lines.collect::<String>()).with_context(|| format!("cannot write {}", list.display()))?;
        let at = |part: &str| folder.join(part).display().to_string();
        let options = [
            format!("APT::Default-Release={}", suites.last().copied().unwrap_or_default()),
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            "Dir::Etc::preferences=-".to_owned(),
            "Dir::Etc::preferencesparts=-".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache::archives={}", at("archives")),
            format!("Dir::Cache::pkgcache={}", at("pkgcache.bin")),
            format!("Dir::Cache::srcpkgcache={}", at("srcpkgcache.bin")),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        Ok(Self { name: format!("Debian {name}"), options: options.to_vec() })
    }

    /// The versions of a package, newest first.
    pub(crate) fn versions(&self, package: &str) -> Vec<String> {
        let listed = run::read(self.command("apt-cache").args(["madison", package])).unwrap_or_default();
        listed.lines().filter_map(madison_version).map(str::to_owned).collect()
    }

    /// What a package depends on first, which for a kernel's metapackage is the kernel.
    pub(crate) fn dependencies(&self, package: &str) -> Vec<String> {
        let listed = run::read(self.command("apt-cache").args(["depends", "--important", package])).unwrap_or_default();
        let depends = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        depends.map(|name| name.trim().to_owned()).collect()
    }

    /// Reads the suite's package lists from the mirror.
    ///
    /// # Errors
    /// The mirror did not answer.
    pub(crate) fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["update", "-o", "DPkg::Lock::Timeout=300"]);
        run::quiet_step(&format!("package lists of {}", self.name), &mut command, UPDATE_LIMIT).map(drop)
    }

    /// Fetches a package and unpacks it into a folder, whole or not at all. `wanted` chooses among the versions; the
    /// newest that it likes is taken. Says which one it was.
    ///
    /// # Errors
    /// The suite has no such version, or the mirror did not answer.
    pub(crate) fn unpack(&self, package: &str, into: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let choose = || self.versions(package).into_iter().find(|version| wanted(version));
        let version = match choose() {
            Some(version) => version,
            None => {
                self.update()?;
                choose().with_context(|| format!("{} has no fitting version of {package}", self.name))?
            }
        };
        let partial = into.with_extension("partial");
        drop(fs::remove_dir_all(&partial));
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let fetch = || {
            let mut command = self.command("apt-get");
            command.args(["download", &format!("{package}={version}")]).current_dir(&partial);
            run::quiet_step(&format!("{package} {version}"), &mut command, INSTALL_LIMIT)
        };
        // A list that was read long ago names a version that the mirror has dropped since.
        if let Err(error) = fetch() {
            self.update()?;
            if choose().as_ref() == Some(&version) {
                fetch().map_err(|again| again.context(format!("first it said: {}", short(&error))))?;
            } else {
                return self.unpack(package, into, wanted);
            }
        }
        let archive = only_deb(&partial)?;
        run::read(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        drop(fs::remove_dir_all(into));
        fs::rename(&partial, into).with_context(|| format!("cannot put {} in place", into.display()))?;
        Ok(version)
    }

    /// Installs into the machine from this suite, and sees to it that no service of the packages starts, now or later.
    ///
    /// # Errors
    /// apt would have to remove a package, or failed.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        let _quiet = NoServices::begin()?;
        let mut command = self.command("apt-get");
        command
            .args(["install", "--yes", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=300"])
            .args(["-o", "Dpkg::Options::=--force-confold"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1");
        run::quiet_step(&packages.join(" "), &mut command, INSTALL_LIMIT)?;
        disable_services(packages);
        Ok(())
    }

    fn has(&self, package: &str) -> bool {
        !self.versions(package).is_empty()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// While it lives, package scripts start no service; a policy of the machine's own is left alone.
#[derive(Debug)]
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}, which keeps packages from starting services"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            drop(fs::remove_file(POLICY));
        }
    }
}

/// A package's service would start with the next boot; nothing here needs it, and the machine did not run it before.
fn disable_services(packages: &[&str]) {
    for (package, unit) in [("containerd", "containerd"), ("etcd-server", "etcd")] {
        if packages.contains(&package) && Path::new("/run/systemd/system").is_dir() {
            drop(run::read(Command::new("systemctl").args(["disable", "--quiet", unit])));
        }
    }
}

/// The mirror of the machine's own Debian sources.
fn mirror() -> String {
    let format = "$(REPO_URI) $(RELEASE)";
    let listed = run::read(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]));
    debian_mirror(&listed.unwrap_or_default()).unwrap_or_else(|| DEBIAN_MIRROR.to_owned())
}

/// The first mirror that carries all of Debian: not the security archive, not a vendor's.
fn debian_mirror(targets: &str) -> Option<String> {
    let uris = targets.lines().filter_map(|line| line.split_once(' ')).map(|(uri, _)| uri.trim_end_matches('/'));
    uris.filter(|uri| uri.ends_with("/debian")).map(str::to_owned).next()
}

/// The version in a line of `apt-cache madison`: `package | version | source`.
fn madison_version(line: &str) -> Option<&str> {
    let mut columns = line.split('|').map(str::trim);
    let (_, version, source) = (columns.next()?, columns.next()?, columns.next()?);
    source.ends_with("Packages").then_some(version)
}

fn only_deb(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut archives = entries.filter_map(|entry| Some(entry.ok()?.path()));
    archives
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt left no package in {}", folder.display()))
}

/// The first line of an error that may hold a page of output.
fn short(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_with_all_of_debian() {
        let targets = "http://security.debian.org/debian-security/ bookworm-security\n\
                       https://deb.nodesource.com/node_20.x/ nodistro\n\
                       http://mirror.example/debian/ bookworm\n";
        assert_eq!(debian_mirror(targets).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(debian_mirror("http://archive.ubuntu.com/ubuntu/ noble\n"), None);
    }

    #[test]
    fn versions_are_read_from_binary_lines_only() {
        let binary =
            "  rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages";
        assert_eq!(madison_version(binary), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(madison_version("rustc | 1.95 | http://deb.debian.org/debian sid/main Sources"), None);
        assert_eq!(madison_version("N: nothing"), None);
    }
}
