//! Rules files: what loads, what does not, and what is said about it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use ratekeeper::{
    cli::check::{self, Check, Format},
    config::{self, Options, Problems, SourceFile},
    engine::rules::RuleSet,
};

const STRICT: Options = Options {
    merge_domains: false,
    compat: false,
};
const COMPAT: Options = Options {
    merge_domains: false,
    compat: true,
};
const MERGING: Options = Options {
    merge_domains: true,
    compat: false,
};

fn file(name: &str, bytes: impl Into<Vec<u8>>) -> SourceFile {
    SourceFile {
        name: Arc::from(name),
        bytes: bytes.into(),
    }
}

fn compile(files: &[(&str, &str)], options: &Options) -> Result<RuleSet, Problems> {
    let files: Vec<_> = files.iter().map(|(name, text)| file(name, *text)).collect();
    config::compile(&files, options)
}

/// `file:line:column path: message` of each mistake.
fn told(problems: &Problems) -> Vec<String> {
    problems
        .list()
        .iter()
        .map(|problem| {
            let place = format!("{}:{}:{}", problem.file, problem.line, problem.column);
            format!("{place} {}: {}", problem.path, problem.message)
        })
        .collect()
}

/// One mistake per file; the comments on top say what is told about it.
#[test]
fn each_mistake_is_told_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_config");
    let mut wrong = vec![];
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let expected = |field: &str| {
            let start = format!("# {field}: ");
            text.lines().find_map(|line| line.strip_prefix(&start))
        };
        let problems = compile(&[(name, &text)], &STRICT).unwrap_err();
        let wanted = format!(
            "{name}:{} {}: {}",
            expected("at").unwrap_or_default(),
            expected("in").unwrap_or_default(),
            expected("message").unwrap_or_default()
        );
        let got = told(&problems);
        if got != [wanted.clone()] {
            wrong.push(format!("{got:#?} instead of {wanted}"));
        }
        let help = problems.list()[0].hint.as_deref();
        if help != expected("help") {
            wrong.push(format!("{name}: help {help:?}"));
        }
        if let Some(complaint) = compat_complaint(name, &text, &problems, expected("compat")) {
            wrong.push(complaint);
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 50, "only {count} files");
}

/// The reference's way: the text alone, unless the file says that it loads.
fn compat_complaint(
    name: &str,
    text: &str,
    strict: &Problems,
    expected: Option<&str>,
) -> Option<String> {
    let problem = &strict.list()[0];
    let message = match problem.message.strip_prefix("error loading config file: ") {
        Some(rest) => format!("error loading config file: line {}: {rest}", problem.line),
        None => problem.message.clone(),
    };
    let wanted = match expected {
        Some("loads") => vec![],
        _ => vec![format!("{name}: {message}")],
    };
    let got = match compile(&[(name, text)], &COMPAT) {
        Ok(_) => vec![],
        Err(problems) => problems.compat_lines(),
    };
    (got != wanted).then(|| format!("compat: {got:?} instead of {wanted:?}"))
}
