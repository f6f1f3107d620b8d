//! The commands, run as a user runs them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ratekeeper");

const RULES: &str = "\
domain: d
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 2, name: per-user}
";

/// A server that is stopped when it goes out of sight.
struct Server {
    child: Child,
    http: u16,
    grpc: u16,
    lines: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let held = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear();
    command
}

/// Starts a server and reads the lines with which it says that it is up.
fn start(command: &mut Command, [grpc, http]: [u16; 2]) -> Server {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = vec![];
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap().starts_with("HTTP listens") {
            return Server {
                child,
                http,
                grpc,
                lines,
            };
        }
    }
    let mut errors = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut errors);
    let _ = child.wait();
    panic!("no server: {lines:?} {errors}");
}

fn serve(rules: &Path) -> Server {
    let ports = free_ports();
    let mut command = program();
    command
        .args([
            "serve",
            "--store",
            "memory",
            "--drain-delay",
            "0s",
            "--rules",
        ])
        .arg(rules)
        .args(["--grpc-addr", &format!("127.0.0.1:{}", ports[0])])
        .args(["--http-addr", &format!("127.0.0.1:{}", ports[1])]);
    start(&mut command, ports)
}

/// Status and body of a request over HTTP.
fn http(port: u16, method: &str, path: &str, body: &str) -> (u16, String) {
    crate::process::http(("127.0.0.1", port), method, path, body)
}

/// All of an answer to a request with this header.
fn raw(port: u16, path: &str, header: &str) -> String {
    use std::io::{Read as _, Write as _};

    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n{header}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.to_lowercase()
}

fn ask(port: u16, user: &str) -> (u16, String) {
    let body = format!(
        r#"{{"domain":"d","descriptors":[{{"entries":[{{"key":"user","value":"{user}"}}]}}]}}"#
    );
    http(port, "POST", "/json", &body)
}

fn signal(server: &Server, name: &str) {
    let pid = server.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap()
            .success()
    );
}

fn text(output: &Output) -> (String, String, Option<i32>) {
    let utf8 = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        utf8(&output.stdout),
        utf8(&output.stderr),
        output.status.code(),
    )
}

fn rules_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("d.yaml"), RULES).unwrap();
    folder
}

#[test]
fn serves_what_the_command_line_says() {
    let rules = rules_folder();
    let mut server = serve(rules.path());
    assert!(
        server.lines[0].starts_with("loaded 1 file, 1 domain, 1 rule from "),
        "{:?}",
        server.lines
    );
    assert_eq!(
        server.lines[1],
        format!("gRPC listens on 127.0.0.1:{}", server.grpc)
    );
    assert_eq!(
        server.lines[2],
        format!("HTTP listens on 127.0.0.1:{}", server.http)
    );

    assert_eq!(
        http(server.http, "GET", "/healthcheck", ""),
        (200, "OK".to_owned())
    );
    let (status, answer) = http(server.http, "GET", "/nothing", "");
    assert_eq!(status, 404);
    let error = r#"{"error":{"code":"not_found","message":"there is nothing at this path"}}"#;
    assert_eq!(answer, error);
    let named = raw(server.http, "/nothing", "x-request-id: abc-1");
    assert!(named.contains("\r\nx-request-id: abc-1\r\n"), "{named}");
    let unnamed = raw(server.http, "/healthcheck", "x-other: 1");
    let id = unnamed.split("\r\nx-request-id: ").nth(1).unwrap();
    assert!(id.len() > 32 && id[..32].bytes().all(|it| it.is_ascii_hexdigit()));
    let (status, answer) = ask(server.http, "ann");
    assert_eq!(status, 200);
    assert!(
        answer.contains(r#""limitRemaining":1"#) && answer.contains(r#""unit":"DAY""#),
        "{answer}"
    );
    assert_eq!(ask(server.http, "ann").0, 200);
    assert_eq!(ask(server.http, "ann").0, 429);
    for bad in ["", "{", r#"{"nonsense":1}"#, r#"{"domain":""}"#] {
        let (status, answer) = http(server.http, "POST", "/json", bad);
        assert_eq!(status, 400, "{bad}: {answer}");
        assert!(
            answer.starts_with(r#"{"error":{"code":"bad_request","#),
            "{answer}"
        );
    }
    let (status, shown) = http(server.http, "GET", "/rules", "");
    assert_eq!(status, 200);
    assert!(
        shown.contains(r#""line":3"#) && shown.contains("per-user"),
        "{shown}"
    );

    let query = |arguments: &[&str]| {
        let address = format!("127.0.0.1:{}", server.grpc);
        let mut command = program();
        command
            .args(["query", "--addr", &address, "--domain", "d"])
            .args(arguments);
        text(&command.output().unwrap())
    };
    let (table, _, code) = query(&["user=bob", "--hits", "2"]);
    assert_eq!(code, Some(0));
    assert!(
        table.starts_with("OK\n") && table.contains("2 per day per-user"),
        "{table}"
    );
    let (json, _, code) = query(&["user=bob", "--format", "json"]);
    assert_eq!(code, Some(1));
    assert!(json.contains(r#""overallCode": "OVER_LIMIT""#), "{json}");
    let (_, error, code) = query(&["user"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is not KEY=VALUE"), "{error}");

    signal(&server, "TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn health_fails_while_listeners_stay_open_and_a_second_signal_ends_it() {
    let rules = rules_folder();
    let ports = free_ports();
    let mut command = program();
    command
        .args(["serve", "--drain-delay", "1h", "--rules"])
        .arg(rules.path())
        .env("GRPC_PORT", ports[0].to_string())
        .env("PORT", ports[1].to_string());
    let mut server = start(&mut command, ports);
    signal(&server, "TERM");
    while http(server.http, "GET", "/healthcheck", "").0 == 200 {}
    assert_eq!(http(server.http, "GET", "/healthcheck", "").0, 503);
    assert_eq!(ask(server.http, "ann").0, 200, "it still decides");
    signal(&server, "TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn takes_the_references_environment() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("ratelimit/config");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("d.yaml"), RULES).unwrap();
    let links = tempfile::tempdir().unwrap();
    let ports = free_ports();
    for (line, name) in [
        (&["serve", "--compat"][..], "ratekeeper"),
        (&[], "ratelimit"),
    ] {
        let link = links.path().join(name);
        std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
        let mut command = Command::new(&link);
        command
            .env_clear()
            .args(line)
            .env("BACKEND_TYPE", "memory")
            .env("RUNTIME_ROOT", root.path())
            .env("RUNTIME_SUBDIRECTORY", "ratelimit")
            .env("GRPC_HOST", "127.0.0.1")
            .env("GRPC_PORT", ports[0].to_string())
            .env("PORT", ports[1].to_string())
            .env("RATEKEEPER_DRAIN_DELAY", "0s")
            .env("LOG_LEVEL", "");
        let server = start(&mut command, ports);
        assert_eq!(ask(server.http, "ann").0, 200);
        assert_eq!(
            http(server.http, "POST", "/json", "{"),
            (400, "Bad Request\n".to_owned())
        );
    }
}

#[test]
fn without_good_rules_only_compat_serves() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("s/config");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("d.yaml"), "domain: ''").unwrap();
    let output = program()
        .args(["serve", "--rules"])
        .arg(&folder)
        .output()
        .unwrap();
    let (_, error, code) = text(&output);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("config file cannot have empty domain"),
        "{error}"
    );

    let ports = free_ports();
    let mut command = program();
    command
        .args([
            "serve",
            "--compat",
            "--store",
            "memory",
            "--drain-delay",
            "0s",
        ])
        .env("RUNTIME_ROOT", root.path())
        .env("RUNTIME_SUBDIRECTORY", "s")
        .env("GRPC_PORT", ports[0].to_string())
        .env("PORT", ports[1].to_string());
    let server = start(&mut command, ports);
    assert_eq!(http(server.http, "GET", "/healthcheck", "").0, 200);
    let address = format!("127.0.0.1:{}", server.grpc);
    let output = program()
        .args(["query", "--addr", &address, "--domain", "d", "a=b"])
        .output();
    let (_, error, _) = text(&output.unwrap());
    assert!(
        error.contains("Unknown: no rate limit configuration loaded"),
        "{error}"
    );
}

#[test]
fn serves_on_a_unix_socket_and_cleans_it_up() {
    let rules = rules_folder();
    let path = rules.path().join("grpc.sock");
    let [_, http] = free_ports();
    let mut command = program();
    command
        .args(["serve", "--drain-delay", "0s", "--rules"])
        .arg(rules.path().join("d.yaml"))
        .env("GRPC_UDS", &path)
        .env("PORT", http.to_string());
    let mut server = start(&mut command, [0, http]);
    assert_eq!(
        server.lines[1],
        format!("gRPC listens on unix:{}", path.display())
    );
    UnixStream::connect(&path).unwrap();
    signal(&server, "INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let rules = rules_folder();
    for (arguments, variables, expected) in [
        (&["--workers", "0"][..], &[][..], "from 1 on"),
        (&["--drain-delay", "soon"], &[], "a duration such as"),
        (&["--store", "abacus"], &[], "there is no store"),
        (
            &["--compat"],
            &[("BACKEND_TYPE", "redis"), ("REDIS_TYPE", "ring")],
            "REDIS_TYPE cannot be \"ring\"",
        ),
        (&["--store", "redis://h:x"], &[], "is no port"),
        (
            &["--debug-addr", "127.0.0.1:1", "--use-prometheus"],
            &[("PROMETHEUS_ADDR", ":1")],
            "Prometheus and debugging cannot both listen on port 1",
        ),
        (
            &["--store", "rediss://h", "--redis-tls-cacert", "/nowhere"],
            &[],
            "cannot read /nowhere",
        ),
        (&[], &[("BACKEND_TYPE", "memcache")], "there is no store"),
        (
            &["--limit-headers", "--limit-header", "a b"],
            &[],
            "is not a header name",
        ),
        (&[], &[("SHADOW_MODE", "maybe")], "invalid value 'maybe'"),
        (&[], &[("LOG_LEVEL", "loud")], "one of: error"),
    ] {
        let mut command = program();
        command.args(["serve", "--rules"]).arg(rules.path());
        command.args(["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        command.args(arguments).envs(variables.iter().copied());
        let (_, error, code) = text(&command.output().unwrap());
        assert_ne!(code, Some(0), "{arguments:?}");
        assert!(
            error.contains(expected),
            "{arguments:?} {variables:?}: {error}"
        );
    }
    let (_, error, code) = text(&program().arg("serve").output().unwrap());
    assert_eq!(code, Some(1));
    assert!(error.contains("--rules"), "{error}");
}

#[test]
fn check_tells_right_from_wrong() {
    let rules = rules_folder();
    let check = |arguments: &[&str]| {
        let mut command = program();
        command.arg("check").arg(rules.path()).args(arguments);
        text(&command.output().unwrap())
    };
    assert_eq!(check(&[]).2, Some(0));
    let (out, _, code) = check(&["--compat"]);
    assert_eq!(code, Some(0));
    assert!(out.ends_with("all rate limit configs ok\n"), "{out}");
    fs::write(rules.path().join("e.yaml"), "domain: d\nnonsense: 1\n").unwrap();
    let (out, _, code) = check(&[]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("e.yaml:2:1") && out.contains("unknown key 'nonsense'"),
        "{out}"
    );
    let (out, _, code) = check(&["--compat"]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("e.yaml: config error, unknown key 'nonsense'"),
        "{out}"
    );
    let (out, _, code) = check(&["--format", "json"]);
    assert_eq!(code, Some(1));
    assert!(
        serde_json::from_str::<serde_json::Value>(&out).is_ok(),
        "{out}"
    );
}

#[test]
fn explain_tells_why() {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/quickstart");
    let explain = |descriptor: &str| {
        let mut command = program();
        command
            .args(["explain", "--domain", "quickstart", descriptor, "--rules"])
            .arg(&quickstart);
        text(&command.output().unwrap())
    };
    for (descriptor, code, expected) in [
        ("user=ann", 0, "limit: 5 per minute, name per-user"),
        ("user=ann", 0, "counter: quickstart | user=ann | per minute"),
        (
            "path=/files/x",
            0,
            "counter: quickstart | path=/files/* | per second",
        ),
        ("user=root", 1, "unlimited"),
        ("user=root", 1, "rule: user_root\n"),
        (
            "remote_address=1.1.1.1,path=/login,method=POST",
            0,
            "rule: remote_address.path_/login.method_POST\n",
        ),
        (
            "remote_address=1.1.1.1,path=/login,method=GET",
            1,
            "value `GET` of `method` matched no child of `path=/login`; children: method=POST",
        ),
        ("user=ann,more=x", 1, "goes deeper than the rules"),
        (
            "nobody=x",
            1,
            "key `nobody` matched no child of domain `quickstart`",
        ),
        ("api_key=x", 0, "shadow"),
    ] {
        let (out, error, exit) = explain(descriptor);
        assert!(out.contains(expected), "{descriptor}: {out}{error}");
        assert_eq!(exit, Some(code), "{descriptor}: {out}{error}");
    }
}

#[test]
fn explain_tells_what_goes_for_all_of_a_domain() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "domain: d\ncharge: all_or_nothing\non_store_failure: local\ndescriptors:\n\
                 - {key: x, rate_limit: {unit: day, requests_per_unit: 1, accuracy: leased}}\n";
    fs::write(folder.path().join("d.yaml"), rules).unwrap();
    let mut command = program();
    command
        .args(["explain", "--domain", "d", "x=1", "--rules"])
        .arg(folder.path());
    let (out, error, _) = text(&command.output().unwrap());
    for expected in [
        "domain `d`: charge: all_or_nothing, on_store_failure: local\n",
        "limit: 1 per day, leased\n",
    ] {
        assert!(out.contains(expected), "{out}{error}");
    }
}

#[test]
fn completions_are_there_for_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (out, _, code) = text(&program().args(["completions", shell]).output().unwrap());
        assert_eq!(code, Some(0));
        assert!(out.contains("explain"), "{shell}");
    }
}

#[test]
fn man_pages_are_there_for_all_commands() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    let mut command = program();
    command.arg("man").arg("--out").arg(&out);
    assert_eq!(text(&command.output().unwrap()).2, Some(0));
    let serve = fs::read_to_string(out.join("ratekeeper-serve.1")).unwrap();
    assert!(serve.contains(r"\-\-drain\-delay") && serve.contains("RATEKEEPER_DRAIN_DELAY"));
    for page in ["ratekeeper", "ratekeeper-check", "ratekeeper-man"] {
        assert!(out.join(format!("{page}.1")).exists(), "{page}");
    }
    let (page, _, code) = text(&program().arg("man").output().unwrap());
    assert_eq!(code, Some(0));
    assert!(page.contains(".SH SUBCOMMANDS"), "{page}");
}

/// Who is started anew only because Redis is away has won nothing.
#[test]
fn alive_though_the_store_has_never_been_reached() {
    let rules = rules_folder();
    let ports = free_ports();
    let nobody = format!("redis://127.0.0.1:{}", free_ports()[0]);
    let mut command = program();
    command
        .args([
            "serve",
            "--drain-delay",
            "0s",
            "--store",
            &nobody,
            "--rules",
        ])
        .arg(rules.path())
        .env("GRPC_PORT", ports[0].to_string())
        .env("PORT", ports[1].to_string());
    let server = start(&mut command, ports);
    let (status, why) = http(server.http, "GET", "/healthcheck", "");
    assert_eq!((status, &*why), (503, "the store has not been reached yet"));
    assert_eq!(http(server.http, "GET", "/livez", "").0, 200);
}

#[test]
fn help_shows_no_password() {
    let store = "redis://app:s3cret-word@h:6379";
    let names = [
        "RATEKEEPER_STORE",
        "RATEKEEPER_PER_SECOND_STORE",
        "REDIS_AUTH",
        "REDIS_SENTINEL_AUTH",
        "REDIS_PERSECOND_AUTH",
        "REDIS_PERSECOND_SENTINEL_AUTH",
    ];
    let mut command = program();
    command.args(["serve", "--help"]);
    command.envs(names.map(|name| (name, store)));
    let (help, _, code) = text(&command.output().unwrap());
    assert_eq!(code, Some(0));
    assert!(help.contains("RATEKEEPER_STORE"));
    assert!(!help.contains("s3cret-word"), "{help}");
}

/// One that is not as it should be ends the start, with a message.
#[test]
fn a_header_with_a_mistake_is_not_shown() {
    let mut command = program();
    command.args(["serve", "--xds-server", "localhost:1"]).env(
        "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
        "x-token:s3cret,x",
    );
    let (_, error, code) = text(&command.output().unwrap());
    assert_ne!(code, Some(0));
    assert!(error.contains("number 2 is not written"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}
