//! Validation: the rules of every kind, with the sentences that the API is known by.

pub mod below;
mod events;
mod kinds;
mod pods;
mod registration;

pub use registration::{client_config, policy_names};

use crate::names;
use crate::resources;
use crate::schema::{Schema, Ty, Type, TypeId};
use crate::selector::Labels;
use crate::status::{Problem, Rule};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

/// Bytes that all annotations of an object may have together.
const ANNOTATIONS: usize = 256 * 1024;

/// Judges an object's `metadata`. `rule` is what its kind asks of names.
pub fn metadata(
    object: &Value,
    namespaced: bool,
    rule: impl Fn(&str) -> Option<&'static str>,
) -> Vec<Problem> {
    let mut out = Vec::new();
    let m = object.get("metadata").cloned().unwrap_or_default();
    let text = |key: &str| m.get(key).and_then(Value::as_str).unwrap_or_default();
    let prefix = text("generateName");
    if !prefix.is_empty() {
        // The prefix of a name may end in what a name may not.
        let probe = format!("{}x", prefix.trim_end_matches('-'));
        if let Some(why) = rule(&probe) {
            out.push(Problem::invalid("metadata.generateName", &m["generateName"], why));
        }
    }
    match text("name") {
        "" => out.push(Problem::required("metadata.name", "name or generateName is required")),
        name => {
            if let Some(why) = rule(name) {
                out.push(Problem::invalid("metadata.name", &m["name"], why));
            }
        }
    }
    match (namespaced, text("namespace")) {
        (true, "") => out.push(Problem::required("metadata.namespace", "")),
        (true, ns) => {
            if let Some(why) = names::label(ns) {
                out.push(Problem::invalid("metadata.namespace", &m["namespace"], why));
            }
        }
        (false, "") => {}
        (false, _) => {
            out.push(Problem::forbidden("metadata.namespace", "not allowed on this type"));
        }
    }
    out.extend(labels("metadata.labels", m.get("labels")));
    out.extend(annotations(m.get("annotations")));
    out.extend(owners(m.get("ownerReferences")));
    out.extend(finalizers(m.get("finalizers")));
    out
}

fn entries(v: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    v.and_then(Value::as_object).into_iter().flatten()
}

fn elements(v: Option<&Value>) -> impl Iterator<Item = (usize, &Value)> {
    v.and_then(Value::as_array).into_iter().flatten().enumerate()
}

/// Judges a map of labels.
pub fn labels(path: &str, v: Option<&Value>) -> Vec<Problem> {
    let mut out = Vec::new();
    for (key, value) in entries(v) {
        if let Some(why) = names::qualified(key) {
            out.push(Problem::invalid(path, &Value::String(key.clone()), why));
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            out.push(Problem::invalid(path, value, why));
        }
    }
    out
}

fn annotations(v: Option<&Value>) -> Vec<Problem> {
    let (mut out, mut size) = (Vec::new(), 0);
    for (key, value) in entries(v) {
        // Keys of annotations may have capitals in their prefix.
        if let Some(why) = names::qualified(&key.to_lowercase()) {
            out.push(Problem::invalid("metadata.annotations", &Value::String(key.clone()), why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS {
        out.push(Problem {
            field: "metadata.annotations".into(),
            rule: Rule::TooLong(ANNOTATIONS),
        });
    }
    out
}

fn owners(v: Option<&Value>) -> Vec<Problem> {
    let (mut out, mut controller) = (Vec::new(), None);
    for (i, o) in elements(v) {
        let path = format!("metadata.ownerReferences[{i}]");
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if o[field].as_str().unwrap_or_default().is_empty() {
                out.push(Problem::invalid(format!("{path}.{field}"), &o[field], why));
            }
        }
        if o["controller"] == true {
            let own = format!("{}/{} {}", o["apiVersion"], o["kind"], o["name"]).replace('"', "");
            if let Some(other) = controller.replace(own.clone()) {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {own}"
                );
                out.push(Problem::invalid("metadata.ownerReferences", &Value::Null, why));
            }
        }
    }
    out
}

fn finalizers(v: Option<&Value>) -> Vec<Problem> {
    elements(v)
        .filter_map(|(_, f)| {
            let why = names::qualified(f.as_str().unwrap_or_default())?;
            Some(Problem::invalid("metadata.finalizers", f, why))
        })
        .collect()
}

/// Judges how `metadata` changed.
pub fn metadata_update(new: &Value, old: &Value) -> Vec<Problem> {
    let list = |v: &Value| -> Vec<String> {
        let list = v.pointer("/metadata/finalizers").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if old.pointer("/metadata/deletionTimestamp").is_none_or(Value::is_null) {
        return Vec::new();
    }
    let before = list(old);
    let added: Vec<String> = list(new).into_iter().filter(|f| !before.contains(f)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        names.join(", ")
    );
    vec![Problem::forbidden("metadata.finalizers", why)]
}

/// Judges an object of a built-in kind, in the form that is stored; `old` is what it replaces.
pub fn object(group: &str, kind: &str, new: &Value, old: Option<&Value>) -> Vec<Problem> {
    let mut out = Vec::new();
    let found = resources::builtin().iter().find(|r| r.gv.group == group && r.kind == kind);
    if let Some(r) = found {
        fields(r.ty, new, &mut out);
    }
    kinds::check(group, kind, new, old, &mut out);
    out
}

type Rules = HashMap<&'static str, HashMap<&'static str, Vec<&'static str>>>;

fn rules() -> &'static Rules {
    static RULES: OnceLock<Rules> = OnceLock::new();
    RULES.get_or_init(|| {
        let mut out = Rules::new();
        for line in include_str!("../tables/rules.txt").lines().filter(|l| !l.starts_with(';')) {
            let words: Vec<&str> = line.split(' ').collect();
            if let [ty, field, rules] = words[..] {
                out.entry(ty).or_default().insert(field, rules.split(',').collect());
            }
        }
        out
    })
}

/// Rules and closed sets of every field below a type. What the server itself writes is not judged.
fn fields(ty: TypeId, v: &Value, out: &mut Vec<Problem>) {
    let t = Schema::builtin().ty(ty);
    if let Value::Object(m) = v {
        structure(t, m, "", out);
    }
}

fn structure(t: &Type, m: &Map<String, Value>, path: &str, out: &mut Vec<Problem>) {
    let own = rules().get(t.name);
    for f in &t.fields {
        if path.is_empty() && matches!(f.name, "metadata" | "status") {
            continue;
        }
        let dot = if path.is_empty() { "" } else { "." };
        let at = format!("{path}{dot}{}", f.name);
        let v = m.get(f.name).unwrap_or(&Value::Null);
        let broken = out.len();
        for rule in own.and_then(|o| o.get(f.name)).into_iter().flatten() {
            judge(rule, &at, v, out);
        }
        if out.len() == broken {
            descend(&f.ty, v, &at, out);
        }
    }
}

fn descend(ty: &Ty, v: &Value, path: &str, out: &mut Vec<Problem>) {
    match (ty, v) {
        (Ty::Struct(id), Value::Object(m)) => {
            structure(Schema::builtin().ty(*id), m, path, out);
        }
        (Ty::List(item), Value::Array(list)) => {
            for (i, v) in list.iter().enumerate() {
                descend(item, v, &format!("{path}[{i}]"), out);
            }
        }
        (Ty::Map(item), Value::Object(m)) => {
            for (k, v) in m {
                descend(item, v, &format!("{path}[{k}]"), out);
            }
        }
        (Ty::Enum(id), Value::String(s)) if !s.is_empty() => {
            let mut members: Vec<&str> = Schema::builtin().members(*id).to_vec();
            members.sort_unstable();
            if !members.is_empty() && !members.contains(&s.as_str()) {
                members.retain(|m| !m.is_empty());
                out.push(Problem::unsupported(path, v, &members));
            }
        }
        _ => {}
    }
}

fn judge(rule: &str, at: &str, v: &Value, out: &mut Vec<Problem>) {
    let text = v.as_str().unwrap_or_default();
    let invalid = |why: &str| Problem::invalid(at, v, why);
    let named = |check: fn(&str) -> Option<&'static str>| {
        if text.is_empty() { None } else { check(text).map(invalid) }
    };
    let number = v.as_i64();
    let problem = match rule {
        "required" => empty(v).then(|| Problem::required(at, "")),
        "nonempty" => v.as_array().is_none_or(Vec::is_empty).then(|| Problem::required(at, "")),
        "nonneg" => {
            number.filter(|n| *n < 0).map(|_| invalid("must be greater than or equal to 0"))
        }
        "positive" => number.filter(|n| *n < 1).map(|_| invalid("must be greater than 0")),
        "port" => number
            .filter(|n| !(1..=65535).contains(n))
            .map(|_| invalid("must be between 1 and 65535, inclusive")),
        "port0" => number
            .filter(|n| !(0..=65535).contains(n))
            .map(|_| invalid("must be between 1 and 65535, inclusive")),
        "label" => named(names::label),
        "subdomain" => named(names::subdomain),
        "label1035" => named(names::label_1035),
        "qualified" => named(names::qualified),
        "portname" => named(port_name),
        "path" => (!text.starts_with('/')).then(|| invalid("must be an absolute path")),
        "percent" => percent(v).map(invalid),
        _ => match rule.strip_prefix("unique=") {
            Some(key) => {
                out.extend(duplicates(at, v, key));
                None
            }
            None => None,
        },
    };
    out.extend(problem);
}

fn empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Object(m) => m.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}

fn duplicates(at: &str, v: &Value, key: &str) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    elements(Some(v))
        .filter_map(|(i, e)| {
            let id = e.get(key)?.as_str().filter(|s| !s.is_empty())?;
            let again = !seen.insert(id.to_owned());
            again.then(|| Problem::duplicate(format!("{at}[{i}].{key}"), &e[key]))
        })
        .collect()
}

/// What keeps a text from being the name of a container's port.
fn port_name(s: &str) -> Option<&'static str> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match s {
        s if s.len() > 15 => Some("must be no more than 15 characters"),
        s if !s.bytes().all(inside) => {
            Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
        }
        s if !s.bytes().any(|b| b.is_ascii_lowercase()) => {
            Some("must contain at least one letter (a-z)")
        }
        s if s.contains("--") => Some("must not contain consecutive hyphens"),
        s if s.starts_with('-') || s.ends_with('-') => Some("must not begin or end with a hyphen"),
        _ => None,
    }
}

/// What keeps a value from being a count or a percentage.
fn percent(v: &Value) -> Option<&'static str> {
    match v {
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            Some("must be greater than or equal to 0")
        }
        Value::String(s) => {
            let digits = s.strip_suffix('%').unwrap_or_default();
            let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            (!good).then_some(
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            )
        }
        _ => None,
    }
}

/// Judges a `LabelSelector`.
fn label_selector(at: &str, v: &Value, out: &mut Vec<Problem>) {
    out.extend(labels(&format!("{at}.matchLabels"), v.get("matchLabels")));
    for (i, e) in elements(v.get("matchExpressions")) {
        let path = format!("{at}.matchExpressions[{i}]");
        let values = e["values"].as_array().map_or(0, Vec::len);
        match e["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values == 0 => out.push(Problem::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => out.push(Problem::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => out.push(Problem::invalid(
                format!("{path}.operator"),
                &e["operator"],
                "not a valid selector operator",
            )),
        }
    }
}

/// Whether a selector object selects these labels.
fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    Labels::from_object(selector).is_some_and(|s| s.matches(labels.and_then(Value::as_object)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::typed::normalize;
    use serde_json::json;

    #[track_caller]
    fn check(group: &str, kind: &str, v: Value, expected: &[&str]) {
        let r =
            resources::builtin().iter().find(|r| r.gv.group == group && r.kind == kind).unwrap();
        let mut v = normalize(r.ty, v, &mut Vec::new()).unwrap();
        defaults::apply(r.ty, &mut v);
        let v = normalize(r.ty, v, &mut Vec::new()).unwrap();
        let texts: Vec<String> =
            object(group, kind, &v, None).iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected, "{v}");
    }

    #[test]
    fn the_rules_name_fields_that_exist() {
        for (ty, fields) in rules() {
            let id = Schema::builtin().id(ty).unwrap_or_else(|| panic!("no type {ty}"));
            for field in fields.keys() {
                assert!(Schema::builtin().ty(id).field(field).is_some(), "{ty}.{field}");
            }
        }
    }

    #[test]
    fn metadata_is_judged() {
        let v = json!({"metadata": {"name": "B_", "namespace": "default", "labels": {"a": "-"}}});
        let texts: Vec<String> =
            metadata(&v, true, names::subdomain).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                format!("metadata.name: Invalid value: \"B_\": {}", names::SUBDOMAIN),
                format!("metadata.labels: Invalid value: \"-\": {}", names::VALUE)
            ]
        );
    }

    #[test]
    fn pods_are_judged() {
        check("", "Pod", json!({"spec": {"containers": []}}), &["spec.containers: Required value"]);
        check(
            "",
            "Pod",
            json!({"spec": {"restartPolicy": "X", "containers": [{"image": "i"}, {"name": "c", "imagePullPolicy": "Y"}]}}),
            &[
                "spec.containers[0].name: Required value",
                "spec.containers[1].image: Required value",
                "spec.containers[1].imagePullPolicy: Unsupported value: \"Y\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        );
        check(
            "",
            "Pod",
            json!({"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}}),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        );
    }

    #[test]
    fn workloads_are_judged() {
        check(
            "apps",
            "Deployment",
            json!({"spec": {"replicas": -1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            &[
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            "apps",
            "Deployment",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            &["spec.selector: Required value"],
        );
    }

    #[test]
    fn simple_kinds_are_judged() {
        check(
            "",
            "ConfigMap",
            json!({"data": {"": "x"}}),
            &[&format!("data[]: Invalid value: \"\": {}", names::CONFIG_KEY)],
        );
        check("", "Service", json!({"spec": {"ports": []}}), &["spec.ports: Required value"]);
        check(
            "",
            "Service",
            json!({"spec": {"ports": [{"port": 0}]}}),
            &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        );
    }
}
