//! Where everything of a cluster lies below its data directory.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What a directory belongs to. Its file `version` says so, and a directory of the other kind is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A cluster of `fairlead up`.
    Cluster,
    /// A service proxy alone, of `fairlead node --proxy-only`.
    Proxy,
}

impl Kind {
    /// Version of the layout and of what lies in it; another version is refused rather than guessed at.
    fn version(self) -> &'static str {
        match self {
            Self::Cluster => "1",
            Self::Proxy => "proxy 1",
        }
    }

    /// How the directory is given on the command line.
    fn flag(self) -> &'static str {
        match self {
            Self::Cluster => "--data-dir",
            Self::Proxy => "--state-dir",
        }
    }
}

/// The longest path below the directory that has to fit a Unix socket's address, with room for the kernel's limit of 107.
const LONGEST_DIR: usize = 72;

/// The paths of one data directory, or of the state directory of a proxy, which has the few that it needs.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    kind: Kind,
}

impl Layout {
    /// For a directory that need not exist yet. Links are resolved as far as it does, so that one cluster has one name.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        Self::of(dir, Kind::Cluster)
    }

    /// The same for the state directory of a proxy.
    pub(crate) fn proxy(dir: &Path) -> Result<Self> {
        Self::of(dir, Kind::Proxy)
    }

    fn of(dir: &Path, kind: Kind) -> Result<Self> {
        let absolute = std::path::absolute(dir).with_context(|| format!("no directory: {}", dir.display()))?;
        let dir = absolute.canonicalize().unwrap_or(absolute);
        if dir.as_os_str().len() > LONGEST_DIR {
            bail!(
                "directory {} is too long for the sockets in it ({} characters, at most {LONGEST_DIR}): choose a shorter {}",
                dir.display(),
                dir.as_os_str().len(),
                kind.flag()
            );
        }
        Ok(Self { dir, kind })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The daemon's own socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("fairlead.sock")
    }

    pub(crate) fn pid_file(&self, process: &str) -> PathBuf {
        self.dir.join("run").join(format!("{process}.pid"))
    }

    /// In which network namespace the daemon works, for `down`: the inode's number.
    pub(crate) fn namespace(&self) -> PathBuf {
        self.dir.join("run/netns")
    }

    /// What the last `up` was told, for `down`.
    pub(crate) fn settings(&self) -> PathBuf {
        self.dir.join("run/up.json")
    }

    /// What a detached `up` says.
    pub(crate) fn up_log(&self) -> PathBuf {
        self.dir.join("run/up.log")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("control/pki/ca.crt")
    }

    /// The node's credentials, written by the control plane, and its log.
    pub(crate) fn node(&self) -> PathBuf {
        self.dir.join("node")
    }

    pub(crate) fn containerd(&self) -> PathBuf {
        self.dir.join("containerd")
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.dir.join("containerd/containerd.sock")
    }

    /// The socket of the runtime this cluster uses: its own, or the one the last `up` was given.
    pub(crate) fn runtime_socket(&self) -> PathBuf {
        crate::up::Settings::load(self).runtime_endpoint.unwrap_or_else(|| self.containerd_socket())
    }

    pub(crate) fn cni_conf(&self) -> PathBuf {
        self.dir.join("cni/conf")
    }

    /// What makes the runtime consider the network ready: written once there is one.
    pub(crate) fn cni_conflist(&self) -> PathBuf {
        self.dir.join("cni/conf/10-fairlead.conflist")
    }

    pub(crate) fn cni_bin(&self) -> PathBuf {
        self.dir.join("cni/bin")
    }

    /// State of the pod network.
    pub(crate) fn network(&self) -> PathBuf {
        self.dir.join("network")
    }

    /// Where the BPF file system is mounted.
    pub(crate) fn bpf(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// Log of a child process.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.dir.join(process).join(format!("{process}.log"))
    }

    /// Root cgroup of this cluster's pods: stable for the directory, different from every other's on the machine.
    pub(crate) fn cgroup(&self) -> String {
        let bytes = self.dir.as_os_str().as_encoded_bytes().iter();
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        format!("fairlead-{hash:08x}")
    }

    /// Refuses a directory of another version, and one that holds something else. Changes nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let file = self.dir.join("version");
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim() == self.kind.version() => Ok(()),
            Ok(text) => bail!(
                "{} holds data of version {}, and what is wanted is version {}: use the release that made it, or another {}",
                self.dir.display(),
                text.trim(),
                self.kind.version(),
                self.kind.flag()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check_empty(),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    fn check_empty(&self) -> Result<()> {
        match std::fs::read_dir(&self.dir) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => bail!(
                    "{} is not empty and is no directory of fairlead (it has no file `version`): choose another {}",
                    self.dir.display(),
                    self.kind.flag()
                ),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot use {} as {}", self.dir.display(), self.kind.flag()))
            }
        }
    }

    /// Makes the directories that processes expect.
    pub(crate) fn create(&self) -> Result<()> {
        let dirs: &[&str] = match self.kind {
            Kind::Cluster => {
                &["run", "control", "node", "containerd", "cni/conf", "cni/bin", "network", "bpf", "logs", "pods"]
            }
            Kind::Proxy => &["run", "bpf"],
        };
        for dir in dirs {
            let path = self.dir.join(dir);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let version = self.dir.join("version");
        if !version.exists() {
            std::fs::write(&version, format!("{}\n", self.kind.version()))
                .with_context(|| format!("cannot write {}", version.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_directories_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout.check().unwrap();
        std::fs::write(dir.path().join("precious"), "x").unwrap();
        assert!(layout.check().unwrap_err().to_string().contains("not empty"));
        std::fs::write(dir.path().join("version"), "7\n").unwrap();
        let refusal = layout.check().unwrap_err().to_string();
        assert!(refusal.contains("version 7") && refusal.contains("version 1"), "{refusal}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_proxys_directory_is_no_clusters_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let proxy = Layout::proxy(dir.path()).unwrap();
        proxy.create().unwrap();
        proxy.check().unwrap();
        let refusal = Layout::new(dir.path()).unwrap().check().unwrap_err().to_string();
        assert!(refusal.contains("proxy 1") && refusal.contains("--data-dir"), "{refusal}");
        assert!(!dir.path().join("pods").exists(), "a proxy makes what it needs");
    }

    #[test]
    fn a_directory_is_ours_once_created() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("new")).unwrap();
        layout.create().unwrap();
        layout.create().unwrap();
        layout.check().unwrap();
    }

    #[test]
    fn paths_too_long_for_sockets_are_refused() {
        let long = PathBuf::from("/").join("x".repeat(LONGEST_DIR));
        assert!(Layout::new(&long).is_err());
    }
}
