//! `ratekeeper test`, run as a user runs it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const RULES: &str = "\
domain: d
descriptors:
  - key: user
    rate_limit: {unit: minute, requests_per_unit: 2, name: per-user}
";

const GOOD: &str = "\
tests:
- name: two pass in a minute
  steps:
  - {ask: user=ann, repeat: 2, expect: {decision: OK, remaining: 0}}
  - {ask: user=ann, expect: {decision: OVER, rule: user}}
  - {at: +1m, ask: user=ann, expect: {decision: OK}}
";

const FAILING: &str = "\
tests:
- name: three <pass> & \"more\"
  steps:
  - ask: user=ann
    repeat: 3
    expect: {decision: OK}
- name: the second of two
  steps:
  - {ask: user=ann, expect: {remaining: 1}}
";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// What the program prints in a folder, and its exit code.
fn ratekeeper(folder: &Path, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratekeeper"));
    // Settings come from the test file alone.
    command.env_clear().env("SHADOW_MODE", "true");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), status.code())
}

#[test]
fn shipped_rules_pass_their_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (out, error, code) = ratekeeper(root, &["test", "config"]);
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(
        out.contains("config/quickstart/quickstart.test.yaml\n"),
        "{out}"
    );
    assert!(out.ends_with(" passed, 0 failed\n"), "{out}");
}

#[test]
fn tells_what_passed() {
    let root = folder(&[
        ("d.yaml", RULES),
        ("d.test.yaml", GOOD),
        ("below/e.yml", RULES),
        ("below/e.test.yml", GOOD),
        ("below/.hidden.test.yaml", "nonsense"),
        ("below/notes.txt", "nonsense"),
    ]);
    let told = |file: &str| format!("{file}\n  ok      two pass in a minute\n\n");
    let expected = told("./below/e.test.yml") + &told("./d.test.yaml") + "2 passed, 0 failed\n";
    let passed = |out: &str| (out.to_owned(), String::new(), Some(0));
    assert_eq!(ratekeeper(root.path(), &["test", "."]), passed(&expected));

    let once = told("d.test.yaml") + "1 passed, 0 failed\n";
    let twice = ["test", "d.test.yaml", "./d.test.yaml"];
    assert_eq!(ratekeeper(root.path(), &twice), passed(&once));
}

#[test]
fn tells_what_failed_and_where() {
    let root = folder(&[("d.yaml", RULES), ("d.test.yaml", FAILING)]);
    let (out, _, code) = ratekeeper(root.path(), &["test", "d.test.yaml"]);
    assert_eq!(code, Some(1));
    let expected = r#"d.test.yaml
  FAILED  three <pass> & "more"
  ok      the second of two

d.test.yaml:4: three <pass> & "more"
  step 1, at 2026-01-01T00:00:00Z, asked for the 3rd of 3 times
  decision
    expected OK
    got      OVER
  rule: user
  answer: {"overallCode":"OVER_LIMIT","statuses":[{"code":"OVER_LIMIT","currentLimit":{"name":"per-user","requestsPerUnit":2,"unit":"MINUTE"},"durationUntilReset":"60s"}]}

1 passed, 1 failed
"#;
    assert_eq!(out, expected);

    let filtered = |text| ratekeeper(root.path(), &["test", ".", "--filter", text]);
    let (out, _, code) = filtered("second");
    assert_eq!(code, Some(0));
    assert!(out.ends_with("\n1 passed, 0 failed\n"), "{out}");
    let (out, error, code) = filtered("nothing like it");
    assert_eq!((&*out, code), ("0 passed, 0 failed\n", Some(2)));
    assert_eq!(error, "ratekeeper: there is no test to run\n");
}

#[test]
fn tells_programs_the_same() {
    let root = folder(&[
        ("d.yaml", RULES),
        ("d.test.yaml", FAILING),
        ("e.test.yaml", GOOD),
    ]);
    let told = |format| ratekeeper(root.path(), &["test", ".", "--format", format]);
    let (out, _, code) = told("json");
    assert_eq!(code, Some(2), "e.yaml is not there");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()));
    let failure = &json["files"][0]["tests"][0]["failures"][0];
    for (field, expected) in [
        ("/line", 4.into()),
        ("/ask", 3.into()),
        ("/differences/0/field", "decision".into()),
        ("/differences/0/got", "OVER".into()),
        ("/answer/rules/0", "user".into()),
        ("/answer/response/overallCode", "OVER_LIMIT".into()),
    ] {
        assert_eq!(failure.pointer(field), Some::<&Value>(&expected), "{field}");
    }
    let problem = &json["files"][1]["problems"][0]["message"];
    assert_eq!(problem, "there are no rules in ./e.yaml");

    let (out, _, code) = told("junit");
    assert_eq!(code, Some(2));
    for expected in [
        "<testsuites name=\"ratekeeper\" tests=\"3\" failures=\"1\" errors=\"1\">",
        "<testsuite name=\"./d.test.yaml\" tests=\"2\" failures=\"1\" errors=\"0\">",
        "name=\"three &lt;pass&gt; &amp; &quot;more&quot;\" file=\"./d.test.yaml\" line=\"2\">",
        "line=\"7\"/>",
        "    expected OK\n    got      OVER\n",
        "<error message=\"no test of the file could be run\">error: there are no rules",
    ] {
        assert!(out.contains(expected), "{expected}\n{out}");
    }
    assert_eq!(out.matches('<').count(), out.matches('>').count());
}

#[test]
fn what_cannot_be_run_is_neither_passed_nor_failed() {
    let root = folder(&[
        ("d.yaml", RULES),
        ("d.test.yaml", GOOD),
        ("typo.test.yaml", "rules: d.yaml\ntest: 3\n"),
        ("broken.yaml", "domain: d\nnonsense: 1\n"),
        ("broken.test.yaml", GOOD),
    ]);
    for (paths, expected) in [
        (
            &["typo.test.yaml"][..],
            "typo.test.yaml:2:1\n  |\n2 | test: 3\n  | ^\n  = help: did you mean tests?",
        ),
        (
            &["broken.test.yaml"],
            "error: config error, unknown key 'nonsense'\n --> broken.yaml:2:1\n",
        ),
        (
            &["d.yaml"],
            "error: not named as test files are: NAME.test.yaml or NAME.test.yml",
        ),
        (&["gone.test.yaml"], "error: cannot read it: "),
    ] {
        let (out, _, code) = ratekeeper(root.path(), &[&["test"], paths].concat());
        assert_eq!(code, Some(2), "{out}");
        assert!(out.contains(expected), "{expected}\n{out}");
        assert!(out.ends_with("\n0 passed, 0 failed\n"), "{out}");
    }
    let (out, _, code) = ratekeeper(root.path(), &["test", "."]);
    assert_eq!(code, Some(2));
    assert!(out.ends_with("\n1 passed, 0 failed\n"), "{out}");
    let (_, error, code) = ratekeeper(root.path(), &["test"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("PATH"), "{error}");
}

#[test]
fn test_files_are_no_rules() {
    let root = folder(&[("d.yaml", RULES), ("d.test.yaml", GOOD), ("e.test.yml", "")]);
    let (out, error, code) = ratekeeper(root.path(), &["check", "."]);
    assert_eq!(out, "1 file, 1 domain, 1 rule: ok\n", "{error}");
    assert_eq!(code, Some(0));
    let explain = ["explain", "--rules", ".", "--domain", "d", "user=ann"];
    let (out, error, code) = ratekeeper(root.path(), &explain);
    assert_eq!(code, Some(0), "{out}{error}");
}

/// Of the rules that are shipped every number, made larger by one, fails a test.
#[test]
fn no_shipped_limit_can_change_unnoticed() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut changed = 0;
    for name in [
        "quickstart/quickstart",
        "providers/p0",
        "providers/p1",
        "providers/p2",
        "providers/p3",
        "providers/p4",
    ] {
        let rules = fs::read_to_string(config.join(format!("{name}.yaml"))).unwrap();
        let tests = fs::read_to_string(config.join(format!("{name}.test.yaml"))).unwrap();
        for (at, larger) in numbers(&rules) {
            let mut mutant = rules.clone();
            let digits = mutant[at..].find(|it: char| !it.is_ascii_digit()).unwrap();
            mutant.replace_range(at..at + digits, &larger.to_string());
            let root = folder(&[("p.yaml", &mutant), ("p.test.yaml", &tests)]);
            let (out, _, code) = ratekeeper(root.path(), &["test", "."]);
            let line = rules[..at].lines().count();
            assert_eq!(code, Some(1), "{name}.yaml:{line} became {larger}: {out}");
            changed += 1;
        }
    }
    assert!(changed >= 80, "{changed}");
}

/// Where a limit's numbers stand, and what is one more.
fn numbers(rules: &str) -> Vec<(usize, u64)> {
    let keys = [
        "requests_per_unit: ",
        "window: ",
        "burst: ",
        "max_queue: ",
        "remember: ",
        "lockout: ",
        "notify_below: ",
        "from: ",
        "over: ",
        "opens_for: ",
    ];
    let found = keys.iter().flat_map(|key| {
        rules.match_indices(key).map(|(start, _)| {
            let at = start + key.len();
            let digits: String = rules[at..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            (at, digits.parse::<u64>().unwrap() + 1)
        })
    });
    found.collect()
}
