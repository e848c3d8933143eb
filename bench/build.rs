//! Finds the BPF object to embed: beside the data path's (`FAIRLEAD_EBPF_OBJECT`, set by `cargo xtask build`), else where
//! that command leaves it by default, else nothing, so that checks and tests need no BPF tool chain; what uses it then
//! explains itself.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=FAIRLEAD_EBPF_OBJECT");
    let folder = std::env::var_os("FAIRLEAD_EBPF_OBJECT")
        .and_then(|object| PathBuf::from(object).parent().map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/bpfel-unknown-none/release"));
    let object = folder.join("fairlead-bench-programs");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = std::fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bench-programs.o");
    std::fs::write(out, bytes).expect("OUT_DIR can be written");
}
