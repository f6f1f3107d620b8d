//! Tries every input that is kept in `tests/corpus`: what fuzzing found, and
//! what reaches far into the code. See `fuzz/README.md`.

mod targets;

use std::{fs, path::Path};

/// What the inputs of a target may come to, so that tests stay fast.
const MOST_FILES: usize = 50;
const MOST_BYTES: u64 = 75_000;

#[test]
fn rules() {
    try_all("rules", targets::rules);
}

#[test]
fn requests() {
    try_all("request", targets::request);
}

#[test]
fn json() {
    try_all("json", targets::json);
}

#[test]
fn wildcards() {
    try_all("wildcard", targets::wildcard);
}

fn try_all(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let bytes: u64 = files
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert!((1..=MOST_FILES).contains(&files.len()), "{}", files.len());
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
    for file in files {
        // Shown only when the target panics.
        println!("{}", file.display());
        target(&fs::read(file).unwrap());
    }
}
