//! What a part of a set-up is: a name, who needs it, how to see that it is there, how to get it.

use anyhow::Result;

/// What one wants to do with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compile everything.
    Build,
    /// Put a shell into the echo image.
    Image,
    /// Run a cluster.
    Run,
    /// Ask a cluster with kubectl.
    Kubectl,
    /// Check format and lints.
    Lint,
    /// Boot the oldest and the newest kernel.
    Vm,
    /// Boot the kernels between.
    AllKernels,
    /// Try the other store.
    Etcd,
    /// Count instructions.
    Gate,
}

impl Need {
    /// What is lost without a part that has this need.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Image => "shell in the echo image (`kubectl exec … sh`)",
            Self::Run => "cluster (`cargo xtask up`)",
            Self::Kubectl => "kubectl tests (`cargo xtask test cluster`)",
            Self::Lint => "format and lint checks (`cargo xtask test pure`)",
            Self::Vm => "other kernels (`cargo xtask vm`)",
            Self::AllKernels => "the rest of the matrix (`cargo xtask vm all`)",
            Self::Etcd => "tests of the etcd store",
            Self::Gate => "gate of instructions (`cargo xtask bench --gate`)",
        }
    }
}

/// Is it there, and in which version?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Present(String),
    Missing(String),
}

type Probe = Box<dyn Fn() -> State>;
type Fetch = Box<dyn Fn() -> Result<String>>;

/// One part.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) needs: Vec<Need>,
    /// Packages of the machine's distribution that `fetch` would install; they may be installed before, all at once.
    pub(crate) packages: Vec<&'static str>,
    probe: Probe,
    fetch: Fetch,
}

impl Part {
    pub(crate) fn new(
        name: impl Into<String>,
        needs: &[Need],
        probe: impl Fn() -> State + 'static,
        fetch: impl Fn() -> Result<String> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs: needs.to_vec(),
            packages: Vec::new(),
            probe: Box::new(probe),
            fetch: Box::new(fetch),
        }
    }

    /// The same part, whose packages are these.
    pub(crate) fn of_packages(mut self, packages: &[&'static str]) -> Self {
        self.packages = packages.to_vec();
        self
    }

    /// Looks, quickly and without changing anything.
    pub(crate) fn probe(&self) -> State {
        (self.probe)()
    }

    /// Gets it; says what was done.
    pub(crate) fn fetch(&self) -> Result<String> {
        (self.fetch)()
    }

    /// True when a command with these needs is pointless without the part: nothing builds or runs. Test layers skip instead.
    pub(crate) fn vital_for(&self, needs: &[Need]) -> bool {
        self.needs.iter().any(|need| needs.contains(need) && matches!(need, Need::Build | Need::Run | Need::Gate))
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("name", &self.name).field("needs", &self.needs).finish_non_exhaustive()
    }
}
