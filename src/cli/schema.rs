//! `ratekeeper schema`: what may rules say, and what does it mean?

use std::io::{self, Write};

use crate::config;

/// Prints a JSON Schema of rules files, for editors.
///
/// With it an editor completes keys, says what they mean, and underlines most
/// mistakes; `ratekeeper check` finds all of them.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  ratekeeper schema > rules.schema.json

Then begin a rules file of the same folder with
  # yaml-language-server: $schema=rules.schema.json")]
pub struct Schema {}

/// Writes the schema to `out`.
///
/// # Errors
/// Only those of `out`.
pub fn run(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:#}", config::json_schema())
}
