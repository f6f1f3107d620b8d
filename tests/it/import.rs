//! Rules made of another limiter's file decide as it does.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    process::{Command, Output},
};

use proptest::prelude::*;
use ratekeeper::{
    clock::{Clock, ManualClock},
    config::{self, Options, SourceFile},
    engine::{
        decision::{Code, Policy},
        descriptor::Hits,
        time::Timestamp,
    },
    import::limitador::{Imported, import},
    limiter::Limiter,
    storage::{AnyStore, ChargeMode, Ladder},
};

use crate::redis::{ask_for, memory_store};

// === a model of limitador ===

/// A limit of namespace `d`.
#[derive(Clone, Debug, Default)]
struct Limit {
    max_value: u64,
    seconds: u64,
    /// Keys that have to have, or not to have, a value.
    equal: Vec<(&'static str, &'static str)>,
    unequal: Vec<(&'static str, &'static str)>,
    variables: Vec<&'static str>,
}

type Request = BTreeMap<&'static str, &'static str>;

/// What limitador's documentation and behaviour come to: all limits of which
/// all conditions hold and all variables are there apply; a request that one
/// of them refuses counts nowhere.
#[derive(Default)]
struct Model {
    limits: Vec<Limit>,
    counts: HashMap<(usize, Vec<&'static str>), u64>,
}

impl Model {
    fn passes(&mut self, request: &Request) -> bool {
        let mut counters = vec![];
        for (number, limit) in self.limits.iter().enumerate() {
            let has = |(key, value): &(&str, &str)| request.get(key) == Some(value);
            let other =
                |(key, value): &(&str, &str)| request.get(key).is_some_and(|found| found != value);
            let values = limit.variables.iter().map(|key| request.get(key).copied());
            let Some(values) = values.collect::<Option<Vec<_>>>() else {
                continue;
            };
            if limit.equal.iter().all(has) && limit.unequal.iter().all(other) {
                counters.push((number, values));
            }
        }
        let is_full = |counter: &(usize, Vec<&str>)| {
            let count = self.counts.get(counter).copied().unwrap_or(0);
            count + 1 > self.limits[counter.0].max_value
        };
        if counters.iter().any(is_full) {
            return false;
        }
        for counter in counters {
            *self.counts.entry(counter).or_default() += 1;
        }
        true
    }
}

/// The limits as a file, in the newer form and in the older one by turns; a
/// limit is 6 lines.
fn file(limits: &[Limit]) -> String {
    let mut text = String::new();
    for (number, limit) in limits.iter().enumerate() {
        let key = |key: &str| {
            if number % 2 == 0 {
                format!("descriptors[0]['{key}']")
            } else {
                key.to_owned()
            }
        };
        let compared = |pairs: &[(&'static str, &'static str)], sign: &str| -> Vec<String> {
            let one = |&(name, value): &(&str, &str)| format!("\"{} {sign} '{value}'\"", key(name));
            pairs.iter().map(one).collect()
        };
        let mut conditions = compared(&limit.equal, "==");
        conditions.extend(compared(&limit.unequal, "!="));
        let variables: Vec<String> = limit
            .variables
            .iter()
            .map(|it| format!("\"{}\"", key(it)))
            .collect();
        text += &format!(
            "- namespace: d\n  max_value: {}\n  seconds: {}\n  conditions: [{}]\n  variables: [{}]\n  name: limit-{number}\n",
            limit.max_value,
            limit.seconds,
            conditions.join(", "),
            variables.join(", ")
        );
    }
    text
}

// === ours ===

struct Ours {
    limiter: Limiter,
    descriptors: Vec<Vec<String>>,
}

impl Ours {
    fn new(imported: &Imported) -> Self {
        let clock = Clock::Manual(ManualClock::at(Timestamp::from_secs(1_795_320_000)));
        let store = AnyStore::Memory(memory_store());
        let limiter = Limiter::new(
            clock,
            store,
            Ladder::none(),
            Policy::default(),
            ChargeMode::Always,
        );
        let mut descriptors = vec![];
        for domain in &imported.domains {
            let file = SourceFile {
                name: "imported".into(),
                bytes: domain.rules.clone().into_bytes(),
            };
            let rules = config::compile(&[file], &Options::default());
            limiter.set_rules(rules.unwrap_or_else(|error| panic!("{error}\n{}", domain.rules)));
            descriptors.clone_from(&domain.descriptors);
        }
        Self {
            limiter,
            descriptors,
        }
    }

    /// Sends what the import says has to be sent.
    async fn passes(&self, request: &Request) -> bool {
        let mut request = request.clone();
        request.insert("generic_key", "all");
        let entries = |keys: &Vec<String>| {
            let entry = |key: &String| request.get_key_value(key.as_str()).map(|(k, v)| (*k, *v));
            keys.iter().map(entry).collect::<Option<Vec<_>>>()
        };
        let sent: Vec<Vec<(&str, &str)>> = self.descriptors.iter().filter_map(entries).collect();
        if sent.is_empty() {
            return true;
        }
        let asked: Vec<_> = sent.iter().map(|it| (&it[..], Hits::Take(1))).collect();
        let answer = ask_for(&self.limiter, &asked, None, None).await;
        answer.expect("an answer").decision.code == Code::Ok
    }
}

/// Both decide the same on these requests; returns how many limits were
/// converted.
async fn agree(limits: &[Limit], requests: &[Request]) -> Result<usize, String> {
    let text = file(limits);
    let imported = import(&text)?;
    let left_out = |number: usize| {
        let line = u32::try_from(number * 6 + 1).expect("short");
        imported
            .notes
            .iter()
            .any(|note| note.is_left_out && note.line == line)
    };
    let kept: Vec<Limit> = limits
        .iter()
        .enumerate()
        .filter(|(number, _)| !left_out(*number))
        .map(|(_, limit)| limit.clone())
        .collect();
    let count = kept.len();
    let mut model = Model {
        limits: kept,
        ..Model::default()
    };
    let ours = Ours::new(&imported);
    for (turn, request) in requests.iter().enumerate() {
        let (there, here) = (model.passes(request), ours.passes(request).await);
        if there != here {
            let rules: Vec<&str> = imported
                .domains
                .iter()
                .map(|it| it.rules.as_str())
                .collect();
            return Err(format!(
                "{request:?}, request {turn}: limitador {there}, here {here}\n{text}\n{}\n{:?}",
                rules.join(""),
                imported.notes
            ));
        }
    }
    Ok(count)
}

#[tokio::test]
async fn typical_limits_decide_as_limitador_does() {
    let limit = |max_value, seconds| Limit {
        max_value,
        seconds,
        ..Limit::default()
    };
    // Methods and paths with exceptions, as in limitador's own example.
    let paths = vec![
        Limit {
            equal: vec![("m", "GET")],
            unequal: vec![("p", "/json")],
            ..limit(3, 60)
        },
        Limit {
            equal: vec![("m", "POST")],
            unequal: vec![("p", "/json")],
            ..limit(2, 60)
        },
        Limit {
            equal: vec![("m", "GET"), ("p", "/json")],
            ..limit(5, 10)
        },
        Limit {
            equal: vec![("k", "v")],
            variables: vec!["u"],
            ..limit(2, 60)
        },
    ];
    // Everything together, and users by plan, in two windows.
    let users = vec![
        limit(12, 60),
        Limit {
            variables: vec!["u"],
            ..limit(4, 60)
        },
        Limit {
            variables: vec!["u"],
            ..limit(6, 3_600)
        },
        Limit {
            equal: vec![("u", "ann")],
            ..limit(2, 60)
        },
        Limit {
            equal: vec![("m", "GET")],
            variables: vec!["u"],
            ..limit(3, 60)
        },
    ];
    let mut requests: Vec<Request> = vec![];
    for round in 0..8 {
        for m in ["GET", "POST"] {
            for p in ["/json", "/a", "/b"] {
                requests.push([("m", m), ("p", p)].into());
            }
            for u in ["ann", "bob", "eve"] {
                requests.push([("m", m), ("u", u)].into());
            }
        }
        for (k, u) in [("v", "ann"), ("w", "ann"), ("v", "bob")] {
            requests.push([("k", k), ("u", u)].into());
        }
        let rest = requests.len() - round % 7;
        requests.truncate(rest);
    }
    for limits in [paths, users] {
        let converted = agree(&limits, &requests).await;
        assert_eq!(converted, Ok(limits.len()));
    }
}

fn some_limit() -> impl Strategy<Value = Limit> {
    let key = || prop::sample::select(vec!["m", "p", "u"]);
    let value = || prop::sample::select(vec!["a", "b"]);
    let pairs = || prop::collection::vec((key(), value()), 0..2);
    (
        0..5_u64,
        prop::sample::select(vec![10_u64, 60]),
        pairs(),
        pairs(),
        prop::collection::btree_set(key(), 0..3),
    )
        .prop_map(|(max_value, seconds, equal, unequal, variables)| Limit {
            max_value,
            seconds,
            equal,
            unequal,
            variables: variables.into_iter().collect(),
        })
}

fn some_request() -> impl Strategy<Value = Request> {
    let value = || prop::option::of(prop::sample::select(vec!["a", "b", "c"]));
    (value(), value(), value()).prop_map(|(m, p, u)| {
        let keys = [("m", m), ("p", p), ("u", u)];
        keys.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_converted_decides_as_limitador_does(
        limits in prop::collection::vec(some_limit(), 1..5),
        requests in prop::collection::vec(some_request(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let agreed = runtime.block_on(agree(&limits, &requests));
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

// === what is left out ===

#[test]
fn what_is_left_out_is_told_with_its_place() {
    for (limit, expected) in [
        ("max_value: 1", "seconds is not a whole number"),
        ("max_value: 1, seconds: 0", "a window is from 1 second"),
        (
            "max_value: -1, seconds: 1",
            "max_value is not a whole number",
        ),
        (
            "max_value: 5000000000, seconds: 1",
            "a limit is at most 4294967295",
        ),
        (
            "max_value: 1, seconds: 1, burst: 2",
            "there is no field burst",
        ),
        (
            "max_value: 1, seconds: 1, conditions: ['a in [1]']",
            "condition \"a in [1]\": only == and !=",
        ),
        (
            "max_value: 1, seconds: 1, variables: ['size(a)']",
            "variable \"size(a)\": ",
        ),
        (
            "max_value: 1, seconds: 1, variables: ['descriptors[0].a', 'descriptors[1].b']",
            "several descriptors of a request",
        ),
        (
            "max_value: 1, seconds: 1, conditions: [\"a == 'b'\", \"a == 'c'\"]",
            "it can never apply",
        ),
        (
            "max_value: 1, seconds: 1, conditions: [\"a == ''\"]",
            "to be empty",
        ),
        (
            "max_value: 1, seconds: 1, conditions: [\"a == 'x*'\"]",
            "a star",
        ),
        (
            "max_value: 1, seconds: 1, name: 'a\"b'",
            "name cannot contain quotes",
        ),
    ] {
        let text = format!("\n- {{namespace: d, {limit}}}\n");
        let imported = import(&text).unwrap();
        assert!(
            imported.is_incomplete() && imported.domains.is_empty(),
            "{limit}"
        );
        let note = imported
            .notes
            .iter()
            .find(|note| note.is_left_out)
            .expect(limit);
        assert!(
            note.line == 2 && note.text.contains(expected),
            "{limit}: {note:?}"
        );
    }
    // Counts that are shared by values cannot be shared with a value of its own.
    let limits = "
- {namespace: d, max_value: 1, seconds: 60, conditions: [\"a != 'x'\"]}
- {namespace: d, max_value: 1, seconds: 60, conditions: [\"a == 'y'\"]}
";
    let imported = import(limits).unwrap();
    let note = &imported.notes[0];
    assert!(note.line == 3 && note.text.contains("counts several values of a together"));
    assert!(imported.domains.len() == 1);
    for (text, expected) in [
        ("a: [", "line "),
        ("just text", "line 1: a list of limits"),
        ("a: {b: 1}", "line 1: a list of limits"),
    ] {
        assert!(import(text).unwrap_err().starts_with(expected), "{text}");
    }
}

// === the command ===

const TWO_NAMESPACES: &str = "
- {namespace: shop/prod, max_value: 5, seconds: 60, variables: ['descriptors[0].user'], name: per user, id: a-1}
- {namespace: api, max_value: 3, seconds: 1, conditions: [\"descriptors[0]['req.method'] == 'GET'\"]}
- {namespace: api, max_value: 3, seconds: 1, conditions: [\"a == 'b' || a == 'c'\"]}
";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratekeeper"));
    command
        .env_clear()
        .args(arguments)
        .output()
        .expect("it runs")
}

#[test]
fn its_output_loads() {
    let folder = tempfile::tempdir().unwrap();
    let limits = folder.path().join("limits.yaml");
    fs::write(&limits, TWO_NAMESPACES).unwrap();
    let limits = limits.display().to_string();
    let output = run(&["import", "limitador", &limits]);
    assert_eq!(output.status.code(), Some(3));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let place =
        format!("{limits}:4: left out: condition \"a == 'b' || a == 'c'\": alternatives (||)");
    assert!(told.contains(&place), "{told}");
    let rules = folder.path().join("rules.yaml");
    fs::write(&rules, &output.stdout).unwrap();
    let checked = run(&["check", &rules.display().to_string()]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && told.contains("2 domains, 2 rules"),
        "{told}"
    );

    let output = run(&["import", "limitador", &limits, "--namespace", "shop/prod"]);
    let expected =
        "# Limits of limitador, converted. Envoy has to send one descriptor for each line
# of these, with its entries in this order:
#   user
# Line 2: id a-1
domain: \"shop/prod\"
charge: all_or_nothing
descriptors:
  - key: \"user\"
    rate_limit: {requests_per_unit: 5, window: 60s, name: \"per user\"}
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);

    let out = folder.path().join("out");
    let out = out.display().to_string();
    let arguments = ["import", "limitador", &limits, "--out", &out];
    assert_eq!(run(&arguments).status.code(), Some(3));
    let checked = run(&["check", &out]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && told.contains("2 files, 2 domains"),
        "{told}"
    );
    // Nothing is overwritten.
    assert_eq!(run(&arguments).status.code(), Some(1));
    let output = run(&["import", "limitador", &limits, "--namespace", "none"]);
    assert_eq!(output.status.code(), Some(1));
}

/// What the documentation says of its example is so.
#[test]
fn the_documented_example_is_converted_as_it_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/migrating.md");
    let page = fs::read_to_string(page).unwrap();
    let example = page.split("```yaml\n").nth(1).unwrap();
    let imported = import(example.split("```").next().unwrap()).unwrap();
    let keys = [vec!["user"], vec!["method", "user"]];
    assert_eq!(imported.domains[0].descriptors, keys);
    assert!(imported.notes.is_empty());
}

/// The resource of Kubernetes has the same list in it.
#[test]
fn a_resource_is_read_too() {
    let text = "
kind: Limitador
spec:
  limits:
    - {namespace: d, max_value: 1, seconds: 60, variables: [user]}
";
    let imported = import(text).unwrap();
    assert!(!imported.is_incomplete());
    assert_eq!(imported.domains[0].descriptors, [["user"]]);
}
