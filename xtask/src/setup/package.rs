//! Parts that are packages of the machine's own distribution.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::apt::{self, Suite};
use super::part::{Need, Part, State};
use crate::{place, run};

/// How one sees that a package's work is done, whoever installed it.
#[derive(Debug, Clone, Copy)]
enum Sign {
    Program(&'static str),
    File(&'static str),
}

/// A part's packages and its sign.
#[derive(Debug, Clone, Copy)]
struct Row {
    name: &'static str,
    packages: &'static [&'static str],
    sign: Sign,
    needs: &'static [Need],
}

const ROWS: [Row; 11] = [
    Row { name: "compiler", packages: &["gcc", "libc6-dev"], sign: Sign::Program("gcc"), needs: &[Need::Build] },
    Row {
        name: "protobuf",
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        sign: Sign::File("/usr/include/google/protobuf/descriptor.proto"),
        needs: &[Need::Build],
    },
    Row { name: "containerd", packages: &["containerd"], sign: Sign::Program("containerd"), needs: &[Need::Run] },
    Row { name: "runc", packages: &["runc"], sign: Sign::Program("runc"), needs: &[Need::Run] },
    Row { name: "iproute2", packages: &["iproute2"], sign: Sign::Program("ip"), needs: &[Need::Kubectl] },
    Row { name: "iptables", packages: &["iptables"], sign: Sign::Program("iptables-save"), needs: &[Need::Kubectl] },
    Row { name: "nftables", packages: &["nftables"], sign: Sign::Program("nft"), needs: &[Need::Kubectl] },
    Row { name: "curl", packages: &["curl"], sign: Sign::Program("curl"), needs: &[Need::Kubectl] },
    Row { name: "kmod", packages: &["kmod"], sign: Sign::Program("depmod"), needs: &[Need::Vm] },
    Row { name: "valgrind", packages: &["valgrind"], sign: Sign::Program("valgrind"), needs: &[Need::Gate] },
    Row { name: "etcd", packages: &["etcd-server"], sign: Sign::Program("etcd"), needs: &[Need::Etcd] },
];

/// Packages that are installed from the machine's own sources, and QEMU, which may need its backports.
pub(crate) fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = ROWS
        .iter()
        .map(|row| {
            Part::new(row.name, row.needs, move || row.probe(), move || fetch(row.packages)).of_packages(row.packages)
        })
        .collect();
    parts.push(Part::new("qemu", &[Need::Vm], || signed("qemu-system-x86", Sign::Program("qemu-system-x86_64")), qemu));
    parts
}

/// The installed version of a package, if dpkg knows it.
pub(crate) fn installed(package: &str) -> Option<String> {
    static KNOWN: OnceLock<HashMap<String, String>> = OnceLock::new();
    let known = KNOWN.get_or_init(list_installed);
    // A package that came after the first look is asked for by itself.
    known.get(package).cloned().or_else(|| {
        let format = "${db:Status-Status} ${Version}";
        let said = run::read(Command::new("dpkg-query").args(["--show", "--showformat", format, package])).ok()?;
        said.strip_prefix("installed ").map(str::to_owned)
    })
}

impl Row {
    fn probe(&self) -> State {
        self.packages.first().map_or_else(|| State::Missing("no package".to_owned()), |main| signed(main, self.sign))
    }
}

fn signed(package: &str, sign: Sign) -> State {
    let found = match sign {
        Sign::Program(name) => place::program(name),
        Sign::File(path) => Some(Path::new(path).to_owned()).filter(|path| path.is_file()),
    };
    match found {
        Some(path) => State::Present(installed(package).unwrap_or_else(|| path.display().to_string())),
        None => State::Missing("not installed".to_owned()),
    }
}

fn fetch(packages: &[&str]) -> Result<String> {
    apt::install(packages)?;
    Ok(format!("installed {}", packages.join(" ")))
}

/// QEMU of the distribution conflicts with tools of its backports where those are installed; then QEMU has to come from
/// there too.
fn qemu() -> Result<String> {
    let package = "qemu-system-x86";
    let Err(own) = fetch(&[package]) else { return Ok(format!("installed {package}")) };
    let release = codename().context("cannot tell which release this machine runs").context(own)?;
    let backports = Suite::debian(&[&release, &format!("{release}-backports")])?;
    backports.update()?;
    backports.install(&[package])?;
    Ok(format!("installed {package} from {release}-backports"))
}

fn list_installed() -> HashMap<String, String> {
    let packages = ROWS.iter().flat_map(|row| row.packages).chain(&["qemu-system-x86", "busybox-static"]);
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"]).args(packages);
    // It ends badly as soon as one package is unknown, and has told about the others all the same.
    let Ok(output) = command.output() else { return HashMap::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("installed ")?.split_once(' '))
        .map(|(package, version)| (package.to_owned(), version.to_owned()))
        .collect()
}

/// The release's code name, such as `bookworm`.
fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"').to_owned())
}
