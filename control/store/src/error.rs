//! What can go wrong with the store, in words that name the file and the cure.

use std::path::PathBuf;

use crate::Revision;

/// A failure of the store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the file.
    #[error("{} is in use by another process (is another fairlead-control running on this data directory?)", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Written by a build with another layout.
    #[error("{} has data format {found}, this build reads format {expected}: start the build that wrote it, or use another data directory", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: String,
        /// What this build reads.
        expected: u64,
    },
    /// Not a store, or damaged.
    #[error("{} is damaged or not a Fairlead store: {detail}; restore it from a copy or move it away", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the storage library found.
        detail: String,
    },
    /// No room left; nothing of the write is visible.
    #[error("no space left for {}: free space on that file system, then restart fairlead-control", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Anything else between us and the disk.
    #[error("cannot {action} {}: {detail}", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system or the storage library said.
        detail: String,
    },
    /// The history asked for is gone.
    #[error("revision {asked} is compacted, history begins at {oldest}")]
    Expired {
        /// The revision asked for.
        asked: Revision,
        /// The oldest one that can be asked for.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} is in the future, the latest is {latest}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The latest one.
        latest: Revision,
    },
    /// The store is being closed.
    #[error("the store is shut down")]
    Closed,
}
