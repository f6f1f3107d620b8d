//! The Helm chart: values, their schema, and what templates ask for.

use std::collections::BTreeSet;

use boon::{Compiler, Schemas};
use serde_json::Value;

use super::{documents, files, output, path, read, result, tool};

pub(super) const CHART: &str = "packaging/helm/ratekeeper";
/// Objects of others: what is in them is up to Kubernetes.
const FREE: &[&str] = &[
    "affinity",
    "autoscaling.behavior",
    "env",
    "grafanaDashboard.annotations",
    "grafanaDashboard.labels",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "podSecurityContext",
    "probes.liveness",
    "probes.readiness",
    "probes.startup",
    "prometheusRule.labels",
    "resources.claims",
    "resources.limits",
    "resources.requests",
    "rules.files",
    "securityContext",
    "service.annotations",
    "serviceAccount.annotations",
    "serviceMonitor.labels",
];

/// The chart as Kubernetes gets it, with these values; what helm says if it
/// refuses. `None` where there is no helm.
pub(super) fn render(values: &[&str], set: &[&str]) -> Option<Result<Vec<Value>, String>> {
    let mut helm = tool("helm")?;
    helm.args(["template", "rk", "--namespace", "edge"])
        .arg(path(CHART));
    for file in values {
        helm.arg("--values").arg(path(CHART).join(file));
    }
    for assignment in set {
        helm.args(["--set", assignment]);
    }
    Some(match result(&mut helm) {
        (true, text) => Ok(documents(&text)),
        (false, text) => Err(text),
    })
}

fn values() -> Value {
    documents(&read(&format!("{CHART}/values.yaml"))).remove(0)
}

fn schema() -> Value {
    serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).expect("good JSON")
}

/// `a`, `a.b`, …: each place of values down to where Kubernetes takes over.
fn places(of: &Value, children: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![(String::new(), of)];
    while let Some((at, value)) = waiting.pop() {
        if FREE.contains(&&*at) {
            continue;
        }
        let inner = if children.is_empty() {
            Some(value)
        } else {
            value.get(children)
        };
        for (key, child) in inner.and_then(Value::as_object).into_iter().flatten() {
            let place = format!("{at}.{key}").trim_start_matches('.').to_owned();
            found.insert(place.clone());
            waiting.push((place, child));
        }
    }
    found
}

/// What templates ask for: `.Values.a.b` → `a.b`.
fn asked_for() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files(&format!("{CHART}/templates")) {
        let text = std::fs::read_to_string(&file).expect("a text");
        for rest in text.split(".Values.").skip(1) {
            let is_part = |c: char| c.is_alphanumeric() || c == '.';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn templates_ask_for_values_that_there_are_and_for_all_of_them() {
    let (values, asked) = (places(&values(), ""), asked_for());
    assert!(asked.len() > 60, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&values).collect();
    assert!(unknown.is_empty(), "not in values.yaml: {unknown:?}");
    let is_used = |place: &str| {
        let below = format!("{place}.");
        let with = |it: &String| it == place || it.starts_with(&below);
        asked
            .iter()
            .any(|it| with(it) || place.starts_with(&format!("{it}.")))
    };
    let unused: Vec<_> = values.iter().filter(|place| !is_used(place)).collect();
    assert!(unused.is_empty(), "no template asks for {unused:?}");
}

#[test]
fn the_schema_knows_exactly_the_values() {
    let values = places(&values(), "");
    let mut known = places(&schema(), "properties");
    // Helm's own, and what only some may set.
    known.retain(|it| it != "global" && it != "resources.claims");
    let difference: Vec<_> = values.symmetric_difference(&known).collect();
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn values_are_as_the_schema_says() {
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler
        .add_resource("values.json", schema())
        .expect("a schema");
    let index = compiler
        .compile("values.json", &mut schemas)
        .expect("a schema");
    let good = |values: &Value| schemas.validate(values, index).is_ok();
    let values = values();
    assert!(schemas.validate(&values, index).is_ok());
    for (place, wrong) in [
        ("/store/onFailure", "panic"),
        ("/store/address", "memcache://h"),
        ("/store/timeout", "15"),
        ("/image/digest", "sha256:0"),
        ("/metrics/port", "9090"),
        ("/workers", "many"),
    ] {
        let mut values = values.clone();
        *values.pointer_mut(place).expect(place) = wrong.into();
        assert!(!good(&values), "{place}: {wrong}");
    }
    for place in ["", "/store", "/probes", "/rules"] {
        let mut values = values.clone();
        values.pointer_mut(place).expect(place)["mistyped"] = true.into();
        assert!(!good(&values), "{place}/mistyped");
    }
}

#[test]
fn linted() {
    let Some(mut helm) = tool("helm") else { return };
    output(helm.args(["lint", "--strict"]).arg(path(CHART)));
}

/// Several replicas with a memory each would admit several times the limit.
#[test]
fn what_cannot_be_meant_is_refused() {
    for (set, expected) in [
        (&["replicaCount=2"][..], "several replicas"),
        (&["autoscaling.enabled=true"], "several replicas"),
        (&["tls.enabled=true"], "tls.enabled needs tls.secretName"),
        (
            &["store.tls.clientCertificate=true"],
            "needs store.tls.secretName",
        ),
        (&["nonsense=1"], "nonsense"),
        (&["store.onFailure=panic"], "onFailure"),
    ] {
        let Some(rendered) = render(&[], set) else {
            return;
        };
        let error = rendered.expect_err(set[0]);
        assert!(error.contains(expected), "{set:?}: {error}");
    }
    for set in [
        &["replicaCount=2", "store.separateCounters=true"][..],
        &["replicaCount=2", "store.address=redis://h:6379"],
        &["replicaCount=2", "store.existingSecret.name=redis"],
    ] {
        let rendered = render(&[], set).expect("helm was there");
        assert!(rendered.is_ok(), "{set:?}: {rendered:?}");
    }
}

/// The chart is of the version that it runs.
#[test]
fn says_its_version() {
    let chart = documents(&read(&format!("{CHART}/Chart.yaml"))).remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let image = format!("ratekeeper:{}", env!("CARGO_PKG_VERSION"));
    let deployment = read("packaging/kubernetes/deployment.yaml");
    assert!(deployment.contains(&image), "{image}");
}
