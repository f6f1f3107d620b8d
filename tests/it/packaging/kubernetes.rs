//! Objects for Kubernetes, plain and from the chart: valid, safe, and what the
//! program needs.

use std::collections::{BTreeMap, BTreeSet};

use boon::{Compiler, Schemas};
use ratekeeper::config::{self, Options, SourceFile};
use serde_json::{Value, json};

use super::{chart, documents, files, path, read, variables};

/// Kubernetes' versions of which setup-packaging.sh installs the schemas.
const VERSIONS: [&str; 2] = ["v1.27.0", "v1.37.0"];
/// Kinds that come with operators; there is no schema of theirs here.
const OF_OPERATORS: [&str; 2] = ["ServiceMonitor", "PrometheusRule"];
/// Variables of the reference that the chart can set and that `serve` learns with
/// TLS and traces.
const OF_THE_REFERENCE: [&str; 1] = ["TRACING_SERVICE_INSTANCE_ID"];

/// What there is: the plain manifests, and the chart with different values.
fn all() -> BTreeMap<&'static str, Vec<Value>> {
    let mut all = BTreeMap::from([("plain", plain())]);
    for (name, values) in [
        ("defaults", &[][..]),
        ("redis", &["ci/redis-values.yaml"]),
        ("everything", &["ci/everything-values.yaml"]),
    ] {
        if let Some(rendered) = chart::render(values, &[]) {
            all.insert(name, rendered.expect(name));
        }
    }
    all
}

fn plain() -> Vec<Value> {
    let listed = documents(&read("packaging/kubernetes/kustomization.yaml")).remove(0);
    let names = listed["resources"].as_array().expect("a list");
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    // The list names all files but itself.
    assert_eq!(names.len() + 1, files("packaging/kubernetes").len());
    names
        .iter()
        .flat_map(|name| documents(&read(&format!("packaging/kubernetes/{name}"))))
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|it| it["kind"] == kind).collect()
}

/// The spec of a Deployment's pods.
fn pod(objects: &[Value]) -> &Value {
    &of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]
}

fn container(objects: &[Value]) -> &Value {
    &pod(objects)["containers"][0]
}

fn environment(objects: &[Value]) -> BTreeMap<&str, Option<&str>> {
    let list = container(objects)["env"].as_array().expect("a list");
    list.iter()
        .map(|it| (it["name"].as_str().expect("a name"), it["value"].as_str()))
        .collect()
}

/// Validates objects of one version of Kubernetes.
struct Validator {
    version: &'static str,
    compiler: Compiler,
    schemas: Schemas,
    /// Those that have been read.
    read: BTreeSet<String>,
}

// === impl Validator ===

impl Validator {
    fn new(version: &'static str) -> Self {
        let mut this = Self {
            version,
            compiler: Compiler::new(),
            schemas: Schemas::new(),
            read: BTreeSet::new(),
        };
        this.add("_definitions");
        this
    }

    /// Under the address by which schemas refer to each other.
    fn add(&mut self, name: &str) -> String {
        let address = format!("https://kubernetes.io/api/{name}.json");
        if !self.read.insert(name.to_owned()) {
            return address;
        }
        let file = path(&format!(
            ".venv/packaging/kubernetes-{}/{name}.json",
            self.version
        ));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{name}: {error}; run tests/setup.sh once"));
        let schema = serde_json::from_str(&text).expect("good JSON");
        self.compiler
            .add_resource(&address, schema)
            .expect("a schema");
        address
    }

    fn check(&mut self, object: &Value) -> Result<(), String> {
        let text = |name: &str| object[name].as_str().expect("a text").to_lowercase();
        let api = text("apiVersion").replace(".k8s.io", "").replace('/', "-");
        let address = self.add(&format!("{}-{api}", text("kind")));
        let index = self
            .compiler
            .compile(&address, &mut self.schemas)
            .map_err(|error| format!("{error:#}"))?;
        let checked = self.schemas.validate(object, index);
        checked.map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn valid_for_old_and_new_kubernetes() {
    if super::tool("helm").is_none() {
        return;
    }
    let all = all();
    for version in VERSIONS {
        let mut validator = Validator::new(version);
        for (name, objects) in &all {
            let mut kinds = BTreeSet::new();
            for object in objects {
                let kind = object["kind"].as_str().expect("a kind");
                if OF_OPERATORS.contains(&kind) {
                    continue;
                }
                let checked = validator.check(object);
                assert!(checked.is_ok(), "{version} {name} {kind}: {checked:?}");
                kinds.insert(kind);
            }
            assert!(kinds.contains("Deployment") && kinds.contains("Service"));
        }
        let mut broken = plain().swap_remove(2);
        assert_eq!(broken["kind"], "Deployment");
        broken["spec"]["replicsa"] = 2.into();
        assert!(validator.check(&broken).is_err());
    }
}

#[test]
fn every_kind_is_there() {
    let all = all();
    let kinds = |name: &str| -> BTreeSet<&str> {
        let objects = all.get(name).into_iter().flatten();
        objects.filter_map(|it| it["kind"].as_str()).collect()
    };
    let plain = [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds("plain"), BTreeSet::from(plain));
    if all.contains_key("everything") {
        let operators = BTreeSet::from(OF_OPERATORS);
        // And the pod of `helm test`, which cannot ask over TLS.
        let expected = &BTreeSet::from(plain) | &operators;
        assert_eq!(kinds("everything"), expected);
        assert!(kinds("defaults").contains("Pod"));
    }
}

#[test]
fn pods_have_no_rights() {
    for (name, objects) in all() {
        let mut pods = vec![pod(&objects)];
        pods.extend(of_kind(&objects, "Pod").iter().map(|pod| &pod["spec"]));
        for pod in pods {
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["enableServiceLinks"], false, "{name}");
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{name}");
            assert_eq!(security["runAsUser"], 65534, "{name}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            let containers = pod["containers"].as_array().expect("a list");
            for container in containers {
                assert_eq!(container["securityContext"], expected, "{name}");
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
        }
    }
}

/// Liveness and startup must not ask for the store; readiness must.
#[test]
fn probes_ask_what_they_are_for() {
    for (name, objects) in all() {
        let container = container(&objects);
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/healthcheck"),
        ] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["path"], path, "{name} {probe}");
            assert_eq!(get["port"], "http", "{name} {probe}");
        }
        let ports = container["ports"].as_array().expect("a list");
        let port = |name: &str| {
            let found = ports.iter().find(|port| port["name"] == name);
            found.map(|port| &port["containerPort"])
        };
        assert_eq!(port("http"), Some(&json!(8080)), "{name}");
        assert_eq!(port("grpc"), Some(&json!(8081)), "{name}");
        if let Some(metrics) = port("metrics") {
            let address = format!(":{metrics}");
            let set = environment(&objects);
            assert_eq!(set["PROMETHEUS_ADDR"], Some(&*address), "{name}");
            assert_eq!(set["USE_PROMETHEUS"], Some("true"), "{name}");
        }
    }
}

/// Kubernetes kills what has not ended by then.
#[test]
fn pods_have_time_to_drain() {
    for (name, objects) in all() {
        let set = environment(&objects);
        let seconds = |variable: &str| -> u64 {
            let text = set[variable].and_then(|it| it.strip_suffix('s'));
            text.and_then(|it| it.parse().ok()).expect(variable)
        };
        let drain = seconds("RATEKEEPER_DRAIN_DELAY") + seconds("RATEKEEPER_DRAIN_TIMEOUT");
        let grace = pod(&objects)["terminationGracePeriodSeconds"].as_u64();
        assert!(grace > Some(drain), "{name}: {grace:?} {drain}");
    }
}

#[test]
fn variables_are_known() {
    let known = variables();
    for (name, objects) in all() {
        for variable in environment(&objects).keys() {
            assert!(
                known.contains(*variable) || OF_THE_REFERENCE.contains(variable),
                "{name}: {variable}"
            );
        }
    }
}

/// What a selector selects has its labels, and ports are called as they are there.
#[test]
fn selectors_and_ports_meet() {
    for (name, objects) in all() {
        let deployment = of_kind(&objects, "Deployment")[0];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let ports = container(&objects)["ports"].as_array().expect("a list");
        let ports: BTreeSet<_> = ports.iter().filter_map(|it| it["name"].as_str()).collect();
        let mut selectors = vec![&deployment["spec"]["selector"]["matchLabels"]];
        for service in of_kind(&objects, "Service") {
            selectors.push(&service["spec"]["selector"]);
            for port in service["spec"]["ports"].as_array().expect("a list") {
                let target = port["targetPort"].as_str().expect("a name");
                assert!(ports.contains(target), "{name}: {target}");
            }
        }
        for kind in ["PodDisruptionBudget"] {
            for object in of_kind(&objects, kind) {
                selectors.push(&object["spec"]["selector"]["matchLabels"]);
            }
        }
        for policy in of_kind(&objects, "NetworkPolicy") {
            selectors.push(&policy["spec"]["podSelector"]["matchLabels"]);
            let ingress = policy["spec"]["ingress"].as_array();
            for rule in ingress.into_iter().flatten() {
                assert!(!rule["from"].is_null(), "{name}: everybody may come in");
                for port in rule["ports"].as_array().expect("a list") {
                    let port = port["port"].as_str().expect("a name");
                    assert!(ports.contains(port), "{name}: {port}");
                }
            }
        }
        for selector in selectors {
            let selector = selector.as_object().expect("labels");
            assert!(!selector.is_empty(), "{name}");
            for (label, value) in selector {
                assert_eq!(labels[label], *value, "{name}: {label}");
            }
        }
        for monitor in of_kind(&objects, "ServiceMonitor") {
            let wanted = &monitor["spec"]["selector"]["matchLabels"];
            let wanted = wanted.as_object().expect("labels");
            let services = of_kind(&objects, "Service");
            let chosen = services.iter().filter(|service| {
                let labels = &service["metadata"]["labels"];
                wanted.iter().all(|(label, value)| labels[label] == *value)
            });
            // One alone: each pod is asked once.
            assert_eq!(chosen.count(), 1, "{name}");
            let endpoint = &monitor["spec"]["endpoints"][0];
            assert_eq!(
                (&endpoint["port"], &endpoint["path"]),
                (&json!("http"), &json!("/metrics"))
            );
        }
    }
}

#[test]
fn rules_in_them_load() {
    for (name, objects) in all() {
        for map in of_kind(&objects, "ConfigMap") {
            let data = map["data"].as_object().expect("files");
            for (file, text) in data.iter().filter(|(file, _)| file.ends_with(".yaml")) {
                let source = SourceFile {
                    name: (**file).into(),
                    bytes: text.as_str().expect("a text").as_bytes().to_vec(),
                };
                let loaded = config::compile(&[source], &Options::default());
                assert!(loaded.is_ok(), "{name} {file}: {:?}", loaded.err());
            }
        }
    }
}

/// The chart's rules, alerts and dashboard are the files beside it.
#[test]
fn the_chart_ships_alerts_and_dashboard() {
    let Some(rendered) = chart::render(&["ci/everything-values.yaml"], &[]) else {
        return;
    };
    let objects = rendered.expect("good values");
    let mut expected = documents(&read("packaging/prometheus/alerts.yaml")).remove(0);
    for group in expected["groups"].as_array_mut().expect("groups") {
        let rules = group["rules"].as_array_mut().expect("rules");
        rules.retain(|rule| rule["alert"] != "RatekeeperHitRateLow");
    }
    let shipped = &of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"];
    assert_eq!(*shipped, expected["groups"]);

    let maps = of_kind(&objects, "ConfigMap");
    let dashboard = maps
        .iter()
        .find_map(|map| map["data"]["ratekeeper.json"].as_str());
    let dashboard: Value = serde_json::from_str(dashboard.expect("a dashboard")).expect("JSON");
    let file: Value =
        serde_json::from_str(&read("packaging/grafana/dashboard.json")).expect("JSON");
    assert_eq!(dashboard, file);
}

/// Plain manifests and the chart's defaults differ in values, not in kind.
#[test]
fn plain_and_chart_agree() {
    let Some(rendered) = chart::render(&[], &[]) else {
        return;
    };
    let (chart, plain) = (rendered.expect("good values"), plain());
    for field in ["securityContext", "terminationGracePeriodSeconds"] {
        assert_eq!(pod(&chart)[field], pod(&plain)[field], "{field}");
    }
    for field in [
        "args",
        "ports",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
        "resources",
        "securityContext",
        "volumeMounts",
    ] {
        assert_eq!(
            container(&chart)[field],
            container(&plain)[field],
            "{field}"
        );
    }
}
