//! Who may import whom. The engine stays pure; the rest stays in its layer.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A part of the crate, and the parts (`crate::…`) that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("engine", &["engine"]),
    ("clock.rs", &["engine"]),
    ("counts.rs", &[]),
    ("config", &["config", "engine", "proto"]),
    (
        "storage",
        &["storage", "engine", "clock", "counts", "trace"],
    ),
    ("trace.rs", &["clock"]),
    (
        "telemetry",
        &["telemetry", "engine", "clock", "counts", "proto", "trace"],
    ),
    (
        "limiter.rs",
        &["engine", "clock", "storage", "telemetry", "trace"],
    ),
    ("aside.rs", &[]),
    ("rulebook.rs", &["engine", "clock", "limiter", "aside"]),
    ("watch.rs", &[]),
    ("xds", &["xds", "config", "proto", "rulebook", "watch"]),
    ("reload.rs", &["config", "rulebook", "watch", "aside"]),
    (
        "service",
        &[
            "service",
            "limiter",
            "rulebook",
            "watch",
            "engine",
            "telemetry",
            "trace",
            "proto",
        ],
    ),
    ("import", &["import", "config", "engine"]),
    ("load", &["load", "proto"]),
    (
        "ruletest",
        &[
            "ruletest", "config", "clock", "engine", "limiter", "proto", "service", "settings",
            "storage",
        ],
    ),
    ("proto.rs", &[]),
];

/// Crates that the engine may use: data structures, nothing that acts.
const ENGINE_CRATES: &[&str] = &[
    "std",
    "super",
    "self",
    "crate",
    "hashbrown",
    "siphasher",
    "chrono",
    "chrono_tz",
    "smallvec",
];

#[test]
fn parts_use_only_what_they_may() {
    let mut wrong = vec![];
    for (part, may_use) in MAY_USE {
        for (file, text) in sources(part) {
            for used in names_after(&text, "crate::") {
                if !may_use.contains(&&*used) {
                    wrong.push(format!("{}: crate::{used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_is_pure() {
    let mut wrong = vec![];
    for (file, text) in sources("engine") {
        for used in names_after(&text, "use ") {
            if !ENGINE_CRATES.contains(&&*used) && !is_own_module(&used) {
                wrong.push(format!("{}: use {used}", file.display()));
            }
        }
        for forbidden in [
            "async ",
            ".await",
            "SystemTime",
            "Instant",
            "serde",
            "prost",
            "std::fs",
            "std::net",
        ] {
            if text.contains(forbidden) {
                wrong.push(format!("{}: {forbidden}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A test that finds nothing would pass for ever.
#[test]
fn the_search_finds_what_is_there() {
    let text = without_tests(
        "use crate::engine::x;\nuse crate::{\n    clock::Clock,\n    engine::{a, b},\n};\n",
    );
    let found: Vec<String> = names_after(&text, "crate::").into_iter().collect();
    assert_eq!(found, ["clock", "engine"]);
    assert!(sources("engine").len() > 10);
    let wire = sources("service");
    assert!(
        wire.iter()
            .any(|(_, text)| names_after(text, "crate::").contains("limiter"))
    );
}

fn is_own_module(name: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    path.join(format!("{name}.rs")).exists()
        || path.join("algorithm").join(format!("{name}.rs")).exists()
}

/// All files of a part, their tests left out.
fn sources(part: &str) -> Vec<(PathBuf, String)> {
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(part)];
    let mut files = vec![];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if !path.to_string_lossy().ends_with("tests.rs") {
            files.push((
                path.clone(),
                without_tests(&fs::read_to_string(&path).unwrap()),
            ));
        }
    }
    assert!(!files.is_empty(), "{part} is gone; correct the table");
    files
}

/// The text before the tests, without comments.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first path segment after each `marker`; of `{a::b, c}` each first one.
fn names_after(text: &str, marker: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(marker) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + marker.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(first_segments(list)),
            None => names.extend(word(rest)),
        }
    }
    names
}

fn first_segments(list: &str) -> Vec<String> {
    let (mut depth, mut at_start, mut found) = (0, true, vec![]);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && depth == 0 && !c.is_whitespace() => {
                at_start = false;
                found.extend(word(&list[at..]));
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}
