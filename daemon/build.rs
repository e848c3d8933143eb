//! Embeds the pause image: `FAIRLEAD_PAUSE_IMAGE` names its OCI archive (`cargo xtask build` sets it). Without it nothing
//! is embedded, and `up` says how to build a binary that has one.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=FAIRLEAD_PAUSE_IMAGE");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause.tar");
    let archive = std::env::var_os("FAIRLEAD_PAUSE_IMAGE").filter(|path| !path.is_empty());
    let bytes = match &archive {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            std::fs::read(&path).unwrap_or_else(|error| panic!("cannot embed {}: {error}", path.display()))
        }
        None => Vec::new(),
    };
    std::fs::write(&out, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}
