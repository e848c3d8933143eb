//! Compiles the contracts with a pure Rust compiler, so that no `protoc` is needed for them.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["push/v1/push.proto", "admin/v1/admin.proto"];
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
