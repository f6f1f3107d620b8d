//! The Dockerfile: no engine runs here, so what can be checked without one.

use std::path::Path;

use super::{output, path, read, tool};

const DOCKERFILE: &str = "packaging/Dockerfile";

/// Instructions, lines that go on joined.
fn instructions() -> Vec<(String, String)> {
    let text = read(DOCKERFILE);
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.split_once(' '));
    instructions
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

/// What is copied from the repository into the image, or to build it.
fn sources() -> Vec<String> {
    let copies = instructions()
        .into_iter()
        .filter(|(name, rest)| name == "COPY" && !rest.starts_with("--from"));
    copies
        .flat_map(|(_, rest)| {
            let mut words: Vec<_> = rest.split_whitespace().map(str::to_owned).collect();
            words.pop();
            words
        })
        .collect()
}

#[test]
fn linted() {
    if let Some(mut hadolint) = tool("hadolint") {
        output(hadolint.arg(path(DOCKERFILE)));
    }
}

#[test]
fn everything_that_is_copied_is_there_and_not_ignored() {
    let ignore = read(".dockerignore");
    let kept: Vec<_> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    assert!(ignore.lines().any(|line| line == "*"), "{ignore}");
    let sources = sources();
    for source in &sources {
        assert!(path(source).exists(), "{source}");
        assert!(kept.contains(&&**source), "{source} is ignored");
    }
    for kept in kept {
        assert!(
            sources.iter().any(|source| source == kept),
            "{kept} is of no use"
        );
    }
}

/// What Cargo.toml names and what sources include, or cargo does not even start.
#[test]
fn everything_that_the_build_reads_is_copied() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("good TOML");
    let sources = sources();
    let is_copied = |file: &Path| sources.iter().any(|source| file.starts_with(source));
    let benches = manifest["bench"].as_array().expect("benches");
    assert!(benches.len() > 1);
    for bench in benches {
        let name = bench["name"].as_str().expect("a name");
        assert!(is_copied(&Path::new("benches").join(name)), "{name}");
    }
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "src/main.rs",
        "proto/grpc",
    ] {
        assert!(
            path(needed).exists() && is_copied(Path::new(needed)),
            "{needed}"
        );
    }
    for file in super::files("src") {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let code = text.split("#[cfg(test)]").next().expect("a part");
        for up in ["include_str!(\"../../", "include_bytes!(\"../../"] {
            let depth = file.strip_prefix(path("src")).expect("below src");
            let leaves = depth.components().count() <= 2 && code.contains(up);
            assert!(!leaves, "{} includes what is not copied", file.display());
        }
    }
}

#[test]
fn runs_as_nobody_under_both_names() {
    let instructions = instructions();
    let last = |name: &str| {
        let all = instructions.iter().rev();
        let found = all.clone().find(|(it, _)| it == name);
        found.map(|(_, rest)| &**rest).expect(name)
    };
    assert_eq!(last("USER"), "65534:65534");
    assert_eq!(last("EXPOSE"), "8080 8081 6070");
    assert_eq!(last("ENTRYPOINT"), r#"["/bin/ratekeeper"]"#);
    let build = last("RUN");
    assert!(build.contains("--locked"), "{build}");
    assert!(
        build.contains("ln -s ratekeeper /image/bin/ratelimit"),
        "{build}"
    );
    let stages = instructions.iter().filter(|(name, _)| name == "FROM");
    assert_eq!(stages.count(), 2);
}

/// One Rust builds the image, and it is not older than what Cargo.toml asks for.
#[test]
fn built_with_a_rust_that_is_new_enough() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("good TOML");
    let oldest = manifest["package"]["rust-version"]
        .as_str()
        .expect("a text");
    let image = instructions()
        .into_iter()
        .find_map(|(_, rest)| Some(rest.strip_prefix("RUST_IMAGE=rust:")?.to_owned()));
    let image = image.expect("the builder's image");
    let minor = |version: &str| -> u32 {
        let part = version.split(['.', '-']).nth(1);
        part.and_then(|it| it.parse().ok()).expect("1.x")
    };
    assert!(minor(&image) >= minor(oldest), "{image} < {oldest}");
}
