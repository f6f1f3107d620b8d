//! Tests of rules: files of questions and expected answers, run in this
//! process on a clock of their own. `docs/testing-rules.md` has the format.
//!
//! In reading order: [`find`] paths → test files · [`load`] a file → its tests
//! and the rules they are about · [`format`](mod@format) what is in a file ·
//! [`expect`] what is expected · [`ask`] descriptors · [`time`] points in time ·
//! [`reader`] nodes of an expected kind · [`run`](mod@run) questions →
//! answers, through the service's own code · [`compare`] answers against
//! expectations · [`report`] and [`junit`] what is told.

mod ask;
mod compare;
mod expect;
mod find;
mod format;
mod junit;
mod load;
mod reader;
pub mod report;
mod run;
mod time;

use std::path::PathBuf;

use crate::{
    config::Problems, engine::time::Timestamp,
    proto::envoy::service::ratelimit::v3::RateLimitResponse,
};

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In the order in which they were found.
    pub files: Vec<FileOutcome>,
}

/// What came of a test file.
#[derive(Debug)]
pub struct FileOutcome {
    /// Its path.
    pub file: String,
    /// Its tests, in file order.
    pub tests: Result<Vec<TestOutcome>, Broken>,
}

/// Why no test of a file could be run.
#[derive(Debug)]
pub enum Broken {
    /// There is no test file of that name to be read; says why.
    Unreadable(String),
    /// The file or its rules have mistakes.
    Mistakes(Problems),
}

/// What came of a test.
#[derive(Debug)]
pub struct TestOutcome {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub line: u32,
    /// The steps that were not answered as expected; none where it passed.
    pub failures: Vec<Failure>,
}

/// A step that was not answered as expected.
#[derive(Debug)]
pub struct Failure {
    /// Where the step begins.
    pub line: u32,
    /// Which step of its test, from 1.
    pub step: usize,
    /// When it was asked.
    pub at: Timestamp,
    /// Which time it was asked, from 1, and how often the step asks.
    pub ask: (u32, u32),
    /// What differs; not empty.
    pub differences: Vec<Difference>,
    /// The answer in full; `None` where there was an error instead.
    pub answer: Option<Answer>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// As Envoy gets it.
    pub response: RateLimitResponse,
    /// The same in JSON, but for its body.
    pub json: serde_json::Value,
    /// The path of each descriptor's rule; `None` where no rule decided.
    pub rules: Vec<Option<String>>,
}

/// One thing that is not as expected.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which one.
    pub field: String,
    /// What is expected of it.
    pub expected: String,
    /// What it is.
    pub got: String,
}

/// Runs the tests of files, and of all test files below folders; of them
/// those whose names contain `filter`.
#[must_use]
pub fn run(paths: &[PathBuf], filter: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for found in find::test_files(paths) {
        let tests = match found.unreadable {
            None => load::load(&found.path).map(|loaded| run::all(&loaded, filter)),
            Some(reason) => Err(Broken::Unreadable(reason)),
        };
        if tests.as_ref().is_ok_and(Vec::is_empty) {
            continue;
        }
        outcome.files.push(FileOutcome {
            file: found.path.to_string_lossy().into_owned(),
            tests,
        });
    }
    outcome
}

// === impl Outcome ===

impl Outcome {
    /// How many tests passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.tests().filter(|test| test.passed()).count()
    }

    /// How many tests failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.tests().filter(|test| !test.passed()).count()
    }

    /// How many files could not be run.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.files.iter().filter(|file| file.tests.is_err()).count()
    }

    fn tests(&self) -> impl Iterator<Item = &TestOutcome> {
        self.files
            .iter()
            .flat_map(|file| file.tests.iter().flatten())
    }
}

// === impl TestOutcome ===

impl TestOutcome {
    /// Every answer was as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests;
