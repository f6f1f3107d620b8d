//! systemd's unit and the Debian package.

use std::{collections::BTreeMap, fs, process::Command};

use super::{output, path, read, variables};

const UNIT: &str = "packaging/systemd/ratekeeper.service";

/// Settings of the unit.
fn unit() -> BTreeMap<String, String> {
    let text = read(UNIT);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_unit_gives_no_rights() {
    let unit = unit();
    for (name, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
    ] {
        assert_eq!(unit.get(name).map(String::as_str), Some(value), "{name}");
    }
    // --drain-delay and --drain-timeout are 5 s and 10 s.
    let stop: u64 = unit["TimeoutStopSec"].parse().expect("seconds");
    assert!(stop > 15, "{stop}");
}

/// systemd itself reads the unit, where it is installed.
#[test]
fn systemd_takes_the_unit() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        return eprintln!("skipped: there is no systemd-analyze");
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("ratekeeper.service");
    let program = env!("CARGO_BIN_EXE_ratekeeper");
    let text = read(UNIT).replace("/usr/bin/ratekeeper", program);
    fs::write(&copy, &text).unwrap();
    let verify = |file| {
        let mut analyze = Command::new("systemd-analyze");
        let verified = analyze.args(["verify", "--man=no"]).arg(file).output();
        String::from_utf8_lossy(&verified.unwrap().stderr).into_owned()
    };
    assert_eq!(verify(&copy), "");
    fs::write(&copy, text.replace("DynamicUser", "DynamicUsr")).unwrap();
    assert!(verify(&copy).contains("DynamicUsr"));
}

#[test]
fn defaults_name_variables_that_there_are() {
    let text = read("packaging/systemd/ratekeeper.default");
    let set = text.lines().filter_map(|line| {
        let (name, _) = line.trim_start_matches('#').split_once('=')?;
        (!name.contains(' ')).then_some(name)
    });
    let known = variables();
    let set: Vec<_> = set.collect();
    assert!(set.len() > 3);
    for name in set {
        assert!(known.contains(name), "{name}");
    }
}

/// Each file of the package is in the repository, or made by packaging/assets.sh.
#[test]
fn the_package_has_files_that_there_are() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("good TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir(root.join("packaging")).unwrap();
    let script = root.join("packaging/assets.sh");
    fs::copy(path("packaging/assets.sh"), &script).unwrap();
    output(Command::new(&script).arg(env!("CARGO_BIN_EXE_ratekeeper")));
    let mut targets = vec![];
    for asset in deb["assets"].as_array().expect("a list") {
        let part = |at: usize| asset[at].as_str().expect("a text");
        targets.push(format!("/{}", part(1)));
        match part(0) {
            "target/release/ratekeeper" => {}
            "target/packaging/man/*.1" => {
                assert!(
                    root.join("target/packaging/man/ratekeeper-serve.1")
                        .exists()
                );
            }
            made if made.starts_with("target/") => {
                let size = fs::metadata(root.join(made)).expect(made).len();
                assert!(size > 1_000, "{made}");
            }
            kept => assert!(path(kept).exists(), "{kept}"),
        }
    }
    for file in deb["conf-files"].as_array().expect("a list") {
        let file = file.as_str().expect("a text");
        assert!(targets.iter().any(|it| it == file), "{file}");
    }
    let units = deb["systemd-units"]["unit-scripts"].as_str();
    assert!(
        path(units.expect("a folder"))
            .join("ratekeeper.service")
            .exists()
    );
}

/// What is published has no tests and no packaging in it, and all that it needs.
#[test]
fn the_crate_is_small() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(path(""));
    let list = output(&mut cargo);
    let top = |name: &str| list.lines().any(|line| line.starts_with(name));
    for needed in ["src/main.rs", "proto/", "build.rs", "LICENSE", "README.md"] {
        assert!(top(needed), "{needed}");
    }
    for junk in ["tests/", "fuzz/", "packaging/", "benches/", ".", "justfile"] {
        let found: Vec<_> = list
            .lines()
            .filter(|line| line.starts_with(junk) && !line.starts_with(".cargo_vcs"))
            .collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
