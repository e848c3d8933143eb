//! Running other programs so that somebody who watches always knows what goes on.
//!
//! On a terminal a running step shows its last line of output and the time it has taken so far; elsewhere it prints a sign
//! of life every ten seconds. What it said is shown when it fails.

use std::io::{BufRead, BufReader, IsTerminal, PipeReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Signs of life outside a terminal.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// As many lines of a failed step are shown.
const SHOWN_LINES: usize = 60;

/// A step that ended well.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) took: Duration,
    pub(crate) lines: Vec<String>,
}

/// How a watched process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) took: Duration,
    pub(crate) lines: Vec<String>,
    pub(crate) success: bool,
    pub(crate) timed_out: bool,
}

/// Runs a step to its end and prints one line with its time.
///
/// # Errors
/// It could not be started, ran out of time, or ended badly; the error holds the end of what it said.
pub(crate) fn step(label: &str, command: &mut Command) -> Result<Finished> {
    let finished = quiet_step(label, command, Duration::from_secs(3600))?;
    println!("  {label:<34} {}", seconds(finished.took));
    Ok(finished)
}

/// Like [`step`], without the line at the end and with a limit on its time.
///
/// # Errors
/// As [`step`].
pub(crate) fn quiet_step(label: &str, command: &mut Command, limit: Duration) -> Result<Finished> {
    let ended = watch(label, command, limit, |_| false)?;
    if ended.success {
        return Ok(Finished { took: ended.took, lines: ended.lines });
    }
    let tail = ended.lines.len().saturating_sub(SHOWN_LINES);
    let how = if ended.timed_out { format!("took longer than {}", seconds(limit)) } else { "failed".to_owned() };
    bail!("{label} {how}: {}\n{}", spelled(command), ended.lines[tail..].join("\n"))
}

/// Runs a process, hands over each line of its two outputs, and shows that it lives. A line for which `print` returns true
/// is printed at once.
///
/// # Errors
/// It could not be started.
pub(crate) fn watch(
    label: &str,
    command: &mut Command,
    limit: Duration,
    mut print: impl FnMut(&str) -> bool,
) -> Result<Ended> {
    let start = Instant::now();
    let (mut child, output) = spawn(command)?;
    let spinner = Spinner::new(label, start);
    let mut lines = Vec::new();
    let mut timed_out = false;
    loop {
        match output.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if print(&line) {
                    spinner.print(&line);
                } else {
                    spinner.show(&line);
                }
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // A grandchild may hold the pipe open long after the child has ended.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => spinner.tick(lines.last()),
        }
        if start.elapsed() > limit {
            timed_out = true;
            child.kill().context("cannot end a process that ran out of time")?;
            break;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {}", spelled(command)))?;
    lines.extend(output.try_iter());
    spinner.end();
    Ok(Ended { took: start.elapsed(), lines, success: status.success() && !timed_out, timed_out })
}

/// Standard output of a short command.
///
/// # Errors
/// It could not be started or ended badly.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", spelled(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", spelled(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..60 => format!("{:.1} s", took.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// True when another user's privileges are not needed for anything.
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is the effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// The command as one would type it.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Starts it with both outputs in one pipe, so that lines keep their order.
fn spawn(command: &mut Command) -> Result<(Child, Receiver<String>)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let child = command.spawn().with_context(|| format!("cannot start {}", spelled(command)))?;
    // The command keeps its ends of the pipe; unless they go, the reader never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((child, lines_of(reader)))
}

fn lines_of(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The sign of life of one running step.
#[derive(Debug)]
struct Spinner {
    label: String,
    start: Instant,
    bar: Option<ProgressBar>,
    spoke: std::cell::Cell<Instant>,
}

impl Spinner {
    fn new(label: &str, start: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(label.to_owned());
            let style = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { label: label.to_owned(), start, bar, spoke: std::cell::Cell::new(start) }
    }

    fn show(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(line.trim().to_owned()),
            None => self.tick(Some(&line.to_owned())),
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
        self.spoke.set(Instant::now());
    }

    fn tick(&self, last: Option<&String>) {
        if self.bar.is_none() && self.spoke.get().elapsed() > SIGN_OF_LIFE {
            // Messages for programs are no news for people.
            let doing = last.map(|line| line.trim()).filter(|line| !line.starts_with('{')).unwrap_or_default();
            println!("  … {} {}  {doing}", self.label, seconds(self.start.elapsed()));
            self.spoke.set(Instant::now());
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_step_shows_what_it_said() {
        let failed = quiet_step("a step", &mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10));
        let text = format!("{:#}", failed.expect_err("it exits with 3"));
        assert!(text.contains("a step failed") && text.contains("out") && text.contains("err"), "{text}");
    }

    #[test]
    fn a_step_without_end_is_ended() {
        let ended = watch("sleep", Command::new("sleep").arg("60"), Duration::from_millis(100), |_| false)
            .expect("sleep starts");
        assert!(ended.timed_out && !ended.success && ended.took < Duration::from_secs(30), "{ended:?}");
    }

    #[test]
    fn lines_keep_their_order() {
        let ended = watch("order", &mut shell("echo 1; echo 2 >&2; printf 3"), Duration::from_secs(10), |_| false)
            .expect("sh starts");
        assert_eq!(ended.lines, ["1", "2", "3"]);
    }
}
