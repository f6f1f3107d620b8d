//! What `packaging/` ships: that it renders, validates, and says the same as
//! the program.
//!
//! helm, hadolint, promtool and the schemas of Kubernetes' objects are those
//! that `tests/setup-packaging.sh` installs.

mod chart;
mod host;
mod image;
mod kubernetes;
mod promql;
mod queries;
mod security;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::CommandFactory as _;
use serde_json::Value;

/// A path of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file of the repository.
fn read(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}

/// All documents of a YAML text, but empty ones.
fn documents(text: &str) -> Vec<Value> {
    let options = serde_yaml::options! { strict_booleans: true };
    let documents: Vec<Value> =
        serde_yaml::from_multiple_with_options(text, options).expect("good YAML");
    documents.into_iter().filter(|it| !it.is_null()).collect()
}

/// All files below a folder of the repository.
fn files(name: &str) -> Vec<PathBuf> {
    let mut waiting = vec![path(name)];
    let mut files = vec![];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder");
            waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            files.push(path);
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{name} has no files");
    files
}

/// A program that setup-packaging.sh has installed; `None` on machines that
/// its packages have no programs for.
fn tool(name: &str) -> Option<Command> {
    if std::env::consts::ARCH != "x86_64" {
        eprintln!("skipped: there is no {name} for this machine");
        return None;
    }
    let path = path(".venv/packaging").join(name);
    assert!(
        path.exists(),
        "this test needs {name}; run tests/setup.sh once"
    );
    Some(Command::new(path))
}

/// What a program printed; a panic when it failed.
fn output(command: &mut Command) -> String {
    let (good, text) = result(command);
    assert!(good, "{command:?}\n{text}");
    text
}

/// Whether a program succeeded, and what it printed.
fn result(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("a program");
    let mut text = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        text.push_str(&String::from_utf8_lossy(&stderr));
    }
    (status.success(), text)
}

/// Flags of `ratekeeper serve`, each with its default.
fn flags() -> BTreeMap<String, String> {
    let mut command = ratekeeper::cli::Cli::command();
    let serve = command.find_subcommand_mut("serve").expect("serve");
    let flags = serve.get_arguments().filter_map(|argument| {
        let defaults = argument.get_default_values().iter();
        let default: Vec<_> = defaults.map(|it| it.to_string_lossy()).collect();
        Some((argument.get_long()?.to_owned(), default.join(",")))
    });
    flags.collect()
}

/// Variables that `ratekeeper serve` reads.
fn variables() -> BTreeSet<String> {
    let mut command = ratekeeper::cli::Cli::command();
    let serve = command.find_subcommand_mut("serve").expect("serve");
    let names = serve.get_arguments().filter_map(|it| it.get_env());
    names.map(|it| it.to_string_lossy().into_owned()).collect()
}

/// Names in a text that begin with one of `prefixes`, taken as far as letters, digits and
/// `_` go.
fn words<'a>(text: &'a str, prefixes: &[&str]) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c: char| !is_part(c))
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .collect()
}
