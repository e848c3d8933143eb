//! Where things lie: the checkout, the build folder, and the cache that outlives both.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout's root. Cargo says at run time where it is; where this was compiled may be another checkout that shares
/// the build folder.
pub(crate) fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_owned)
}

/// Cargo's build folder, absolute.
pub(crate) fn target() -> PathBuf {
    let set = env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty());
    set.map_or_else(|| root().join("target"), |value| absolute(Path::new(&value)))
}

/// Everything fetched from elsewhere: kernels, tools, package lists.
///
/// # Errors
/// No home folder is known.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FAIRLEAD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("fairlead")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/fairlead")))
        .context("neither HOME nor FAIRLEAD_CACHE is set; set FAIRLEAD_CACHE to a folder that may be filled")
}

/// A file or folder inside the cache.
///
/// # Errors
/// As [`cache`].
pub(crate) fn cached(path: &str) -> Result<PathBuf> {
    Ok(cache()?.join(path))
}

/// The path of a program: the cache's tools first, then `PATH`, then the folders `PATH` may lack for an ordinary user.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let tools = cached("tools").ok();
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let mut folders = tools.into_iter().chain(env::split_paths(&path)).chain(cargo).chain(system);
    folders.find_map(|folder| Some(folder.join(name)).filter(|candidate| candidate.is_file()))
}

/// A path as it is meant from the folder the command was typed in.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
