//! Rules files: what loads, what does not, and what is said about it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use ratekeeper::{
    cli::check::{self, Check, Format},
    config::{self, Options, Problems, SourceFile},
    engine::rules::{ChargePolicy, OnStoreFailure, RuleSet},
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

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let files = [
        (
            "b.yaml",
            "domain: shop
descriptors:
  - key: user
    rate_limit: {unit: minutes, request_per_unit: 5}
  - key: user
    value: 1.5
    shadow_mode: maybe
  - value: x
",
        ),
        ("c.yaml", "domain: shop\nlimits: []\n"),
        ("a.yaml", "domain: [\n"),
        ("d.yaml", "domain: fine\n"),
    ];
    let problems = compile(&files, &STRICT).unwrap_err();
    assert_eq!(
        told(&problems),
        [
            "a.yaml:1:9 : error loading config file: unclosed bracket '['",
            "b.yaml:4:24 shop.user: invalid rate limit unit 'minutes'",
            "b.yaml:4:33 shop.user: config error, unknown key 'request_per_unit'",
            "b.yaml:6:12 shop.user_1.5: error checking config",
            "b.yaml:7:18 shop.user_1.5: error loading config file: \
             shadow_mode should be true or false, but is `maybe`",
            "b.yaml:8:5 shop._x: descriptor has empty key",
            "c.yaml:1:9 shop: duplicate domain 'shop' in config file",
            "c.yaml:2:1 : config error, unknown key 'limits'",
        ]
    );
    // The reference would not have come further than this in each file.
    let problems = compile(&files, &COMPAT).unwrap_err();
    assert_eq!(
        problems.compat_lines(),
        [
            "a.yaml: error loading config file: line 1: unclosed bracket '['",
            "b.yaml: config error, unknown key 'request_per_unit'",
            "b.yaml: error checking config",
            "c.yaml: config error, unknown key 'limits'",
        ]
    );
}

#[test]
fn people_are_shown_the_line_and_what_would_be_right() {
    let text = "domain: shop
descriptors:
  - key: user
    rate_limit:
      unit: minute
      request_per_unit: 5
";
    let problems = compile(&[("rules/shop.yaml", text)], &STRICT).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "error: config error, unknown key 'request_per_unit'
 --> rules/shop.yaml:6:7, in shop.user
  |
6 |       request_per_unit: 5
  |       ^
  = help: did you mean requests_per_unit?

1 mistake in 1 file"
    );
    assert_eq!(
        problems.to_json()[0]["hint"],
        "did you mean requests_per_unit?"
    );
}

#[test]
fn what_is_shown_cannot_drive_a_terminal_or_fill_it() {
    let long = format!("domain: shop\n\"\\e[2J{}\": x\n", "é".repeat(100_000));
    let problems = compile(&[("a\u{1b}.yaml", &long)], &STRICT).unwrap_err();
    for shown in [problems.to_string(), problems.compat_lines().join("\n")] {
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        assert!(shown.chars().count() < 1_000, "{shown}");
    }
    let many: String = (0..5_000).map(|i| format!("k{i}: x\n")).collect();
    let problems = compile(&[("a", &many)], &STRICT).unwrap_err();
    assert_eq!(problems.len(), 5_001);
    assert_eq!(problems.list().len(), 1_000);
}

/// The first domain's rules, without their sources.
fn descriptors(rules: &RuleSet) -> serde_json::Value {
    let mut value = config::to_json(rules)["domains"][0]["descriptors"].take();
    let mut below = vec![&mut value];
    while let Some(list) = below.pop() {
        for rule in list.as_array_mut().unwrap() {
            rule.as_object_mut().unwrap().remove("source").unwrap();
            below.extend(rule.get_mut("descriptors"));
        }
    }
    value
}

fn loaded(text: &str, options: &Options) -> serde_json::Value {
    match compile(&[("good.yaml", text)], options) {
        Ok(rules) => descriptors(&rules),
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

/// One descriptor with these lines in it → its JSON.
#[test]
fn fields_take_what_yaml_1_1_means() {
    let limit = |inner: &str| format!(r#"{{"key":"k","rate_limit":{{{inner}}}}}"#);
    let per_hour = |requests: &str| {
        let inner = format!(r#""requests_per_unit":{requests},"unit":"hour""#);
        limit(&inner)
    };
    let value = |text: &str| format!(r#"{{"key":"k","value":"{text}"}}"#);
    let table = [
        ("value: yes", value("yes")),
        ("value: 007", value("007")),
        ("value: 0x1F", value("0x1F")),
        ("value: 1_000", value("1_000")),
        ("value: 2026-01-01", value("2026-01-01")),
        ("value: 10.0.0.1", value("10.0.0.1")),
        ("value: \"1.5\"", value("1.5")),
        ("value: '~'", value("~")),
        ("value: !!str 1.5", value("1.5")),
        ("value: |-\n      two\n      lines", value("two\\nlines")),
        ("value: >-\n      one\n      line", value("one line")),
        ("value: \"\\u00e9\\x41\"", value("éA")),
        ("value: a b # comment", value("a b")),
        ("value: a#b", value("a#b")),
        ("value: 'it''s'", value("it's")),
        ("value: ~", r#"{"key":"k"}"#.into()),
        ("value: null", r#"{"key":"k"}"#.into()),
        ("value:", r#"{"key":"k"}"#.into()),
        ("rate_limit:", r#"{"key":"k"}"#.into()),
        ("descriptors: ~", r#"{"key":"k"}"#.into()),
        ("descriptors: []", r#"{"key":"k"}"#.into()),
        ("shadow_mode: yes", r#"{"key":"k","shadow_mode":true}"#.into()),
        ("shadow_mode: ON", r#"{"key":"k","shadow_mode":true}"#.into()),
        ("shadow_mode: n", r#"{"key":"k"}"#.into()),
        ("shadow_mode:", r#"{"key":"k"}"#.into()),
        ("quota_mode: y", r#"{"key":"k","quota_mode":true}"#.into()),
        ("detailed_metric: True", r#"{"key":"k","detailed_metric":true}"#.into()),
        ("value_to_metric: on", r#"{"key":"k","value_to_metric":true}"#.into()),
        (
            "value: a*\n    share_threshold: true",
            r#"{"key":"k","value":"a*","share_threshold":true}"#.into(),
        ),
        ("rate_limit: {unit: hour, requests_per_unit: 010}", per_hour("8")),
        ("rate_limit: {unit: HOUR, requests_per_unit: 0x10}", per_hour("16")),
        ("rate_limit: {unit: Hour, requests_per_unit: 0b11}", per_hour("3")),
        ("rate_limit: {unit: hour, requests_per_unit: +5}", per_hour("5")),
        ("rate_limit: {unit: hour, requests_per_unit: 1_000}", per_hour("1000")),
        ("rate_limit: {unit: hour, requests_per_unit: 4294967295}", per_hour("4294967295")),
        ("rate_limit: {unit: \"hour\"}", per_hour("0")),
        ("rate_limit: {unit: hour, requests_per_unit: }", per_hour("0")),
        ("rate_limit: {unlimited: true}", limit(r#""unlimited":true"#)),
        (
            "rate_limit: {unlimited: yes, requests_per_unit: 5, unit: nonsense}",
            limit(r#""unlimited":true"#),
        ),
        (
            "rate_limit: {unit: day, name: 5, replaces: [{name: a}, {name: yes}]}",
            limit(
                r#""name":"5","replaces":[{"name":"a"},{"name":"yes"}],"requests_per_unit":0,"unit":"day""#,
            ),
        ),
        (
            "metadata: {y: [1, 0x10, 1.5, no, ~, '1', 2026-01-01], 5: {a: b}}",
            r#"{"key":"k","metadata":{"true":[1.0,16.0,1.5,false,null,"1","2026-01-01"],"5":{"a":"b"}}}"#.into(),
        ),
        ("metadata: {unknown: {request: 1e3}}", r#"{"key":"k","metadata":{"unknown":{"request":1000.0}}}"#.into()),
    ];
    for (lines, expected) in table {
        let text = format!("domain: d\ndescriptors:\n  - key: k\n    {lines}\n");
        let expected: serde_json::Value = serde_json::from_str(&format!("[{expected}]")).unwrap();
        for options in [STRICT, COMPAT] {
            assert_eq!(loaded(&text, &options), expected, "{lines}");
        }
    }
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "
domain: d
descriptors:
  - key: a
    rate_limit: &five {unit: hour, requests_per_unit: 5}
    descriptors: &below
      - key: b
  - key: c
    rate_limit: *five
    descriptors: *below
  - key: e
    rate_limit: {<<: *five, requests_per_unit: 6}
  - key: f
    rate_limit: {<<: [{unit: day}, *five], name: x}
";
    let limit = |n| serde_json::json!({"unit": "hour", "requests_per_unit": n});
    assert_eq!(
        loaded(text, &STRICT),
        serde_json::json!([
            {"key": "a", "rate_limit": limit(5), "descriptors": [{"key": "b"}]},
            {"key": "c", "rate_limit": limit(5), "descriptors": [{"key": "b"}]},
            {"key": "e", "rate_limit": limit(6)},
            {"key": "f", "rate_limit": {"unit": "day", "requests_per_unit": 5, "name": "x"}},
        ])
    );
}

#[test]
fn odd_but_good_files_load() {
    for text in [
        "domain: d",
        "domain: d\ndescriptors:",
        "domain: d\ndescriptors: []\n",
        "\u{feff}domain: d\n",
        "domain: d\r\ndescriptors:\r\n  - key: k\r\n",
        "%YAML 1.1\n---\ndomain: d\n...\n",
        "---\ndomain: d\n---\n",
        "# only\n---\n# comments\ndomain: d\n--- # nothing\n",
        "{domain: d, descriptors: [{key: k}]}",
        "{\"domain\":\"d\",\"descriptors\":[{\"key\":\"k\"}]}",
        "? domain\n: d\n",
    ] {
        let rules = compile(&[("odd.yaml", text)], &STRICT);
        match rules {
            Ok(rules) => assert_eq!(rules.domain_names(), ["d"], "{text:?}"),
            Err(problems) => panic!("{text:?}\n{problems}"),
        }
    }
    assert!(config::compile(&[], &STRICT).unwrap().is_empty());
}

#[test]
fn what_the_reference_ignores_is_a_mistake_only_here() {
    let text = "
domain: d
descriptors:
  - key: a
    unit: {key: [{name: x}]}
    value: x
    value: y
---
domain: [this is ignored
";
    assert_eq!(
        loaded(text, &COMPAT),
        serde_json::json!([{"key": "a", "value": "y"}])
    );
    assert_eq!(compile(&[("a", text)], &STRICT).unwrap_err().len(), 3);

    // What is ignored must still have known keys.
    let text = "domain: d\ndescriptors:\n  - key: a\n    unit: {colour: red}\n";
    let problems = compile(&[("a", text)], &COMPAT).unwrap_err();
    assert_eq!(
        problems.compat_lines(),
        ["a: config error, unknown key 'colour'"]
    );
}

#[test]
fn every_document_of_a_file_is_a_domain() {
    let text = "domain: a\ndescriptors: [{key: x}]\n---\ndomain: b\n";
    let rules = compile(&[("f", text)], &STRICT).unwrap();
    assert_eq!(rules.domain_names(), ["a", "b"]);
    let rules = compile(&[("f", text)], &COMPAT).unwrap();
    assert_eq!(rules.domain_names(), ["a"]);
}

#[test]
fn files_of_a_domain_merge_in_the_order_of_their_names() {
    let (one, two) = (
        "domain: d\ndescriptors: [{key: k, value: a*}]\n",
        "domain: d\ndescriptors: [{key: k, value: '*b'}, {key: l}]\n",
    );
    for files in [[("1", one), ("2", two)], [("2", two), ("1", one)]] {
        let rules = compile(&files, &MERGING).unwrap();
        let keys = serde_json::json!([
            {"key": "k", "value": "a*"}, {"key": "k", "value": "*b"}, {"key": "l"}
        ]);
        assert_eq!(descriptors(&rules), keys);
        let problems = compile(&files, &STRICT).unwrap_err();
        assert_eq!(
            told(&problems),
            ["2:1:9 d: duplicate domain 'd' in config file"]
        );
    }
    // Only first levels join: the same root key in two files is a mistake.
    let files = [
        (
            "1",
            "domain: d\ndescriptors: [{key: k, descriptors: [{key: a}]}]\n",
        ),
        (
            "2",
            "domain: d\ndescriptors: [{key: k, descriptors: [{key: b}]}]\n",
        ),
    ];
    assert_eq!(
        told(&compile(&files, &MERGING).unwrap_err()),
        ["2:2:21 d.k: duplicate descriptor composite key 'd.k'"]
    );
}

#[test]
fn files_of_a_domain_agree_on_what_goes_for_all_of_it() {
    let one = "domain: d\ncharge: all_or_nothing\n";
    let (same, other) = (
        "domain: d\ncharge: all_or_nothing\non_store_failure: deny\n",
        "domain: d\ncharge: always\n",
    );
    let rules = compile(&[("1", one), ("2", same)], &MERGING).unwrap();
    let policy = rules.domain(b"d").unwrap().policy();
    assert_eq!(policy.charge, Some(ChargePolicy::AllOrNothing));
    assert_eq!(policy.on_store_failure, Some(OnStoreFailure::Deny));
    let problems = compile(&[("1", one), ("2", other)], &MERGING).unwrap_err();
    assert_eq!(
        told(&problems),
        ["2:2:9 d: charge differs between files of a domain"]
    );
    let hint = problems.list()[0].hint.as_deref();
    assert_eq!(hint, Some("the first one is at 1:2"));
    // It is the same with documents of one file, and with those in between
    // that say nothing.
    let documents = "domain: d\non_store_failure: local\n---\ndomain: d\n---\n\
                     domain: d\non_store_failure: allow\n";
    assert_eq!(
        told(&compile(&[("1", documents)], &MERGING).unwrap_err()),
        ["1:7:19 d: on_store_failure differs between files of a domain"]
    );
    assert_eq!(
        config::to_json(&rules),
        serde_json::json!({"domains": [{
            "domain": "d",
            "charge": "all_or_nothing",
            "on_store_failure": "deny",
            "descriptors": [],
        }]})
    );
}

/// Each word with what is shown of it; nothing is shown where nothing is said.
#[test]
fn what_goes_for_all_of_a_domain_is_read_in_either_dialect() {
    use ChargePolicy::{AllOrNothing, Always};
    use OnStoreFailure::{Allow, Deny, Error, Local};
    for (line, charge, failure) in [
        ("", None, None),
        ("charge:", None, None),
        ("charge: ~", None, None),
        ("on_store_failure: null", None, None),
        ("charge: always", Some(Always), None),
        ("charge: \"all_or_nothing\"", Some(AllOrNothing), None),
        ("on_store_failure: error", None, Some(Error)),
        ("on_store_failure: allow", None, Some(Allow)),
        ("on_store_failure: deny", None, Some(Deny)),
        ("on_store_failure: local", None, Some(Local)),
    ] {
        let text = format!("{line}\ndomain: d\n");
        for options in [STRICT, COMPAT] {
            let rules = compile(&[("f", &text)], &options).unwrap();
            let policy = rules.domain(b"d").unwrap().policy();
            assert_eq!(
                (policy.charge, policy.on_store_failure),
                (charge, failure),
                "{line}"
            );
            let mut shown = config::to_json(&rules)["domains"][0].take();
            let shown = shown.as_object_mut().unwrap();
            shown.retain(|key, _| key != "domain" && key != "descriptors");
            let shown: Vec<String> = shown
                .iter()
                .map(|(key, word)| format!("{key}: {}", word.as_str().unwrap()))
                .collect();
            let said = charge.is_some() || failure.is_some();
            let expected: Vec<_> = said.then(|| line.replace('"', "")).into_iter().collect();
            assert_eq!(shown, expected);
        }
    }
}

#[test]
fn a_limit_may_be_leased() {
    let text = "domain: d\ndescriptors:\n- key: a\n  rate_limit: {unit: day, requests_per_unit: 1, accuracy: leased}\n- key: b\n  rate_limit: {unit: day, requests_per_unit: 1, accuracy: exact}\n";
    let rules = compile(&[("f.yaml", text)], &STRICT).unwrap();
    let shown = config::to_json(&rules);
    let limits = &shown["domains"][0]["descriptors"];
    assert_eq!(limits[0]["rate_limit"]["accuracy"], "leased");
    assert!(limits[1]["rate_limit"].get("accuracy").is_none());
}

#[test]
fn a_dump_tells_where_rules_come_from() {
    let text = "domain: d\ndescriptors:\n  - key: a\n    descriptors:\n      - key: b\n";
    let rules = compile(&[("f.yaml", text)], &STRICT).unwrap();
    assert_eq!(
        config::to_json(&rules),
        serde_json::json!({"domains": [{"domain": "d", "descriptors": [{
            "key": "a",
            "source": {"file": "f.yaml", "line": 3},
            "descriptors": [{"key": "b", "source": {"file": "f.yaml", "line": 5}}],
        }]}]})
    );
}

// === the command ===

fn check(path: &Path, format: Format, compat: bool) -> (bool, String) {
    let check = Check {
        path: path.to_owned(),
        format,
        merge_domains: false,
        compat,
    };
    let mut out = vec![];
    let is_right = check::run(&check, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    (is_right, text.replace(path.to_str().unwrap(), "DIR"))
}

#[test]
fn check_says_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("b.yaml"), "domain: b\n").unwrap();
    fs::write(path.join("a.yaml"), "domain: a\ndescriptors: [{key: x}]\n").unwrap();
    let ok = "2 files, 2 domains, 1 rule: ok\n";
    assert_eq!(check(path, Format::Text, false), (true, ok.into()));
    let (is_right, json) = check(path, Format::Json, false);
    assert!(is_right && json.contains("\"rules\": 1"), "{json}");
    let opened = "checking rate limit configs...
loading config directory: DIR
opening config file: DIR/a.yaml
opening config file: DIR/b.yaml
";
    let ok = format!("{opened}all rate limit configs ok\n");
    assert_eq!(check(path, Format::Text, true), (true, ok));

    let ours = "domain: b\ncharge: all_or_nothing\non_store_failure: deny\ndescriptors:\n\
                - {key: x, rate_limit: {unit: day, requests_per_unit: 1, accuracy: leased}}\n";
    fs::write(path.join("b.yaml"), ours).unwrap();
    let said = "2 files, 2 domains, 2 rules: ok\n\
                domain b: charge: all_or_nothing, leased_limits: 1, on_store_failure: deny\n";
    assert_eq!(check(path, Format::Text, false), (true, said.into()));
    let (_, json) = check(path, Format::Json, false);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"]["b"]["charge"], "all_or_nothing");
    assert_eq!(json["settings"].as_object().unwrap().len(), 1);

    fs::write(path.join("b.yaml"), "domain: b\nx: 1\n").unwrap();
    let bad = format!(
        "{opened}error loading rate limit configs: DIR/b.yaml: config error, unknown key 'x'\n"
    );
    assert_eq!(check(path, Format::Text, true), (false, bad));
    let (is_right, text) = check(path, Format::Text, false);
    assert!(!is_right && text.contains("DIR/b.yaml:2:1"), "{text}");
    let (is_right, json) = check(path, Format::Json, false);
    assert!(!is_right && json.contains("\"line\": 2"), "{json}");
}

#[test]
fn check_tells_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for compat in [false, true] {
        let (is_right, text) = check(&missing, Format::Text, compat);
        assert!(!is_right && text.contains("No such file"), "{text}");
    }
    fs::create_dir(folder.path().join("sub")).unwrap();
    let (is_right, text) = check(folder.path(), Format::Text, true);
    assert!(
        !is_right && text.contains("error reading file DIR/sub"),
        "{text}"
    );
    assert!(check(folder.path(), Format::Text, false).0);
}

// === hostile files ===

fn billion_laughs(wrap: impl Fn(String) -> String) -> String {
    let mut text = "domain: d\nmetadata:\n  a0: &a0 [x, x]\n".to_owned();
    for level in 1..60 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("  a{level}: &a{level} {}\n", wrap(below));
    }
    text
}

/// What it is, the file, and what is told of the first mistake: a part of its
/// message, and its line; nothing when the file loads.
type Hostile = (&'static str, Vec<u8>, Option<(&'static str, u32)>);

/// Without optimisation these would take a minute.
const MANY: usize = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

fn hostile() -> Vec<Hostile> {
    let head = "domain: d\ndescriptors:\n";
    let wildcards: String = (0..100_000)
        .map(|i| format!("  - key: k\n    value: \"*{i}*\"\n    rate_limit: {{unit: second, requests_per_unit: {i}}}\n"))
        .collect();
    let stars = format!("  - key: k\n    value: \"{}\"\n", "a*".repeat(10_000));
    let stars_flow = format!("  - {{key: k, value: \"{}\"}}\n", "*".repeat(10_000));
    let nested: String = (0..100_000)
        .map(|i| format!("{}k:\n", " ".repeat(i.min(300))))
        .collect();
    let deep = format!(
        "{}- key: k{}\n",
        head,
        "\n  descriptors: [{key: k, descriptors: [".repeat(99)
    );
    let levels = format!(
        "{head}{}",
        (0..101)
            .map(|i| format!("{0}- key: k\n{0}  descriptors:\n", "  ".repeat(i)))
            .collect::<String>()
            + &format!("{}- key: k\n", "  ".repeat(101))
    );
    let anchored: String = (0..240)
        .map(|i| format!("{}k: &a{i}\n", " ".repeat(i)))
        .collect();
    let doubling: String = (1..200)
        .map(|i| format!("  a{i}: &a{i} [[[[*a{}]]]]\n", i - 1))
        .collect();
    let same_key = "domain: d\n".repeat(100_000);
    vec![
        ("wildcards", format!("{head}{wildcards}").into(), None),
        ("stars", format!("{head}{stars}").into(), None),
        ("stars in flow", format!("{head}{stars_flow}").into(), None),
        (
            "laughs",
            billion_laughs(|below| format!("[{below}]")).into(),
            Some(("aliases stand for", 9)),
        ),
        (
            "laughing maps",
            billion_laughs(|below| format!("{{<<: [{below}]}}")).into(),
            Some(("<< merges a map", 4)),
        ),
        (
            "nested flow lists",
            vec![b'['; 100_000],
            Some(("nested too deeply", 1)),
        ),
        (
            "nested flow maps",
            "{a: ".repeat(100_000).into(),
            Some(("nested too deeply", 1)),
        ),
        (
            "nested block maps",
            nested.into(),
            Some(("nested too deeply", 257)),
        ),
        (
            "nested block lists",
            "- ".repeat(100_000).into(),
            Some(("nested too deeply", 1)),
        ),
        (
            "nested keys",
            "? ".repeat(100_000).into(),
            Some(("nested too deeply", 1)),
        ),
        (
            "nested unclosed",
            deep.into(),
            Some(("nested too deeply", 89)),
        ),
        (
            "101 levels",
            levels.into(),
            Some(("descriptors are nested more than 100", 203)),
        ),
        ("nested anchors", anchored.into(), Some(("unknown key", 1))),
        (
            "aliases that double depth",
            format!("domain: d\nmetadata:\n  a0: &a0 [x]\n{doubling}").into(),
            Some(("nested too deeply", 67)),
        ),
        (
            "one key again and again",
            same_key.into(),
            Some(("given twice", 2)),
        ),
        (
            "garbage",
            (0..8_000_000_u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
            Some(("not UTF-8", 1)),
        ),
        (
            "garbage of ASCII",
            (0..8_000_000_u32)
                .map(|i| 32 + ((i.wrapping_mul(2_654_435_761) >> 16) % 95) as u8)
                .collect(),
            Some(("", 1)),
        ),
        ("spaces", vec![b' '; 8_000_000], Some(("empty domain", 1))),
        (
            "line ends",
            vec![b'\n'; 8_000_000],
            Some(("empty domain", 1)),
        ),
        (
            "dashes",
            b"-\n".repeat(2 * MANY),
            Some(("list of type other than map: <nil>", 1)),
        ),
        (
            "commas",
            [b"[".to_vec(), b"a,".repeat(4_100_000)].concat(),
            Some(("more than 4000000 values", 1)),
        ),
        ("questions", b"? a\n".repeat(MANY), Some(("unknown key", 1))),
        (
            "merges",
            format!("d: &d {{a: 1}}\nm:\n{}", "  <<: *d\n".repeat(300_000)).into(),
            Some(("aliases stand for", 3)),
        ),
        (
            "merges of many maps",
            format!(
                "d: &d {{}}\nm:\n  <<: [{}]\n{}",
                "*d, ".repeat(200_000),
                (0..200_000)
                    .map(|i| format!("  k{i}: x\n"))
                    .collect::<String>()
            )
            .into(),
            Some(("unknown key", 1)),
        ),
        (
            "aliases to nothing",
            b"- *a\n".repeat(MANY),
            Some(("unknown anchor", 1)),
        ),
        (
            "metadata of infinities",
            format!(
                "domain: d\ndescriptors:\n  - key: k\n    metadata:\n      a: [{}]\n",
                ".inf, ".repeat(MANY)
            )
            .into(),
            Some(("not a finite number", 5)),
        ),
        ("colons", vec![b':'; 8_000_000], Some(("", 1))),
        (
            "quote",
            [b"domain: \"".to_vec(), vec![b'a'; 8_000_000]].concat(),
            Some(("", 1)),
        ),
        (
            "comments",
            b"# x\n".repeat(2 * MANY),
            Some(("empty domain", 1)),
        ),
        (
            "documents",
            b"---\ndomain: d\n".repeat(MANY / 5),
            Some(("duplicate domain", 4)),
        ),
        (
            "anchors",
            b"- &a x\n".repeat(MANY),
            Some(("list of type other than map: x", 1)),
        ),
        (
            "tags",
            b"- !a x\n".repeat(MANY),
            Some(("list of type other than map: x", 1)),
        ),
        (
            "percent",
            b"%a\n".repeat(1_000_000),
            Some(("document start", 1_000_001)),
        ),
        (
            "a key of a megabyte",
            [vec![b'a'; 1_000_000], b": x".to_vec()].concat(),
            Some(("", 1)),
        ),
        (
            "NUL",
            b"domain: a\0b\n".to_vec(),
            Some(("unexpected character", 1)),
        ),
        (
            "invalid UTF-8",
            b"domain: d\n# \xff\n".to_vec(),
            Some(("not UTF-8", 2)),
        ),
        ("UTF-16", b"\xff\xfed\0o\0".to_vec(), Some(("not UTF-8", 1))),
        (
            "BOM inside",
            "domain: d\n\u{feff}x: 1\n".into(),
            Some(("", 2)),
        ),
        (
            "tabs",
            b"domain:\td\ndescriptors:\n\t- key: a\n".to_vec(),
            Some(("tabs", 3)),
        ),
        (
            "too large",
            vec![b'#'; (32 << 20) + 1],
            Some(("larger than 32 MiB", 1)),
        ),
    ]
}

/// Without optimisation, everything takes ten times as long.
fn patience() -> Duration {
    Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "measures itself")]
fn hostile_files_end_soon_and_are_told_with_their_place() {
    let mut wrong = vec![];
    for (name, bytes, expected) in hostile() {
        let started = Instant::now();
        let result = config::compile(&[file("f", bytes)], &STRICT);
        let took = started.elapsed();
        println!("{took:>12.3?} {name}");
        let got = result.err().map(|problems| {
            let first = &problems.list()[0];
            (first.message.clone(), first.line, problems.to_string())
        });
        let is_right = match (&got, expected) {
            (None, None) => true,
            (Some((message, line, shown)), Some((wanted, at))) => {
                message.contains(wanted) && *line == at && shown.len() < 1_000_000
            }
            _ => false,
        };
        if !is_right || took > patience() {
            let got = got.map(|(message, line, _)| (message, line));
            wrong.push(format!("{name}: {got:?} instead of {expected:?}, {took:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "measures itself")]
fn a_hundred_thousand_rules_load_quickly() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for i in 0..1_000 {
        text += &format!("  - key: tenant\n    value: t{i}\n    descriptors:\n");
        for j in 0..99 {
            text += &format!(
                "      - key: path\n        value: /p{j}\n        rate_limit:\n          \
                 unit: minute\n          requests_per_unit: {j}\n"
            );
        }
    }
    let files = [file("f", text)];
    let started = Instant::now();
    let rules = config::compile(&files, &STRICT).unwrap();
    let took = started.elapsed();
    println!("{took:.3?}");
    assert_eq!(rules.len(), 100_000);
    // Alone and optimised half a second; the bound leaves room for neighbours.
    assert!(took < patience(), "{took:?}");
}

/// Pieces that rules are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "domain",
        "descriptors",
        "key",
        "value",
        "rate_limit",
        "unit",
        "second",
        "requests_per_unit",
        "replaces",
        "name",
        "metadata",
        "share_threshold",
        ": ",
        ":\n",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "*",
        "&a ",
        "*a",
        "<<: ",
        "\"",
        "'",
        "|\n",
        ">\n",
        "!!int ",
        "!x ",
        "? ",
        "---\n",
        "...\n",
        "#",
        "%",
        "~",
        "1",
        "1.5",
        "yes",
        "\t",
        "é",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let files = [file("a", bytes.clone()), file("b", bytes)];
        for options in [STRICT, COMPAT, MERGING] {
            if let Err(problems) = config::compile(&files, &options) {
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }

    #[test]
    fn arbitrary_pieces_never_panic(text in pieces()) {
        for options in [STRICT, COMPAT, MERGING] {
            match config::compile(&[file("a", text.clone())], &options) {
                Ok(rules) => prop_assert!(config::to_json(&rules).is_object()),
                Err(problems) => {
                    for problem in problems.list() {
                        let lines = u32::try_from(text.lines().count()).unwrap();
                        prop_assert!(problem.line >= 1 && problem.line <= lines + 1);
                    }
                    prop_assert!(!problems.compat_lines().is_empty());
                }
            }
        }
    }
}
