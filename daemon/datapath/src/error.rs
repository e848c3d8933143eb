//! What can go wrong between user space and the kernel.

use std::io;
use std::path::PathBuf;

/// Why a data path operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// This build carries no BPF programs.
    #[error("this binary was built without its BPF programs (build it with `cargo xtask build`)")]
    NotBuilt,
    /// The object was refused.
    #[error("cannot load the BPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("the kernel refused the BPF program `{program}`; the end of what its verifier says:\n{log}")]
    Refused {
        /// Its name in the object.
        program: &'static str,
        /// The last lines of the verifier's log.
        log: String,
        /// What the system call said.
        source: io::Error,
    },
    /// A program could not be loaded.
    #[error("cannot load the BPF program `{program}`")]
    Program {
        /// Its name in the object.
        program: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be run on a packet.
    #[error("cannot run the BPF program `{program}` on a packet (BPF_PROG_TEST_RUN)")]
    Run {
        /// Its name in the object.
        program: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach `{program}` to {target}")]
    Attach {
        /// Its name in the object.
        program: &'static str,
        /// Interface or cgroup.
        target: String,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be opened, read or written.
    #[error("cannot use the BPF map `{map}`")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<aya::maps::MapError>,
    },
    /// A file, pin or system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No interface of this name.
    #[error("there is no interface `{0}` (see `ip link`)")]
    NoInterface(String),
    /// There is nothing to explain.
    #[error("cannot explain this: {0}")]
    Unexplained(String),
    /// The kernel lacks something the data path cannot do without.
    #[error("this kernel or machine lacks what the data path needs: {0}")]
    Unsupported(String),
}
