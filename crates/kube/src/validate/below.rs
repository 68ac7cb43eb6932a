//! What the paths below a pod may change of it: its resources, its ephemeral containers.

use super::{elements, pods};
use crate::qos;
use crate::status::Problem;
use serde_json::Value;

/// Judges what a pod becomes by a change of itself, or of what is at `subresource`.
pub fn pod(subresource: Option<&str>, new: &Value, old: &Value) -> Vec<Problem> {
    let mut out = Vec::new();
    match subresource {
        Some("resize") => resize(new, old, &mut out),
        Some("ephemeralcontainers") => ephemeral(new, old, &mut out),
        _ => pods::update(new, old, &mut out),
    }
    out
}

/// Of a resize, processors and memory of running containers; what was given cannot be taken away.
fn resize(new: &Value, old: &Value, out: &mut Vec<Problem>) {
    if qos::class(old) != qos::class(new) {
        let why = "Pod QOS Class may not change as a result of resizing";
        out.push(Problem::invalid("spec", &new["status"]["qosClass"], why));
    }
    for list in ["containers", "initContainers"] {
        let before: Vec<&Value> = elements(old["spec"].get(list)).map(|(_, c)| c).collect();
        if elements(new["spec"].get(list)).count() != before.len() {
            let why = "pod updates may not add or remove containers";
            out.push(Problem::forbidden(format!("spec.{list}"), why));
            continue;
        }
        for (i, c) in elements(new["spec"].get(list)) {
            let Some(b) = before.get(i) else { continue };
            let at = format!("spec.{list}[{i}]");
            if c["name"] != b["name"] {
                let why = "containers may not be renamed or reordered on resize";
                out.push(Problem::forbidden(format!("{at}.name"), why));
                continue;
            }
            let runs = list == "containers" || b["restartPolicy"] == "Always";
            if !runs && c["resources"] != b["resources"] {
                let why = "resources of a non-restartable init container may not be changed";
                out.push(Problem::forbidden(format!("{at}.resources"), why));
            }
            amounts(&at, &c["resources"], &b["resources"], out);
        }
    }
}

fn amounts(at: &str, new: &Value, old: &Value, out: &mut Vec<Problem>) {
    for part in ["limits", "requests"] {
        let names = |v: &Value| -> Vec<String> {
            v[part].as_object().into_iter().flat_map(|m| m.keys().cloned()).collect()
        };
        let (now, before) = (names(new), names(old));
        if before.iter().any(|n| !now.contains(n)) {
            let path = format!("{at}.resources.{part}");
            out.push(Problem::forbidden(path, format!("resource {part} cannot be removed")));
        }
        let fixed = |n: &String| {
            !matches!(n.as_str(), "cpu" | "memory") && new[part].get(n) != old[part].get(n)
        };
        if now.iter().any(fixed) {
            out.push(Problem::forbidden("spec", "only cpu and memory resources are mutable"));
        }
    }
}

/// Ephemeral containers are added; those that exist stay as they are.
fn ephemeral(new: &Value, old: &Value, out: &mut Vec<Problem>) {
    const LIST: &str = "ephemeralContainers";
    let others: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .flat_map(|l| elements(new["spec"].get(*l)).map(|(_, c)| &c["name"]))
        .collect();
    for (i, c) in elements(new["spec"].get(LIST)) {
        let at = format!("spec.{LIST}[{i}]");
        if others.contains(&&c["name"]) {
            out.push(Problem::duplicate(format!("{at}.name"), &c["name"]));
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if c.get(field).is_some() {
                let why = "cannot be set for an Ephemeral Container";
                out.push(Problem::forbidden(format!("{at}.{field}"), why));
            }
        }
        let target = c["targetContainerName"].as_str().unwrap_or_default();
        if !target.is_empty() && !others.contains(&&c["targetContainerName"]) {
            let path = format!("{at}.targetContainerName");
            out.push(Problem::not_found(path, &c["targetContainerName"]));
        }
    }
    for (_, b) in elements(old["spec"].get(LIST)) {
        let name = b["name"].as_str().unwrap_or_default();
        let kept = elements(new["spec"].get(LIST)).find(|(_, c)| c["name"] == b["name"]);
        let why = match kept {
            None => "removed",
            Some((_, c)) if c != b => "changed",
            Some(_) => continue,
        };
        let why = format!("existing ephemeral containers {name:?} may not be {why}\n");
        out.push(Problem::forbidden(format!("spec.{LIST}"), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(subresource: &str, new: &Value, old: &Value, expected: &[&str]) {
        let got = pod(Some(subresource), new, old);
        assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{new}");
    }

    #[test]
    fn a_resize_keeps_the_class_and_takes_nothing_away() {
        let of = |r: Value| json!({"spec": {"containers": [{"name": "c", "resources": r}]}, "status": {"qosClass": "Burstable"}});
        let old = of(json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "2"}}));
        let more = of(json!({"requests": {"cpu": "2", "memory": "3Mi"}, "limits": {"cpu": "3"}}));
        check("resize", &more, &old, &[]);
        let less = of(json!({"requests": {"memory": "1Mi"}}));
        check(
            "resize",
            &less,
            &old,
            &[
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ],
        );
        let disk = of(
            json!({"requests": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "1"}, "limits": {"cpu": "2"}}),
        );
        check(
            "resize",
            &disk,
            &old,
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        );
        let why = "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing";
        check("resize", &old, &of(json!({})), &[why]);
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let of = |list: Value| json!({"spec": {"containers": [{"name": "c"}], "ephemeralContainers": list}});
        let (e, f) = (json!({"name": "e", "image": "i"}), json!({"name": "f", "image": "i"}));
        let old = of(json!([e]));
        check("ephemeralcontainers", &of(json!([e, f])), &old, &[]);
        let gone = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n";
        check("ephemeralcontainers", &of(json!([f])), &old, &[gone]);
        let changed = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n";
        let other = json!({"name": "e", "image": "j"});
        check("ephemeralcontainers", &of(json!([other])), &old, &[changed]);
        let same = "spec.ephemeralContainers[1].name: Duplicate value: \"c\"";
        check("ephemeralcontainers", &of(json!([e, {"name": "c"}])), &old, &[same]);
    }
}
