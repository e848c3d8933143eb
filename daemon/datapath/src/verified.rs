//! What the verifier goes through until it takes each program, for `KERNELS.md`.
//!
//! Kernels keep the number since 5.16. Older ones write it to the verifier's log alone, which the loading library asks for
//! where a program is refused. So there each program is loaded once more while the process may open no files: it is
//! verified as ever, gets no descriptor, and the refusal comes with the log.

use aya::Ebpf;
use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::loader::{self, SOCKET, TC, XDP, XDP_FRAGS};
use crate::{Datapath, DatapathError};

impl Datapath {
    /// Programs that are loaded, with the number of instructions the verifier went through. On kernels before 5.16 no
    /// other thread of the process can open a file meanwhile.
    ///
    /// # Errors
    /// An old kernel does not say.
    pub fn verified(&self) -> Result<Vec<(&'static str, u32)>, DatapathError> {
        let names = XDP.iter().chain(&XDP_FRAGS).chain(&TC).chain(&SOCKET);
        let infos = names.filter_map(|name| Some((*name, self.ebpf.program(name)?.info().ok()?)));
        let known: Vec<_> = infos.map(|(name, info)| (name, info.verified_instruction_count())).collect();
        let mut again = None;
        known
            .into_iter()
            .map(|(name, count)| match count {
                Some(count) => Ok((name, count)),
                None => {
                    let ebpf = match &mut again {
                        Some(ebpf) => ebpf,
                        none => none.insert(loader::object(&self.config, &self.pins)?),
                    };
                    Ok((name, once_more(ebpf, name)?))
                }
            })
            .collect()
    }
}

/// Has a program verified, and reads the log.
fn once_more(ebpf: &mut Ebpf, name: &'static str) -> Result<u32, DatapathError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(unlimited)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).map_err(unlimited)?;
    let refused = load(ebpf, name);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(unlimited)?;
    match refused {
        Err(ProgramError::LoadError { verifier_log, .. }) => processed(&verifier_log.to_string()).ok_or_else(|| {
            DatapathError::Unsupported(format!("the verifier does not say what it went through for {name}"))
        }),
        Err(source) => Err(DatapathError::Program { program: name, source: Box::new(source) }),
        Ok(()) => Err(DatapathError::Unsupported(format!("{name} was loaded where no file can be opened"))),
    }
}

fn unlimited(error: nix::Error) -> DatapathError {
    DatapathError::Unsupported(format!("the limit of open files cannot be changed: {error}"))
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<(), ProgramError> {
    let Some(program) = ebpf.program_mut(name) else {
        return Ok(());
    };
    if XDP.contains(&name) || XDP_FRAGS.contains(&name) {
        <&mut Xdp>::try_from(program)?.load()
    } else if TC.contains(&name) {
        <&mut SchedClassifier>::try_from(program)?.load()
    } else {
        <&mut CgroupSockAddr>::try_from(program)?.load()
    }
}

/// The number in `processed 54535 insns (limit 1000000) …`.
fn processed(log: &str) -> Option<u32> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix("processed "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_in_a_log() {
        let log =
            "func#0 @0\nprocessed 54535 insns (limit 1000000) max_states_per_insn 9 total_states 3 peak_states 2\n";
        assert_eq!(processed(log), Some(54_535));
        assert_eq!(processed("R1 invalid mem access 'scalar'"), None);
    }
}
