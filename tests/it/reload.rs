//! Rules that change under a running process: what is noticed, what stays,
//! what is told about it.

mod counters;
mod files;
mod first;
mod versions;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{self, Server},
    redis::servers::wait_until,
};

/// A domain `d` whose users are limited; answers name the limit.
fn rules(name: &str) -> String {
    limited("d", name, 1_000)
}

fn limited(domain: &str, name: &str, requests: u32) -> String {
    format!(
        "domain: {domain}\ndescriptors:\n  - key: user\n    rate_limit: \
         {{unit: day, requests_per_unit: {requests}, name: {name}}}\n"
    )
}

/// A file, new or in the place of another one, and the folders on the way to
/// it. As careful writers do it: nobody sees half of it, however slow the
/// machine is.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
    let mut new = path.as_os_str().to_owned();
    new.push("~");
    fs::write(&new, text).expect("a writable folder");
    fs::rename(new, path).expect("the same file system");
}

/// Has a link point elsewhere, from one moment to the next.
fn swap_link(link: &Path, target: &str) {
    let mut new = link.as_os_str().to_owned();
    new.push("_tmp");
    symlink(target, &new).expect("a writable folder");
    fs::rename(new, link).expect("the same file system");
}

/// A server that looks at its rules often, and whose log is kept.
fn command(flags: &[&str]) -> Command {
    let mut command = process::serve();
    command
        .env("RATEKEEPER_STORE", "memory")
        .env("RATEKEEPER_DRAIN_DELAY", "0s")
        .env("USE_STATSD", "false")
        .env("DEBUG_PORT", "0")
        .env("RATEKEEPER_RULES_POLL", "20ms")
        .args(flags)
        .stderr(Stdio::piped());
    command
}

fn serve(rules: &Path, flags: &[&str]) -> Server {
    let mut command = command(flags);
    Server::run(command.arg("--rules").arg(rules))
}

/// In the reference's place, with a tree of its own: `current` is a link to
/// the folder `one`, in which `ratelimit/config/d.yaml` has the rules `one`.
fn reference(variables: &[(&str, &str)]) -> (TempDir, PathBuf, Server) {
    let base = tempfile::tempdir().expect("a temporary folder");
    let file = base.path().join("one/ratelimit/config/d.yaml");
    write(&file, &rules("one"));
    symlink("one", base.path().join("current")).expect("a writable folder");
    let mut command = command(&["--compat"]);
    command
        .env("RUNTIME_ROOT", base.path().join("current"))
        .env("RUNTIME_SUBDIRECTORY", "ratelimit")
        .env("LOG_LEVEL", "info")
        .envs(variables.iter().copied());
    let server = Server::run(&mut command);
    (base, file, server)
}

/// What a hit of user `name` of a domain is answered.
fn ask(server: &Server, domain: &str, name: &str) -> Value {
    let entries = format!(r#"[{{"entries":[{{"key":"user","value":"{name}"}}]}}]"#);
    let body = format!(r#"{{"domain":"{domain}","descriptors":{entries}}}"#);
    let (_, answer) = server.http("POST", "/json", &body);
    serde_json::from_str(&answer).unwrap_or(Value::String(answer))
}

/// Which limit applies to users of a domain; empty for none.
fn limit(server: &Server, domain: &str) -> String {
    let answer = ask(server, domain, "ann");
    let name = &answer["statuses"][0]["currentLimit"]["name"];
    name.as_str().unwrap_or_default().to_owned()
}

fn wait_for_limit(server: &Server, domain: &str, name: &str) {
    let what = format!("limit {name:?} in {domain}");
    wait_until(&what, || limit(server, domain) == name);
}

/// What became of tries to load.
fn loads(server: &Server) -> Value {
    let (_, text) = server.http("GET", "/rules", "");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    shown["loads"].clone()
}

fn wait_for_failures(server: &Server, failures: u64) {
    let what = format!("{failures} failures");
    wait_until(&what, || loads(server)["failures"] == failures);
}
