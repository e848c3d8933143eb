//! The operator's words for a source: `push`, `kube:KUBECONFIG`, `file:DIRECTORY`.

use std::path::PathBuf;
use std::str::FromStr;

/// Which source to take desired state from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// The push stream of our own control plane.
    Push,
    /// Any Kubernetes API server, by a kubeconfig; [`crate::kube::IN_CLUSTER`] stands for the pod's service account.
    Kube(PathBuf),
    /// A directory of manifests.
    File(PathBuf),
}

/// A text that names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceSpecError {
    /// Neither of the three words.
    #[error("`{0}` is no source; it is one of push, kube:KUBECONFIG (or kube:in-cluster), file:DIRECTORY")]
    Unknown(String),
    /// A word without its path.
    #[error("`{0}` lacks its path: {1}")]
    NoPath(String, &'static str),
}

impl FromStr for SourceSpec {
    type Err = SourceSpecError;

    fn from_str(text: &str) -> Result<Self, SourceSpecError> {
        let (word, path) = text.split_once(':').unwrap_or((text, ""));
        match (word, path) {
            ("push", "") if !text.contains(':') => Ok(Self::Push),
            ("kube", "") => Err(SourceSpecError::NoPath(text.to_owned(), "kube:KUBECONFIG or kube:in-cluster")),
            ("file", "") => Err(SourceSpecError::NoPath(text.to_owned(), "file:DIRECTORY")),
            ("kube", path) => Ok(Self::Kube(path.into())),
            ("file", path) => Ok(Self::File(path.into())),
            _ => Err(SourceSpecError::Unknown(text.to_owned())),
        }
    }
}

impl std::fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Push => f.write_str("push"),
            Self::Kube(path) => write!(f, "kube:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["push", "kube:/etc/kubernetes/admin.conf", "kube:in-cluster", "file:/etc/fairlead/services"] {
            assert_eq!(text.parse::<SourceSpec>().map(|spec| spec.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn refusals_say_what_was_meant() {
        for (text, expected) in [
            ("kube", "kube:KUBECONFIG"),
            ("file:", "file:DIRECTORY"),
            ("/etc/services", "one of push"),
            ("push:there", "one of push"),
            ("", "one of push"),
        ] {
            let error = text.parse::<SourceSpec>().expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
