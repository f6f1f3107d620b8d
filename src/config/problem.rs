//! Mistakes in rules files, and how they are shown.
//!
//! The texts of most mistakes are the reference's, word for word: scripts
//! look for them. Place, path, snippet and help are ours and stand beside.

use std::{fmt, sync::Arc};

use serde_json::{Value, json};

use super::yaml::Mark;

/// Mistakes that are kept; of more only the number is told.
const MAX_KEPT: usize = 1_000;

/// Characters of a quoted text or path that are shown.
const MAX_SHOWN: usize = 200;

/// Characters of a source line that are shown, at most so many before the
/// mistake.
const SNIPPET: usize = 100;
const SNIPPET_BEFORE: usize = 40;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the reader names it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The rule in which it is, `domain.key_value.key`; empty outside of rules.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    snippet: Snippet,
    stage: Stage,
}

/// Every mistake of every file; at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    left_out: usize,
}

/// When the reference would notice: it goes no further with a file in
/// which one stage finds a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Reading YAML.
    Syntax,
    /// Looking at the names and kinds of everything.
    Keys,
    /// Fitting values to fields.
    Types,
    /// Making rules of them.
    Rules,
}

/// The part of the line around a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    text: String,
    /// Characters of `text` before the mistake.
    caret: usize,
}

/// Takes down the mistakes of one file.
#[derive(Debug)]
pub(crate) struct Report<'p> {
    file: Arc<str>,
    text: &'p str,
    found: &'p mut Problems,
}

// === impl Report ===

impl<'p> Report<'p> {
    pub(crate) fn new(file: Arc<str>, text: &'p str, found: &'p mut Problems) -> Self {
        Self { file, text, found }
    }

    /// The file's name.
    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// How many mistakes there are so far, in all files.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// No more are kept: hints need not be made.
    pub(super) fn is_full(&self) -> bool {
        self.found.list.len() >= MAX_KEPT
    }

    /// Takes one down.
    pub(crate) fn add(
        &mut self,
        stage: Stage,
        at: Mark,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        if self.is_full() {
            self.found.left_out += 1;
            return;
        }
        self.found.list.push(Problem {
            file: Arc::clone(&self.file),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            message: message.into(),
            hint,
            snippet: Snippet::new(self.text, at.offset as usize),
            stage,
        });
    }
}

// === impl Snippet ===

impl Snippet {
    fn new(text: &str, offset: usize) -> Self {
        let (before, after) = text.split_at_checked(offset).unwrap_or((text, ""));
        let is_end = |char: &char| matches!(char, '\n' | '\r');
        let mut shown: Vec<char> = before
            .chars()
            .rev()
            .take_while(|char| !is_end(char))
            .take(SNIPPET_BEFORE)
            .collect();
        shown.reverse();
        let caret = shown.len();
        let rest = after.chars().take_while(|char| !is_end(char));
        shown.extend(rest.take(SNIPPET - caret));
        let text: String = shown.into_iter().map(harmless).collect();
        Self {
            text: text.trim_end().to_owned(),
            caret,
        }
    }
}

/// Terminals obey control characters and those that change direction.
fn harmless(char: char) -> char {
    match char {
        '\t' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        char if char.is_control() => '\u{fffd}',
        char => char,
    }
}

/// `text` without what terminals obey.
pub(crate) fn on_one_line(text: &str) -> String {
    text.chars().map(harmless).collect()
}

/// `text`, or its beginning when it is long.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

// === impl Problems ===

impl Problems {
    /// The mistakes, by file and place; the first thousand of them.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mistakes as the reference would tell them, `NAME: TEXT`, one line
    /// each, and none that it would not have got to see.
    #[must_use]
    pub fn compat_lines(&self) -> Vec<String> {
        self.list
            .chunk_by(|one, next| one.file == next.file)
            .flat_map(|of_file| {
                let first = of_file.iter().map(|problem| problem.stage).min();
                of_file
                    .iter()
                    .filter(move |problem| Some(problem.stage) == first)
            })
            .map(Problem::compat_line)
            .collect()
    }

    /// The mistakes in a line each, `NAME: TEXT, in PATH`, as far as
    /// `max_bytes` go: for places where there are no files. With `compat`
    /// without the path, exactly as the reference would tell them.
    #[must_use]
    pub fn one_line_each(&self, compat: bool, max_bytes: usize) -> String {
        let mut text = String::new();
        for (told, problem) in self.list.iter().enumerate() {
            let line = problem.line_with_path(compat);
            if told > 0 && text.len() + line.len() > max_bytes {
                let more = self.len() - told;
                text.push_str(&format!("\nand {} more", counted(more, "mistake")));
                return text;
            }
            text.push_str(if told > 0 { "\n" } else { "" });
            text.push_str(&line);
        }
        if self.left_out > 0 {
            text.push_str(&format!("\nand {} more", counted(self.left_out, "mistake")));
        }
        text
    }

    /// The mistakes as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.list.iter().map(Problem::to_json).collect()
    }

    pub(crate) fn sort(&mut self) {
        self.list.sort_by(|a, b| {
            let place = |problem: &Problem| (problem.line, problem.column);
            a.file.cmp(&b.file).then(place(a).cmp(&place(b)))
        });
    }

    fn files(&self) -> usize {
        self.list
            .chunk_by(|one, next| one.file == next.file)
            .count()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}")?;
        }
        let (count, files) = (self.len(), self.files());
        write!(f, "{}", counted(count, "mistake"))?;
        if self.left_out > 0 {
            write!(f, " (the first {} are shown)", self.list.len())
        } else {
            write!(f, " in {}", counted(files, "file"))
        }
    }
}

impl std::error::Error for Problems {}

/// `1 file`, `2 files`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

// === impl Problem ===

impl Problem {
    fn compat_line(&self) -> String {
        // Only these have room for a place in the reference's own texts.
        let message = match self.message.strip_prefix(LOADING) {
            Some(rest) => format!("{LOADING}line {}: {rest}", self.line),
            None => self.message.clone(),
        };
        on_one_line(&format!("{}: {message}", self.file))
    }

    fn line_with_path(&self, compat: bool) -> String {
        let line = self.compat_line();
        if compat || self.path.is_empty() || self.message.contains(&self.path) {
            return line;
        }
        format!("{line}, in {}", on_one_line(&self.path))
    }

    fn to_json(&self) -> Value {
        json!({
            "file": *self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        })
    }
}

/// What the reference says before the YAML reader's own words.
pub(super) const LOADING: &str = "error loading config file: ";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.to_string();
        let margin = " ".repeat(line.len());
        writeln!(f, "error: {}", on_one_line(&self.message))?;
        let file = on_one_line(&self.file);
        write!(f, "{margin}--> {file}:{line}:{}", self.column)?;
        if !self.path.is_empty() {
            write!(f, ", in {}", on_one_line(&self.path))?;
        }
        let Snippet { text, caret } = &self.snippet;
        writeln!(f, "\n{margin} |\n{line} | {text}")?;
        writeln!(f, "{margin} | {}^", " ".repeat(*caret))?;
        if let Some(hint) = &self.hint {
            writeln!(f, "{margin} = help: {}", on_one_line(hint))?;
        }
        Ok(())
    }
}
