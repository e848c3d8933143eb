//! A pod's volumes: made before its first container, kept up to date while it runs, taken away when it is gone.
//!
//! What a volume of objects holds ([`payload`]) is computed purely and written in one atomic step ([`atomic`]); hostPath is
//! only checked, emptyDir is a directory or a tmpfs. Everything lies under `pods/UID/volumes`.

mod atomic;
pub(crate) mod payload;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags};

use crate::pod::env::Lookup;
use crate::pod::field::NodeFacts;
use crate::quantity;

/// Why a volume cannot be made. The text is what the FailedMount event shows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
    SetUp { volume: String, why: String },
    #[error("volume \"{volume}\" has type {kind}, which this node does not support")]
    Unsupported { volume: String, kind: String },
}

/// What a volume needs to be made.
pub(crate) struct Source<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) lookup: &'a dyn Lookup,
    pub(crate) ips: &'a [String],
    pub(crate) node: &'a NodeFacts,
    /// The pod's directory.
    pub(crate) dir: &'a Path,
}

/// Makes or updates every volume of the pod. Returns name, path and whether it is read-only. Safe to repeat; an emptyDir
/// keeps its content.
pub(crate) fn prepare(source: &Source<'_>) -> Result<Vec<(String, PathBuf, bool)>, VolumeError> {
    let volumes = source.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().map(|volume| one(source, volume)).collect()
}

fn one(source: &Source<'_>, volume: &Volume) -> Result<(String, PathBuf, bool), VolumeError> {
    let failed = |why: String| VolumeError::SetUp { volume: volume.name.clone(), why };
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        host_path(&path, host).map_err(failed)?;
        return Ok((volume.name.clone(), path, false));
    }
    if let Some(empty) = &volume.empty_dir {
        let path = place(source.dir, "empty-dir", &volume.name);
        empty_dir(&path, empty).map_err(|error| failed(error.to_string()))?;
        own(source, &path).map_err(|error| failed(error.to_string()))?;
        return Ok((volume.name.clone(), path, false));
    }
    let Some((kind, files)) = payload::payload(source, volume).map_err(failed)? else {
        return Err(VolumeError::Unsupported { volume: volume.name.clone(), kind: kind_of(volume) });
    };
    let path = place(source.dir, kind, &volume.name);
    fs::create_dir_all(&path).map_err(|error| failed(error.to_string()))?;
    if kind != "configmap" && kind != "downward-api" {
        tmpfs(&path, None).map_err(|error| failed(error.to_string()))?;
    }
    let group = fs_group(source.pod);
    atomic::write(&path, &files, group).map_err(|error| failed(error.to_string()))?;
    Ok((volume.name.clone(), path, false))
}

fn place(dir: &Path, kind: &str, name: &str) -> PathBuf {
    dir.join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// Gives a directory to the pod's group, for what is made in it too.
fn own(source: &Source<'_>, path: &Path) -> std::io::Result<()> {
    let Some(group) = fs_group(source.pod) else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group))?;
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))
}

fn empty_dir(path: &Path, empty: &EmptyDirVolumeSource) -> std::io::Result<()> {
    let fresh = !path.exists();
    fs::create_dir_all(path)?;
    match empty.medium.as_deref() {
        Some("Memory") => {
            let limit = empty.size_limit.as_ref().and_then(quantity::units);
            if tmpfs(path, limit)? {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
            }
        }
        None | Some("") => {
            if fresh {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
            }
        }
        Some(other) => {
            return Err(std::io::Error::other(format!("unknown storage medium \"{other}\"")));
        }
    }
    Ok(())
}

/// Mounts a tmpfs, unless one is there. Says whether it mounted.
fn tmpfs(path: &Path, size: Option<i64>) -> std::io::Result<bool> {
    if is_mount(path) {
        return Ok(false);
    }
    let options = size.map(|size| format!("size={size}"));
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options.as_deref())?;
    Ok(true)
}

/// Whether something is mounted at the path.
pub(crate) fn is_mount(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    mounts_below(&real).contains(&real)
}

/// Mount points at or below a path, the deepest first.
pub(crate) fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(path))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Unmounts everything below a directory and deletes it.
pub(crate) fn remove(dir: &Path) -> std::io::Result<()> {
    let Ok(real) = dir.canonicalize() else { return Ok(()) };
    for point in mounts_below(&real) {
        nix::mount::umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    match fs::remove_dir_all(&real) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks what `hostPath.type` promises, and makes what it asks for.
fn host_path(path: &Path, host: &HostPathVolumeSource) -> Result<(), String> {
    let kind = host.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => fs::create_dir_all(path).map_err(|error| error.to_string()),
        "FileOrCreate" if found.is_none() => fs::File::create(path).map(drop).map_err(|error| error.to_string()),
        "Directory" | "DirectoryOrCreate" if is(fs::FileType::is_dir) => Ok(()),
        "Directory" | "DirectoryOrCreate" => wrong("a directory"),
        "File" | "FileOrCreate" if is(fs::FileType::is_file) => Ok(()),
        "File" | "FileOrCreate" => wrong("a file"),
        "Socket" if is(fs::FileType::is_socket) => Ok(()),
        "Socket" => wrong("a socket file"),
        "CharDevice" if is(fs::FileType::is_char_device) => Ok(()),
        "CharDevice" => wrong("a character device"),
        "BlockDevice" if is(fs::FileType::is_block_device) => Ok(()),
        "BlockDevice" => wrong("a block device"),
        other => Err(format!("unknown hostPath type \"{other}\"")),
    }
}

/// The name of a volume's source, for the message that it is not supported.
fn kind_of(volume: &Volume) -> String {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let fields = json.as_object().into_iter().flatten().map(|(key, _)| key.clone());
    fields.filter(|key| key != "name").collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_what_they_promise() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("a file");
        let check = |path: &Path, kind: &str| {
            let host = HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.into()) };
            host_path(path, &host)
        };
        assert!(check(&file, "File").is_ok() && check(&file, "").is_ok());
        assert!(check(&file, "Directory").expect_err("a file is no directory").contains("is not a directory"));
        let new = dir.path().join("a/b");
        assert!(check(&new, "Directory").is_err());
        assert!(check(&new, "DirectoryOrCreate").is_ok() && new.is_dir());
        assert!(check(&new.join("f"), "FileOrCreate").is_ok());
        assert!(check(Path::new("/dev/null"), "CharDevice").is_ok());
    }

    #[test]
    fn an_unsupported_volume_names_its_type() {
        let volume: Volume =
            serde_json::from_str(r#"{"name":"v","nfs":{"server":"s","path":"/"}}"#).expect("a volume in JSON");
        assert_eq!(kind_of(&volume), "nfs");
    }
}
