//! Compiles `proto/` in pure Rust: protox parses, tonic-prost-build generates.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// What we serve, as reflection shows it.
const SERVED: [&str; 2] = [
    "envoy/service/ratelimit/v3/rls.proto",
    "grpc/health/v1/health.proto",
];
/// What we ask for, or write.
const OTHERS: [&str; 3] = [
    "envoy/service/discovery/v3/ads.proto",
    "perftools/profiles/profile.proto",
    "ratelimit/config/ratelimit/v3/rls_conf.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let served = protox::compile(SERVED, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), served.encode_to_vec())?;
    let all = protox::compile(SERVED.into_iter().chain(OTHERS), ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".envoy")
        .compile_fds(all)?;
    Ok(())
}
