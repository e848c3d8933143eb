//! PEM files: keys readable by their owner alone, written whole or not at all.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Pair;

/// A failure of the certificate authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not usable: restore it, or remove it and its pair to make new ones", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rcgen::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// Something that TLS does not take.
    #[error("cannot use {what}: {detail}")]
    Tls {
        /// What.
        what: &'static str,
        /// Why not.
        detail: String,
    },
    /// PEM that is none.
    #[error("cannot read PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
}

/// The pair `NAME.crt` and `NAME.key`, if both are there.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Pair>, PkiError> {
    let file = |end: &str| {
        let path = dir.join(format!("{name}.{end}"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PkiError::File { action: "read", path, source }),
        }
    };
    Ok(file("crt")?.zip(file("key")?).map(|(certificate, key)| Pair { certificate, key }))
}

/// Writes a pair.
pub(super) fn write(dir: &Path, name: &str, pair: Pair) -> Result<Pair, PkiError> {
    write_file(&dir.join(format!("{name}.key")), &pair.key, 0o600)?;
    write_file(&dir.join(format!("{name}.crt")), &pair.certificate, 0o644)?;
    Ok(pair)
}

/// Writes a file that all may read.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write_file(path, text, 0o644)
}

/// Makes a directory that only its owner enters.
pub(super) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PkiError::File { action: "make the directory", path: dir.to_owned(), source })
}

/// Writes a file next to its place and moves it there, so that a reader sees the old one or the new one.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    written.map_err(|source| PkiError::File { action: "write", path: path.to_owned(), source })
}
