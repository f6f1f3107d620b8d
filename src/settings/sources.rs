//! Where settings come from: flags, then variables, then a file, then
//! defaults.

use std::{collections::HashMap, ffi::OsString, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command, ValueEnum, error::ErrorKind, parser::ValueSource};

use super::{
    file::{self, SettingsFile},
    reference::VARIABLES,
    secrets,
};

/// Flags about settings as such.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct SourceFlags {
    /// A file of settings, TOML or YAML: the flags' names and their values.
    /// Flags and variables win over it
    #[arg(long, env = "RATEKEEPER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force and where each comes from, and end
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "text", require_equals = true)]
    pub(super) print_config: Option<PrintFormat>,
}

/// How settings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrintFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The settings of a command, as given, and the file that was read for it.
#[derive(Debug)]
pub(crate) struct Given {
    command: Command,
    /// What was read on the command line, all commands.
    pub(crate) matches: ArgMatches,
    file: Option<SettingsFile>,
    /// The variables of `serve`, by argument; also those that are set to
    /// nothing.
    variables: HashMap<String, String>,
}

/// One setting and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Setting {
    /// The part of the help that it stands in.
    pub(crate) heading: String,
    /// Its flag, without dashes; a variable's name where it has no flag.
    pub(crate) setting: String,
    /// Its variable, if it has one.
    pub(crate) variable: Option<String>,
    /// What it is, secrets masked; `None` where it is not set.
    pub(crate) value: Option<String>,
    /// Where that comes from.
    pub(crate) from: String,
}

const SERVE: &str = "serve";

// === impl Given ===

impl Given {
    /// Reads a command line of `command`; for `serve` the variables and the
    /// file, too. A variable that is set to nothing counts as not set.
    ///
    /// # Errors
    /// What is wrong, of a file all of it.
    pub(crate) fn read(command: &Command, arguments: &[OsString]) -> Result<Self, clap::Error> {
        let variables = variables(command);
        let mut plain = without_empty_variables(command.clone());
        let matches = plain
            .try_get_matches_from_mut(arguments)
            .map_err(|error| secrets::without(error, None))?;
        let serve = matches.subcommand_matches(SERVE);
        let path = serve.and_then(|serve| serve.get_one::<PathBuf>("config"));
        let (Some(path), Some(flags)) = (path, plain.find_subcommand(SERVE)) else {
            return Ok(Self {
                command: plain,
                matches,
                file: None,
                variables,
            });
        };
        let file = SettingsFile::read(path, flags)
            .map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))?;
        let command = without_empty_variables(command.clone());
        let mut command = command.mut_subcommand(SERVE, |serve| file.apply(serve));
        Ok(Self {
            matches: command
                .try_get_matches_from_mut(arguments)
                .map_err(|error| secrets::without(error, None))?,
            command,
            file: Some(file),
            variables,
        })
    }

    /// All settings of `serve`, in the order of its help.
    pub(crate) fn settings(&self, compat: bool) -> Vec<Setting> {
        let command = self.command.find_subcommand(SERVE);
        let matches = self.matches.subcommand_matches(SERVE);
        let (Some(command), Some(matches)) = (command, matches) else {
            return vec![];
        };
        let arguments: Vec<&Arg> = file::settings(command).collect();
        let mut headings: Vec<Option<&str>> = vec![];
        for argument in &arguments {
            if !headings.contains(&argument.get_help_heading()) {
                headings.push(argument.get_help_heading());
            }
        }
        let mut settings: Vec<Setting> = headings
            .into_iter()
            .flat_map(|heading| {
                arguments
                    .iter()
                    .filter(move |it| it.get_help_heading() == heading)
            })
            .map(|argument| self.setting(argument, matches, compat))
            .collect();
        settings.extend(without_flags(&self.variables));
        settings
    }

    fn setting(&self, argument: &Arg, matches: &ArgMatches, compat: bool) -> Setting {
        let id = argument.get_id().as_str();
        let setting = argument.get_long().unwrap_or(id);
        let variable = self.variables.get(id).cloned();
        let mut value = value(argument, matches);
        let from = match (matches.value_source(id), &variable) {
            (Some(ValueSource::CommandLine), _) => "flag".to_owned(),
            (Some(ValueSource::EnvVariable), Some(variable)) => format!("variable {variable}"),
            _ => match self.file.as_ref().and_then(|file| file.place(id)) {
                Some(place) => format!("file {place}"),
                None => "default".to_owned(),
            },
        };
        if value.is_none() {
            value = unsaid(id, compat, matches);
        }
        Setting {
            heading: argument.get_help_heading().unwrap_or("Options").to_owned(),
            setting: setting.to_owned(),
            value: value.map(|value| secrets::masked(setting, &value)),
            variable,
            from,
        }
    }
}

fn variables(command: &Command) -> HashMap<String, String> {
    let serve = command.find_subcommand(SERVE);
    let arguments = serve.into_iter().flat_map(Command::get_arguments);
    let variable = |argument: &Arg| {
        let name = argument.get_env()?.to_string_lossy();
        Some((argument.get_id().to_string(), name.into_owned()))
    };
    arguments.filter_map(variable).collect()
}

fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let is_empty = argument
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty());
        if is_empty {
            argument.env(None::<&'static str>)
        } else {
            argument
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// What is set, as written.
fn value(argument: &Arg, matches: &ArgMatches) -> Option<String> {
    let raw = matches.get_raw(argument.get_id().as_str())?;
    let texts: Vec<_> = raw.map(|text| text.to_string_lossy()).collect();
    let text = texts.join(",");
    // A flag without a value is one that is on.
    (!text.is_empty()).then_some(text)
}

/// What settings are that have no default of their own, because it depends.
fn unsaid(id: &str, compat: bool, matches: &ArgMatches) -> Option<String> {
    let connect_timeout = || {
        let said = matches.get_raw("redis_timeout")?.next()?;
        Some(said.to_string_lossy().into_owned())
    };
    let (plain, in_compat) = match id {
        "log_level" => ("info", "warn"),
        "key_format" => ("canonical", "reference"),
        "backend_type" => ("memory", "redis"),
        "error_code" => ("unavailable", "unknown"),
        "tracing_service_name" => return Some(or("OTEL_SERVICE_NAME", "RateLimit")),
        "tracing_exporter_protocol" => return Some(or("OTEL_EXPORTER_OTLP_PROTOCOL", "http")),
        "workers" => return Some(super::cores().to_string()),
        "store_connect_timeout" if connect_timeout().is_some() => return connect_timeout(),
        "store_connect_timeout" | "redis_timeout" | "redis_persecond_timeout" => ("500ms", "10s"),
        "local_cache_size_in_bytes" => ("", "0"),
        "use_statsd" => ("false", "true"),
        "debug_host" => ("127.0.0.1", "127.0.0.1"),
        "debug_port" => ("", "6070"),
        _ => return None,
    };
    let text = if compat { in_compat } else { plain };
    (!text.is_empty()).then(|| text.to_owned())
}

/// A variable of the environment, or what goes where it is not set.
fn or(variable: &str, default: &str) -> String {
    let set = std::env::var(variable).ok().filter(|text| !text.is_empty());
    set.unwrap_or_else(|| default.to_owned())
}

/// Variables of the environment that libraries read by themselves, or that
/// have names of the user's own.
fn without_flags(with_flags: &HashMap<String, String>) -> Vec<Setting> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_read =
            name.starts_with("OTEL_") || VARIABLES.iter().any(|it| it.is_family() && it.is(&name));
        let has_flag = with_flags.values().any(|it| *it == name);
        (is_read && !has_flag && !value.is_empty())
            .then(|| (name, value.to_string_lossy().into_owned()))
    });
    let mut settings: Vec<Setting> = variables
        .map(|(name, value)| Setting {
            heading: "Variables without a flag".to_owned(),
            value: Some(secrets::masked(&name, &value)),
            from: format!("variable {name}"),
            variable: Some(name.clone()),
            setting: name,
        })
        .collect();
    settings.sort_by(|a, b| a.setting.cmp(&b.setting));
    settings
}

/// Variables whose values are none: the flag of each, and what is wrong.
pub(crate) fn wrong_variables(command: &Command) -> Vec<(String, String)> {
    let Some(serve) = command.find_subcommand(SERVE) else {
        return vec![];
    };
    let wrong = |argument: &Arg| {
        let name = argument.get_env()?;
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        let checked = match value.to_str() {
            Some(value) => file::check(argument, value),
            None => Err("it is not UTF-8".to_owned()),
        };
        let why = checked.err()?;
        let flag = argument.get_long().unwrap_or_default();
        Some((
            flag.to_owned(),
            format!("{}: {why}", name.to_string_lossy()),
        ))
    };
    serve.get_arguments().filter_map(wrong).collect()
}
