//! The program: its commands, and what they share.
//!
//! [`serve`] decides ([`print_config`] what it would do) · [`check`] are these rules right? · [`explain`] which
//! rule applies, and why? · [`test`](mod@test) do rules answer as their tests
//! say? · [`import`] rules of another limiter's file · [`schema`] what may rules
//! say? · [`query`] asks a running server · [`load`] asks it very often ·
//! [`man`] how is it called? `completions` prints a script for a shell and has
//! no file of its own.

pub mod check;
pub mod explain;
pub mod import;
pub mod load;
pub mod man;
pub mod print_config;
pub mod query;
pub mod schema;
pub mod serve;
pub mod test;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::settings::{self, sources::Given};

/// A rate-limit decision service: may this request pass now?
///
/// Point Envoy's rate limit filter at it, write limits in YAML, and it answers
/// with codes, hits left and seconds to reset. It takes the place of
/// envoyproxy/ratelimit: same rules files, same API, same environment.
#[derive(Debug, Parser)]
#[command(name = "ratekeeper", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Decide: serve Envoy over gRPC and everybody over HTTP
    Serve(Box<settings::Serve>),
    /// Check rules files; exit code 0 when they are right, otherwise 1
    Check(check::Check),
    /// Show which rule a descriptor meets, and why
    Explain(explain::Explain),
    /// Run tests of rules; exit code 0 when all pass, 1 when one fails, 2 when
    /// they cannot be run
    Test(test::Test),
    /// Make rules of another rate limiter's file; exit code 3 when some of it
    /// could not be converted
    Import(import::Import),
    /// Print a JSON Schema of rules files, for editors
    Schema(schema::Schema),
    /// Ask a running server
    Query(query::Query),
    /// Put a running server under load, and measure it
    Load(Box<load::LoadArgs>),
    /// Print a shell's completions, to be sourced or installed
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a folder
    Man(man::Man),
}

/// Parses the command line and does what it says.
///
/// # Errors
/// What the command could not do, for people.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let arguments = completed(arguments);
    let given = match Given::read(&command(), &arguments) {
        Ok(given) => given,
        Err(error) if print_config::is_asked_for(&arguments) && error.use_stderr() => {
            return Ok(print_config::tell_mistakes(&error, &command()));
        }
        Err(error) => error.exit(),
    };
    let cli = match Cli::from_arg_matches(&given.matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::Serve(arguments) => match arguments.print_config() {
            Some(format) => {
                let settings = given.settings(arguments.compat);
                print_config::run(&arguments, &settings, format, &mut io::stdout().lock())
            }
            None => serve::run(&arguments),
        },
        Command::Check(check) => {
            let is_right = check::run(&check, &mut io::stdout().lock())?;
            Ok(exit_code(is_right))
        }
        Command::Explain(explain) => {
            let found = explain::run(&explain, &mut io::stdout().lock())?;
            Ok(exit_code(found))
        }
        Command::Test(test) => Ok(test::run(&test, &mut io::stdout().lock())?),
        Command::Import(import) => import::run(&import, &mut io::stdout().lock()),
        Command::Schema(_) => {
            schema::run(&mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Query(query) => query::run(&query),
        Command::Load(load) => load::run(&load),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut command(), "ratekeeper", &mut script);
            io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man(man) => {
            man::run(&man, Cli::command(), &mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Parses a command line, with the environment, and the file of settings that
/// it names. A program that is called `ratelimit` serves in the place of the
/// reference.
///
/// # Errors
/// It is no good, or help was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let given = Given::read(&command(), &completed(arguments))?;
    Cli::from_arg_matches(&given.matches)
}

fn completed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if is_called_ratelimit(arguments.first()) {
        arguments.splice(1..1, ["serve".into(), "--compat".into()]);
    }
    arguments
}

fn is_called_ratelimit(program: Option<&OsString>) -> bool {
    program.is_some_and(|path| Path::new(path).file_name() == Some(OsStr::new("ratelimit")))
}

/// The command line, and the variables that it knows.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_name_ratelimit_means_compat() {
        let parsed = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap();
        for (line, compat) in [
            ("ratekeeper serve --rules r", false),
            ("ratekeeper serve --compat", true),
            ("/bin/ratelimit", true),
            ("ratelimit --rules r", true),
        ] {
            let Command::Serve(serve) = parsed(line).command else {
                panic!("{line}");
            };
            assert_eq!(serve.compat, compat, "{line}");
        }
    }
}
