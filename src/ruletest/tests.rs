//! The format, from a file's text to what came of its tests.

use std::fs;

use super::*;

const RULES: &str = "\
domain: d
descriptors:
- key: user
  rate_limit: {unit: minute, requests_per_unit: 2, name: per-user}
  metadata: {tier: free, regions: [eu, {zone: 1}]}
- key: root
  rate_limit: {unlimited: true}
- key: path
  descriptors:
  - {key: method, value: G*, rate_limit: {window: 5m, requests_per_unit: 1}}
- {key: trial, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 0}}
";

/// Runs `text` as a test file beside files of rules.
fn run_beside(rules: &[(&str, &str)], text: &str, filter: &str) -> FileOutcome {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in rules {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("r.test.yaml");
    fs::write(&path, text).unwrap();
    let mut outcome = run(&[path], filter);
    let only = outcome.files.pop().unwrap();
    assert!(outcome.files.is_empty());
    only
}

/// What differs in a test of these steps, `step field: expected / got` each.
fn differences(head: &str, steps: &str) -> Vec<String> {
    let text = format!("{head}tests:\n- name: t\n  steps:\n{steps}");
    let outcome = run_beside(&[("r.yaml", RULES)], &text, "");
    let tests = match outcome.tests {
        Ok(tests) => tests,
        Err(broken) => panic!("{steps}: {}", broken.told()),
    };
    let failures = tests.iter().flat_map(|test| &test.failures);
    failures
        .flat_map(|failure| {
            let all = failure.differences.iter();
            all.map(move |it| {
                let (step, (ask, of)) = (failure.step, failure.ask);
                let ask = if of == 1 {
                    String::new()
                } else {
                    format!(" ask {ask}")
                };
                format!("{step}{ask} {}: {} / {}", it.field, it.expected, it.got)
            })
        })
        .collect()
}

/// The mistakes of a file, `line:column message` each.
fn mistakes(rules: &[(&str, &str)], text: &str) -> Vec<String> {
    match run_beside(rules, text, "").tests {
        Err(Broken::Mistakes(problems)) => {
            let list = problems.list().iter();
            list.map(|it| {
                let hint = it.hint.as_deref().unwrap_or("-");
                format!("{}:{} {} ({hint})", it.line, it.column, it.message)
            })
            .collect()
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_is_as_expected_passes() {
    for (head, steps) in [
        (
            "",
            "  - {ask: user=a, repeat: 2, expect: {decision: OK, remaining: 0}}",
        ),
        (
            "",
            "  - {ask: user=a, hits: 3, expect: {decision: OVER, code: OVER_LIMIT, reset: 60}}",
        ),
        (
            "",
            "  - {ask: user=a, expect: {rule: user, limit: 2/minute, name: per-user}}",
        ),
        (
            "",
            "  - {ask: root=a, expect: {rule: root, limit: unlimited, reset: none}}",
        ),
        (
            "",
            "  - {ask: nobody=a, expect: {decision: OK, rule: none, limit: none, name: none}}",
        ),
        (
            "",
            "  - {ask: 'path=/,method=GET', expect: {rule: path.method_G*, limit: 1 per 5 minutes}}",
        ),
        (
            "",
            "  - {ask: [root=a, user=a], expect: {limit: [unlimited, 2 per minute], code: [~, OK]}}",
        ),
        (
            "",
            "  - {ask: [user=a, user=a], expect: {remaining: [1, 0], reset: [~, 60]}}",
        ),
        (
            "",
            "  - {ask: trial=a, expect: {decision: OK, code: OK, remaining: 0}}",
        ),
        (
            "",
            "  - {ask: {of: user=a, hits: 0}, expect: {remaining: 2}}",
        ),
        (
            "",
            "  - {ask: {of: user=a, limit: 9/hour, hits: 4}, expect: {limit: 9 per hour, remaining: 5, rule: none}}",
        ),
        (
            "",
            "  - {ask: {entries: [[user, a]]}, expect: {rule: user}}",
        ),
        (
            "",
            "  - {ask: {entries: [[user, {hex: fce9}]]}, expect: {rule: user}}",
        ),
        (
            "",
            "  - {ask: {entries: [[user, {text: ab, times: 3}]]}, expect: {rule: user}}",
        ),
        (
            "",
            "  - {ask: user=a, hits: 2, expect: {remaining: 0}}\n  \
             - {ask: {of: user=a, negative: true}, expect: {remaining: 1}}",
        ),
        (
            "",
            "  - {ask: user=a, expect: {headers: {ratelimit-limit: ~}, body: ''}}",
        ),
        (
            "settings: {limit_headers: true, limit_header: X-Limit}\n",
            "  - {ask: user=a, expect: {headers: {x-limit: 2, RATELIMIT-reset: '60', Other: null}}}",
        ),
        (
            "settings: {dynamic_metadata: yes}\n",
            "  - {ask: user=a, expect: {metadata: {domain: d, metadata: {regions: [eu, {zone: 1.0}]}}}}",
        ),
        (
            "settings: {shadow_mode: true}\n",
            "  - {ask: user=a, hits: 3, expect: {decision: OK, code: OVER}}",
        ),
        (
            "rules: r.yaml\ndomain: d\nmerge_domains: true\n",
            "  - {ask: user=a, domain: d, expect: {rule: user}}",
        ),
    ] {
        assert_eq!(differences(head, steps), [""; 0], "{head}{steps}");
    }
}

#[test]
fn every_field_that_differs_is_told() {
    for (head, steps, expected) in [
        (
            "",
            "  - {ask: user=a, expect: {decision: OVER, code: OVER, rule: u, limit: 1 per 2 hours, name: n, remaining: 5, reset: 7}}",
            &[
                "1 decision: OVER / OK",
                "1 code: OVER / OK",
                "1 rule: u / user",
                "1 limit: 1 per 2 hours / 2 per minute",
                "1 name: n / per-user",
                "1 remaining: 5 / 1",
                "1 reset: 7 / 60",
            ][..],
        ),
        (
            "",
            "  - {ask: [user=a, x=y], expect: {rule: [~, user], remaining: [1, 1]}}",
            &[
                "1 rule: [~, user] / [user, none]",
                "1 remaining: [1, 1] / [1, 0]",
            ],
        ),
        (
            "",
            "  - {ask: user=a, repeat: 4, expect: {decision: OK, remaining: 7}}",
            &["1 ask 3 decision: OK / OVER"],
        ),
        (
            "",
            "  - {ask: user=a, repeat: 2, expect: {remaining: 1, headers: {A: b}, body: x}}",
            &[
                "1 ask 2 remaining: 1 / 0",
                "1 ask 2 header A: \"b\" / no such header",
                "1 ask 2 body: \"x\" / \"\"",
            ],
        ),
        (
            "",
            "  - {ask: user=a, expect: {body_json: {a: 1}, metadata: {domain: d}}}",
            &[
                "1 body_json: {\"a\":1} / \"\"",
                "1 metadata: {\"domain\":\"d\"} / nothing",
            ],
        ),
        (
            "settings: {limit_headers: true}\n",
            "  - {ask: user=a, expect: {headers: {RateLimit-Limit: 3, RateLimit-Reset: ~}}}",
            &[
                "1 header RateLimit-Limit: \"3\" / \"2\"",
                "1 header RateLimit-Reset: no such header / \"60\"",
            ],
        ),
        (
            "settings: {dynamic_metadata: true}\n",
            "  - {ask: user=a, expect: {metadata: {domain: x, metadata: {regions: [eu], more: 1}}}}",
            &[
                "1 metadata.domain: \"x\" / \"d\"",
                "1 metadata.metadata.more: 1 / nothing",
                "1 metadata.metadata.regions: [\"eu\"] / [\"eu\",{\"zone\":1}]",
            ],
        ),
        (
            "",
            "  - {ask: {entries: [[user, {text: a, times: 65537}]]}, expect: {decision: OK}}",
            &[
                "1 answer: a decision / an error: too many bytes of an entry's value: at most 65536 are allowed",
            ],
        ),
    ] {
        assert_eq!(differences(head, steps), expected, "{head}{steps}");
    }
}

#[test]
fn time_goes_on_from_step_to_step() {
    let steps = "  - {ask: user=a, hits: 2, expect: {reset: 60}}\n  \
                 - {at: +59.5s, ask: user=a, expect: {decision: OVER, reset: 1}}\n  \
                 - {ask: user=a, expect: {decision: OVER, reset: 1}}\n  \
                 - {at: +500ms, ask: user=a, expect: {decision: OK, reset: 60}}\n  \
                 - {at: 2026-01-01T00:02:10Z, ask: user=a, expect: {remaining: 1, reset: 50}}\n  \
                 - {at: 1767225731.25, ask: user=a, expect: {remaining: 0, reset: 49}}";
    assert_eq!(differences("", steps), [""; 0]);
}

#[test]
fn each_test_begins_anew_and_has_its_own_settings() {
    let test = |name: &str, settings: &str, code: &str| {
        format!(
            "- {{name: {name}, settings: {{{settings}}}, steps: [{{ask: user=a, hits: 2, \
             expect: {{decision: OK}}}}, {{ask: user=a, expect: {{decision: {code}}}}}]}}\n"
        )
    };
    let text = format!(
        "settings: {{shadow_mode: true, quota_mode: true}}\ntests:\n{}{}{}",
        test("one", "", "OK"),
        test("two", "shadow_mode: false", "OVER"),
        test("three", "quota_mode: false", "OVER"),
    );
    let ran = |filter: &str| {
        let tests = run_beside(&[("r.yaml", RULES)], &text, filter)
            .tests
            .unwrap();
        let tests = tests.into_iter();
        tests
            .map(|it| (it.name.clone(), it.passed()))
            .collect::<Vec<_>>()
    };
    let [one, two, three] =
        [("one", true), ("two", true), ("three", false)].map(|(name, ok)| (name.to_owned(), ok));
    assert_eq!(ran(""), [one.clone(), two, three]);
    assert_eq!(ran("one"), [one]);
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_place() {
    let text = "\
ruls: r.yaml
settings: {shadow_mod: true, near_limit_ratio: x}
tests:
- name: a
  steps:
  - {at: 2026-02-30T10:00:00Z, ask: foo, expect: {}}
  - {at: +1, ask: [], hits: -1, repeat: 0, expcet: {decision: MAYBE}}
  - {at: 1767225600, ask: a=b, expect: {remaining: [1, 2], limit: ten, headers: {}}}
  - {at: 5, ask: [a=b, c=d], expect: {remaining: x, reset: [-1, ~], decision: ~, metadata: 3}}
  - {ask: {entries: [[a, {hex: zz}]], limit: 1/era}}
  - {ask: {}, expect: {decision: OK, decision: OVER}}
- {name: a, steps: [{ask: a=b, expect: {body: ''}}]}
- {name: a, steps: [{ask: a=b, expect: {body: ''}}]}
- steps: [3]
";
    let expected = "\
1:1 unknown key 'ruls' (did you mean rules?)
2:12 unknown key 'shadow_mod' (did you mean shadow_mode?)
2:48 settings: invalid value 'x' for near_limit_ratio: invalid float literal (-)
6:10 at cannot be `2026-02-30T10:00:00Z` (it is 2026-11-22T10:00:00Z, seconds since 1970, or +1s, +500ms, +5m after the step before)
6:37 a descriptor cannot be `foo` (it is key=value,key=value)
6:50 nothing is expected (one of decision, code, rule, limit, name, remaining, reset, headers, body, body_json, metadata)
7:10 at cannot be `+1` (it is 2026-11-22T10:00:00Z, seconds since 1970, or +1s, +500ms, +5m after the step before)
7:19 ask cannot be an empty list (it is a list with at least one element)
7:29 hits cannot be `-1` (it is a whole number from 0 on)
7:41 repeat cannot be `0` (it is a whole number from 1 on)
7:44 unknown key 'expcet' (did you mean expect?)
7:63 decision cannot be `MAYBE` (it is OK or OVER)
8:52 remaining is not told for each of the descriptors that are asked (1 asked, 2 told; in a list, ~ is not looked at)
8:67 limit cannot be `ten` (it is `10 per hour`, `10/hour` or `10 per 5 minutes`)
8:81 headers names none (name: value, or name: null for one that must not be there)
9:10 time does not go backwards (the step before is at 2026-01-01T00:00:00Z)
9:50 remaining is not told for each of the descriptors that are asked (2 asked, 1 told; in a list, ~ is not looked at)
9:61 reset cannot be `-1` (it is a number of seconds)
9:79 decision cannot be empty (it is text)
9:92 metadata cannot be `3` (it is a map)
10:5 a step needs `expect` (-)
10:32 hex cannot be `zz` (it is two hexadecimal digits for each byte)
10:46 limit cannot be `1/era` (it is `10 per hour`, `10/hour` or `10 per 5 minutes`)
11:11 a descriptor has either `of` or `entries` (of: key=value,key=value, or entries: [[key, value], [key, value]])
11:38 key 'decision' is given twice (the first one is on line 11)
13:3 another test of this file has that name (the first one is on line 12)
14:3 a test needs `name` (-)
14:11 a step cannot be `3` (it is a map)";
    let found = mistakes(&[("r.yaml", RULES)], text);
    assert_eq!(found.join("\n"), expected);
}

#[test]
fn a_file_is_about_rules_that_are_there() {
    let step = |step: &str| format!("tests:\n- {{name: t, steps: [{step}]}}\n");
    let plain = step("{ask: a=b, expect: {decision: OK}}");
    let two = "domain: d\n---\ndomain: e\n";
    for (rules, text, expected) in [
        (&[][..], &*plain, "there are no rules in"),
        (
            &[("r.yml", "domain: d\nkeys: []\n")],
            &plain,
            "unknown key 'keys'",
        ),
        (
            &[("r.yaml", two)],
            &plain,
            "2:21 the step names no domain, and the rules have several (domain: one of d, e)",
        ),
        (
            &[("r.yaml", two)],
            &format!("domain: f\n{plain}"),
            "1:9 there are no rules for domain 'f'",
        ),
        (
            &[("r.yaml", "domain: shop\n")],
            &step("{domain: shpo, ask: a=b, expect: {decision: OK}}"),
            "2:30 there are no rules for domain 'shpo' (did you mean shop?)",
        ),
        (&[], &format!("rules: x/\n{plain}"), "1:8 cannot read "),
        (&[], "", "1:1 there are no `tests`"),
        (&[], "rules: r.yaml", "1:1 there are no `tests`"),
        (&[], "tests: []", "1:8 tests cannot be an empty list"),
        (&[], "tests: [", "1:"),
        (&[], "- a", "1:1 a test file cannot be a list"),
        (
            &[("r.yaml", RULES)],
            &format!("{plain}---\n{plain}"),
            "4:1 a test file is one document",
        ),
        (
            &[("r.yaml", RULES)],
            &format!("settings: {{limit_headers: on, reset_header: a b}}\n{plain}"),
            "settings: rate-limit headers: \"a b\" is not a header name",
        ),
    ] {
        let found = mistakes(rules, text);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{text}: {found:?}"
        );
    }
    let ok = |rules: &[(&str, &str)], text: &str| run_beside(rules, text, "").tests.is_ok();
    assert!(ok(&[("r.yml", RULES)], &plain), "the other extension");
    assert!(ok(
        &[("a.yaml", RULES), ("b.yaml", "domain: e\n")],
        &format!("rules: .\ndomain: d\n{plain}")
    ));
}
