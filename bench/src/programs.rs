//! The benchmark's own BPF programs: what injects packets, and what ours are compared with.

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};

/// The BPF object; empty in a build without the BPF tool chain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-programs.o"));

/// Opens the object; programs are loaded one by one.
///
/// # Errors
/// It was not built, or the kernel refuses its maps.
pub fn open() -> Result<Ebpf> {
    open_with(&[])
}

/// The same, with another number of entries for some of its maps.
///
/// # Errors
/// As [`open`].
pub fn open_with(sizes: &[(&'static str, u32)]) -> Result<Ebpf> {
    ensure!(
        !OBJECT.is_empty(),
        "this binary was built without the benchmark's BPF programs (build it with `cargo xtask build`)"
    );
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes {
        loader.map_max_entries(name, *entries);
    }
    loader.load(OBJECT).context("cannot load the benchmark's BPF object")
}

/// An XDP program of the object, loaded.
///
/// # Errors
/// The kernel refuses it.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no BPF program `{name}` in the object"))?;
    let program: &mut Xdp = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel refused the BPF program `{name}`"))?;
    }
    Ok(program)
}

/// A tc program of the object, loaded.
///
/// # Errors
/// The kernel refuses it.
pub fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no BPF program `{name}` in the object"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel refused the BPF program `{name}`"))?;
    }
    Ok(program)
}
