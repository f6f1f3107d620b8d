//! Tests of [`super`].

use prost_types::{ListValue, Struct, Value};

use super::*;
use crate::{
    config::{Options, SourceFile, compile, compile_messages, to_json},
    proto::ratelimit::config::ratelimit::v3::RateLimitReplace,
};

fn config(name: &str, domain: &str, descriptors: Vec<RateLimitDescriptor>) -> RateLimitConfig {
    RateLimitConfig {
        name: name.to_owned(),
        domain: domain.to_owned(),
        descriptors,
    }
}

fn descriptor(key: &str, value: &str) -> RateLimitDescriptor {
    RateLimitDescriptor {
        key: key.to_owned(),
        value: value.to_owned(),
        ..RateLimitDescriptor::default()
    }
}

fn policy(unit: i32, requests_per_unit: u32) -> Option<RateLimitPolicy> {
    Some(RateLimitPolicy {
        unit,
        requests_per_unit,
        ..RateLimitPolicy::default()
    })
}

fn limited(policy: Option<RateLimitPolicy>) -> Vec<RateLimitDescriptor> {
    vec![RateLimitDescriptor {
        rate_limit: policy,
        ..descriptor("k", "v")
    }]
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn of(fields: Vec<(&str, Value)>) -> Struct {
    let fields = fields.into_iter();
    Struct {
        fields: fields.map(|(k, v)| (k.to_owned(), v)).collect(),
    }
}

/// What the server would be told; empty when all is well.
fn told(configs: Vec<RateLimitConfig>, merge_domains: bool) -> String {
    let options = Options {
        merge_domains,
        compat: true,
    };
    match compile_messages(configs, &options) {
        Ok(_) => String::new(),
        Err(problems) => problems.one_line_each(true, usize::MAX),
    }
}

#[test]
fn messages_mean_what_the_same_file_means() {
    let yaml = "
domain: shop
descriptors:
  - key: a
    shadow_mode: true
    detailed_metric: true
    rate_limit: {unit: week, requests_per_unit: 7, name: base}
    descriptors:
      - key: b
        value: x*
        quota_mode: true
        rate_limit: {unit: month, requests_per_unit: 0, replaces: [{name: base}, {name: other}]}
        metadata: {x: 1.5, t: text, l: [true, null], m: {deep: 1}}
  - key: free
    value: 'yes'
    rate_limit: {unlimited: true}
";
    let number = |number| value(Kind::NumberValue(number));
    let list = vec![value(Kind::BoolValue(true)), Value { kind: None }];
    let metadata = of(vec![
        ("x", number(1.5)),
        ("t", value(Kind::StringValue("text".to_owned()))),
        ("l", value(Kind::ListValue(ListValue { values: list }))),
        (
            "m",
            value(Kind::StructValue(of(vec![("deep", number(1.0))]))),
        ),
    ]);
    let replaces = ["base", "other"].map(|name| RateLimitReplace {
        name: name.to_owned(),
    });
    let inner = RateLimitDescriptor {
        quota_mode: true,
        metadata: Some(metadata),
        rate_limit: policy(5, 0).map(|policy| RateLimitPolicy {
            replaces: replaces.into(),
            ..policy
        }),
        ..descriptor("b", "x*")
    };
    let outer = RateLimitDescriptor {
        shadow_mode: true,
        detailed_metric: true,
        rate_limit: policy(7, 7).map(|policy| RateLimitPolicy {
            name: "base".to_owned(),
            ..policy
        }),
        descriptors: vec![inner],
        ..descriptor("a", "")
    };
    let free = RateLimitDescriptor {
        rate_limit: Some(RateLimitPolicy {
            unlimited: true,
            ..RateLimitPolicy::default()
        }),
        ..descriptor("free", "yes")
    };
    let file = SourceFile {
        name: "shop".into(),
        bytes: yaml.into(),
    };
    let options = Options::default();
    let of_file = compile(&[file], &options).unwrap();
    let configs = vec![config("shop", "shop", vec![outer, free])];
    let of_messages = compile_messages(configs, &options).unwrap();
    let without_lines = |mut json: serde_json::Value| {
        fn go(json: &mut serde_json::Value) {
            match json {
                serde_json::Value::Object(fields) => {
                    fields.remove("line");
                    fields.values_mut().for_each(go);
                }
                serde_json::Value::Array(elements) => elements.iter_mut().for_each(go),
                _ => {}
            }
        }
        go(&mut json);
        json
    };
    assert_eq!(to_json(&of_messages), without_lines(to_json(&of_file)));
}

#[test]
fn mistakes_have_the_texts_of_files() {
    let unlimited = Some(RateLimitPolicy {
        unlimited: true,
        ..policy(2, 1).unwrap()
    });
    let replacing = |own: &str, other: &str| {
        Some(RateLimitPolicy {
            name: own.to_owned(),
            replaces: vec![RateLimitReplace {
                name: other.to_owned(),
            }],
            ..policy(2, 1).unwrap()
        })
    };
    for (configs, expected) in [
        (vec![], ""),
        (vec![config("r", "d", vec![])], ""),
        (
            vec![config("r", "", vec![])],
            "r: config file cannot have empty domain",
        ),
        (
            vec![config("r", "d", vec![]), config("a", "d", vec![])],
            "a: duplicate domain 'd' in config file",
        ),
        (
            vec![config("r", "d", vec![descriptor("", "v")])],
            "r: descriptor has empty key",
        ),
        (
            vec![config(
                "r",
                "d",
                vec![descriptor("a_b", ""), descriptor("a", "b")],
            )],
            "r: duplicate descriptor composite key 'd.a_b'",
        ),
        (
            vec![config("r", "d", limited(policy(0, 1)))],
            "r: invalid rate limit unit 'UNKNOWN'",
        ),
        (
            vec![config("r", "d", limited(policy(8, 1)))],
            "r: invalid rate limit unit '8'",
        ),
        (
            vec![config("r", "d", limited(unlimited))],
            "r: should not specify rate limit unit when unlimited",
        ),
        (
            vec![config("r", "d", limited(replacing("n", "")))],
            "r: should not have an empty replaces entry",
        ),
        (
            vec![config("r", "d", limited(replacing("n", "n")))],
            "r: replaces should not contain name of same descriptor",
        ),
        (
            vec![config("z", "", vec![]), config("a", "", vec![])],
            "z: config file cannot have empty domain\na: config file cannot have empty domain",
        ),
    ] {
        assert_eq!(told(configs, false), expected);
    }
}

#[test]
fn domains_add_up_where_they_may() {
    let one = |key: &str| config(key, "d", vec![descriptor(key, "")]);
    assert_eq!(told(vec![one("a"), one("b")], true), "");
    let twice = vec![one("b"), config("a", "d", vec![descriptor("b", "")])];
    let expected = "a: duplicate descriptor composite key 'd.b'";
    assert_eq!(told(twice, true), expected);

    // The order is that of the messages, whatever their names.
    let wild = |name: &str, value: &str| config(name, "d", vec![descriptor("k", value)]);
    let options = Options {
        merge_domains: true,
        ..Options::default()
    };
    let rules = compile_messages(vec![wild("z", "a*"), wild("a", "*a")], &options).unwrap();
    let json = to_json(&rules).to_string();
    assert!(json.find("a*") < json.find("*a"), "{json}");
}

#[test]
fn what_is_too_deep_is_a_mistake() {
    let nested = |levels: usize| {
        (1..levels).fold(descriptor("k", ""), |below, _| RateLimitDescriptor {
            descriptors: vec![below],
            ..descriptor("k", "")
        })
    };
    let told = |levels| told(vec![config("r", "d", vec![nested(levels)])], false);
    assert_eq!(told(MAX_LEVELS), "");
    let expected = "r: descriptors are nested more than 100 levels deep";
    assert_eq!(told(MAX_LEVELS + 1), expected);
}

#[test]
fn metadata_is_bounded_as_in_files() {
    let nested = |levels: usize| {
        (0..levels).fold(of(vec![]), |below, level| {
            let below = value(Kind::StructValue(below));
            let list = vec![below.clone()];
            of(vec![if level % 2 == 0 {
                ("m", below)
            } else {
                ("l", value(Kind::ListValue(ListValue { values: list })))
            }])
        })
    };
    let told = |metadata: Struct| {
        let rule = RateLimitDescriptor {
            metadata: Some(metadata),
            ..descriptor("k", "")
        };
        told(vec![config("r", "d", vec![rule])], false)
    };
    // Every other level is two.
    assert_eq!(told(nested(16)), "");
    let expected = "r: error parsing metadata: nested more than 24 levels deep";
    assert_eq!(told(nested(17)), expected);
    let not_finite = of(vec![("n", value(Kind::NumberValue(f64::NAN)))]);
    let expected = "r: error parsing metadata: NaN is not a finite number";
    assert_eq!(told(not_finite), expected);
}

#[test]
fn there_is_an_end_to_values() {
    let mut messages = Messages {
        values: MAX_NODES - 2,
    };
    let mut problems = Problems::default();
    let rules = |keys: &[&str]| keys.iter().map(|key| descriptor(key, "")).collect();
    let _ = messages.read(config("r", "d", rules(&["a", "b"])), &mut problems);
    assert!(problems.is_empty());
    let (domain, _) = messages.read(config("r", "d", rules(&["c"])), &mut problems);
    assert!(domain.descriptors.is_empty());
    let (domain, _) = messages.read(config("r", "d", rules(&["e"])), &mut problems);
    assert!(domain.descriptors.is_empty());
    let told = problems.one_line_each(true, usize::MAX);
    assert_eq!(told, "r: more than 4000000 values in a configuration");
}

#[test]
fn a_server_is_not_told_for_ever() {
    let configs = (0..50).map(|number| config(&number.to_string(), "", vec![]));
    let problems = compile_messages(configs.collect(), &Options::default()).unwrap_err();
    let told = problems.one_line_each(false, 100);
    let expected = "0: config file cannot have empty domain\n\
                    1: config file cannot have empty domain\n\
                    and 48 mistakes more";
    assert_eq!(told, expected);
    let rule = limited(policy(0, 1));
    let problems = compile_messages(vec![config("r", "d", rule)], &Options::default());
    let told = problems.unwrap_err().one_line_each(false, 100);
    assert_eq!(told, "r: invalid rate limit unit 'UNKNOWN', in d.k_v");
}
