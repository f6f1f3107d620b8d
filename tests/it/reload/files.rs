//! Changes of files.

use std::{fs, os::unix::fs::symlink};

use crate::redis::servers::wait_until;

use super::{
    ask, limit, limited, loads, reference, rules, serve, swap_link, wait_for_failures,
    wait_for_limit, write,
};

// === what is noticed ===

#[test]
fn every_change_of_files_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &rules("one"));
    let server = serve(folder.path(), &[]);
    assert_eq!(limit(&server, "d"), "one");

    fs::write(&file, rules("two")).unwrap();
    wait_for_limit(&server, "d", "two");
    write(&file, &rules("six"));
    wait_for_limit(&server, "d", "six");

    assert_eq!(limit(&server, "e"), "");
    let other = folder.path().join("e.yaml");
    write(&other, &limited("e", "one", 5));
    wait_for_limit(&server, "e", "one");
    let below = folder.path().join("sub/sub/f.yaml");
    write(&below, &limited("f", "one", 5));
    wait_for_limit(&server, "f", "one");
    fs::rename(folder.path().join("sub"), folder.path().join("other")).unwrap();
    let shown = || server.http("GET", "/rules", "").1;
    wait_until("file under its new name", || {
        shown().contains("other/sub/f.yaml")
    });
    fs::remove_dir_all(folder.path().join("other")).unwrap();
    wait_for_limit(&server, "f", "");
    fs::remove_file(&other).unwrap();
    wait_for_limit(&server, "e", "");
    assert_eq!(limit(&server, "d"), "six");
}

#[test]
fn without_flags_a_change_is_noticed_within_about_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &rules("one"));
    let mut command = crate::process::serve();
    command.args(["--drain-delay", "0s", "--log-level", "error", "--rules"]);
    let server = crate::process::Server::run(command.arg(folder.path()));
    let before = tokio::time::Instant::now();
    write(&file, &rules("two"));
    wait_for_limit(&server, "d", "two");
    let took = before.elapsed();
    assert!(took.as_secs() < 4, "{took:?}");
}

#[test]
fn a_file_by_itself_and_a_link_to_one_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        write(&folder.path().join(name), &rules(name));
    }
    let link = folder.path().join("rules.yaml");
    symlink("one", &link).unwrap();
    let server = serve(&link, &[]);
    assert_eq!(limit(&server, "d"), "one");
    swap_link(&link, "two");
    wait_for_limit(&server, "d", "two");
    fs::write(folder.path().join("two"), rules("three")).unwrap();
    wait_for_limit(&server, "d", "three");
}

/// As Kubernetes mounts one: files are links through `..data`, which is
/// swapped; the folder it pointed to goes.
#[test]
fn a_mounted_config_map_is_swapped() {
    let mount = tempfile::tempdir().unwrap();
    let path = |name: &str| mount.path().join(name);
    let add = |version: &str| {
        write(
            &path(version).join("d.yaml"),
            &rules(version.trim_matches('.')),
        )
    };
    add("..one");
    symlink("..one", path("..data")).unwrap();
    symlink("..data/d.yaml", path("d.yaml")).unwrap();
    let server = serve(mount.path(), &[]);
    assert_eq!(limit(&server, "d"), "one");
    for (before, after) in [("..one", "..two"), ("..two", "..six")] {
        add(after);
        swap_link(&path("..data"), after);
        fs::remove_dir_all(path(before)).unwrap();
        wait_for_limit(&server, "d", after.trim_matches('.'));
    }
    assert_eq!(loads(&server)["failures"], 0);
}

#[test]
fn the_references_root_is_swapped() {
    for variables in [&[][..], &[("RUNTIME_WATCH_ROOT", "false")]] {
        let (base, _, server) = reference(variables);
        assert_eq!(limit(&server, "d"), "one");
        let two = base.path().join("two/ratelimit/config/d.yaml");
        write(&two, &rules("two"));
        swap_link(&base.path().join("current"), "two");
        wait_for_limit(&server, "d", "two");
        // The reference does not see this one where it watches the root.
        fs::write(&two, rules("six")).unwrap();
        wait_for_limit(&server, "d", "six");
    }
}

// === what is left alone ===

#[test]
fn what_editors_keep_is_no_change() {
    for compat in [false, true] {
        let (_base, file, server) = reference(&[("RUNTIME_IGNOREDOTFILES", "false")]);
        let folder = file.parent().unwrap();
        let server = if compat { server } else { serve(folder, &[]) };
        for name in ["d.yaml~", ".d.yaml.swp", "#d.yaml#", "4913"] {
            write(&folder.join(name), "domain: half\nnonsense");
        }
        symlink("me@nowhere.1:2", folder.join(".#d.yaml")).unwrap();
        write(&folder.join("e.yaml"), &limited("e", "one", 5));
        wait_for_limit(&server, "e", "one");
        let loads = loads(&server);
        assert_eq!(
            (&loads["successes"], &loads["failures"]),
            (&2.into(), &0.into())
        );
    }
}

#[test]
fn files_that_hold_the_same_are_not_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &rules("one"));
    let server = serve(folder.path(), &["--log-level", "debug"]);
    let untouched = || server.log().matches("hold what they held").count();
    let touched = fs::File::options().append(true).open(&file).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
    wait_until("look at the same text", || untouched() == 1);
    write(&file, &rules("one"));
    wait_until("look at the same text", || untouched() == 2);
    assert_eq!(loads(&server)["successes"], 1);
}

#[test]
fn without_looks_rules_change_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &rules("one"));
    let server = serve(folder.path(), &["--rules-poll", "1h"]);
    write(&file, &rules("two"));
    server.signal("HUP");
    wait_for_limit(&server, "d", "two");
    let server = serve(folder.path(), &["--rules-poll", "0"]);
    write(&file, &rules("six"));
    server.signal("HUP");
    wait_for_limit(&server, "d", "six");
    assert!(
        server.log().contains("asked to load rules"),
        "{}",
        server.log()
    );
    assert!(
        server
            .end(crate::support::PATIENCE)
            .is_some_and(|status| status.success())
    );
}

#[test]
fn a_hangup_ends_the_reference() {
    let (_base, _, mut server) = reference(&[]);
    server.signal("HUP");
    let ended = server.ended(crate::support::PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

// === broken states ===

#[test]
fn the_last_good_rules_stay_and_what_is_wrong_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.yaml");
    write(&file, &rules("one"));
    let server = serve(folder.path(), &[]);
    let good = loads(&server);
    assert_eq!(good["trouble"], serde_json::Value::Null);
    assert!(good["loaded_at"].as_str().unwrap().ends_with('Z'), "{good}");

    let broken = "domain: d\ndescriptors:\n  - key: user\n    rate_limit: {unit: hours}\n";
    write(&file, broken);
    wait_for_failures(&server, 1);
    let bad = loads(&server);
    assert_eq!(bad["successes"], 1);
    assert_eq!(bad["loaded_at"], good["loaded_at"]);
    assert_eq!((&bad["domains"], &bad["rules"]), (&1.into(), &1.into()));
    let trouble = bad["trouble"].as_str().unwrap();
    for part in [
        "invalid rate limit unit 'hours'",
        "d.yaml:4:24",
        "the units are second",
    ] {
        assert!(trouble.contains(part), "{trouble}");
    }
    assert_eq!(limit(&server, "d"), "one");
    let (status, shown) = server.http("GET", "/rules", "");
    assert_eq!(status, 200);
    assert!(
        shown.contains(r#""domains":[{"#) && shown.contains(r#""name":"one""#),
        "{shown}"
    );

    // The same mistake in other words is another try, and nothing new.
    write(&file, &format!("{broken}# still\n"));
    wait_for_failures(&server, 2);
    let said = || {
        server
            .log()
            .matches("invalid rate limit unit 'hours'")
            .count()
    };
    wait_until("log", || said() > 0);
    assert_eq!(said(), 1, "{}", server.log());

    // Health is as it was; who asks is told more.
    assert_eq!(
        server.http("GET", "/healthcheck", ""),
        (200, "OK".to_owned())
    );
    let (status, detail) = server.http("GET", "/healthcheck?detail", "");
    let detail: serde_json::Value = serde_json::from_str(&detail).unwrap();
    assert_eq!((status, &detail["healthy"]), (200, &true.into()));
    assert_eq!(detail["loads"]["failures"], 2);

    write(&file, &rules("one"));
    wait_until("good state", || loads(&server)["trouble"].is_null());
    assert_eq!(loads(&server)["successes"], 2);
    let (_, detail) = server.http("GET", "/store", "");
    assert!(!detail.contains("successes"), "{detail}");
}

#[test]
fn a_folder_that_is_gone_and_a_link_to_nowhere_leave_rules_as_they_are() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("rules");
    write(&folder.join("d.yaml"), &rules("one"));
    let server = serve(&folder, &[]);
    fs::rename(&folder, base.path().join("away")).unwrap();
    wait_for_failures(&server, 1);
    let trouble = loads(&server)["trouble"].clone();
    assert!(
        trouble.as_str().unwrap().contains("cannot read"),
        "{trouble}"
    );
    assert_eq!(limit(&server, "d"), "one");
    fs::rename(base.path().join("away"), &folder).unwrap();
    wait_until("good state", || loads(&server)["trouble"].is_null());

    symlink("nowhere", folder.join("e.yaml")).unwrap();
    wait_until("trouble", || !loads(&server)["trouble"].is_null());
    assert_eq!(limit(&server, "d"), "one");
}

#[test]
fn an_empty_folder_lets_rules_go_only_where_that_is_meant() {
    for (flags, stays) in [(&[][..], true), (&["--rules-may-vanish"], false)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("d.yaml");
        write(&file, &rules("one"));
        let server = serve(folder.path(), flags);
        fs::remove_file(&file).unwrap();
        if stays {
            wait_for_failures(&server, 1);
            let trouble = loads(&server)["trouble"].clone();
            let trouble = trouble.as_str().unwrap();
            assert!(trouble.contains("holds no rules any more"), "{trouble}");
            assert_eq!(limit(&server, "d"), "one");
            write(&file, &rules("two"));
            wait_for_limit(&server, "d", "two");
        } else {
            wait_for_limit(&server, "d", "");
            assert_eq!(loads(&server)["failures"], 0);
        }
    }
    let (_base, file, server) = reference(&[]);
    fs::remove_file(file).unwrap();
    wait_for_limit(&server, "d", "");
    assert_eq!(ask(&server, "d", "ann")["overallCode"], "OK");
    assert!(
        server
            .log()
            .contains("Successfully loaded new configuration")
    );
}
