//! The class of a pod: whom a node lets go first when it runs short.

use serde_json::Value;

/// The amounts that decide it.
const DECIDING: [&str; 2] = ["cpu", "memory"];

/// The class, from what the pod as a whole or else each of its containers asks for and is bound by.
pub fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let whole = &spec["resources"];
    let set = |part: &str| whole[part].as_object().is_some_and(|m| !m.is_empty());
    let all: Vec<&Value> = if set("requests") || set("limits") {
        vec![whole]
    } else {
        let lists = ["containers", "initContainers"].into_iter();
        lists.filter_map(|l| spec[l].as_array()).flatten().map(|c| &c["resources"]).collect()
    };
    let amount = |r: &Value, part: &str, name: &str| {
        r[part].get(name).and_then(Value::as_str).filter(|q| *q != "0").map(str::to_owned)
    };
    let any = all.iter().any(|r| {
        DECIDING
            .iter()
            .any(|n| amount(r, "requests", n).or_else(|| amount(r, "limits", n)).is_some())
    });
    let bound = |r: &&Value| {
        DECIDING.iter().all(|n| {
            let limit = amount(r, "limits", n);
            let request = amount(r, "requests", n);
            limit.is_some() && (request.is_none() || request == limit)
        })
    };
    match (any, !all.is_empty() && all.iter().all(bound)) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_as_a_whole_goes_before_its_containers() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let one = json!({"resources": {"limits": both, "requests": both}});
        let part = json!({"resources": {"requests": {"cpu": "1"}}});
        let check = |spec: Value, expected: &str| {
            assert_eq!(class(&json!({ "spec": spec })), expected);
        };
        check(json!({"containers": [{}]}), "BestEffort");
        check(json!({"containers": [one]}), "Guaranteed");
        check(json!({"containers": [one], "initContainers": [part]}), "Burstable");
        check(json!({"containers": [one, part]}), "Burstable");
        check(json!({"containers": [{}], "resources": one["resources"]}), "Guaranteed");
        check(json!({"containers": [one], "resources": part["resources"]}), "Burstable");
        check(json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}), "BestEffort");
    }
}
