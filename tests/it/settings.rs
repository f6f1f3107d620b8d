//! Settings of the process: every variable of the reference, where settings
//! come from, and how they are printed.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use ratekeeper::{
    cli,
    settings::reference::{Kind, Status, VARIABLES, Variable, markdown},
};
use serde_json::Value;

/// Defaults that differ on purpose; the table says so.
const OTHER_DEFAULTS: &[(&str, &str)] = &[("DEBUG_HOST", "127.0.0.1")];

const DOC: &str = "docs/migrating.md";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs it with these variables and no others.
fn run<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ratekeeper"))
        .env_clear()
        .envs(variables)
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Variables of `serve`, and their flags.
fn variables_read() -> BTreeMap<String, String> {
    let command = cli::command();
    let serve = command.find_subcommand("serve").expect("a command");
    let arguments = serve.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, argument.get_long()?.to_owned()))
    });
    arguments.collect()
}

/// Those of the table that a flag has, in the table's order.
fn read_by_flags() -> Vec<&'static Variable> {
    let read = variables_read();
    let is_read = |variable: &&Variable| read.contains_key(variable.name);
    VARIABLES.iter().filter(is_read).collect()
}

/// Settings by variable, as they are printed in compat mode.
fn printed<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, (Option<String>, String)> {
    let output = run(variables, &["serve", "--compat", "--print-config=json"]);
    let settings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let own = |value: &Value| value.as_str().map(str::to_owned);
    let entry = |setting: &Value| {
        let from = own(&setting["from"])?;
        Some((own(&setting["variable"])?, (own(&setting["value"]), from)))
    };
    settings.iter().filter_map(entry).collect()
}

// === the table ===

/// `UPDATE_DOCS=1` writes it.
#[test]
fn the_documented_table_is_the_codes() {
    let table = markdown();
    let page = fs::read_to_string(path(DOC)).expect(DOC);
    let start = page.find("| variable | type |").expect("a table");
    let end = start + page[start..].find("\n\n").expect("an end") + 1;
    if page[start..end] != table && std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{}{table}{}", &page[..start], &page[end..]);
        return fs::write(path(DOC), page).expect(DOC);
    }
    assert_eq!(
        &page[start..end],
        table,
        "{DOC} is behind: UPDATE_DOCS=1 writes it"
    );
}

#[test]
fn every_variable_of_the_table_is_read() {
    let read = variables_read();
    let code = sources();
    let mut missing = vec![];
    for variable in VARIABLES {
        let is_read = if variable.is_family() {
            let start = variable.name.split(['<', '*']).next().expect("a start");
            code.contains(start)
        } else {
            read.contains_key(variable.name)
        };
        if !is_read {
            missing.push(variable.name);
        }
    }
    assert!(missing.is_empty(), "nothing reads {missing:?}");
}

/// All code but the table itself and what prints it.
fn sources() -> String {
    let mut waiting = vec![path("src")];
    let mut all = String::new();
    while let Some(next) = waiting.pop() {
        if next.is_dir() {
            let entries = fs::read_dir(&next).expect("a folder");
            waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if !["reference.rs", "sources.rs"]
            .iter()
            .any(|name| next.ends_with(name))
        {
            all += &fs::read_to_string(&next).unwrap_or_default();
        }
    }
    all
}

#[test]
fn every_variable_that_is_read_is_ours_or_in_the_table() {
    let is_known = |name: &str| {
        ["RATEKEEPER_", "OTEL_"]
            .iter()
            .any(|it| name.starts_with(it))
            || VARIABLES.iter().any(|variable| variable.is(name))
    };
    let read = variables_read();
    assert!(read.len() > 60, "{}", read.len());
    let unknown: Vec<_> = read.keys().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

#[test]
fn names_are_there_once() {
    let mut names: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

// === what variables do ===

/// A value that is not the default.
fn sample(variable: &Variable) -> &'static str {
    match (variable.name, variable.kind) {
        ("HOST" | "GRPC_HOST" | "DEBUG_HOST", _) => "127.0.0.7",
        ("LOG_LEVEL", _) => "error",
        ("LOG_FORMAT", _) => "json",
        ("CONFIG_TYPE", _) => "GRPC_XDS_SOTW",
        ("CONFIG_GRPC_XDS_SERVER_URL", _) => "host:7",
        ("STATSD_PROTOCOL", _) => "udp",
        ("PROMETHEUS_ADDR", _) => "127.0.0.1:9091",
        ("PROMETHEUS_PATH", _) => "/some",
        ("TRACING_EXPORTER_PROTOCOL", _) => "grpc",
        ("REDIS_SOCKET_TYPE" | "REDIS_PERSECOND_SOCKET_TYPE", _) => "tcp",
        ("REDIS_TYPE" | "REDIS_PERSECOND_TYPE", _) => "cluster",
        ("BACKEND_TYPE", _) => "memory",
        ("XDS_CLIENT_BACKOFF_JITTER" | "USE_STATSD" | "RUNTIME_WATCH_ROOT", _) => "F",
        (_, Kind::Bool) => "T",
        (_, Kind::Int | Kind::Natural) => "7",
        (_, Kind::Float) => "0.25",
        (_, Kind::Duration) => "1h1.5s",
        (_, Kind::OneOf(names)) => names[names.len() - 1],
        (_, Kind::List) => "a,b",
        (_, Kind::Map) => "a:b",
        (_, Kind::Text) => "some-text",
    }
}

#[test]
fn variables_are_read_in_the_references_types() {
    let variables = read_by_flags();
    let given = variables.iter().map(|it| (it.name, sample(it)));
    let settings = printed(given);
    for variable in variables {
        let (value, from) = &settings[variable.name];
        assert_eq!(from, &format!("variable {}", variable.name));
        let value = value.as_deref().expect(variable.name);
        let is_secret = value.contains("***");
        assert!(
            is_secret || value == sample(variable),
            "{variable:?} {value}"
        );
    }
}

#[test]
fn nonsense_is_a_mistake() {
    let is_typed = |it: &&Variable| {
        let text = matches!(it.kind, Kind::Text | Kind::List | Kind::Map);
        !text || it.name.ends_with("_HOST") && it.name != "STATSD_HOST"
    };
    let typed: Vec<_> = read_by_flags().into_iter().filter(is_typed).collect();
    let given = typed.iter().map(|it| (it.name, "no sense"));
    let output = run(given, &["serve", "--compat", "--print-config"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    for variable in typed {
        assert!(
            told.contains(&format!("error: {}: ", variable.name)),
            "{} is not told: {told}",
            variable.name
        );
    }
    for (name, value) in [
        ("REDIS_CLUSTER_PIPELINE_PARALLELISM", "-1"),
        ("REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM", "-1"),
        ("REDIS_POOL_ON_EMPTY_BEHAVIOR", "WISH"),
        ("REDIS_TIMEOUT", "5"),
    ] {
        let output = run([(name, value)], &["serve", "--compat", "--print-config"]);
        assert!(!output.status.success(), "{name}");
    }
}

#[test]
fn defaults_in_compat_mode_are_the_references() {
    let variables = read_by_flags();
    // Set to nothing is not set.
    let settings = printed(variables.iter().map(|it| (it.name, "")));
    for variable in variables {
        let (value, from) = &settings[variable.name];
        assert_eq!(from, "default", "{}", variable.name);
        let value = value.as_deref().unwrap_or_default();
        let other = OTHER_DEFAULTS
            .iter()
            .find(|(name, _)| *name == variable.name);
        let default = other.map_or(variable.default, |(_, default)| default);
        assert!(other.is_none() || variable.note.contains(default));
        let same = match (variable.kind, default) {
            (Kind::Duration, default) if !default.is_empty() => millis(value) == millis(default),
            (Kind::Float, default) => value.parse::<f64>() == default.parse::<f64>(),
            (_, default) => value.eq_ignore_ascii_case(default),
        };
        assert!(
            same,
            "{}: {value:?}, not {:?}",
            variable.name, variable.default
        );
    }
}

fn millis(duration: &str) -> f64 {
    if duration == "0" {
        return 0.0;
    }
    let mut total = 0.0;
    let mut rest = duration;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_alphabetic()).expect(duration);
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_numeric()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 6e4,
            "h" => 36e5,
            unit => panic!("{unit}"),
        };
        total += number.parse::<f64>().expect(duration) * factor;
        rest = tail;
    }
    total
}

#[test]
fn what_is_refused_says_what_to_do_instead() {
    let refused = VARIABLES.iter().filter(|it| it.status == Status::Refused);
    for variable in refused {
        let variables = [(variable.name, sample(variable))];
        let output = run(variables, &["serve", "--compat", "--print-config"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}", variable.name);
        assert!(told.contains(variable.name), "{told}");
        let instead = told.contains("BACKEND_TYPE=memory") || told.contains("time_zone: UTC");
        assert!(instead, "{told}");
    }
    let output = run([("BACKEND_TYPE", "memcache")], &["serve", "--compat"]);
    assert!(text(&output.stderr).contains("count in Redis with REDIS_URL"));
    // It means nothing there where another store is asked for.
    for store in ["redis", "memory"] {
        let variables = [("BACKEND_TYPE", store), ("MEMCACHE_HOST_PORT", "a:1")];
        let output = run(variables, &["serve", "--compat", "--print-config"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

// === where settings come from ===

/// The lines of a printed setting, without the blanks between them.
fn line(printed: &str, setting: &str) -> Vec<String> {
    let found = printed.lines().map(|line| line.split_whitespace());
    let mut found = found.filter(|words| words.clone().next() == Some(setting));
    let words = found
        .next()
        .unwrap_or_else(|| panic!("no {setting}: {printed}"));
    words.map(str::to_owned).collect()
}

#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let toml = "\
grpc_port = 1001
http-port = 1002
cache_key_prefix = 'from file'

[store]
store = 'redis://me:geheim@host:6379'
redis_auth = 'geheim'
compat = true
";
    let yaml = "\
grpc_port: 1001
http-port: 1002
cache_key_prefix: from file

store and more:
  store: redis://me:geheim@host:6379
  redis_auth: geheim
  compat: true
";
    for (name, content) in [("s.toml", toml), ("s.yaml", yaml)] {
        let file = folder.path().join(name);
        fs::write(&file, content).expect("a writable folder");
        let file = file.display().to_string();
        let arguments = ["serve", "--print-config", "--grpc-port", "3001"];
        let variables = [
            ("RATEKEEPER_CONFIG", file.as_str()),
            ("GRPC_PORT", "2001"),
            ("PORT", "2002"),
            ("CACHE_KEY_PREFIX", ""),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=geheim"),
        ];
        let output = run(variables, &arguments);
        let printed = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(line(&printed, "grpc-port"), ["grpc-port", "3001", "flag"]);
        assert_eq!(
            line(&printed, "http-port"),
            ["http-port", "2002", "variable", "PORT"]
        );
        let place = |line: usize| format!("{file}:{line}");
        let expected = ["cache-key-prefix", "from", "file", "file", &place(3)];
        assert_eq!(line(&printed, "cache-key-prefix"), expected);
        let expected = ["store", "redis://me:***@host:6379", "file", &place(6)];
        assert_eq!(line(&printed, "store"), expected);
        assert_eq!(
            line(&printed, "redis-auth"),
            ["redis-auth", "***", "file", &place(7)]
        );
        // What it says about the mode counts for what depends on it.
        assert_eq!(
            line(&printed, "key-format"),
            ["key-format", "reference", "default"]
        );
        assert_eq!(
            line(&printed, "grpc-host"),
            ["grpc-host", "0.0.0.0", "default"]
        );
        assert!(printed.contains("authorization=***"), "{printed}");
        assert!(!printed.contains("geheim"), "{printed}");
    }
}

#[test]
fn settings_of_a_file_are_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ratekeeper.yaml");
    let rules = path("config/quickstart");
    let content = format!(
        "rules: {}\ngrpc-addr: 127.0.0.1:0\nhttp-addr: 127.0.0.1:0\nlimit_headers: true\n",
        rules.display()
    );
    fs::write(&file, content).expect("a writable folder");
    let file = file.display().to_string();
    let server = crate::process::Server::start(
        "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 2}}]",
        &["--config", &file],
    );
    let body = r#"{"domain":"d","descriptors":[{"entries":[{"key":"a","value":"x"}]}]}"#;
    let (status, answer) = server.http("POST", "/json", body);
    assert_eq!(status, 200);
    assert!(answer.contains("RateLimit-Limit"), "{answer}");
}

/// The documentation's example is a file that can be read.
#[test]
fn the_documented_file_is_one() {
    let page = fs::read_to_string(path(DOC)).expect(DOC);
    let example = page.split("```toml\n").nth(1).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ratekeeper.toml");
    let example = example.split("```").next().expect("an end");
    fs::write(&file, example).expect("a writable folder");
    let file = file.display().to_string();
    let output = run([], &["serve", "--config", &file, "--print-config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let place = format!("{file}:5");
    let expected = ["on-store-failure", "local", "file", &place];
    assert_eq!(line(&text(&output.stdout), "on-store-failure"), expected);
}

#[test]
fn mistakes_in_a_file_are_all_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.toml");
    fs::write(&file, "grpc_prot = 1\nhttp_port = 'x'\n").expect("a writable folder");
    let file = file.display().to_string();
    for print in [None, Some("--print-config"), Some("--print-config=json")] {
        let mut arguments = vec!["serve", "--config", &file];
        arguments.extend(print);
        let output = run([], &arguments);
        let told = text(&output.stderr);
        let expected = format!("{file}:1: there is no setting grpc_prot; did you mean grpc_port?");
        assert!(told.contains(&expected), "{told}");
        assert!(told.contains(&format!("{file}:2: http_port: ")), "{told}");
        let code = if print.is_some() { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(code));
    }
    // Only `serve` reads it.
    let quickstart = path("config/quickstart").display().to_string();
    let output = run([("RATEKEEPER_CONFIG", &*file)], &["check", &quickstart]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = run([], &["serve", "--config", "/nowhere/s.toml"]);
    assert!(text(&output.stderr).contains("/nowhere/s.toml: "));
}

#[test]
fn mistakes_of_several_settings_are_told_when_printing() {
    let arguments = [
        "serve",
        "--print-config",
        "--store",
        "redis://host:port",
        "--limit-headers",
        "--reset-header",
        "a b",
    ];
    let output = run([], &arguments);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("is no port"), "{told}");
    assert!(told.contains("error: rate-limit headers: "), "{told}");
    assert!(text(&output.stdout).contains("reset-header"));
}

/// The reference's name does what `serve --compat` does.
#[test]
fn the_name_ratelimit_takes_them_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("ratelimit");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ratekeeper"), &name).expect("a link");
    let output = Command::new(&name)
        .env_clear()
        .env("REDIS_URL", "/run/redis.sock")
        .arg("--print-config")
        .output()
        .expect("it runs");
    let printed = text(&output.stdout);
    assert_eq!(line(&printed, "compat"), ["compat", "true", "flag"]);
    assert_eq!(
        line(&printed, "backend-type"),
        ["backend-type", "redis", "default"]
    );
    let expected = ["redis-url", "/run/redis.sock", "variable", "REDIS_URL"];
    assert_eq!(line(&printed, "redis-url"), expected);
}
