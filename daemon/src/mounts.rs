//! The BPF file system below the data directory, and whatever else is mounted there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mount points at or below `dir`, deepest first.
pub(crate) fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse(&text, dir))
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
    fn mounts_below_are_found_deepest_first() {
        let text = "22 1 0:5 / /data rw - tmpfs tmpfs rw\n\
                    23 22 0:6 / /data/pods/a\\040b rw - tmpfs tmpfs rw\n\
                    24 1 0:7 / /database rw - tmpfs tmpfs rw\n\
                    25 22 0:8 / /data/bpf rw - bpf bpf rw\n";
        let found = parse(text, Path::new("/data"));
        assert_eq!(found, [Path::new("/data/pods/a b"), Path::new("/data/bpf"), Path::new("/data")]);
    }
}
