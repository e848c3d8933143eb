//! A session of the run's own: with the scheduler's autogroups a process's weight counts only within its session, and a
//! compile job in another one takes half of every core, however nice it is.
//!
//! So the command starts itself once more, in a new session whose weight is raised, waits for that, and passes on what
//! would end it. Should the waiting half be killed, the working half is told to end, too.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, setsid};

/// Set in the half that works.
const WORKER: &str = "FAIRLEAD_BENCH_WORKER";
const AUTOGROUP: &str = "/proc/self/autogroup";
/// The most that can be had.
const NICE: &str = "-20";

/// What would end the run early.
const ENDINGS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

fn endings() -> SigSet {
    ENDINGS.into_iter().collect()
}

/// Which half this is.
#[derive(Debug)]
pub(crate) enum Half {
    /// The one that works, told when to end.
    Worker(Interrupt),
    /// The one that waited; the run is over.
    Waiter(ExitCode),
}

/// Tells whether the run is to end.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: SignalFd,
    is_set: bool,
}

impl Interrupt {
    /// Somebody wants the run to end.
    pub(crate) fn is_set(&mut self) -> bool {
        self.is_set |= matches!(self.signals.read_signal(), Ok(Some(_)));
        self.is_set
    }
}

/// Starts the working half and waits for it; or returns at once, in the working half. Must be called before there are
/// other threads.
pub(crate) fn split() -> Result<Half> {
    let signals = endings();
    if std::env::var_os(WORKER).is_some() {
        set_pdeathsig(Signal::SIGTERM)?;
        setsid().context("cannot have a session of its own")?;
        raise();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        return Ok(Half::Worker(Interrupt { signals, is_set: false }));
    }
    let mut all = signals;
    all.add(Signal::SIGCHLD);
    all.thread_block()?;
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC)?;
    let mut command = worker()?;
    let mut child = command.args(std::env::args_os().skip(1)).env(WORKER, "1").stdin(Stdio::null()).spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let signal = signals.read_signal()?.map(|signal| signal.ssi_signo);
        if signal.is_some_and(|signal| signal != Signal::SIGCHLD as u32) {
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        }
    };
    Ok(Half::Waiter(code(status)))
}

/// This program once more; where there are no autogroups, with the weight that counts there.
fn worker() -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program")?;
    if std::fs::exists(AUTOGROUP).unwrap_or(false) || crate::peers::find_program("nice").is_none() {
        return Ok(Command::new(own));
    }
    let mut command = Command::new("nice");
    command.args(["-n", NICE]).arg(own);
    Ok(command)
}

/// Raises the weight of this session.
fn raise() {
    if let Err(error) = std::fs::write(AUTOGROUP, NICE)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("cannot raise the weight of this run, other work will show in its figures: {error}");
    }
}

fn code(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        (None, Some(signal)) => {
            eprintln!("fairlead: the run was ended by signal {signal}");
            ExitCode::FAILURE
        }
        (None, None) => ExitCode::FAILURE,
    }
}
