//! Unmodified kubectl programs of the versions the project promises to serve.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The versions every kubectl test runs with.
pub const VERSIONS: [&str; 2] = ["1.32", "1.36"];

/// One kubectl program aimed at one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// What a kubectl command left behind.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it ended with 0.
    pub success: bool,
}

impl Kubectl {
    /// The program of `version` (as in [`VERSIONS`]); `home` holds its discovery cache.
    ///
    /// # Errors
    /// The program is not on this machine.
    pub fn find(version: &str, kubeconfig: &Path, home: &Path) -> Result<Self> {
        let name = format!("kubectl-{version}");
        let cached = cache_folder().map(|cache| cache.join("tools").join(&name));
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let program = cached
            .into_iter()
            .chain(std::env::split_paths(&on_path).map(|folder| folder.join(&name)))
            .find(|candidate| candidate.is_file())
            .with_context(|| format!("{name} is not on this machine; run `cargo xtask setup`"))?;
        Ok(Self { program, kubeconfig: kubeconfig.to_owned(), home: home.to_owned() })
    }

    /// The command, ready for more settings.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command
    }

    /// Runs it to its end, whatever it says.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn try_run(&self, args: &[&str]) -> Result<Answer> {
        let output = self.command(args).output().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Answer {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            success: output.status.success(),
        })
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// It ended badly; the error holds what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let answer = self.try_run(args)?;
        if !answer.success {
            bail!("kubectl {} failed\n{}{}", args.join(" "), answer.stdout, answer.stderr);
        }
        Ok(answer.stdout)
    }
}

/// Where `cargo xtask setup` keeps what it fetched.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FAIRLEAD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("fairlead")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/fairlead")))
}
