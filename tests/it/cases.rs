//! Runs `tests/cases/*.yaml` at every boundary; the README there says what a
//! case looks like.

mod boundary;
mod format;

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use boundary::{Answer, Boundary, Kind};
use format::{Case, Clock, Step};

/// What the suite promises to hold.
const AT_LEAST: usize = 120;

#[test]
fn the_engine_answers_as_expected() {
    run(Kind::Engine);
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
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
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
        let now = clock.advance(step)?;
        let answer = boundary.ask(now, &step.request(case)?);
        let diff = diff(&*boundary, case, step, &answer);
        if !diff.is_empty() {
            let note = step.note.as_deref().unwrap_or_default();
            return Err(format!("  step {number} {note}\n{diff}"));
        }
    }
    Ok(())
}

/// The lines in which expected and got differ; empty when they agree.
fn diff(boundary: &dyn Boundary, case: &Case, step: &Step, got: &Answer) -> String {
    let expected = step.expected(case, boundary.shows());
    let got = got.lines(&expected);
    let mut diff = String::new();
    for row in 0..expected.len().max(got.len()) {
        let (expected, got) = (expected.get(row), got.get(row));
        if expected == got {
            continue;
        }
        for (sign, line) in [('-', expected), ('+', got)] {
            if let Some(line) = line {
                let _ = writeln!(diff, "    {sign} {line}");
            }
        }
    }
    diff
}
