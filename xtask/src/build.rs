//! `cargo xtask build`: everything, in the order in which one thing is put into the next.
//!
//! ```text
//! ebpf/programs ──► bpf object ──┐
//! examples/pause ──► pause image ┴──► fairlead, fairlead-control
//! examples/echo ──► echo image
//! ```
//!
//! The BPF object and the pause image are embedded in the binaries, so that these are all that a node needs. Programs and
//! images have build folders of their own below cargo's: their flags differ, and cargo would build everything again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::{Content, Image, read_static};
use crate::{place, run};

/// Where a BPF object's path is given to the crate that embeds it.
const OBJECT_VARIABLE: &str = "FAIRLEAD_EBPF_OBJECT";
/// Where the pause image's path is given to the crate that embeds it.
const PAUSE_VARIABLE: &str = "FAIRLEAD_PAUSE_IMAGE";
/// busybox commands that the echo image offers to `kubectl exec`.
const APPLETS: [&str; 63] = [
    "awk",
    "basename",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "du",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hostname",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "less",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mount",
    "mv",
    "nc",
    "netstat",
    "nslookup",
    "ping",
    "printenv",
    "ps",
    "pwd",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "traceroute",
    "true",
    "uname",
    "uniq",
    "uptime",
    "vi",
    "wc",
    "which",
    "whoami",
    "xargs",
    "yes",
];

/// Optimised or quick to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// What a build leaves behind.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The node daemon and the operator's tool.
    pub(crate) fairlead: PathBuf,
    /// The control plane.
    pub(crate) control: PathBuf,
    /// The echo server's image.
    pub(crate) echo: PathBuf,
}

/// What the binaries embed.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    object: PathBuf,
    pause: PathBuf,
    /// The echo server's image, built by the way.
    pub(crate) echo: PathBuf,
}

impl Embedded {
    /// A cargo that embeds them.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = cargo();
        cargo.env(OBJECT_VARIABLE, &self.object).env(PAUSE_VARIABLE, &self.pause);
        cargo
    }
}

/// Builds everything.
///
/// # Errors
/// The error names the step and holds what the compiler said.
pub(crate) fn all(profile: Profile) -> Result<Built> {
    let embedded = embedded()?;
    let mut cargo = embedded.cargo();
    cargo.args(["build", "--package", "fairlead", "--package", "fairlead-control"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run::step("fairlead, fairlead-control", &mut cargo)?;
    let folder = place::target().join(profile.folder());
    Ok(Built { fairlead: folder.join("fairlead"), control: folder.join("fairlead-control"), echo: embedded.echo })
}

/// Builds what the binaries embed, and the echo image.
///
/// # Errors
/// As [`all`].
pub(crate) fn embedded() -> Result<Embedded> {
    let object = programs()?;
    let (pause, echo) = images()?;
    Ok(Embedded { object, pause, echo })
}

/// The BPF object, compiled by the stable toolchain with the core library built for the kernel's machine.
fn programs() -> Result<PathBuf> {
    let target = place::target().join("bpf");
    run::step("BPF programs", &mut bpf_cargo("build", &target))?;
    let object = target.join("bpfel-unknown-none/release/fairlead-programs");
    if !object.is_file() {
        bail!("the BPF build left no {}; has ebpf/programs another name?", object.display());
    }
    Ok(object)
}

/// What the compiler of the BPF object is told. The linker would copy and zero byte by byte, in order, unless told not to.
const BPF_FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];

/// A cargo for `ebpf/programs`; `verb` is build, check or clippy.
pub(crate) fn bpf_cargo(verb: &str, target: &Path) -> Command {
    let mut cargo = cargo();
    cargo
        .args([verb, "--package", "fairlead-programs", "--release"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(target)
        // The stable compiler has what nightly has; this is how it is told that we know what we do.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", BPF_FLAGS.join("\u{1f}"));
    if let Some(linker) = place::program("bpf-linker") {
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    }
    cargo
}

/// The pause and the echo image.
fn images() -> Result<(PathBuf, PathBuf)> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let target = place::target().join("static");
    let mut cargo = cargo();
    cargo
        .args(["build", "--release", "--package", "fairlead-pause", "--package", "fairlead-echo"])
        .args(["--target", TRIPLE, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"].join("\u{1f}"));
    run::step("static binaries", &mut cargo)?;

    let binary = |name: &str| read_static(&target.join(TRIPLE).join("release").join(name));
    let folder = place::target().join("images");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;

    let pause = Image {
        name: "fairlead.local/pause:1".to_owned(),
        entrypoint: vec!["/pause".to_owned()],
        files: vec![("/pause".to_owned(), Content::File(binary("pause")?, 0o755))],
    };
    let mut echo = Image {
        name: "fairlead.local/echo:1".to_owned(),
        entrypoint: vec!["/echo".to_owned()],
        files: vec![
            ("/echo".to_owned(), Content::File(binary("echo")?, 0o755)),
            ("/bin/wget".to_owned(), Content::Link("../echo".to_owned())),
            ("/tmp".to_owned(), Content::Folder(0o1777)),
            ("/etc/passwd".to_owned(), Content::File(b"root:x:0:0:root:/:/bin/sh\n".to_vec(), 0o644)),
            // The static resolver must not look for plug-ins, of which there are none here.
            ("/etc/nsswitch.conf".to_owned(), Content::File(b"hosts: files dns\n".to_vec(), 0o644)),
            ("/etc/group".to_owned(), Content::File(b"root:x:0:\n".to_vec(), 0o644)),
        ],
    };
    // A shell for `kubectl exec`; the server itself does without.
    match static_tool("busybox") {
        Some(busybox) => {
            echo.files.push(("/bin/busybox".to_owned(), Content::File(busybox, 0o755)));
            // busybox' own shell would run its own wget rather than the image's.
            echo.files.push(match static_tool("bash-static") {
                Some(bash) => ("/bin/sh".to_owned(), Content::File(bash, 0o755)),
                None => ("/bin/sh".to_owned(), Content::Link("busybox".to_owned())),
            });
            let link = |name: &&str| (format!("/bin/{name}"), Content::Link("busybox".to_owned()));
            echo.files.extend(APPLETS.iter().map(link));
        }
        None => println!("  the echo image has no shell: busybox-static is missing (`cargo xtask setup` fetches it)"),
    }
    let (pause_file, echo_file) = (folder.join("pause.tar"), folder.join("echo.tar"));
    pause.write(&pause_file)?;
    echo.write(&echo_file)?;
    Ok((pause_file, echo_file))
}

/// The bytes of a tool that needs no library.
fn static_tool(name: &str) -> Option<Vec<u8>> {
    place::program(name).and_then(|path| read_static(&path).ok())
}

/// The cargo that runs us, at the checkout's root, without what it set for itself.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(place::root());
    // Set by the cargo that started us for this package alone; build scripts of others would take them for theirs.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_TARGET_DIR", place::target());
    cargo
}
