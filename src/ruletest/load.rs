//! A test file → its tests, and the rules that they are about.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Broken,
    find::cannot_read,
    format::Suite,
    reader::{Reader, nearest},
};
use crate::{
    config::{
        self, Options, Problems, ReadOptions,
        compile::text_of,
        files,
        problem::{Report, Stage, clip},
        yaml::{self, Mark},
    },
    engine::rules::RuleSet,
};

/// Tests that can be run.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) suite: Suite,
    pub(super) rules: Arc<RuleSet>,
    /// The domain of steps that name none.
    pub(super) domain: String,
}

/// Reads a test file and its rules.
pub(super) fn load(path: &Path) -> Result<Loaded, Broken> {
    let bytes = files::read_bytes(path).map_err(|error| Broken::Unreadable(cannot_read(&error)))?;
    let name: Arc<str> = path.to_string_lossy().into();
    let mut problems = Problems::default();
    let loaded = match text_of(&bytes) {
        Ok(text) => from_text(path, text, &mut Report::new(name, text, &mut problems))?,
        Err((valid, at, message)) => {
            let mut report = Report::new(name, valid, &mut problems);
            report.add(Stage::Syntax, at, "", message, None);
            None
        }
    };
    problems.sort();
    match loaded {
        Some(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(Broken::Mistakes(problems)),
    }
}

/// `None` where mistakes have been reported; of the rules' own mistakes only
/// once there are none in the tests.
fn from_text(path: &Path, text: &str, report: &mut Report<'_>) -> Result<Option<Loaded>, Broken> {
    let Some(suite) = suite(text, report).filter(|_| report.count() == 0) else {
        return Ok(None);
    };
    let Some((rules, place)) = rules_path(path, &suite, report) else {
        return Ok(None);
    };
    let files = match config::read(&rules, &ReadOptions::default()) {
        Ok(files) => files,
        Err(error) => {
            report.add(Stage::Rules, place, "", error.to_string(), None);
            return Ok(None);
        }
    };
    let options = Options {
        merge_domains: suite.merge_domains,
        compat: false,
    };
    let rules = config::compile(&files, &options).map_err(Broken::Mistakes)?;
    let Some(domain) = domain(&suite, &rules, report) else {
        return Ok(None);
    };
    Ok(Some(Loaded {
        suite,
        rules: Arc::new(rules),
        domain,
    }))
}

fn suite(text: &str, report: &mut Report<'_>) -> Option<Suite> {
    let stream = yaml::parse(text, false);
    let is_whole = stream.mistakes.is_empty();
    for (at, message) in stream.mistakes {
        report.add(Stage::Syntax, at, "", message, None);
    }
    let mut reader = Reader {
        report,
        test: String::new(),
    };
    let mut documents = stream.documents.iter();
    let suite = documents.next().and_then(|first| reader.suite(first));
    if let Some(second) = documents.next() {
        reader.mistake(second.at, "a test file is one document", None);
    } else if is_whole && stream.documents.is_empty() {
        reader.mistake(Mark::START, "there are no `tests`", None);
    }
    suite
}

/// Where the rules are, and which place of the test file says so.
fn rules_path(path: &Path, suite: &Suite, report: &mut Report<'_>) -> Option<(PathBuf, Mark)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some((rules, at)) = &suite.rules {
        return Some((folder.join(rules), *at));
    }
    // `NAME.test.yaml` without its two extensions.
    let stem = Path::new(path.file_stem()?).file_stem()?;
    let beside = ["yaml", "yml"].map(|extension| {
        let mut name = OsString::from(stem);
        name.push(".");
        name.push(extension);
        folder.join(name)
    });
    let [first, _] = &beside;
    let message = format!("there are no rules in {}", first.display());
    let found = beside.into_iter().find(|path| path.exists());
    if found.is_none() {
        let hint = "name a file or folder: `rules: limits.yaml`, from this file's folder on";
        report.add(
            Stage::Rules,
            Mark::START,
            "",
            message,
            Some(hint.to_owned()),
        );
    }
    Some((found?, Mark::START))
}

/// Checks that there are rules for every domain that is asked: where there
/// are none everything passes, and a slip would not be noticed.
fn domain(suite: &Suite, rules: &RuleSet, report: &mut Report<'_>) -> Option<String> {
    let before = report.count();
    let known = rules.domain_names();
    let of_steps = suite.tests.iter().flat_map(|test| &test.steps);
    let named = of_steps.filter_map(|step| step.domain.as_ref());
    for (name, at) in suite.domain.iter().chain(named) {
        if !known.contains(&&**name) {
            let message = format!("there are no rules for domain '{}'", clip(name));
            let hint = nearest(name, &known).map_or_else(
                || format!("there are some for {}", known.join(", ")),
                |known| format!("did you mean {known}?"),
            );
            report.add(Stage::Rules, *at, "", message, Some(hint));
        }
    }
    let default = match (&suite.domain, &*known) {
        (Some((name, _)), _) => name.clone(),
        (None, [only]) => (*only).to_owned(),
        (None, _) => {
            let mut tests = suite.tests.iter().flat_map(|test| &test.steps);
            if let Some(step) = tests.find(|step| step.domain.is_none()) {
                let message = "the step names no domain, and the rules have several";
                let hint = format!("domain: one of {}", known.join(", "));
                report.add(Stage::Rules, step.at, "", message, Some(hint));
            }
            String::new()
        }
    };
    (report.count() == before).then_some(default)
}
