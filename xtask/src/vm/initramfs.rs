//! The initramfs: what is in it, and its init.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Load;
use super::cpio::Cpio;
use crate::image::read_static;
use crate::{place, run};

/// What init prints before the name and the exit code of a program that has ended.
pub(crate) const END_MARK: &str = "== end of ";

/// What init prints first of all.
pub(crate) const START_MARK: &str = "== start of ";

/// Where the test programs are.
const TESTS: &str = "/tests";
/// Where the binaries are that tests start.
const DAEMONS: &str = "/daemons";

/// Modules of the tests; a kernel that has one built in needs no file.
const MODULES: [&str; 12] = [
    "veth",
    "bridge",
    "8021q",
    "bonding",
    "tun",
    "sctp",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
];
/// busybox commands that init uses.
const APPLETS: [&str; 9] = ["sh", "mount", "mkdir", "modprobe", "ip", "sysctl", "cat", "poweroff", "dmesg"];

/// Writes the archive.
///
/// # Errors
/// A program, a library or a module cannot be read.
pub(crate) fn write(out: &Path, modules: &Path, load: &Load) -> Result<()> {
    let mut tree = Tree::default();
    let busybox = place::program("busybox").context("busybox is missing; run `cargo xtask setup`")?;
    tree.file("/bin/busybox", 0o755, read_static(&busybox)?);
    for applet in APPLETS {
        tree.entries.insert(format!("/bin/{applet}"), Entry::Symlink("busybox".to_owned()));
    }
    let tests = load.programs.iter().map(|(name, path)| (format!("{TESTS}/{name}"), path));
    for (place, path) in tests.chain([(format!("{DAEMONS}/fairlead"), &load.daemon)]) {
        tree.file(&place, 0o755, stripped(path)?);
        for library in libraries(path)? {
            tree.file(&library, 0o755, fs::read(&library).with_context(|| format!("cannot read {library}"))?);
        }
    }
    add_modules(&mut tree, modules)?;
    let names: Vec<&str> = load.programs.iter().map(|(name, _)| name.as_str()).collect();
    tree.file("/init", 0o755, init(&names).into_bytes());
    fs::write(out, tree.pack()).with_context(|| format!("cannot write {}", out.display()))
}

/// The first process. It says how each program ended and switches the machine off, also when something is missing.
fn init(programs: &[&str]) -> String {
    let mut script = format!(
        "#!/bin/sh\n\
         export PATH=/bin HOME=/tmp RUST_BACKTRACE=1 REQUIRE=1 FAIRLEAD_BIN_DIR={DAEMONS}\n\
         export FAIRLEAD_CASES=500 FAIRLEAD_SAMPLE=2\n\
         mkdir -p /proc /sys /dev /tmp /run\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mkdir -p /dev/pts && mount -t devpts devpts /dev/pts\n\
         mount -t tmpfs tmpfs /tmp\n\
         mount -t tmpfs tmpfs /run\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null\n\
         ip link set lo up\n",
    );
    for module in MODULES {
        script.push_str(&format!("modprobe {module} 2>/dev/null\n"));
    }
    script.push_str(&format!("echo \"{START_MARK}$(cat /proc/version)\"\n"));
    for program in programs {
        // The leading line break separates it from whatever a test left unfinished on the console.
        script.push_str(&format!(
            "{TESTS}/{program} --test-threads=1 2>&1\ncode=$?\necho\necho \"{END_MARK}{program} $code\"\n"
        ));
    }
    script.push_str("poweroff -f\n");
    script
}

/// A file system in the making; parents come before children because paths sort that way.
#[derive(Debug, Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File(u32, Vec<u8>),
    Symlink(String),
}

impl Tree {
    fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.entries.insert(path.to_owned(), Entry::File(mode, content));
    }

    fn pack(self) -> Vec<u8> {
        let mut cpio = Cpio::default();
        let mut folders: BTreeSet<String> = BTreeSet::from(["/dev".to_owned()]);
        for path in self.entries.keys() {
            folders.extend(path.match_indices('/').skip(1).map(|(at, _)| path[..at].to_owned()));
        }
        folders.iter().for_each(|folder| cpio.folder(folder));
        cpio.device("/dev/console", (5, 1));
        for (path, entry) in self.entries {
            match entry {
                Entry::File(mode, content) => cpio.file(&path, mode, &content),
                Entry::Symlink(to) => cpio.symlink(&path, &to),
            }
        }
        cpio.finish()
    }
}

/// A program without its debug information: the emulated machine unpacks the archive byte by byte.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    let out = place::target().join("vm").join("stripped");
    let stripped = run::read(Command::new("strip").arg("-o").arg(&out).arg(path));
    let from = if stripped.is_ok() { &out } else { path };
    fs::read(from).with_context(|| format!("cannot read {}", from.display()))
}

/// The libraries and the loader of a program, where the loader looks for them.
fn libraries(path: &Path) -> Result<Vec<String>> {
    let listed = run::read(Command::new("ldd").arg(path))?;
    if listed.contains("not found") {
        bail!("{} lacks a library:\n{listed}", path.display());
    }
    Ok(listed.lines().filter_map(library_path).map(str::to_owned).collect())
}

/// The path in `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library_path(line: &str) -> Option<&str> {
    let place = line.split_once("=> ").map_or(line, |(_, place)| place).trim();
    let path = place.split(" (").next()?;
    path.starts_with('/').then_some(path)
}

/// The modules of the tests and those they need, with what modprobe reads.
fn add_modules(tree: &mut Tree, modules: &Path) -> Result<()> {
    let release = modules.file_name().context("the modules lie in no folder")?.to_string_lossy().into_owned();
    if !modules.join("modules.dep").is_file() {
        index(modules, &release)?;
    }
    let dependencies = fs::read_to_string(modules.join("modules.dep")).context("cannot read modules.dep")?;
    let home = format!("/lib/modules/{release}");
    for path in closure(&dependencies, &MODULES) {
        let bytes = fs::read(modules.join(&path)).with_context(|| format!("cannot read the module {path}"))?;
        tree.file(&format!("{home}/{path}"), 0o644, bytes);
    }
    for name in ["modules.dep", "modules.alias", "modules.builtin", "modules.softdep", "modules.symbols"] {
        if let Ok(bytes) = fs::read(modules.join(name)) {
            tree.file(&format!("{home}/{name}"), 0o644, bytes);
        }
    }
    Ok(())
}

/// Packages carry no index of their modules; an installation would make it.
fn index(modules: &Path, release: &str) -> Result<()> {
    let base = modules.ancestors().find(|folder| folder.join("lib/modules").join(release) == modules);
    let base = base.with_context(|| format!("{} is in no lib/modules", modules.display()))?;
    let depmod = place::program("depmod").context("depmod is missing; run `cargo xtask setup`")?;
    run::read(Command::new(depmod).arg("--basedir").arg(base).arg(release)).map(drop)
}

/// The files of the named modules and of all they need. Lines of modules.dep read `path: path path …`.
fn closure(dependencies: &str, names: &[&str]) -> BTreeSet<String> {
    let named = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split('.').next().unwrap_or(file).replace('-', "_");
        names.contains(&name.as_str())
    };
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(path, _)| named(path))
        .flat_map(|(path, needed)| std::iter::once(path).chain(needed.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_bring_what_they_need() {
        let dependencies = "kernel/drivers/net/veth.ko:\nkernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
                            kernel/net/sched/sch-ingress.ko.xz:\nkernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko\n";
        let files: Vec<String> = closure(dependencies, &["veth", "bridge", "sch_ingress"]).into_iter().collect();
        assert_eq!(
            files,
            [
                "kernel/drivers/net/veth.ko",
                "kernel/net/802/stp.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/net/llc/llc.ko",
                "kernel/net/sched/sch-ingress.ko.xz"
            ]
        );
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        assert_eq!(
            library_path("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(library_path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library_path("\tlinux-vdso.so.1 (0x00007f)"), None);
    }

    #[test]
    fn parents_come_before_children() {
        let mut tree = Tree::default();
        tree.file("/a/b/c", 0o644, b"x".to_vec());
        let bytes = tree.pack();
        let at = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name).expect("it is packed");
        assert!(at(b"a\0") < at(b"a/b\0") && at(b"a/b\0") < at(b"a/b/c\0"));
    }
}
