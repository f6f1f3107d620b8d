//! What came of a run, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::{Broken, Failure, FileOutcome, Outcome, TestOutcome, junit, time};
use crate::config::problem::on_one_line;

/// How to tell what came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For what shows test results: JUnit's XML.
    Junit,
}

// === impl Outcome ===

impl Outcome {
    /// Tells what came of it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Text => self.write_text(out),
            Format::Json => writeln!(out, "{:#}", self.to_json()),
            Format::Junit => out.write_all(junit::document(self).as_bytes()),
        }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for file in &self.files {
            file.write_text(out)?;
        }
        writeln!(out, "{} passed, {} failed", self.passed(), self.failed())
    }

    fn to_json(&self) -> Json {
        json!({
            "ok": self.failed() == 0 && self.broken() == 0,
            "passed": self.passed(),
            "failed": self.failed(),
            "files": self.files.iter().map(FileOutcome::to_json).collect::<Json>(),
        })
    }
}

// === impl FileOutcome ===

impl FileOutcome {
    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let file = on_one_line(&self.file);
        writeln!(out, "{file}")?;
        let tests = match &self.tests {
            Ok(tests) => tests,
            Err(broken) => return writeln!(out, "{}\n", broken.told()),
        };
        for test in tests {
            let word = if test.passed() { "ok" } else { "FAILED" };
            writeln!(out, "  {word:<6}  {}", on_one_line(&test.name))?;
        }
        for test in tests {
            for failure in &test.failures {
                write!(out, "\n{}", failure.told(&self.file, test))?;
            }
        }
        writeln!(out)
    }

    fn to_json(&self) -> Json {
        match &self.tests {
            Ok(tests) => {
                let tests: Json = tests.iter().map(TestOutcome::to_json).collect();
                json!({"file": self.file, "tests": tests})
            }
            Err(Broken::Unreadable(reason)) => json!({"file": self.file, "error": reason}),
            Err(Broken::Mistakes(problems)) => json!({
                "file": self.file,
                "count": problems.len(),
                "problems": problems.to_json(),
            }),
        }
    }
}

// === impl Broken ===

impl Broken {
    /// What is wrong, for people.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Unreadable(reason) => format!("error: {}", on_one_line(reason)),
            Self::Mistakes(problems) => problems.to_string(),
        }
    }
}

// === impl TestOutcome ===

impl TestOutcome {
    fn to_json(&self) -> Json {
        json!({
            "name": self.name,
            "line": self.line,
            "ok": self.passed(),
            "failures": self.failures.iter().map(Failure::to_json).collect::<Json>(),
        })
    }
}

// === impl Failure ===

impl Failure {
    /// Where it is, what differs, and the answer.
    pub(super) fn told(&self, file: &str, test: &TestOutcome) -> String {
        let place = on_one_line(&format!("{file}:{}: {}", self.line, test.name));
        let mut lines = vec![format!("{place}\n  {}", self.step())];
        for difference in &self.differences {
            let [field, expected, got] = [&difference.field, &difference.expected, &difference.got]
                .map(|it| on_one_line(it));
            lines.push(format!(
                "  {field}\n    expected {expected}\n    got      {got}"
            ));
        }
        if let Some(answer) = &self.answer {
            let rules = on_one_line(&answer.rules_text());
            lines.push(format!(
                "  rule: {rules}\n  answer: {}",
                on_one_line(&answer.json.to_string())
            ));
            let body = answer.body();
            if !body.is_empty() {
                lines.push(format!("  body: {}", on_one_line(&body)));
            }
        }
        lines.join("\n") + "\n"
    }

    fn step(&self) -> String {
        let (ask, of) = self.ask;
        let which = match of {
            1 => String::new(),
            _ => format!(", asked for the {} of {of} times", ordinal(ask)),
        };
        format!("step {}, at {}{which}", self.step, time::show(self.at))
    }

    fn to_json(&self) -> Json {
        let differences = self
            .differences
            .iter()
            .map(|it| json!({"field": it.field, "expected": it.expected, "got": it.got}));
        let answer = self.answer.as_ref().map(
            |answer| json!({"rules": answer.rules, "response": answer.json, "body": answer.body()}),
        );
        json!({
            "line": self.line,
            "step": self.step,
            "at": time::show(self.at),
            "ask": self.ask.0,
            "repeat": self.ask.1,
            "differences": differences.collect::<Json>(),
            "answer": answer,
        })
    }
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}
