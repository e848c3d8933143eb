//! Finds the BPF object to embed: `FAIRLEAD_EBPF_OBJECT` (set by `cargo xtask build`), else where that command leaves it
//! by default, else nothing, so that checks and tests need no BPF tool chain; loading then explains itself.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=FAIRLEAD_EBPF_OBJECT");
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let object = std::env::var_os("FAIRLEAD_EBPF_OBJECT")
        .map_or_else(|| workspace.join("target/bpf/bpfel-unknown-none/release/fairlead-programs"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = std::fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("programs.o");
    std::fs::write(out, bytes).expect("OUT_DIR can be written");
}
