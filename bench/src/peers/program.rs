//! Running a peer's own program inside a node.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::rig::namespace::Namespace;

/// The path of a program, also where a user's `PATH` does not look.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Hands a program its input inside a namespace.
pub(super) fn feed(net: &Namespace, program: &str, package: &str, arguments: &[&str], input: &str) -> Result<()> {
    let Some(path) = find(program) else {
        bail!("there is no program `{program}` here (package {package})");
    };
    // Whoever locks the rules of this namespace does not hold up others.
    let lock = std::env::temp_dir().join(format!("fairlead-bench-{}.lock", std::process::id()));
    let done = net.run(|| {
        let mut child = Command::new(&path)
            .args(arguments)
            .env("XTABLES_LOCKFILE", &lock)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
            bail!("`{program}` refused the rules ({}): {}", output.status, lines.join("; "));
        }
        written.with_context(|| format!("`{program}` did not read its rules"))
    });
    let _ = std::fs::remove_file(lock);
    done
}

/// What a program says its version is; one line.
pub(crate) fn version(name: &str, argument: &str) -> Option<String> {
    let output = Command::new(find(name)?).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
