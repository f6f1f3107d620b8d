//! Compiles `proto/` in pure Rust: protox parses, tonic-prost-build generates.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Of services that we offer, which reflection tells of.
const OFFERED: [&str; 2] = [
    "envoy/service/ratelimit/v3/rls.proto",
    "grpc/health/v1/health.proto",
];
/// Of what we write or ask.
const OTHERS: [&str; 1] = ["perftools/profiles/profile.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let offered = protox::compile(OFFERED, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), offered.encode_to_vec())?;
    let descriptors = protox::compile(OFFERED.iter().chain(&OTHERS), ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".envoy")
        .compile_fds(descriptors)?;
    Ok(())
}
