//! What SECURITY.md and the pages for operators say is so.

use std::collections::BTreeSet;

use super::{flags, path, read, words};

/// Flags of other programs that the pages speak of.
const OF_OTHERS: [&str; 14] = [
    "allow-dirty",
    "build-arg",
    "cap-drop",
    "entrypoint",
    "help",
    "locked",
    "no-build",
    "now",
    "out",
    "read-only",
    "rm",
    "set",
    "set-file",
    "version",
];

/// `--name` → `name`, wherever it stands.
fn flags_in(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let rests = text.split("--").skip(1);
    rests
        .map(|rest| &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())])
        .map(|name| name.trim_end_matches('-'))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn pages_name_flags_that_there_are() {
    let flags = flags();
    for page in ["SECURITY.md", "docs/packaging.md", "docs/metrics.md"] {
        let text = read(page);
        let named = flags_in(&text);
        let unknown: Vec<_> = named
            .iter()
            .filter(|name| !flags.contains_key(**name) && !OF_OTHERS.contains(*name))
            .collect();
        assert!(unknown.is_empty(), "{page}: {unknown:?}");
    }
    assert_eq!(
        flags_in("`--a-b`, --c=d | --- |"),
        BTreeSet::from(["a-b", "c"])
    );
}

/// A row of the table, with the flag and the default that it names.
fn bounds() -> Vec<(String, String)> {
    let page = read("SECURITY.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let bounds: Vec<_> = rows
        .filter_map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let flag = cells.get(2)?.trim_matches('`').strip_prefix("--")?;
            Some((flag.to_owned(), cells.get(3)?.to_string()))
        })
        .collect();
    assert!(bounds.len() > 12, "{bounds:?}");
    bounds
}

/// `1 MiB` and `1048576` are the same, and so are `10 s` and `10s`.
fn canonical(default: &str) -> String {
    let plain = default.replace([',', ' '], "");
    for (unit, bytes) in [("MiB", 1_u64 << 20), ("KiB", 1 << 10)] {
        if let Some(number) = plain.strip_suffix(unit) {
            return (number.parse::<u64>().expect("a number") * bytes).to_string();
        }
    }
    plain
}

#[test]
fn bounds_have_the_defaults_that_are_told() {
    let flags = flags();
    for (flag, told) in bounds() {
        let default = flags.get(&flag).unwrap_or_else(|| panic!("--{flag}"));
        assert_eq!(canonical(&told), canonical(default), "--{flag}");
    }
}

/// Every flag that ARCHITECTURE.md calls a bound is in the table for operators, too.
#[test]
fn no_bound_is_left_out() {
    let page = read("ARCHITECTURE.md");
    let section = page.split("## What a client may cost").nth(1);
    let section = section.and_then(|it| it.split("\n## ").next());
    let security = read("SECURITY.md");
    let told = flags_in(&security);
    let missing: Vec<_> = flags_in(section.expect("the section"))
        .into_iter()
        .filter(|flag| !told.contains(flag))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn metrics_that_are_named_are_counted() {
    let catalogue = read("docs/metrics.md");
    let known = words(&catalogue, &["ratekeeper_", "process_"]);
    let security = read("SECURITY.md");
    let named = words(&security, &["ratekeeper_"]);
    assert!(named.len() > 5);
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn links_lead_somewhere() {
    for page in ["SECURITY.md", "docs/packaging.md", "docs/metrics.md"] {
        let folder = path(page).parent().expect("a folder").to_owned();
        for rest in read(page).split("](").skip(1) {
            let link = rest.split(')').next().expect("a link");
            let file = link.split('#').next().expect("a file");
            if !file.is_empty() && !file.contains("://") {
                assert!(folder.join(file).exists(), "{page}: {link}");
            }
        }
    }
}
