//! The JSON Schema of rules files against their reader: with a validator, and
//! with YAML as an editor reads it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::{collections::BTreeMap, path::Path};

use boon::{Compiler, SchemaIndex, Schemas};
use ratekeeper::config::{self, Options, ReadOptions, SourceFile};
use serde_json::{Value, json};

/// Of `tests/bad_config`, what no schema can tell, and why.
const BEYOND: &[(&str, &str)] = &[
    ("anchor_inside_itself.yaml", YAML),
    ("not_yaml.yaml", YAML),
    ("repeated_key.yaml", YAML),
    ("tab_indent.yaml", YAML),
    ("tag_mismatch.yaml", YAML),
    ("unknown_anchor.yaml", YAML),
    ("merge_of_text.yaml", YAML),
    ("domain_twice.yaml", "each document is validated alone"),
    ("empty_file.yaml", "there is no document to validate"),
    ("duplicate_key.yaml", TWO_PLACES),
    ("duplicate_key_nested.yaml", TWO_PLACES),
    ("replaces_itself.yaml", TWO_PLACES),
    (
        "float_as_number.yaml",
        "to JSON Schema 1e3 is a whole number",
    ),
    ("metadata_infinite.yaml", YAML),
    ("metadata_too_deep.yaml", "levels are not counted"),
    ("limits_that_meet.yaml", TWO_PLACES),
    ("opened_by_nobody.yaml", TWO_PLACES),
    ("remember_too_short.yaml", ARITHMETIC),
    ("warm_up_downwards.yaml", ARITHMETIC),
    ("responses_body_broken.yaml", "what is in a text"),
    ("responses_field_unknown.yaml", "what is in a text"),
    ("time_zone_unknown.yaml", "there are too many zones"),
    ("unit_multiplier_too_long.yaml", ARITHMETIC),
    ("window_too_long.yaml", ARITHMETIC),
];
/// The editor's YAML reader complains itself.
const YAML: &str = "no YAML";
const TWO_PLACES: &str = "two places have to differ";
const ARITHMETIC: &str = "a schema does not calculate";

/// A compiled schema.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

// === impl Validator ===

impl Validator {
    fn new() -> Self {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler
            .add_resource("rules.json", config::json_schema())
            .unwrap();
        let index = compiler.compile("rules.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    /// What is wrong with a file.
    fn complaint(&self, text: &str) -> Option<String> {
        let documents = match documents(text) {
            Ok(documents) => documents,
            Err(error) => return Some(format!("{YAML}: {error}")),
        };
        let complaints = documents.iter().filter_map(|document| {
            let valid = self.schemas.validate(document, self.index);
            valid.err().map(|error| format!("{error:#}"))
        });
        complaints.reduce(|all, next| all + "\n" + &next)
    }
}

/// The documents of a file, in YAML 1.2.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_yaml::options! {
        strict_booleans: true,
        underscored_numbers_as_strings: true,
    };
    serde_yaml::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

fn loads(text: &str) -> bool {
    let file = SourceFile {
        name: "rules.yaml".into(),
        bytes: text.into(),
    };
    config::compile(&[file], &Options::default()).is_ok()
}

/// The files of a folder of this repository, and what is in them.
fn files(folder: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = config::read(&folder, &ReadOptions::default()).unwrap();
    let text = |file: SourceFile| String::from_utf8(file.bytes).unwrap();
    files
        .into_iter()
        .map(|file| (file.name.rsplit('/').next().unwrap().to_owned(), text(file)))
        .collect()
}

#[test]
fn it_takes_every_file_that_is_shipped() {
    let validator = Validator::new();
    let mut count = 0;
    for (name, text) in files("config").iter().filter(|(_, text)| loads(text)) {
        assert_eq!(validator.complaint(text), None, "{name}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn it_takes_the_rules_of_every_case_that_load() {
    let validator = Validator::new();
    let (mut count, mut wrong) = (0, vec![]);
    for (name, text) in files("tests/cases") {
        let cases: Vec<Value> = serde_yaml::from_str(&text).unwrap();
        let rules = cases.iter().flat_map(|case| match &case["rules"] {
            Value::Object(named) => named.values().collect(),
            rules => vec![rules],
        });
        let rules = rules.filter_map(Value::as_str);
        for rules in rules.filter(|rules| loads(rules)) {
            count += 1;
            let complaint = validator.complaint(rules);
            wrong.extend(complaint.map(|complaint| format!("{name}: {complaint}\n{rules}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 200, "only {count}");
}

#[test]
fn it_refuses_every_mistake_but_those_beyond_it() {
    let validator = Validator::new();
    let mut passed = vec![];
    for (name, text) in files("tests/bad_config") {
        match validator.complaint(&text) {
            None => passed.push((name, false)),
            Some(complaint) if complaint.starts_with(YAML) => passed.push((name, true)),
            Some(_) => {}
        }
    }
    let mut beyond: Vec<_> = BEYOND
        .iter()
        .map(|&(name, why)| (name.to_owned(), why == YAML))
        .collect();
    beyond.sort();
    assert_eq!(
        passed, beyond,
        "what passed, on the left; whether it is no YAML"
    );
}

/// Every key, in every kind of map around it, with every kind of value.
#[test]
fn it_takes_what_loads() {
    let validator = Validator::new();
    let (mut taken, mut wrong) = (0, vec![]);
    for (around, definition, beside) in SURROUNDINGS {
        let definition = &config::json_schema()["definitions"][*definition];
        for key in definition["properties"].as_object().unwrap().keys() {
            for value in VALUES {
                let mut map: BTreeMap<_, _> = beside.iter().copied().collect();
                map.insert(key, value);
                let map: Vec<_> = map.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                let text = around.replace("{}", &format!("{{{}}}", map.join(", ")));
                if loads(&text) {
                    taken += 1;
                    let complaint = validator.complaint(&text);
                    wrong.extend(complaint.map(|complaint| format!("{text}: {complaint}")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 300, "only {taken}");
}

/// A place, the definition of what stands there, and enough keys to load.
const SURROUNDINGS: &[(&str, &str, &[(&str, &str)])] = &[
    ("{}", "file", &[("domain", "d")]),
    (
        "{domain: d, descriptors: [{}]}",
        "descriptor",
        &[("key", "k")],
    ),
    (
        "{domain: d, descriptors: [{}]}",
        "descriptor",
        &[("key", "k"), ("value", "a*")],
    ),
    (IN_LIMIT, "rate_limit", &[("unit", "day")]),
    (IN_LIMIT, "rate_limit", &[("window", "1d")]),
    (IN_LIMIT, "rate_limit", &[("unlimited", "true")]),
    (IN_LIMIT, "rate_limit", &[]),
    (
        "{domain: d, descriptors: [{key: k, rate_limit: {unit: day, replaces: [{}]}}]}",
        "replaced",
        &[("name", "n")],
    ),
];
const IN_LIMIT: &str = "{domain: d, descriptors: [{key: k, rate_limit: {}}]}";

const VALUES: &[&str] = &[
    // Nothing.
    "",
    "~",
    "null",
    "NULL",
    "''",
    // True and false.
    "true",
    "TRUE",
    "False",
    "y",
    "Y",
    "yes",
    "Yes",
    "YES",
    "on",
    "On",
    "ON",
    "n",
    "N",
    "no",
    "No",
    "NO",
    "off",
    "Off",
    "OFF",
    "'true'",
    // Whole numbers.
    "0",
    "1",
    "-0",
    "-1",
    "+8",
    "010",
    "0o10",
    "0x8",
    "0X8",
    "+0x8",
    "0b11",
    "0B11",
    "1_000",
    "0x3_e8",
    "0_10",
    "1000_",
    "4294967295",
    "4294967296",
    "'5'",
    "!!int 5",
    // Other numbers.
    "1.5",
    ".5",
    "5.",
    "1e3",
    ".inf",
    ".nan",
    "09",
    // Text.
    "a",
    "a*",
    "'*'",
    "a b",
    "2026-01-01",
    "10.0.0.1",
    "12:30:45",
    "'say \"hi\"'",
    "'a\\b'",
    "\"a\\r\\nb\"",
    "é",
    "second",
    "SECOND",
    "Minute",
    "fortnight",
    "error",
    "Error",
    "always",
    "all_or_nothing",
    "exact",
    "leased",
    // Lengths.
    "5s",
    "005m",
    "0s",
    "0h0m1s",
    "1h30m",
    "14d",
    "366d",
    "m5",
    "5 m",
    "5M",
    "1d5",
    // Lists and maps.
    "[]",
    "[~]",
    "[a]",
    "{}",
    "[{}]",
    "[{key: k}]",
    "[{name: n}]",
    "{a: [1, {b: ~}]}",
    "{unit: day}",
    "{unlimited: yes}",
    "{window: 5m, name: n}",
];

/// A limit's parts, each with one value or another or not there: there is no
/// pair of which the reader and the schema say different things.
#[test]
fn it_knows_which_parts_of_a_limit_exclude_each_other() {
    let parts: &[(&str, &[&str])] = &[
        ("unit", &["day", "WEEK", "fortnight", "~"]),
        ("unit_multiplier", &["2", "~"]),
        ("window", &["5m", "''", "~"]),
        ("unlimited", &["true", "on", "no", "~"]),
        ("accuracy", &["leased", "~"]),
        ("requests_per_unit", &["5"]),
    ];
    let mut limits = vec![String::new()];
    for (key, values) in parts {
        let shorter = limits.clone();
        for (limit, value) in shorter
            .iter()
            .flat_map(|it| values.iter().map(move |v| (it, v)))
        {
            limits.push(format!("{limit}{key}: {value}, "));
        }
    }
    differs_nowhere(
        limits
            .iter()
            .map(|limit| IN_LIMIT.replace("{}", &format!("{{{limit}}}"))),
    );
}

#[test]
fn it_knows_what_is_shared_by_a_wildcard() {
    let descriptors = ["a", "a*", "5"].into_iter().flat_map(|key| {
        let values = ["~", "''", "b", "'*'", "5"].into_iter();
        values.flat_map(move |value| {
            let flags = ["true", "yes", "off", "~"].into_iter();
            flags
                .map(move |flag| format!("{{key: {key}, value: {value}, share_threshold: {flag}}}"))
        })
    });
    differs_nowhere(descriptors.map(|one| format!("{{domain: d, descriptors: [{one}]}}")));
}

fn differs_nowhere(files: impl Iterator<Item = String>) {
    let validator = Validator::new();
    let verdicts = |text: String| (loads(&text), validator.complaint(&text), text);
    let differ =
        |(loads, complaint, _): &(bool, Option<String>, String)| *loads == complaint.is_some();
    let wrong: Vec<_> = files.map(verdicts).filter(differ).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_document_that_says_nothing_is_none() {
    let validator = Validator::new();
    assert!(
        validator
            .schemas
            .validate(&Value::Null, validator.index)
            .is_ok()
    );
    assert!(
        validator
            .schemas
            .validate(&json!({}), validator.index)
            .is_err()
    );
    assert_eq!(
        validator.complaint("---\n---\ndomain: a\n---\ndomain: b\n"),
        None
    );
}

#[test]
fn the_program_prints_it() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
        .arg("schema")
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, config::json_schema());
}
