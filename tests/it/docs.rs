//! What the documentation says is so.

use std::{fs, path::Path};

use ratekeeper::config::{self, Options, SourceFile};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).expect(name)
}

/// The YAML blocks of a page.
fn examples(page: &str) -> Vec<&str> {
    let blocks = page.split("```yaml\n").skip(1);
    blocks
        .filter_map(|block| block.split("```").next())
        .collect()
}

#[test]
fn examples_of_rules_load() {
    let mut count = 0;
    for name in ["docs/rules.md", "docs/redis.md"] {
        let page = page(name);
        for example in examples(&page) {
            let file = SourceFile {
                name: name.into(),
                bytes: example.as_bytes().to_vec(),
            };
            let loaded = config::compile(&[file], &Options::default());
            assert!(loaded.is_ok(), "{:?}\n{example}", loaded.err());
            count += 1;
        }
    }
    assert!(count >= 9, "{count}");
}

#[test]
fn flags_and_variables_of_traces_and_logs_are_those_of_the_program() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let page = page("docs/observability.md");
    let words = page.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
    let named = |word: &&str| {
        let is_flag = word.starts_with("--") && !word.ends_with('-');
        let ours = ["TRACING_", "RATEKEEPER_", "LOG_", "OTEL_BSP_"];
        is_flag || ours.iter().any(|prefix| word.starts_with(prefix))
    };
    let named: Vec<&str> = words.filter(named).collect();
    assert!(named.len() > 30, "{}", named.len());
    for word in named {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn every_key_is_on_the_page() {
    let page = page("docs/rules.md");
    let schema = config::json_schema();
    let places = schema["definitions"].as_object().expect("a map");
    let keys = places
        .values()
        .filter_map(|place| place["properties"].as_object())
        .flat_map(|properties| properties.keys());
    let missing: Vec<_> = keys.filter(|key| !page.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The table of policies names only tests that there are.
#[test]
fn policies_name_their_files() {
    let page = page("docs/policies.md");
    for name in ["p0", "p1", "p2", "p3", "p4"] {
        assert!(page.contains(&format!("| {name}: ")) || page.contains(&format!("| {name};")));
        assert!(!self::page(&format!("config/envoy/providers/{name}.yaml")).is_empty());
    }
}
