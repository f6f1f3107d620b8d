//! `ratekeeper test`: do rules answer as their tests say?

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use crate::ruletest::{self, report::Format};

/// A file or its rules could not be read, or there is nothing to run.
const CANNOT_RUN: u8 = 2;

/// Runs tests of rules, on a clock of their own and without a server.
///
/// The exit code is 0 when all tests passed, 1 when one failed, and 2 when a
/// test file or its rules have mistakes, or when there is no test to run.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A test file is called NAME.test.yaml and is about NAME.yaml beside it, unless it names other rules:
  tests:
  - name: a user has five requests a minute
    steps:
    - {ask: user=ann, repeat: 5, expect: {decision: OK, remaining: 0}}
    - {ask: user=ann, expect: {decision: OVER, rule: user}}
    - {at: +60s, ask: user=ann, expect: {decision: OK}}

Example:
  ratekeeper test config/quickstart")]
pub struct Test {
    /// Test files (*.test.yaml and *.test.yml), or folders with some below
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Run only tests whose names contain this
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub filter: String,
    /// How to tell the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Runs the tests, and writes the result to `out`.
///
/// # Errors
/// Only those of `out`.
pub fn run(test: &Test, out: &mut impl Write) -> io::Result<ExitCode> {
    let outcome = ruletest::run(&test.paths, &test.filter);
    outcome.write(test.format, out)?;
    let nothing = outcome.files.is_empty();
    if nothing {
        eprintln!("ratekeeper: there is no test to run");
    }
    Ok(if nothing || outcome.broken() > 0 {
        ExitCode::from(CANNOT_RUN)
    } else {
        super::exit_code(outcome.failed() == 0)
    })
}
