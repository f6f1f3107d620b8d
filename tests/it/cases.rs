//! Runs `tests/cases/*.yaml` at every boundary; the README there says what a
//! case looks like.

mod boundary;
mod format;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use boundary::{Boundary, Deployment, Kind};
use format::{Case, Clock, Step};

/// What the suite promises to hold.
const AT_LEAST: usize = 120;

#[test]
fn the_engine_answers_as_expected() {
    run(Kind::Engine);
}

#[test]
fn the_memory_store_answers_as_expected() {
    run(Kind::Store);
}

#[test]
fn a_redis_server_answers_as_expected() {
    run(Kind::Redis(Deployment::Plain));
}

#[test]
fn a_redis_server_with_tls_and_users_answers_as_expected() {
    run(Kind::Redis(Deployment::TlsAndUsers));
}

#[test]
fn a_redis_server_behind_sentinels_answers_as_expected() {
    run(Kind::Redis(Deployment::Sentinels));
}

#[test]
fn a_redis_cluster_answers_as_expected() {
    run(Kind::Redis(Deployment::Cluster));
}

#[test]
fn a_server_answers_as_expected() {
    run(Kind::Grpc);
}

#[test]
fn names_are_unique_in_each_file() {
    for (file, cases) in load() {
        let mut seen = HashSet::new();
        for case in &cases {
            assert!(seen.insert(&case.name), "{file}: {:?} twice", case.name);
        }
    }
}

/// Runs every case that applies to `kind`; fails with all that went wrong.
fn run(kind: Kind) {
    let (mut ran, mut failures) = (0, vec![]);
    for (file, cases) in load() {
        for case in cases.iter().filter(|case| case.applies_to(kind)) {
            ran += 1;
            if let Err(failure) = run_case(kind, case) {
                failures.push(format!("{file}: {}\n{failure}", case.name));
            }
        }
    }
    if let Kind::Redis(deployment) = kind {
        deployment.end();
    }
    println!("{ran} cases ran at the boundary {kind:?}");
    assert!(
        failures.is_empty(),
        "{} of {ran} cases failed at the boundary {kind:?}\n\n{}",
        failures.len(),
        failures.join("\n"),
    );
    assert!(ran >= AT_LEAST, "only {ran} cases");
}

/// Each file's name and cases, in order.
fn load() -> Vec<(String, Vec<Case>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the cases are there")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| load_file(path)).collect()
}

fn load_file(path: &Path) -> (String, Vec<Case>) {
    let name = path.file_name().expect("a file").to_string_lossy();
    let text = fs::read_to_string(path).expect("a readable file");
    match serde_yaml::from_str(&text) {
        Ok(cases) => (name.into_owned(), cases),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Asks step after step; the first that is answered otherwise ends the case,
/// because its counters are not what later steps expect.
fn run_case(kind: Kind, case: &Case) -> Result<(), String> {
    let mut boundary = boundary::start(kind, case)?;
    let mut clock = Clock::default();
    for (number, step) in (1..).zip(&case.steps) {
        run_step(&mut *boundary, case, &mut clock, step).map_err(|failure| {
            let note = step.note.as_deref().unwrap_or_default();
            format!("  step {number} {note}\n{failure}")
        })?;
    }
    Ok(())
}

fn run_step(
    boundary: &mut dyn Boundary,
    case: &Case,
    clock: &mut Clock,
    step: &Step,
) -> Result<(), String> {
    let now = clock.advance(step)?;
    let got = boundary.ask(now, &step.request(case)?);
    let expected = step.expected(case, boundary.shows())?;
    let diff = diff(&expected, &got);
    if diff.is_empty() { Ok(()) } else { Err(diff) }
}

/// An answer as labelled lines, such as `status 2` → `OK 3/hour left 1 …`.
type Lines = BTreeMap<String, String>;

/// The lines in which the two differ; empty when they agree.
fn diff(expected: &Lines, got: &Lines) -> String {
    let mut diff = String::new();
    let labels: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
    for label in labels {
        let (expected, got) = (expected.get(label), got.get(label));
        if expected == got || (expected.is_none() && is_optional(label)) {
            continue;
        }
        for (name, line) in [("expected", expected), ("got     ", got)] {
            let line = line.map_or("(nothing)", String::as_str);
            diff += &format!("    {label}: {name} {line}\n");
        }
    }
    diff
}

/// Looked at only where the case says something about it.
fn is_optional(label: &str) -> bool {
    label.starts_with("statistics") || label == "dynamic_metadata"
}

#[test]
fn every_difference_is_seen() {
    let lines = |pairs: &[(&str, &str)]| -> Lines {
        let pairs = pairs.iter();
        pairs
            .map(|(label, line)| ((*label).to_owned(), (*line).to_owned()))
            .collect()
    };
    let expected = lines(&[("overall", "OK"), ("status 1", "no limit")]);
    for (got, rows) in [
        (lines(&[("overall", "OK"), ("status 1", "no limit")]), 0),
        (lines(&[("overall", "OVER"), ("status 1", "no limit")]), 2),
        (lines(&[("overall", "OK")]), 2),
        (
            lines(&[
                ("overall", "OK"),
                ("status 1", "no limit"),
                ("status 2", "no limit"),
            ]),
            2,
        ),
        (
            lines(&[
                ("overall", "OK"),
                ("status 1", "no limit"),
                ("header 1", "L: 1"),
            ]),
            2,
        ),
        (
            lines(&[
                ("overall", "OK"),
                ("status 1", "no limit"),
                ("statistics 1", "total 1"),
            ]),
            0,
        ),
        (lines(&[("error", "no")]), 6),
    ] {
        assert_eq!(diff(&expected, &got).lines().count(), rows, "{got:?}");
    }
    let told = lines(&[("statistics 1", "total 1")]);
    assert_eq!(diff(&told, &lines(&[])).lines().count(), 2);
}
