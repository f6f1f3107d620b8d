use super::*;

fn server(host: &str, port: u16, tls: bool, login: &Login) -> Server {
    Server {
        place: Place::Tcp {
            host: host.to_owned(),
            port,
            tls,
        },
        login: login.clone(),
    }
}

fn login(user: Option<&str>, password: Option<&str>, db: i64) -> Login {
    Login {
        user: user.map(str::to_owned),
        password: password.map(str::to_owned),
        db,
    }
}

#[test]
fn every_form_is_read() {
    let nobody = Login::default();
    let secret = login(Some("u"), Some("p@/:w"), 3);
    let socket = |login: &Login| {
        Address::Single(Server {
            place: Place::Unix("/run/r.sock".into()),
            login: login.clone(),
        })
    };
    let cases = [
        (
            "redis://h",
            Address::Single(server("h", 6_379, false, &nobody)),
        ),
        (
            "valkey://h:1",
            Address::Single(server("h", 1, false, &nobody)),
        ),
        (
            "rediss://[::1]:7/0",
            Address::Single(server("::1", 7, true, &nobody)),
        ),
        (
            "redis://[::1]",
            Address::Single(server("::1", 6_379, false, &nobody)),
        ),
        (
            "redis://u:p%40%2F%3aw@h:1/3",
            Address::Single(server("h", 1, false, &secret)),
        ),
        (
            "redis://:p@h:1",
            Address::Single(server("h", 1, false, &login(None, Some("p"), 0))),
        ),
        (
            "redis://h:1?db=3&username=u&password=p%40/:w",
            Address::Single(server("h", 1, false, &secret)),
        ),
        ("unix:///run/r.sock", socket(&nobody)),
        (
            "redis+unix:///run/r.sock?db=3&user=u&password=p@/:w",
            socket(&secret),
        ),
        (
            "redis-sentinel://u:p%40%2f:w@a:1,b/m/3?sentinel_password=s",
            Address::Sentinel {
                sentinels: vec![
                    server("a", 1, false, &login(None, Some("s"), 0)),
                    server("b", 26_379, false, &login(None, Some("s"), 0)),
                ],
                master: "m".into(),
                login: secret.clone(),
                tls: false,
            },
        ),
        (
            "rediss-cluster://:p@a:1,b:2",
            Address::Cluster(vec![
                server("a", 1, true, &login(None, Some("p"), 0)),
                server("b", 2, true, &login(None, Some("p"), 0)),
            ]),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Address::parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("127.0.0.1:6379", "begins with its kind"),
        ("memcached://h", "\"memcached\" is no kind of store"),
        ("redis://", "host is missing"),
        ("redis://:6379", "host is missing"),
        ("redis://h:x", "is no port"),
        ("redis://u:geheim", "is no port"),
        ("redis://h:70000", "is no port"),
        ("redis://a:1,b:2", "several hosts"),
        ("redis://h/one", "is no number of a database"),
        ("redis://h/-1", "is no number of a database"),
        ("redis://h?ttl=1", "no setting \"ttl\""),
        ("redis://u:p?q@h", "written %3F"),
        ("redis-cluster://u:p?q=1@h:1", "written %3F"),
        ("redis://%ff@h", "not UTF-8"),
        ("redis-sentinel://a:1", "name of the primary is missing"),
        ("redis-sentinel://a:1/", "name of the primary is missing"),
        ("redis-cluster://a:1/2", "has no databases"),
        ("redis-cluster://a:1,,b:2", "host is missing"),
        ("redis-cluster://a:1?x=y", "no setting \"x\""),
        ("unix://", "path of the socket is missing"),
    ] {
        let error = Address::parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_references_settings_are_read() {
    let settings = |socket: &str, kind: &str, url: &str, auth: &str| ReferenceAddress {
        socket_type: socket.into(),
        kind: kind.into(),
        url: url.into(),
        auth: auth.into(),
        tls: false,
        sentinel_auth: "su:sp".into(),
    };
    let nobody = Login::default();
    let up = login(Some("u"), Some("p:q"), 0);
    let cases = [
        (
            settings("tcp", "SINGLE", "h:1", ""),
            Address::Single(server("h", 1, false, &nobody)),
        ),
        (
            settings("TCP", "single", "h:1", "u:p:q"),
            Address::Single(server("h", 1, false, &up)),
        ),
        (
            settings("tcp", "single", "redis://x:y@h:1/2", "p"),
            Address::Single(server("h", 1, false, &login(None, Some("p"), 2))),
        ),
        (
            settings("unix", "single", "/run/r.sock", ""),
            Address::Single(Server {
                place: Place::Unix("/run/r.sock".into()),
                login: nobody.clone(),
            }),
        ),
        (
            settings("tcp", "Sentinel", "m,a:1,b:2", "u:p:q"),
            Address::Sentinel {
                sentinels: vec![
                    server("a", 1, false, &login(Some("su"), Some("sp"), 0)),
                    server("b", 2, false, &login(Some("su"), Some("sp"), 0)),
                ],
                master: "m".into(),
                login: up.clone(),
                tls: false,
            },
        ),
        (
            settings("tcp", "cluster", "a:1,b:2", "u:p:q"),
            Address::Cluster(vec![server("a", 1, false, &up), server("b", 2, false, &up)]),
        ),
    ];
    for (settings, expected) in cases {
        assert_eq!(
            Address::from_reference(&settings),
            Ok(expected),
            "{settings:?}"
        );
    }
    for (settings, expected) in [
        (
            settings("tcp", "ring", "h:1", ""),
            "REDIS_TYPE cannot be \"ring\"",
        ),
        (
            settings("udp", "single", "h:1", ""),
            "REDIS_SOCKET_TYPE cannot be \"udp\"",
        ),
        (
            settings("tcp", "single", "rediss://h:1", ""),
            "no kind of store",
        ),
        (settings("tcp", "sentinel", "m", ""), "master,host:port"),
        (
            settings("unix", "single", "redis://u:geheim@h:1", ""),
            "set REDIS_SOCKET_TYPE to tcp",
        ),
    ] {
        let error = Address::from_reference(&settings)
            .expect_err("wrong")
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn passwords_are_not_shown() {
    for text in [
        "redis://u:geheim@h:1/3",
        "redis-sentinel://u:geheim@a:1/m?sentinel_password=geheim",
        "redis-cluster://u:geheim@a:1",
        "unix:///r?password=geheim",
    ] {
        let address = Address::parse(text).expect("an address");
        let shown = format!("{address} {address:?}");
        assert!(!shown.contains("geheim"), "{shown}");
        assert!(shown.contains("***"), "{shown}");
    }
    let wrong = Address::parse("redis://u:geheim@h:x").expect_err("wrong");
    assert!(!format!("{wrong} {wrong:?}").contains("geheim"));
}
