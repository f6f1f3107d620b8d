//! `ratekeeper serve --print-config`: what is set, and where that comes from.

use std::{ffi::OsString, io::Write, process::ExitCode};

use crate::settings::{
    PrintFormat, Serve,
    sources::{self, Setting},
};

/// Prints all settings; then, on standard error, what is wrong with them.
///
/// # Errors
/// It cannot be written.
pub(crate) fn run(
    serve: &Serve,
    settings: &[Setting],
    format: PrintFormat,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    match format {
        PrintFormat::Text => print(settings, out)?,
        PrintFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, settings)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    if let (Ok(None), Err(error)) = (serve.management_server(), serve.rules_source()) {
        eprintln!("note: {error:#}");
    }
    let mistakes = serve.mistakes();
    for mistake in &mistakes {
        eprintln!("error: {mistake:#}");
    }
    Ok(super::exit_code(mistakes.is_empty()))
}

fn print(settings: &[Setting], out: &mut impl Write) -> std::io::Result<()> {
    let widest = |text: fn(&Setting) -> &str| {
        let lengths = settings.iter().map(|it| text(it).chars().count());
        lengths.filter(|length| *length <= 40).max().unwrap_or(0)
    };
    let value = |setting: &'_ Setting| setting.value.clone().unwrap_or_else(|| "-".to_owned());
    let name_width = widest(|it| &it.setting);
    let value_width = widest(|it| it.value.as_deref().unwrap_or("-"));
    let mut heading = None;
    for setting in settings {
        if heading != Some(&setting.heading) {
            let gap = if heading.is_some() { "\n" } else { "" };
            writeln!(out, "{gap}{}:", setting.heading)?;
            heading = Some(&setting.heading);
        }
        let (name, from) = (&setting.setting, &setting.from);
        writeln!(
            out,
            "  {name:name_width$}  {:value_width$}  {from}",
            value(setting)
        )?;
    }
    Ok(())
}

/// Whether settings are to be printed, as far as can be seen when the command
/// line cannot be read.
pub(crate) fn is_asked_for(arguments: &[OsString]) -> bool {
    let is_it = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        argument == "--print-config" || argument.starts_with("--print-config=")
    };
    arguments.iter().any(is_it)
}

/// Tells what is wrong: of the environment all of it.
pub(crate) fn tell_mistakes(error: &clap::Error, command: &clap::Command) -> ExitCode {
    let told = error.render().to_string();
    let wrong = sources::wrong_variables(command);
    let is_told_twice = |(flag, _): &(String, String)| told.contains(&format!("'--{flag} "));
    if !wrong.iter().any(is_told_twice) {
        eprint!("{told}");
    }
    for (_, mistake) in wrong {
        eprintln!("error: {mistake}");
    }
    ExitCode::FAILURE
}
