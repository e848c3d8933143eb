//! What single programs cost, apart from everything that the kernel does around them: per packet under the kernel's test
//! run (`program`), and per call of `connect` (`connect`).
//!
//! Ours are held against the least that could do the work, written in the same language and run in the same way
//! (`ebpf/programs/src/bench/cost.rs`); what the running itself costs is subtracted from both.

mod bed;
mod connect;
mod program;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

pub(crate) use bed::fill_one;
pub(crate) use connect::ConnectHook;
pub(crate) use program::ProgramCost;

/// Services in force beside the one that is measured.
fn others(is_quick: bool) -> u32 {
    if is_quick { 1000 } else { 10_000 }
}

/// Does something on a core, on a thread of its own.
pub(crate) fn on<T: Send>(core: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let mut cores = CpuSet::new();
            cores.set(core)?;
            sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("cannot use core {core}"))?;
            work()
        });
        there.join().map_err(|_| anyhow!("the thread panicked"))?
    })
}
