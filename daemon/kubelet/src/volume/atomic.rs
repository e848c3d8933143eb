//! Files that change all at once: a reader sees the old set or the new set, never a mixture.
//!
//! The files lie in a directory named by the time; `..data` is a link to it that one rename switches, and the names in
//! the volume are links through `..data`. Every kubelet lays volumes out like this, and programs watch `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::payload::Files;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Writes the files, unless they are there already. Says nothing about which happened.
pub(super) fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, files) {
        return Ok(());
    }
    let stamp = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.join(&stamp);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&target, None, Some(group))?;
        }
    }
    let next = dir.join(DATA_NEW);
    remove_any(&next)?;
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(dir, files)?;
    if let Some(old) = old {
        remove_any(&dir.join(old))?;
    }
    Ok(())
}

/// The top-level names as links through `..data`; names that are gone lose theirs.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            remove_any(&dir.join(name.as_ref()))?;
        }
    }
    for name in names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

fn same(data: &Path, files: &Files) -> bool {
    let equal = files.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|content| content == file.content));
    equal && count(data) == files.len()
}

fn count(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { count(&entry.path()) } else { 1 })
        .sum()
}

fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, content)| ((*path).to_owned(), File { content: content.as_bytes().to_vec(), mode: 0o640 }))
            .collect()
    }

    #[test]
    fn a_volume_changes_at_once_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a"), "1");
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).expect("b"), "2");
        let before = fs::read_link(dir.path().join(DATA)).expect("a link");
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).expect("written");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), before, "the same content moves nothing");
        write(dir.path(), &files(&[("a", "3")]), None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("a"), "3");
        assert!(fs::symlink_metadata(dir.path().join("sub")).is_err());
        assert!(!dir.path().join(before).exists());
        let mode = fs::metadata(dir.path().join("a")).expect("a").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
