//! Rules of pods and of the templates that make them.

use super::{elements, entries, labels, selects};
use crate::quantity::Quantity;
use crate::status::Problem;
use serde_json::Value;

/// Judges a pod.
pub(super) fn pod(new: &Value, out: &mut Vec<Problem>) {
    spec("spec", &new["spec"], out);
}

/// Judges a template; `selector` must select it, said with backquotes or without.
pub(super) fn template(
    at: &str,
    v: &Value,
    selector: Option<(&Value, bool)>,
    out: &mut Vec<Problem>,
) {
    let given = v.pointer("/metadata/labels");
    if let Some((selector, _)) = selector
        && !selects(selector, given)
    {
        let value = given.cloned().unwrap_or_default();
        out.push(Problem::invalid(
            format!("{at}.metadata.labels"),
            &value,
            "`selector` does not match template `labels`",
        ));
    }
    out.extend(labels(&format!("{at}.labels"), given));
    spec(&format!("{at}.spec"), &v["spec"], out);
}

/// Controllers that keep pods running restart them always.
pub(super) fn always_restarts(at: &str, v: &Value, out: &mut Vec<Problem>) {
    let policy = &v["spec"]["restartPolicy"];
    if matches!(policy.as_str(), Some("OnFailure" | "Never")) {
        out.push(Problem::unsupported(format!("{at}.spec.restartPolicy"), policy, &["Always"]));
    }
}

fn spec(at: &str, v: &Value, out: &mut Vec<Problem>) {
    let volumes: Vec<&Value> = elements(v.get("volumes")).map(|(_, v)| &v["name"]).collect();
    let claims: Vec<&Value> = volumes.clone();
    for (i, volume) in elements(v.get("volumes")) {
        let sources = volume.as_object().map_or(0, |m| m.len().saturating_sub(1));
        if sources > 1 {
            out.push(Problem::forbidden(
                format!("{at}.volumes[{i}]"),
                "may not specify more than 1 volume type",
            ));
        }
    }
    let regular: Vec<&Value> = elements(v.get("containers")).map(|(_, c)| &c["name"]).collect();
    for list in ["initContainers", "containers"] {
        for (i, c) in elements(v.get(list)) {
            let path = format!("{at}.{list}[{i}]");
            container(&path, c, &claims, out);
            if list == "initContainers" && regular.contains(&&c["name"]) {
                out.push(Problem::duplicate(format!("{path}.name"), &c["name"]));
            }
        }
    }
    for (i, t) in elements(v.get("tolerations")) {
        let path = format!("{at}.tolerations[{i}]");
        if t["operator"] == "Exists" && !t["value"].as_str().unwrap_or_default().is_empty() {
            out.push(Problem::invalid(
                format!("{path}.operator"),
                t,
                "value must be empty when `operator` is 'Exists'",
            ));
        }
        if !t["tolerationSeconds"].is_null() && t["effect"] != "NoExecute" {
            out.push(Problem::invalid(
                format!("{path}.effect"),
                &t["effect"],
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
    }
    out.extend(labels(&format!("{at}.nodeSelector"), v.get("nodeSelector")));
}

fn container(at: &str, c: &Value, volumes: &[&Value], out: &mut Vec<Problem>) {
    for (i, m) in elements(c.get("volumeMounts")) {
        let name = &m["name"];
        if name.as_str().is_some_and(|n| !n.is_empty()) && !volumes.contains(&name) {
            out.push(Problem::not_found(format!("{at}.volumeMounts[{i}].name"), name));
        }
    }
    for (i, e) in elements(c.get("env")) {
        let from = &e["valueFrom"];
        if from.is_object() && !e["value"].as_str().unwrap_or_default().is_empty() {
            out.push(Problem::invalid(
                format!("{at}.env[{i}].valueFrom"),
                &Value::String(String::new()),
                "may not be specified when `value` is not empty",
            ));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let p = &c[probe];
        if !p.is_object() {
            continue;
        }
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"]
            .iter()
            .filter(|h| p.get(**h).is_some())
            .count();
        match handlers {
            0 => {
                out.push(Problem::required(format!("{at}.{probe}"), "must specify a handler type"))
            }
            1 => {}
            _ => out.push(Problem::forbidden(
                format!("{at}.{probe}"),
                "may not specify more than 1 handler type",
            )),
        }
        let success = p["successThreshold"].as_i64().unwrap_or(1);
        if success != 1 && probe != "readinessProbe" {
            out.push(Problem::invalid(
                format!("{at}.{probe}.successThreshold"),
                &p["successThreshold"],
                "must be 1",
            ));
        }
    }
    resources(&format!("{at}.resources"), &c["resources"], out);
}

fn resources(at: &str, v: &Value, out: &mut Vec<Problem>) {
    let amount = |v: &Value| v.as_str().and_then(|s| Quantity::parse(s).ok());
    for part in ["limits", "requests"] {
        for (name, q) in entries(v.get(part)) {
            let path = format!("{at}.{part}[{name}]");
            if amount(q).is_some_and(|q| q.is_negative()) {
                out.push(Problem::invalid(path.clone(), q, "must be greater than or equal to 0"));
            }
            if !name.contains('/') && !standard(name) {
                let why = "must be a standard resource type or fully qualified";
                out.push(Problem::invalid(path, &Value::String(name.clone()), why));
            }
        }
    }
    for (name, request) in entries(v.get("requests")) {
        if let (Some(r), Some(l)) = (amount(request), amount(&v["limits"][name]))
            && r > l
        {
            let limit = v["limits"][name].as_str().unwrap_or_default();
            let why = format!("must be less than or equal to {name} limit of {limit}");
            out.push(Problem::invalid(format!("{at}.requests"), request, why));
        }
    }
}

fn standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// What may change in a pod that exists: images, deadlines, tolerations that are added, gates that go.
pub(super) fn update(new: &Value, old: &Value, out: &mut Vec<Problem>) {
    let mask = |v: &Value| {
        let mut spec = v["spec"].clone();
        for list in ["containers", "initContainers"] {
            for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                c["image"] = Value::Null;
            }
        }
        if let Some(m) = spec.as_object_mut() {
            for f in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "nodeName"] {
                m.shift_remove(f);
            }
            if v["spec"]["terminationGracePeriodSeconds"].as_i64().is_some_and(|n| n < 0) {
                m.shift_remove("terminationGracePeriodSeconds");
            }
        }
        spec
    };
    for list in ["initContainers", "containers"] {
        let count = |v: &Value| v["spec"][list].as_array().map_or(0, Vec::len);
        if count(new) != count(old) {
            let why = "pod updates may not add or remove containers";
            out.push(Problem::forbidden(format!("spec.{list}"), why));
            return;
        }
    }
    tolerations(&new["spec"]["tolerations"], &old["spec"]["tolerations"], out);
    let bound = |v: &Value| v["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let moved = !bound(old).is_empty() && bound(old) != bound(new);
    if mask(new) != mask(old) || moved {
        out.push(Problem::forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"));
    }
}

/// Tolerations may be added; of one that is there only how long it holds may change.
fn tolerations(new: &Value, old: &Value, out: &mut Vec<Problem>) {
    let alike = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|f| a.get(f) == b.get(f))
    };
    let kept = |o: &Value| new.as_array().into_iter().flatten().any(|n| alike(n, o));
    if !old.as_array().into_iter().flatten().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        out.push(Problem::forbidden("spec.tolerations", why));
    }
}
