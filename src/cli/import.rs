//! `ratekeeper import`: rules of another rate limiter's file.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use crate::import::limitador::{self, Domain};

/// Makes rules of another rate limiter's file.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// Whose file it is.
    #[command(subcommand)]
    from: From,
}

#[derive(Clone, Debug, Subcommand)]
enum From {
    /// A limits file of Kuadrant's limitador; a domain for each namespace
    Limitador(Limitador),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
What cannot be converted is told on standard error, with its line and why; the exit code is 3 then.

Examples:
  ratekeeper import limitador limits.yaml > rules.yaml
  ratekeeper import limitador limits.yaml --out rules && ratekeeper check rules")]
struct Limitador {
    /// The limits file, or a Limitador resource of Kubernetes
    file: PathBuf,
    /// Only this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Write a file for each namespace into this folder, instead of all to
    /// standard output as documents of one file
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Some of the file could not be converted.
const INCOMPLETE: u8 = 3;

/// Converts, and writes the rules to `out` or to files.
///
/// # Errors
/// The file cannot be read, or nothing of it is asked for, or rules cannot be
/// written.
pub(crate) fn run(import: &Import, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let From::Limitador(import) = &import.from;
    let name = import.file.display();
    let text = fs::read_to_string(&import.file).with_context(|| name.to_string())?;
    let imported = limitador::import(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    for note in &imported.notes {
        let what = if note.is_left_out { "left out" } else { "note" };
        eprintln!("{name}:{}: {what}: {}", note.line, note.text);
    }
    let is_asked_for = |domain: &&Domain| {
        import
            .namespace
            .as_ref()
            .is_none_or(|name| *name == domain.name)
    };
    let domains: Vec<&Domain> = imported.domains.iter().filter(is_asked_for).collect();
    if let (Some(namespace), []) = (&import.namespace, &domains[..]) {
        let names: Vec<&str> = imported.domains.iter().map(|it| it.name.as_str()).collect();
        bail!("{name}: no limits of namespace {namespace:?}; there are {names:?}");
    }
    match &import.out {
        Some(folder) => write_files(folder, &domains)?,
        None => {
            let documents: Vec<&str> = domains.iter().map(|it| it.rules.as_str()).collect();
            out.write_all(documents.join("---\n").as_bytes())?;
            out.flush()?;
        }
    }
    Ok(if imported.is_incomplete() {
        ExitCode::from(INCOMPLETE)
    } else {
        ExitCode::SUCCESS
    })
}

fn write_files(folder: &Path, domains: &[&Domain]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for domain in domains {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = domain.name.replace(|c| !is_plain(c), "_");
        let name = name.trim_start_matches('.');
        // `x.test.yaml` would be read as tests.
        let end = if name.ends_with(".test") { "_" } else { "" };
        let path = folder.join(format!("{name}{end}.yaml"));
        // Another namespace, or somebody's rules, may have that name.
        let file = File::create_new(&path).with_context(|| path.display().to_string());
        file?.write_all(domain.rules.as_bytes())?;
        eprintln!("{}", path.display());
    }
    Ok(())
}
