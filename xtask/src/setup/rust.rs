//! Parts of the Rust tool chain: rustup's components, the core library's source, and the linker for BPF.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::{self, Suite};
use super::part::{Need, Part, State};
use crate::{place, run};

/// The linker's version; a newer one may want a newer compiler.
const LINKER: &str = "0.13.0";
/// Without a network rustup gives up at once; with a slow one it may take its time.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);
/// Debian's suites, those first that most often have the compiler that rustup calls stable.
const SUITES: [&str; 4] = ["trixie-backports", "forky", "bookworm-backports", "sid"];

pub(crate) fn parts() -> Vec<Part> {
    vec![
        Part::new("rustfmt", &[Need::Lint], || component("cargo-fmt"), || add("rustfmt")),
        Part::new("clippy", &[Need::Lint], || component("cargo-clippy"), || add("clippy")),
        Part::new("rust-src", &[Need::Build], source, fetch_source),
        Part::new("bpf-linker", &[Need::Build], linker, fetch_linker),
    ]
}

/// The compiler in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Compiler {
    release: String,
    llvm: String,
}

impl Compiler {
    fn here() -> Result<Self> {
        let said = run::read(Command::new("rustc").current_dir(place::root()).arg("-vV"))?;
        Self::parse(&said).with_context(|| format!("rustc says something unexpected about itself:\n{said}"))
    }

    fn parse(said: &str) -> Option<Self> {
        let field =
            |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        Some(Self { release: field("release:")?, llvm: field("LLVM version:")? })
    }

    /// `22` and, for the crate that binds it, `221`.
    fn llvm_numbers(&self) -> Option<(String, String)> {
        let mut parts = self.llvm.split('.');
        let major = parts.next()?;
        Some((major.to_owned(), format!("{major}1")))
    }
}

fn sysroot() -> Result<PathBuf> {
    let said = run::read(Command::new("rustc").current_dir(place::root()).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(said.trim()))
}

/// A component is there when the tool chain holds its program; rustup's proxies are there in any case.
fn component(program: &str) -> State {
    match sysroot() {
        Ok(root) if root.join("bin").join(program).is_file() => State::Present(root_name(&root)),
        Ok(_) => State::Missing("not in the tool chain".to_owned()),
        Err(error) => State::Missing(format!("{error:#}")),
    }
}

fn root_name(sysroot: &Path) -> String {
    sysroot.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn add(component: &str) -> Result<String> {
    run::quiet_step(
        component,
        Command::new("rustup").current_dir(place::root()).args(["component", "add", component]),
        RUSTUP_LIMIT,
    )
    .map_err(|error| error.context(format!("`rustup component add {component}` needs rustup's servers")))?;
    Ok(format!("rustup added {component}"))
}

fn source_link() -> Result<PathBuf> {
    Ok(sysroot()?.join("lib/rustlib/src/rust"))
}

/// The core library's source where `-Z build-std` looks for it, in a place that lasts.
fn source() -> State {
    let Ok(link) = source_link() else { return State::Missing("no rustc".to_owned()) };
    if !link.join("library/core/src/lib.rs").is_file() {
        return State::Missing("no source of the core library".to_owned());
    }
    match fs::canonicalize(&link) {
        Ok(place) if place.starts_with(std::env::temp_dir()) => {
            State::Missing(format!("{} goes away with the next boot", place.display()))
        }
        _ => State::Present(Compiler::here().map(|compiler| compiler.release).unwrap_or_default()),
    }
}

/// rustup's component, else Debian's package of the same version.
fn fetch_source() -> Result<String> {
    let link = source_link()?;
    if fs::symlink_metadata(&link).is_err() {
        match add("rust-src") {
            Ok(deed) => return Ok(deed),
            Err(_) => println!("  rustup's servers are out of reach; looking for Debian's rust-src"),
        }
    }
    let release = Compiler::here()?.release;
    let home = place::cached(&format!("rust-src/{release}"))?;
    let tree = home.join(format!("usr/src/rustc-{release}"));
    let mut from = "the cache".to_owned();
    if !tree.join("library/core/src/lib.rs").is_file() {
        from = unpack_source(&release, &home)?;
    }
    relink(&link, &tree)?;
    Ok(format!("linked rust-src of {from}"))
}

fn unpack_source(release: &str, home: &Path) -> Result<String> {
    let mut refused = Vec::new();
    for name in SUITES {
        let fits = |version: &str| version.split(['+', '-', '~']).next() == Some(release);
        match Suite::debian(&[name]).and_then(|suite| suite.unpack("rust-src", home, fits)) {
            Ok(version) => return Ok(format!("Debian {name} ({version})")),
            Err(error) => refused.push(format!("{name}: {error:#}")),
        }
    }
    bail!("neither rustup nor Debian has the source of rustc {release}: {}", refused.join("; "))
}

/// Points the link at the tree in one step: somebody may be building.
fn relink(link: &Path, tree: &Path) -> Result<()> {
    let folder = link.parent().context("the link has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let fresh = folder.join("rust.new");
    drop(fs::remove_file(&fresh));
    symlink(tree, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), tree.display()))
}

/// It has to run, not only to be there: its LLVM library may be gone.
fn linker() -> State {
    let Some(path) = place::program("bpf-linker") else { return State::Missing("not installed".to_owned()) };
    match run::read(Command::new(&path).arg("--version")) {
        Ok(said) => State::Present(said.trim().trim_start_matches("bpf-linker ").to_owned()),
        Err(error) => State::Missing(format!("{error:#}")),
    }
}

fn fetch_linker() -> Result<String> {
    let compiler = Compiler::here()?;
    let (major, number) = compiler.llvm_numbers().context("rustc names no LLVM version")?;
    let packages = [format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")];
    let packages = [packages[0].as_str(), packages[1].as_str(), "zlib1g-dev", "libzstd-dev", "gcc", "g++", "libc6-dev"];
    apt::install(&packages).with_context(|| {
        format!("bpf-linker is built with LLVM {major}, the one of rustc {}; apt.llvm.org has it too", compiler.release)
    })?;
    let prefix = format!("/usr/lib/llvm-{major}");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["install", "bpf-linker", "--version", LINKER, "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}")])
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{number}_PREFIX"), &prefix)
        .env_remove("CARGO_TARGET_DIR");
    run::quiet_step("bpf-linker", &mut cargo, Duration::from_secs(1800))?;
    Ok(format!("built with LLVM {major}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_read_from_what_it_says() {
        let said = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        let compiler = Compiler::parse(said).expect("it is complete");
        assert_eq!(compiler, Compiler { release: "1.95.0".to_owned(), llvm: "22.1.2".to_owned() });
        assert_eq!(compiler.llvm_numbers(), Some(("22".to_owned(), "221".to_owned())));
        assert_eq!(Compiler::parse("rustc 1.95.0"), None);
    }
}
