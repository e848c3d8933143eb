//! The BPF file system below the data directory, and whatever else is mounted there.
//!
//! A mount ends with the mount namespace it was made in, and what is pinned in a BPF file system ends with its last mount.
//! `ip netns exec` gives each command a mount namespace of its own: a daemon started so would take the data path along
//! when it ends, and no later command would see its pins. Hence [`lasting_bpffs`] mounts where the machine's
//! first processes see it, and works there through a file descriptor.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Mount points at or below `dir`, deepest first.
pub(crate) fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(parse(&mountinfo()?, dir))
}

/// Of the calling thread's mount namespace.
fn mountinfo() -> Result<String> {
    std::fs::read_to_string("/proc/thread-self/mountinfo").context("cannot read /proc/thread-self/mountinfo")
}

/// Runs `work` in the mount namespace that lasts, if that is another one and `dir` is the same directory there.
pub(crate) fn lasting<T: Send>(dir: &Path, work: impl FnOnce() -> Result<T> + Send) -> Option<Result<T>> {
    let namespace = other_namespace(dir)?;
    Some(std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            // A thread that shares its working directory with others may not enter a mount namespace.
            unshare(CloneFlags::CLONE_FS).context("cannot leave this process's working directory")?;
            setns(namespace, CloneFlags::CLONE_NEWNS).context("cannot enter the lasting mount namespace")?;
            work()
        });
        inside.join().unwrap_or_else(|_| bail!("the thread that works in another mount namespace panicked"))
    }))
}

/// The mount namespace of process 1; where that may not be looked at, the one that most processes are in.
fn other_namespace(dir: &Path) -> Option<File> {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (process, lasting) = match namespace("1") {
        Some(first) => ("1".to_owned(), first),
        None => most_common(processes().filter_map(|pid| Some((namespace(&pid)?, pid))))?,
    };
    if lasting == namespace("self")? {
        return None;
    }
    let there = Path::new("/proc").join(&process).join("root").join(dir.strip_prefix("/").ok()?);
    (identity(&there)? == identity(dir)?).then_some(())?;
    File::open(format!("/proc/{process}/ns/mnt")).ok()
}

fn processes() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The namespace that is named most often, and a process in it.
fn most_common(members: impl Iterator<Item = (PathBuf, String)>) -> Option<(String, PathBuf)> {
    let mut found: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (namespace, process) in members {
        found.entry(namespace).or_default().push(process);
    }
    let (namespace, mut processes) = found.into_iter().max_by_key(|(_, processes)| processes.len())?;
    // One that runs for long is there a moment later, too: pids are given out in order.
    processes.sort_by_key(|pid| pid.parse().unwrap_or(u32::MAX));
    Some((processes.into_iter().next()?, namespace))
}

/// Mounts a BPF file system on `name` below `dir`, unless one is there, so that it outlives this process. The path to
/// reach it by is good in this process alone.
pub(crate) fn lasting_bpffs(dir: &Path, name: &str) -> Result<PathBuf> {
    let point = dir.join(name);
    match lasting(dir, || bpffs(&point).and_then(|()| directory(&point))) {
        None => bpffs(&point).map(|()| point),
        Some(opened) => {
            let opened = opened?;
            if below(&point)?.contains(&point) {
                return Ok(point);
            }
            Ok(reach(opened))
        }
    }
}

/// Where cgroup v2 is mounted: alone, or beside v1; where a later mount hides it, as the first processes see it.
pub(crate) fn cgroup_root() -> Option<PathBuf> {
    let here = || parse_cgroup(&mountinfo().ok()?).filter(|root| is_cgroup(root));
    here().or_else(|| {
        let opened = lasting(Path::new("/proc"), || Ok(here().and_then(|root| directory(&root).ok())));
        opened?.ok()?.map(reach)
    })
}

fn is_cgroup(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn parse_cgroup(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        after.starts_with("cgroup2 ").then(|| unescape(point))
    })
}

fn directory(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

/// A path to an open directory, for as long as this process lives.
fn reach(directory: OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.into_raw_fd()))
}

/// Mounts a BPF file system, unless one is there.
pub(crate) fn bpffs(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if below(dir)?.iter().any(|mounted| mounted == dir) {
        return Ok(());
    }
    mount(Some("bpf"), dir, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None::<&str>)
        .with_context(|| format!("cannot mount a BPF file system on {}", dir.display()))
}

/// Unmounts everything at or below `dir`, and says how many.
pub(crate) fn clear(dir: &Path) -> Result<usize> {
    let mounts = below(dir)?;
    for path in &mounts {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    Ok(mounts.len())
}

fn parse(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    // A later line may be mounted over an earlier one: the last goes first.
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut path = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                path.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                path.push('\\');
                rest = after;
            }
        }
    }
    path.push_str(rest);
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_most_processes_lasts() {
        let members = [("mnt:[2]", "7"), ("mnt:[1]", "30"), ("mnt:[1]", "4"), ("mnt:[3]", "1000")];
        let members = members.map(|(namespace, pid)| (PathBuf::from(namespace), pid.to_owned()));
        assert_eq!(most_common(members.into_iter()), Some(("4".to_owned(), PathBuf::from("mnt:[1]"))));
    }

    #[test]
    fn mounts_below_are_found_deepest_first() {
        let text = "22 1 0:5 / /data rw - tmpfs tmpfs rw\n\
                    23 22 0:6 / /data/pods/a\\040b rw - tmpfs tmpfs rw\n\
                    24 1 0:7 / /database rw - tmpfs tmpfs rw\n\
                    25 22 0:8 / /data/bpf rw - bpf bpf rw\n";
        let found = parse(text, Path::new("/data"));
        assert_eq!(found, [Path::new("/data/pods/a b"), Path::new("/data/bpf"), Path::new("/data")]);
    }
}
