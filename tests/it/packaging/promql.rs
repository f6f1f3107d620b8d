//! Alerts and dashboard: good PromQL, over metrics that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};

use super::{documents, output, path, queries::Query, read, result, tool};

const ALERTS: &str = "packaging/prometheus/alerts.yaml";
const DASHBOARD: &str = "packaging/grafana/dashboard.json";
/// Labels that Prometheus puts on whatever it collects.
const OF_TARGETS: [&str; 2] = ["job", "instance"];

/// A metric of docs/metrics.md.
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

/// The table of docs/metrics.md.
fn catalogue() -> BTreeMap<String, Metric> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let catalogue: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let labels = without_brackets(cells[3]);
            let labels = labels.split(',').map(|it| it.trim().trim_matches('`'));
            let metric = Metric {
                kind: cells[2].to_owned(),
                labels: labels
                    .filter(|it| !it.is_empty())
                    .map(str::to_owned)
                    .collect(),
            };
            (cells[1].trim_matches('`').to_owned(), metric)
        })
        .collect();
    assert!(catalogue.len() > 30);
    catalogue
}

/// What a cell says in brackets are values of the label.
fn without_brackets(cell: &str) -> String {
    let parts = cell.split('(');
    let kept = parts.map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    kept.collect()
}

/// Each alert's name and expression.
fn alerts() -> Vec<(String, String)> {
    let file = documents(&read(ALERTS)).remove(0);
    let groups = file["groups"].as_array().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rules
        .map(|rule| (text(&rule["alert"]), text(&rule["expr"])))
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("good JSON")
}

/// Each panel's title and its expressions, with Grafana's variables filled in.
fn panels() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut found = vec![];
    let filled = |expression: &Value| {
        let text = expression.as_str().expect("an expression");
        let text = text.replace("$__rate_interval", "5m");
        ["$job", "$instance", "$domain"]
            .iter()
            .fold(text, |text, name| text.replace(name, ".*"))
    };
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((title.to_owned(), filled(&target["expr"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("a list") {
        found.push(("annotation".to_owned(), filled(&annotation["expr"])));
    }
    assert!(found.len() > 40);
    found
}

/// The metric of a series: histograms have three.
fn metric<'a>(catalogue: &'a BTreeMap<String, Metric>, series: &str) -> Option<&'a Metric> {
    if let Some(metric) = catalogue.get(series) {
        return (metric.kind != "histogram").then_some(metric);
    }
    let parts = ["_bucket", "_sum", "_count"];
    let name = parts.iter().find_map(|part| series.strip_suffix(part))?;
    catalogue.get(name).filter(|it| it.kind == "histogram")
}

#[test]
fn queries_name_metrics_and_labels_that_there_are() {
    let catalogue = catalogue();
    let mut wrong = vec![];
    for (place, expression) in alerts().into_iter().chain(panels()) {
        let query = Query::parse(&expression);
        assert!(!query.selectors.is_empty(), "{place}: {expression}");
        let mut labels: BTreeSet<&str> = OF_TARGETS.into();
        for selector in &query.selectors {
            let Some(metric) = metric(&catalogue, &selector.metric) else {
                wrong.push(format!("{place}: there is no {}", selector.metric));
                continue;
            };
            let own = metric.labels.iter().map(String::as_str);
            labels.extend(own.clone());
            if metric.kind == "histogram" {
                labels.insert("le");
            }
            let known: BTreeSet<&str> = own.chain(OF_TARGETS).collect();
            for label in selector.labels.iter().filter(|it| !known.contains(&***it)) {
                wrong.push(format!("{place}: {} has no {label}", selector.metric));
            }
        }
        for label in query.groupings.iter().filter(|it| !labels.contains(&***it)) {
            wrong.push(format!("{place}: nothing has {label}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is counted is shown.
#[test]
fn the_dashboard_shows_every_metric() {
    let mut asked = BTreeSet::new();
    for (_, expression) in panels() {
        let query = Query::parse(&expression);
        asked.extend(query.selectors.into_iter().map(|it| it.metric));
    }
    let missing: Vec<_> = catalogue()
        .into_keys()
        .filter(|name| !asked.iter().any(|series| series.starts_with(&**name)))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn queries_are_good_promql() {
    let Some(mut promtool) = tool("promtool") else {
        return;
    };
    let rules: Vec<_> = panels()
        .iter()
        .enumerate()
        .map(
            |(number, (_, expression))| json!({"record": format!("q{number}"), "expr": expression}),
        )
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let all = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(file.path(), all.to_string()).unwrap();
    output(
        promtool
            .args(["check", "rules"])
            .arg(path(ALERTS))
            .arg(file.path()),
    );
}

#[test]
fn alerts_fire_when_they_should() {
    let Some(mut promtool) = tool("promtool") else {
        return;
    };
    let tests = path("packaging/prometheus/alerts.test.yaml");
    output(promtool.args(["test", "rules"]).arg(&tests));
    let tests = fs::read_to_string(tests).unwrap();
    for (name, _) in alerts() {
        assert!(tests.contains(&name), "{name} has no test");
    }
    // A test that cannot fail would pass for ever.
    let folder = tempfile::tempdir().unwrap();
    let quiet = read(ALERTS).replace("ratekeeper_store_up) == 0", "ratekeeper_store_up) == 2");
    fs::write(folder.path().join("alerts.yaml"), quiet).unwrap();
    let copy = folder.path().join("alerts.test.yaml");
    fs::write(&copy, tests).unwrap();
    let mut promtool = tool("promtool").expect("it was there");
    let (good, _) = result(promtool.args(["test", "rules"]).arg(&copy));
    assert!(!good);
}

/// Panels have names of their own, and lie beside each other.
#[test]
fn panels_do_not_overlap() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let at = |name: &str| panel["gridPos"][name].as_u64().expect(name);
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
    }
}
