//! The first load, and health.

use std::fs;

use tonic::{Request, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{process::Server, redis::servers::wait_until, support::PATIENCE};

use super::{ask, command, limit, loads, reference, rules, serve, wait_for_limit, write};

/// What the gRPC health service says.
fn serving(server: &Server) -> ServingStatus {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = format!("http://{}", server.grpc);
    let answer = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(address).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let service = "ratelimit".to_owned();
        client
            .check(Request::new(HealthCheckRequest { service }))
            .await
    });
    answer.unwrap().into_inner().status()
}

/// What the program says when it does not start.
fn refused(command: &mut std::process::Command) -> String {
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("end", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_reference_serves_on_after_a_first_mistake_and_takes_what_comes() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("r/config/d.yaml");
    write(&file, "domain: ''");
    let mut command = command(&["--compat"]);
    command
        .env("RUNTIME_ROOT", base.path())
        .env("RUNTIME_SUBDIRECTORY", "r");
    let server = Server::run(&mut command);
    let (status, shown) = server.http("GET", "/rules", "");
    assert_eq!(status, 503);
    assert!(
        shown.contains("no rate limit configuration loaded"),
        "{shown}"
    );
    assert!(
        shown.contains("config file cannot have empty domain"),
        "{shown}"
    );
    assert_eq!(server.http("GET", "/healthcheck", "").0, 200);
    assert!(server.log().contains(
        "Error loading new configuration: config.d.yaml: config file cannot have empty domain"
    ));
    write(&file, &rules("one"));
    wait_for_limit(&server, "d", "one");
}

#[test]
fn without_a_folder_nothing_starts_unless_told_so() {
    let base = tempfile::tempdir().unwrap();
    let (folder, file) = (
        base.path().join("r/config"),
        base.path().join("r/config/d.yaml"),
    );
    let in_compat = |more: &[(&str, &str)]| {
        let mut command = command(&["--compat"]);
        command
            .env("RUNTIME_ROOT", base.path())
            .env("RUNTIME_SUBDIRECTORY", "r")
            .env("RUNTIME_WATCH_ROOT", "false")
            .envs(more.iter().copied());
        command
    };
    let outside = |flags: &[&str]| {
        let mut command = command(flags);
        command.arg("--rules").arg(&folder);
        command
    };
    for mut command in [in_compat(&[]), outside(&[])] {
        let error = refused(&mut command);
        assert!(error.contains("cannot read"), "{error}");
    }
    let forced = [("FORCE_START_WITHOUT_INITIAL_CONFIG", "true")];
    let servers = [in_compat(&forced), outside(&["--start-without-rules"])];
    let servers = servers.map(|mut command| Server::run(&mut command));
    for server in &servers {
        assert_eq!(loads(server)["failures"], 1);
        assert_eq!(limit(server, "d"), "");
    }
    let error = ask(&servers[1], "d", "ann").to_string();
    assert!(
        error.contains("no rate limit configuration loaded"),
        "{error}"
    );
    write(&file, &rules("one"));
    for server in &servers {
        wait_for_limit(server, "d", "one");
    }
}

#[test]
fn health_may_ask_for_rules() {
    let unhealthy = |server: &Server, status| {
        wait_until("unhealthy", || {
            server.http("GET", "/healthcheck", "").0 == status
        });
        wait_until("NOT_SERVING", || {
            serving(server) == ServingStatus::NotServing
        });
    };
    let healthy = |server: &Server| {
        wait_until("healthy", || {
            server.http("GET", "/healthcheck", "").0 == 200
        });
        wait_until("SERVING", || serving(server) == ServingStatus::Serving);
    };
    let asked = ("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "true");
    let (_base, file, server) = reference(&[asked]);
    healthy(&server);
    // Removing all rules is a load without any.
    fs::remove_file(&file).unwrap();
    unhealthy(&server, 500);
    assert_eq!(server.http("GET", "/healthcheck", "").1, "");
    write(&file, &rules("one"));
    healthy(&server);
    // A load that fails changes nothing.
    write(&file, "nonsense");
    wait_until("failure", || loads(&server)["failures"] == 1);
    healthy(&server);

    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), &["--healthy-with-rules"]);
    unhealthy(&server, 503);
    let (_, detail) = server.http("GET", "/healthcheck?detail", "");
    assert!(
        detail.contains(r#""why":"there are no rules yet""#),
        "{detail}"
    );
    write(&folder.path().join("d.yaml"), &rules("one"));
    healthy(&server);
    assert!(server.end(PATIENCE).is_some());
}
