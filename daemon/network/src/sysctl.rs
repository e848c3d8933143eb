//! Per-interface switches below `/proc/sys/net`, in the namespace of the calling thread.

use std::io;
use std::path::PathBuf;

use crate::error::NetworkError;

fn path(family: &str, interface: &str, key: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{key}"))
}

/// The present value.
pub(crate) fn get(family: &str, interface: &str, key: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(family, interface, key))?.trim().to_owned())
}

/// Sets a value; one that already stands is not written again.
pub(crate) fn set(family: &str, interface: &str, key: &str, value: &str) -> Result<(), NetworkError> {
    if get(family, interface, key).is_ok_and(|now| now == value) {
        return Ok(());
    }
    let path = path(family, interface, key);
    std::fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, value: value.to_owned(), source })
}
