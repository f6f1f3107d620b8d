//! A file of settings: TOML or YAML.
//!
//! Its keys are the flags of `serve`, `_` or `-`, its values scalars or lists.
//! A table (a map) is a heading and nothing more. What the file says becomes
//! the flags' defaults, so that flags and variables win over it, and so that
//! every flag that there is can stand in it.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{boolean, secrets};
use crate::config::yaml::{self, Mark, Node, Value};

/// Flags that are not settings.
const NOT_SETTINGS: [&str; 4] = ["config", "print_config", "help", "version"];
/// Bytes that a file may have.
const MAX_BYTES: u64 = 1 << 20;

/// What a file says, held against the flags that there are.
#[derive(Clone, Debug)]
pub(crate) struct SettingsFile {
    path: PathBuf,
    /// By the name of the argument.
    said: HashMap<String, Said>,
}

#[derive(Clone, Debug)]
struct Said {
    values: Vec<String>,
    line: u32,
}

/// All that is wrong with a file.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) struct FileError(Vec<String>);

/// A key, what it says, and where; `None` where it says nothing that a flag
/// could take.
type Entry = (String, Option<Values>, u32);

#[derive(Clone, Debug)]
enum Values {
    One(String),
    Several(Vec<String>),
}

// === impl SettingsFile ===

impl SettingsFile {
    /// Reads a file of settings of `command`.
    ///
    /// # Errors
    /// All mistakes, a line each, with file and line.
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, FileError> {
        let name = path.display();
        let text = contents(path).map_err(|reason| FileError(vec![format!("{name}: {reason}")]))?;
        let is_yaml = path
            .extension()
            .is_some_and(|it| it == "yaml" || it == "yml");
        let entries = if is_yaml {
            yaml_entries(&text)
        } else {
            toml_entries(&text)
        };
        let entries = entries.map_err(|mistakes| {
            let lines = mistakes.into_iter();
            FileError(
                lines
                    .map(|(line, text)| format!("{name}:{line}: {text}"))
                    .collect(),
            )
        })?;
        let mut said: HashMap<String, Said> = HashMap::new();
        let mut mistakes = vec![];
        for (key, values, line) in entries {
            match setting(command, &key, values) {
                Ok(None) => {}
                Ok(Some((id, values))) => {
                    if let Some(before) = said.insert(id, Said { values, line }) {
                        let first = before.line;
                        mistakes.push(format!(
                            "{name}:{line}: {key} is set twice, first in line {first}"
                        ));
                    }
                }
                Err(mistake) => mistakes.push(format!("{name}:{line}: {mistake}")),
            }
        }
        if !mistakes.is_empty() {
            return Err(FileError(mistakes));
        }
        Ok(Self {
            path: path.to_owned(),
            said,
        })
    }

    /// Makes what the file says the default.
    pub(crate) fn apply(&self, command: Command) -> Command {
        command.mut_args(|argument| match self.said.get(argument.get_id().as_str()) {
            Some(said) => argument.default_values(said.values.clone()),
            None => argument,
        })
    }

    /// File and line of a setting, where it is from here.
    pub(crate) fn place(&self, id: &str) -> Option<String> {
        let said = self.said.get(id)?;
        Some(format!("{}:{}", self.path.display(), said.line))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

fn contents(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > MAX_BYTES {
        return Err(format!("a file of settings has at most {MAX_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The argument that a key stands for, and its values; `None` where nothing
/// is said.
fn setting(
    command: &Command,
    key: &str,
    values: Option<Values>,
) -> Result<Option<(String, Vec<String>)>, String> {
    let flag = key.replace('_', "-");
    let found = settings(command).find(|argument| argument.get_long() == Some(&flag));
    let Some(argument) = found else {
        return Err(format!(
            "there is no setting {key}{}",
            nearest(command, &flag)
        ));
    };
    let values = match values {
        None => return Ok(None),
        Some(Values::One(value)) => vec![value],
        Some(Values::Several(values)) => {
            list(argument, values).map_err(|why| format!("{key}: {why}"))?
        }
    };
    for value in &values {
        check(argument, value).map_err(|why| format!("{key}: {why}"))?;
    }
    Ok(Some((argument.get_id().to_string(), values)))
}

/// The flags that are settings.
pub(crate) fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let arguments = command.get_arguments();
    arguments.filter(|argument| !NOT_SETTINGS.contains(&argument.get_id().as_str()))
}

fn list(argument: &Arg, values: Vec<String>) -> Result<Vec<String>, String> {
    if let Some(delimiter) = argument.get_value_delimiter() {
        return Ok(vec![values.join(&delimiter.to_string())]);
    }
    let takes_more = argument
        .get_num_args()
        .is_some_and(|range| range.max_values() > 1);
    if takes_more || matches!(argument.get_action(), ArgAction::Append) || values.len() == 1 {
        return Ok(values);
    }
    Err("it takes one value, not a list".to_owned())
}

/// Whether `argument` takes `value`.
///
/// # Errors
/// What it takes instead.
pub(crate) fn check(argument: &Arg, value: &str) -> Result<(), String> {
    let name = "--it";
    let alone = Arg::new("it").long("it").allow_hyphen_values(true);
    let alone = alone.ignore_case(argument.is_ignore_case_set());
    let alone = match (
        argument.get_action().takes_values(),
        argument.get_value_delimiter(),
    ) {
        (false, _) => alone.value_parser(boolean()),
        (true, None) => alone.value_parser(argument.get_value_parser().clone()),
        (true, Some(delimiter)) => alone
            .value_parser(argument.get_value_parser().clone())
            .value_delimiter(delimiter)
            .action(ArgAction::Append),
    };
    let command = Command::new("check").no_binary_name(true).arg(alone);
    let parsed = command.try_get_matches_from([format!("{name}={value}")]);
    let flag = argument.get_long().unwrap_or_default();
    parsed
        .map(|_| ())
        .map_err(|error| in_a_line(&secrets::without(error, Some(flag))))
}

/// What is wrong with a value, without the name of the flag and advice.
fn in_a_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    said.replace(" for '--it <it>'", "")
}

fn nearest(command: &Command, flag: &str) -> String {
    if flag.len() > 80 {
        return String::new();
    }
    let flags = settings(command).filter_map(|argument| argument.get_long());
    let scored = flags.map(|known| (strsim::normalized_damerau_levenshtein(flag, known), known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, known)) if score > 0.6 => {
            format!("; did you mean {}?", known.replace('-', "_"))
        }
        _ => String::new(),
    }
}

// === TOML ===

fn toml_entries(text: &str) -> Result<Vec<Entry>, Vec<(u32, String)>> {
    let line_of = |offset: usize| yaml::mark_at(text, offset).line;
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        vec![(line_of(at), error.message().to_owned())]
    })?;
    let mut entries = vec![];
    let mut mistakes = vec![];
    for (key, value) in root.get_ref() {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    toml_entry(key, value, &line_of, &mut entries, &mut mistakes);
                }
            }
            _ => toml_entry(key, value, &line_of, &mut entries, &mut mistakes),
        }
    }
    entries.sort_by_key(|(_, _, line)| *line);
    if mistakes.is_empty() {
        Ok(entries)
    } else {
        Err(mistakes)
    }
}

fn toml_entry(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    line_of: &dyn Fn(usize) -> u32,
    entries: &mut Vec<Entry>,
    mistakes: &mut Vec<(u32, String)>,
) {
    let line = line_of(key.span().start);
    let values = match value.get_ref() {
        DeValue::Array(list) => {
            let scalars: Option<Vec<String>> =
                list.iter().map(|it| toml_scalar(it.get_ref())).collect();
            scalars.map(Values::Several)
        }
        value => toml_scalar(value).map(Values::One),
    };
    match values {
        Some(values) => entries.push((key.get_ref().to_string(), Some(values), line)),
        None => mistakes.push((
            line,
            format!(
                "{}: a value or a list of values belongs here",
                key.get_ref()
            ),
        )),
    }
}

fn toml_scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

// === YAML ===

fn yaml_entries(text: &str) -> Result<Vec<Entry>, Vec<(u32, String)>> {
    let stream = yaml::parse(text, false);
    let mut mistakes: Vec<(u32, String)> = stream
        .mistakes
        .into_iter()
        .map(|(at, it)| (at.line, it))
        .collect();
    let mut entries = vec![];
    match &stream.documents[..] {
        [] => {}
        [root] => yaml_map(root, true, &mut entries, &mut mistakes),
        [_, second, ..] => mistakes.push((second.at.line, "settings are one document".to_owned())),
    }
    if mistakes.is_empty() {
        Ok(entries)
    } else {
        Err(mistakes)
    }
}

fn yaml_map(
    map: &Node<'_>,
    is_root: bool,
    entries: &mut Vec<Entry>,
    mistakes: &mut Vec<(u32, String)>,
) {
    let Value::Map(map) = map.value() else {
        if !is_empty(map) {
            mistakes.push((map.at.line, "settings are a map".to_owned()));
        }
        return;
    };
    for (key, value) in map {
        let Mark { line, .. } = key.at;
        let Some(name) = key.text() else {
            mistakes.push((line, "a setting's name is text".to_owned()));
            continue;
        };
        let values = match value.value() {
            Value::Map(_) if is_root => {
                yaml_map(value, false, entries, mistakes);
                continue;
            }
            Value::Scalar(_) if is_empty(value) => Some(None),
            Value::Scalar(scalar) => Some(Some(Values::One(scalar.text.to_string()))),
            Value::List(list) => {
                let scalars: Option<Vec<String>> =
                    list.iter().map(|it| it.text().map(str::to_owned)).collect();
                scalars.map(|list| Some(Values::Several(list)))
            }
            Value::Map(_) => None,
        };
        match values {
            Some(values) => entries.push((name.to_owned(), values, line)),
            None => mistakes.push((
                line,
                format!("{name}: a value or a list of values belongs here"),
            )),
        }
    }
}

/// Nothing, or null.
fn is_empty(node: &Node<'_>) -> bool {
    match node.value() {
        Value::Scalar(scalar) => scalar.plain && matches!(&*scalar.text, "" | "~" | "null"),
        Value::List(_) | Value::Map(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::value_parser;

    use super::*;

    fn command() -> Command {
        let argument = |name: &'static str| Arg::new(name).long(name.replace('_', "-"));
        Command::new("serve")
            .arg(argument("config"))
            .arg(
                argument("grpc_port")
                    .value_parser(value_parser!(u16))
                    .default_value("8081"),
            )
            .arg(argument("shadow_mode").value_parser(boolean()))
            .arg(argument("tags").value_delimiter(','))
            .arg(argument("name").action(ArgAction::Append))
    }

    fn read(name: &str, text: &str) -> Result<SettingsFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let read = SettingsFile::read(&path, &command());
        let prefix = format!("{}/", folder.path().display());
        read.map_err(|error| error.to_string().replace(&prefix, ""))
    }

    fn values(name: &str, text: &str, id: &str) -> Vec<String> {
        let command = read(name, text).unwrap().apply(command());
        let matches = command.try_get_matches_from(["serve"]).unwrap();
        let raw = matches.get_raw(id).into_iter().flatten();
        raw.map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let toml = "grpc-port = 9\nshadow_mode = true\n['some heading']\ntags = ['a', 'b']\nname = ['x', 'y']\n";
        let yaml = "grpc-port: 9\nshadow_mode: true\nsome heading:\n  tags: [a, b]\n  name:\n    - x\n    - y\n";
        for (name, text) in [("s.toml", toml), ("s.yaml", yaml), ("s", toml)] {
            assert_eq!(values(name, text, "grpc_port"), ["9"], "{name}");
            assert_eq!(values(name, text, "shadow_mode"), ["true"], "{name}");
            assert_eq!(values(name, text, "tags"), ["a", "b"], "{name}");
            assert_eq!(values(name, text, "name"), ["x", "y"], "{name}");
        }
        assert_eq!(values("s.yaml", "grpc_port:\n", "grpc_port"), ["8081"]);
        assert_eq!(values("s.toml", "", "grpc_port"), ["8081"]);
    }

    #[test]
    fn mistakes_are_told_with_their_places() {
        for (name, text, expected) in [
            (
                "s.toml",
                "\ngrpc_prot = 1\nshadow-mode = 3",
                "s.toml:2: there is no setting grpc_prot; did you mean grpc_port?\ns.toml:3: shadow-mode: invalid value '3' [possible values: true",
            ),
            (
                "s.yaml",
                "a:\n  grpc_port: many",
                "s.yaml:2: grpc_port: invalid value 'many': invalid digit",
            ),
            (
                "s.yaml",
                "grpc_port: [1, 2]",
                "s.yaml:1: grpc_port: it takes one value, not a list",
            ),
            (
                "s.yaml",
                "grpc_port: 1\ngrpc-port: 2",
                "s.yaml:2: grpc-port is set twice, first in line 1",
            ),
            (
                "s.toml",
                "grpc_port = 1979-05-27",
                "s.toml:1: grpc_port: a value or a list",
            ),
            ("s.toml", "x = 1\ny = = 2", "s.toml:2: "),
            (
                "s.toml",
                "config = 'x'",
                "s.toml:1: there is no setting config",
            ),
            ("s.yaml", "- 1", "s.yaml:1: settings are a map"),
            (
                "s.yaml",
                "a: 1\n---\nb: 1",
                "s.yaml:3: settings are one document",
            ),
        ] {
            let mistake = read(name, text).unwrap_err();
            assert!(mistake.starts_with(expected), "{text}\n{mistake}");
        }
    }
}
