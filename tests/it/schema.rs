//! The JSON Schema of rules files against their reader: with a validator, and
//! with YAML as an editor reads it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::{collections::BTreeMap, path::Path};

use boon::{Compiler, SchemaIndex, Schemas};
use ratekeeper::config::{self, Options, ReadOptions, SourceFile};
use serde_json::{Value, json};

/// Of `tests/bad_config`, in order: what no schema can tell, and why.
const BEYOND: &[(&str, &str)] = &[
    ("anchor_inside_itself.yaml", NOT_YAML),
    ("domain_twice.yaml", "each document is validated alone"),
    ("duplicate_key.yaml", TWO_PLACES),
    ("duplicate_key_nested.yaml", TWO_PLACES),
    ("empty_file.yaml", "there is no document to validate"),
    (
        "float_as_number.yaml",
        "to a schema 1e3 is the whole number 1000",
    ),
    ("limits_that_meet.yaml", TWO_PLACES),
    ("merge_of_text.yaml", "<< is resolved before"),
    ("metadata_infinite.yaml", "JSON has no such number"),
    ("metadata_too_deep.yaml", "a schema does not count levels"),
    ("not_yaml.yaml", NOT_YAML),
    ("opened_by_nobody.yaml", TWO_PLACES),
    ("opened_by_quota.yaml", TWO_PLACES),
    ("remember_too_short.yaml", NO_SUMS),
    ("repeated_key.yaml", NOT_YAML),
    ("replaces_itself.yaml", TWO_PLACES),
    ("responses_body_broken.yaml", TEMPLATE),
    ("responses_field_unknown.yaml", TEMPLATE),
    ("tab_indent.yaml", NOT_YAML),
    ("tag_mismatch.yaml", NOT_YAML),
    ("time_zone_unknown.yaml", "there are too many zones to list"),
    ("unit_multiplier_too_long.yaml", NO_SUMS),
    ("unknown_anchor.yaml", NOT_YAML),
    ("warm_up_downwards.yaml", TWO_PLACES),
    ("window_too_long.yaml", NO_SUMS),
];
const NOT_YAML: &str = "it is no YAML: an editor says so without a schema";
const TWO_PLACES: &str = "a schema does not compare two places";
const NO_SUMS: &str = "a schema does not calculate";
const TEMPLATE: &str = "a schema does not read what is in a text";

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

    /// What the schema says against a file; the error when it is no YAML.
    fn complaint(&self, text: &str) -> Result<Option<String>, String> {
        let documents = documents(text)?;
        let complaints = documents.iter().filter_map(|document| {
            let valid = self.schemas.validate(document, self.index);
            valid.err().map(|error| format!("{error:#}"))
        });
        Ok(complaints.reduce(|all, next| all + "\n" + &next))
    }

    /// Why a file that loads is not taken.
    fn why_not(&self, text: &str) -> Option<String> {
        let complaint = self.complaint(text).unwrap_or_else(Some);
        complaint.map(|complaint| format!("{text}\n{complaint}"))
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
    let mut rules = files("config");
    rules.retain(|_, text| loads(text));
    assert!(!rules.is_empty());
    let wrong: Vec<_> = rules
        .values()
        .filter_map(|it| validator.why_not(it))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn it_takes_the_rules_of_every_case() {
    let validator = Validator::new();
    let mut rules: Vec<String> = vec![];
    for text in files("tests/cases").values() {
        for case in &serde_yaml::from_str::<Vec<Value>>(text).unwrap() {
            match &case["rules"] {
                Value::Object(named) => rules.extend(named.values().map(text_of)),
                Value::Null => {}
                one => rules.push(text_of(one)),
            }
        }
    }
    rules.retain(|text| loads(text));
    assert!(rules.len() > 200, "only {}", rules.len());
    let wrong: Vec<_> = rules
        .iter()
        .filter_map(|it| validator.why_not(it))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn it_refuses_every_mistake_but_those_beyond_it() {
    let validator = Validator::new();
    let mut passed = files("tests/bad_config");
    passed.retain(|_, text| !matches!(validator.complaint(text), Ok(Some(_))));
    let passed: Vec<_> = passed.into_keys().collect();
    let beyond: Vec<_> = BEYOND.iter().map(|(name, _)| *name).collect();
    assert_eq!(passed, beyond);
}

/// Every key, in every kind of map around it, with every kind of value.
#[test]
fn it_takes_what_loads() {
    let (validator, schema) = (Validator::new(), config::json_schema());
    let (mut taken, mut wrong) = (0, vec![]);
    for (definition, keys) in schema["definitions"].as_object().unwrap() {
        let places: Vec<_> = PLACES
            .iter()
            .filter(|it| it.definition == definition)
            .collect();
        assert!(!places.is_empty(), "PLACES lacks {definition}");
        for place in places {
            for key in keys["properties"].as_object().unwrap().keys() {
                let files = VALUES.iter().map(|value| place.file(key, value));
                for text in files.filter(|text| loads(text)) {
                    taken += 1;
                    wrong.extend(validator.why_not(&text));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 300, "only {taken}");
}

/// Where a map with a key stands.
struct Place {
    definition: &'static str,
    /// The file, with `{}` in place of the map.
    around: &'static str,
    /// The other keys of the map, so many that it loads.
    beside: &'static [(&'static str, &'static str)],
}

// === impl Place ===

impl Place {
    /// A file that says `key: value` there.
    fn file(&self, key: &str, value: &str) -> String {
        let beside = self
            .beside
            .iter()
            .copied()
            .filter(|(other, _)| *other != key);
        let said = beside.chain([(key, value)]);
        let said: Vec<_> = said.map(|(key, value)| format!("{key}: {value}")).collect();
        self.around
            .replace("{}", &format!("{{{}}}", said.join(", ")))
    }
}

const PLACES: &[Place] = &[
    place("file", "{}", &[("domain", "d")]),
    place("descriptor", IN_RULE, &[("key", "k")]),
    place("descriptor", IN_RULE, &[("key", "k"), ("value", "a*")]),
    place("rate_limit", IN_LIMIT, &[("unit", "day")]),
    place("rate_limit", IN_LIMIT, &[("window", "1d")]),
    place("rate_limit", IN_LIMIT, &[("unlimited", "true")]),
    place("rate_limit", IN_LIMIT, &[]),
    place("rate_limit", IN_LIMITS, &[("unit", "week")]),
    place(
        "rate_limit",
        IN_LIMIT,
        &[("unit", "day"), ("algorithm", "token_bucket")],
    ),
    place(
        "rate_limit",
        IN_LIMIT,
        &[
            ("unit", "day"),
            ("algorithm", "leaky_bucket"),
            ("max_queue", "5"),
        ],
    ),
    place(
        "rate_limit",
        IN_LIMIT,
        &[("unit", "day"), ("count", "distinct_values")],
    ),
    place(
        "rate_limit",
        IN_LIMIT,
        &[
            ("unit", "day"),
            ("count", "distinct_values"),
            ("approximate", "on"),
        ],
    ),
    place(
        "rate_limit",
        IN_GATE,
        &[("opens_for", "1d"), ("opened_by", "o")],
    ),
    place("warm_up", IN_WARM_UP, &[("over", "1d")]),
    place("responses", "{domain: d, responses: {}}", &[]),
    place(
        "responses",
        "{domain: d, descriptors: [{key: k, responses: {}}]}",
        &[],
    ),
    place("replaced", IN_REPLACES, &[("name", "n")]),
];

const IN_RULE: &str = "{domain: d, descriptors: [{}]}";
const IN_LIMIT: &str = "{domain: d, descriptors: [{key: k, rate_limit: {}}]}";
const IN_LIMITS: &str = "{domain: d, descriptors: [{key: k, rate_limits: [{unit: hour}, {}]}]}";
const IN_GATE: &str =
    "{domain: d, descriptors: [{key: k, value: o}, {key: k, value: c, rate_limit: {}}]}";
const IN_WARM_UP: &str = "{domain: d, descriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 9, warm_up: {}}}]}";
const IN_REPLACES: &str =
    "{domain: d, descriptors: [{key: k, rate_limit: {unit: day, replaces: [{}]}}]}";

const fn place(
    definition: &'static str,
    around: &'static str,
    beside: &'static [(&'static str, &'static str)],
) -> Place {
    Place {
        definition,
        around,
        beside,
    }
}

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
    "!!bool true",
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
    "fixed_window",
    "sliding_window",
    "sliding_log",
    "token_bucket",
    "leaky_bucket",
    "hits",
    "distinct_values",
    "UTC",
    "Europe/Berlin",
    "Mon",
    "monday",
    "sunday",
    "10%",
    "'10'",
    "010%",
    "+10",
    "0%",
    "100%",
    "101%",
    "legacy",
    "[legacy]",
    "[ietf, legacy]",
    "[legacy, legacy]",
    "[ietf, ~]",
    "delta_seconds",
    "unix_timestamp",
    "problem",
    "text/plain",
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
    "{over: 1d}",
    "{from: 0, over: 1h}",
    "{retry_after: yes}",
    "[{unit: day}]",
    "[{unit: day}, {window: 5m}]",
    "{unit: day}",
    "{unlimited: yes}",
    "{window: 5m, name: n}",
];

/// All that says how long a window is, each part with one value, another, or
/// not there; and what a limit of any kind may have.
#[test]
fn it_knows_which_windows_there_are() {
    differs_nowhere(limits(&[
        ("unit", &["day", "WEEK", "fortnight", "~"]),
        ("unit_multiplier", &["2", "~"]),
        ("window", &["5m", "''", "~"]),
        ("unlimited", &["true", "on", "no", "~"]),
        ("opens_for", &["5m"]),
        ("flag_only", &["true"]),
        ("notify_below", &["10%"]),
    ]));
}

/// All that goes with some algorithms only.
#[test]
fn it_knows_what_goes_with_an_algorithm() {
    differs_nowhere(limits(&[
        ("unit", &["day"]),
        ("algorithm", ALGORITHMS),
        ("burst", &["5"]),
        ("max_queue", &["5"]),
        ("count", &["hits", "distinct_values"]),
        ("approximate", &["true", "false"]),
        ("exact_up_to", &["5"]),
        ("remember", &["1d"]),
    ]));
}

/// All that goes with simple ones.
#[test]
fn it_knows_what_goes_with_simple_limits() {
    differs_nowhere(limits(&[
        ("unit", &["hour", "week", "day"]),
        ("unlimited", &["true"]),
        ("algorithm", &["sliding_window", "token_bucket"]),
        ("count", &["distinct_values"]),
        ("accuracy", &["leased"]),
        ("lockout", &["1h"]),
        ("warm_up", &["{over: 1d}"]),
        ("time_zone", &["Europe/Berlin"]),
        ("week_starts", &["sunday"]),
    ]));
}

const ALGORITHMS: &[&str] = &[
    "fixed_window",
    "sliding_window",
    "sliding_log",
    "token_bucket",
    "leaky_bucket",
];

/// Limits of every choice of keys, and of a value for each.
fn limits(parts: &[(&str, &[&str])]) -> impl Iterator<Item = String> + use<> {
    let mut limits = vec!["requests_per_unit: 9".to_owned()];
    for (key, values) in parts {
        let shorter = limits.clone();
        for value in *values {
            limits.extend(
                shorter
                    .iter()
                    .map(|limit| format!("{limit}, {key}: {value}")),
            );
        }
    }
    let in_limit = |limit| IN_LIMIT.replace("{}", &format!("{{{limit}}}"));
    limits.into_iter().map(in_limit)
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

/// The reader and the schema say the same of each file.
fn differs_nowhere(files: impl Iterator<Item = String>) {
    let validator = Validator::new();
    let wrong: Vec<_> = files
        .filter(|text| loads(text) != (validator.complaint(text) == Ok(None)))
        .collect();
    let count = wrong.len();
    let some = wrong.iter().take(30).collect::<Vec<_>>();
    assert!(wrong.is_empty(), "{count} differ, such as {some:#?}");
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
    let several = "---\n---\ndomain: a\n---\ndomain: b\n";
    assert_eq!(validator.complaint(several), Ok(None));
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
