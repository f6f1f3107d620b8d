//! `ratekeeper check`: are these rules right?

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use clap::ArgAction;
use serde_json::json;

use crate::{
    config::{self, Options, Problems, ReadError, ReadOptions, SourceFile, files},
    engine::rules::RuleSet,
    settings::boolean,
};

/// Checks rules files without starting anything.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// A rules file, or a folder of them (*.yaml and *.yml but not
    /// *.test.yaml, folders below too).
    pub path: PathBuf,
    /// How to tell the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Join files of the same domain.
    #[arg(long, env = "MERGE_DOMAIN_CONFIG", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    pub merge_domains: bool,
    /// Check and answer as the check tool of envoyproxy/ratelimit does.
    #[arg(long, env = "RATEKEEPER_COMPAT", num_args = 0..=1, default_missing_value = "true",
          default_value = "false", value_parser = boolean(), action = ArgAction::Set, require_equals = true)]
    pub compat: bool,
}

/// How to tell the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Whether the rules are right: the exit code is 0 then, otherwise 1.
pub type IsRight = bool;

/// Checks, and writes the result to `out`.
///
/// # Errors
/// Only those of `out`.
pub fn run(check: &Check, out: &mut impl Write) -> io::Result<IsRight> {
    if check.compat {
        return as_reference(check, out);
    }
    let options = Options {
        merge_domains: check.merge_domains,
        compat: false,
    };
    let files = match config::read(&check.path, &ReadOptions::default()) {
        Ok(files) => files,
        Err(error) => return unreadable(&error, check.format, out),
    };
    let result = config::compile(&files, &options);
    match check.format {
        Format::Text => tell(files.len(), &result, out)?,
        Format::Json => tell_json(files.len(), &result, out)?,
    }
    Ok(result.is_ok())
}

fn unreadable(error: &ReadError, format: Format, out: &mut impl Write) -> io::Result<IsRight> {
    match format {
        Format::Text => writeln!(out, "error: {error}")?,
        Format::Json => writeln!(out, "{}", json!({"ok": false, "error": error.to_string()}))?,
    }
    Ok(false)
}

fn tell(files: usize, result: &Result<RuleSet, Problems>, out: &mut impl Write) -> io::Result<()> {
    match result {
        Err(problems) => writeln!(out, "{problems}"),
        Ok(rules) => {
            writeln!(out, "{}: ok", summary(files, rules))?;
            for (name, said) in settings(rules) {
                let said: Vec<String> = said.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                writeln!(out, "domain {}: {}", name.escape_debug(), said.join(", "))?;
            }
            Ok(())
        }
    }
}

/// What goes for all of a domain, of those domains that say something.
fn settings(rules: &RuleSet) -> BTreeMap<&str, BTreeMap<&'static str, String>> {
    let names = rules.domain_names().into_iter();
    names
        .filter_map(|name| {
            let domain = rules.domain(name.as_bytes())?;
            let words = config::dump::settings(domain).into_iter();
            let leased = config::dump::leased_limits(rules, domain);
            let leased = (leased > 0).then(|| ("leased_limits", leased.to_string()));
            let said = words.map(|(key, word)| (key, word.to_owned()));
            let said: BTreeMap<_, _> = said.chain(leased).collect();
            (!said.is_empty()).then_some((name, said))
        })
        .collect()
}

/// `3 files, 2 domains, 57 rules`.
#[must_use]
pub fn summary(files: usize, rules: &RuleSet) -> String {
    use config::problem::counted;
    let files = counted(files, "file");
    let domains = counted(rules.domain_names().len(), "domain");
    let rules = counted(rules.len(), "rule");
    format!("{files}, {domains}, {rules}")
}

fn tell_json(
    files: usize,
    result: &Result<RuleSet, Problems>,
    out: &mut impl Write,
) -> io::Result<()> {
    let value = match result {
        Err(problems) => json!({
            "ok": false,
            "files": files,
            "count": problems.len(),
            "problems": problems.to_json(),
        }),
        Ok(rules) => json!({
            "ok": true,
            "files": files,
            "domains": rules.domain_names().len(),
            "rules": rules.len(),
            "settings": settings(rules),
        }),
    };
    writeln!(out, "{value:#}")
}

/// The reference's tool: every entry of one folder, texts word for word. It
/// panics on some mistakes; here they end like all others.
fn as_reference(check: &Check, out: &mut impl Write) -> io::Result<IsRight> {
    writeln!(out, "checking rate limit configs...")?;
    writeln!(out, "loading config directory: {}", check.path.display())?;
    let paths = match entries(&check.path) {
        Ok(paths) => paths,
        Err(error) => {
            let path = check.path.display();
            writeln!(out, "error opening directory {path}: {error}")?;
            return Ok(false);
        }
    };
    let mut files = vec![];
    for path in paths {
        writeln!(out, "opening config file: {}", path.display())?;
        match files::read_bytes(&path) {
            Ok(bytes) => files.push(SourceFile {
                name: path.to_string_lossy().into(),
                bytes,
            }),
            Err(error) => {
                writeln!(out, "error reading file {}: {error}", path.display())?;
                return Ok(false);
            }
        }
    }
    let options = Options {
        merge_domains: check.merge_domains,
        compat: true,
    };
    match config::compile(&files, &options) {
        Ok(_) => writeln!(out, "all rate limit configs ok")?,
        Err(problems) => {
            for line in problems.compat_lines() {
                writeln!(out, "error loading rate limit configs: {line}")?;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is in a folder, sorted; a file stands for itself.
fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    if fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
