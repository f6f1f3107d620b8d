//! Limits files of Kuadrant's limitador → rules.
//!
//! A limit of limitador looks at any keys of a descriptor, in any order; a
//! rule at all of them, in theirs. So the limits of a namespace say which
//! descriptors have to be sent: one for each set of keys that a limit looks
//! at. A request that was refused counts nowhere, in limitador and, with
//! `charge: all_or_nothing`, here. What differs: a window of limitador begins
//! with the first hit in it, ours goes by the clock.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    condition::{self, Key},
    tree::{self, Wanted},
};
use crate::{
    config::{self, SourceFile, yaml},
    engine::limit::Window,
};

use yaml::{Mark, Node, Value};

/// The key that Envoy's action `generic_key` sends, for limits without any.
const GENERIC_KEY: &str = "generic_key";
const GENERIC_VALUE: &str = "all";

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rules, by namespace.
    pub domains: Vec<Domain>,
    /// What was left out or has to be known: place and text.
    pub notes: Vec<Note>,
}

/// The rules of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The namespace.
    pub name: String,
    /// A rules file.
    pub rules: String,
    /// The keys of the descriptors that have to be sent, in their order.
    pub descriptors: Vec<Vec<String>>,
}

/// Something to tell about a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line of the limit.
    pub line: u32,
    /// What.
    pub text: String,
    /// The limit is not among the rules.
    pub is_left_out: bool,
}

/// A limit as it is in the file.
struct Limit {
    line: u32,
    namespace: String,
    max_value: u32,
    seconds: u64,
    name: String,
    id: String,
    conditions: Vec<String>,
    variables: Vec<String>,
}

/// Converts a file.
///
/// # Errors
/// It cannot be read; where and why.
pub fn import(text: &str) -> Result<Imported, String> {
    let stream = yaml::parse(text, true);
    if let Some((at, mistake)) = stream.mistakes.first() {
        return Err(format!("line {}: {mistake}", at.line));
    }
    let limits = match stream.documents.first() {
        Some(document) => list_of_limits(document)?,
        None => &[],
    };
    let mut imported = Imported::default();
    let mut by_namespace: BTreeMap<String, Vec<(Limit, Wanted)>> = BTreeMap::new();
    for node in limits {
        let read = limit(node).and_then(|limit| {
            let wanted = wanted(&limit, &mut imported.notes)?;
            Ok((limit, wanted))
        });
        match read {
            Ok((limit, wanted)) => {
                let of_it = by_namespace.entry(limit.namespace.clone());
                of_it.or_default().push((limit, wanted));
            }
            Err(why) => imported.leave_out(node.at.line, why),
        }
    }
    for (name, limits) in by_namespace {
        let domain = imported.domain(&name, &limits)?;
        imported.domains.extend(domain);
    }
    imported.notes.sort_by_key(|note| note.line);
    Ok(imported)
}

/// The list itself, or that of a Limitador resource of Kubernetes.
fn list_of_limits<'n, 'a>(document: &'n Node<'a>) -> Result<&'n [Node<'a>], String> {
    match document.value() {
        Value::List(list) => Ok(list),
        Value::Map(entries) => {
            let inner = entries
                .iter()
                .find(|(key, _)| matches!(key.text(), Some("limits" | "spec")));
            let (_, inner) = inner.ok_or_else(|| nowhere(document.at))?;
            list_of_limits(inner)
        }
        Value::Scalar(scalar) if scalar.text.is_empty() => Ok(&[]),
        Value::Scalar(_) => Err(nowhere(document.at)),
    }
}

fn nowhere(at: Mark) -> String {
    format!("line {}: a list of limits belongs here", at.line)
}

// === a limit ===

fn limit(node: &Node<'_>) -> Result<Limit, String> {
    let Value::Map(fields) = node.value() else {
        return Err("a limit is a map".to_owned());
    };
    let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut conditions, mut variables) = (vec![], vec![]);
    for (key, value) in fields {
        match key.text() {
            Some("conditions") => conditions = list_of_texts(value, "conditions")?,
            Some("variables") => variables = list_of_texts(value, "variables")?,
            Some(name @ ("namespace" | "max_value" | "seconds" | "name" | "id")) => {
                let text = value.text().ok_or_else(|| format!("{name} is one value"))?;
                texts.insert(name, text);
            }
            name => {
                return Err(format!(
                    "there is no field {}",
                    name.unwrap_or("of that kind")
                ));
            }
        }
    }
    let text = |name: &str| texts.get(name).copied().unwrap_or_default();
    let number = |name: &str| {
        let number = text(name).parse::<u64>();
        number.map_err(|_| format!("{name} is not a whole number"))
    };
    if text("namespace").is_empty() {
        return Err("it has no namespace".to_owned());
    }
    let seconds = number("seconds")?;
    if seconds == 0 || seconds > Window::LONGEST_SECONDS {
        return Err(format!(
            "a window is from 1 second to 366 days long, not {seconds} seconds"
        ));
    }
    let max_value = u32::try_from(number("max_value")?);
    let name = text("name");
    if name.contains(|c: char| matches!(c, '"' | '\\') || c.is_control()) {
        return Err(
            "a limit's name cannot contain quotes, backslashes or control characters".to_owned(),
        );
    }
    Ok(Limit {
        line: node.at.line,
        namespace: text("namespace").to_owned(),
        max_value: max_value.map_err(|_| format!("a limit is at most {}", u32::MAX))?,
        seconds,
        name: name.to_owned(),
        id: text("id").to_owned(),
        conditions,
        variables,
    })
}

fn list_of_texts(node: &Node<'_>, name: &str) -> Result<Vec<String>, String> {
    match node.value() {
        Value::List(list) => {
            let texts = list.iter().map(|it| it.text().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .ok_or_else(|| format!("{name} are texts"))
        }
        Value::Scalar(scalar) if scalar.plain && matches!(&*scalar.text, "" | "~" | "null") => {
            Ok(vec![])
        }
        _ => Err(format!("{name} are a list")),
    }
}

/// What the limit wants of each key, in the order in which it names them.
fn wanted(limit: &Limit, notes: &mut Vec<Note>) -> Result<Wanted, String> {
    let mut wanted = Wanted::new(limit.max_value, limit.seconds, &limit.name);
    let mut descriptors = BTreeSet::new();
    for text in &limit.conditions {
        let compared = condition::comparisons(text);
        for it in compared.map_err(|why| format!("condition {text:?}: {why}"))? {
            let Key { descriptor, name } = it.key;
            descriptors.insert(descriptor);
            wanted.compares(&name, it.is_equal, it.value)?;
        }
    }
    for text in &limit.variables {
        let key = condition::variable(text).map_err(|why| format!("variable {text:?}: {why}"))?;
        descriptors.insert(key.descriptor);
        wanted.counts(&key.name)?;
    }
    if descriptors.len() > 1 {
        return Err("it looks at several descriptors of a request: a rule is about one".to_owned());
    }
    let mut note = |text: String| {
        notes.push(Note {
            line: limit.line,
            text,
            is_left_out: false,
        });
    };
    if let Some(descriptor) = descriptors.first().filter(|it| **it > 0) {
        note(format!(
            "it looks at descriptors[{descriptor}] only; the rule applies to any descriptor with its keys"
        ));
    }
    if descriptors.is_empty() {
        wanted.compares(GENERIC_KEY, true, GENERIC_VALUE.to_owned())?;
        note(format!(
            "it applies to every request: have Envoy send {GENERIC_KEY}={GENERIC_VALUE} with each"
        ));
    }
    Ok(wanted)
}

// === impl Imported ===

impl Imported {
    /// Whether a limit is missing among the rules.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.notes.iter().any(|note| note.is_left_out)
    }

    fn leave_out(&mut self, line: u32, text: String) {
        self.notes.push(Note {
            line,
            text,
            is_left_out: true,
        });
    }

    /// The rules of a namespace; `None` where no limit is left.
    fn domain(&mut self, name: &str, limits: &[(Limit, Wanted)]) -> Result<Option<Domain>, String> {
        let all: Vec<&Wanted> = limits.iter().map(|(_, wanted)| wanted).collect();
        let (tree, left_out) = tree::build(&all);
        for (place, why) in left_out {
            self.leave_out(limits[place].0.line, why);
        }
        if tree.is_empty() {
            return Ok(None);
        }
        let descriptors = tree.descriptors();
        let rules = rules(name, &tree, &descriptors, limits);
        let file = SourceFile {
            name: name.into(),
            bytes: rules.clone().into_bytes(),
        };
        // Whatever names and values there are: what is printed can be loaded.
        if let Err(problems) = config::compile(&[file], &config::Options::default()) {
            return Err(format!(
                "namespace {name:?} cannot be converted: {problems}"
            ));
        }
        Ok(Some(Domain {
            name: name.to_owned(),
            rules,
            descriptors,
        }))
    }
}

fn rules(
    name: &str,
    tree: &tree::Tree,
    descriptors: &[Vec<String>],
    limits: &[(Limit, Wanted)],
) -> String {
    let mut text =
        "# Limits of limitador, converted. Envoy has to send one descriptor for each line\n\
         # of these, with its entries in this order:\n"
            .to_owned();
    for keys in descriptors {
        text += &format!("#   {}\n", keys.join(", ").replace(char::is_control, " "));
    }
    let ids = limits.iter().filter(|(limit, _)| !limit.id.is_empty());
    for (limit, _) in ids {
        let id = limit.id.replace(char::is_control, " ");
        text += &format!("# Line {}: id {id}\n", limit.line);
    }
    text += &format!(
        "domain: {}\ncharge: all_or_nothing\ndescriptors:\n",
        tree::quoted(name)
    );
    tree.write(&mut text);
    text
}
