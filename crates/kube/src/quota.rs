//! What objects use of a quota, and which quotas cover them.

use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds of the core group that quotas also know by their bare plural names.
const BARE: &[&str] = &[
    "pods",
    "services",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
];

/// Amounts as the API has them: an object of quantities.
pub fn amounts(v: &Value) -> Amounts {
    let pair = |(k, v): (&String, &Value)| Some((k.clone(), Quantity::parse(v.as_str()?).ok()?));
    v.as_object().into_iter().flatten().filter_map(pair).collect()
}

/// The other way.
pub fn to_value(a: &Amounts) -> Value {
    Value::Object(a.iter().map(|(k, q)| (k.clone(), q.to_string().into())).collect())
}

/// Adds amounts up.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, q) in more {
        let sum = to.get(name).map_or(*q, |old| old.plus(*q));
        to.insert(name.clone(), sum);
    }
}

/// The greater of both, name by name.
fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, q) in other {
        let most = to.get(name).map_or(*q, |old| (*old).max(*q));
        to.insert(name.clone(), most);
    }
}

fn one() -> Quantity {
    Quantity::from(1)
}

/// What one object uses: itself as one of its kind, and what its kind measures besides.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let mut out = Amounts::new();
    let dot = if group.is_empty() { "" } else { "." };
    out.insert(format!("count/{plural}{dot}{group}"), one());
    if !group.is_empty() {
        return out;
    }
    match plural {
        "pods" if is_finished(object) => {}
        "pods" => {
            out.insert("pods".to_owned(), one());
            compute(object, &mut out);
        }
        "services" => service(object, &mut out),
        "persistentvolumeclaims" => claim(object, &mut out),
        bare if BARE.contains(&bare) => {
            out.insert(bare.to_owned(), one());
        }
        _ => {}
    }
    out
}

/// A pod that has ended holds nothing any more.
fn is_finished(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn service(object: &Value, out: &mut Amounts) {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let allocated = spec["ports"].as_array().into_iter().flatten();
    let numbered = allocated.filter(|p| p["nodePort"].as_i64().unwrap_or(0) > 0).count();
    let (balancers, node_ports) = match spec["type"].as_str() {
        Some("NodePort") => (0, ports),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (1, numbered),
        Some("LoadBalancer") => (1, ports),
        _ => (0, 0),
    };
    out.insert("services".to_owned(), one());
    out.insert("services.loadbalancers".to_owned(), Quantity::from(balancers));
    out.insert(
        "services.nodeports".to_owned(),
        Quantity::from(i64::try_from(node_ports).unwrap_or(0)),
    );
}

fn claim(object: &Value, out: &mut Amounts) {
    let class = object["spec"]["storageClassName"].as_str().unwrap_or_default();
    out.insert("persistentvolumeclaims".to_owned(), one());
    let asked = object["spec"]["resources"]["requests"]["storage"].as_str();
    let storage = asked.and_then(|s| Quantity::parse(s).ok());
    if let Some(q) = storage {
        out.insert("requests.storage".to_owned(), q);
    }
    if !class.is_empty() {
        let of = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
        out.insert(of("persistentvolumeclaims"), one());
        if let Some(q) = storage {
            out.insert(of("requests.storage"), q);
        }
    }
}

fn compute(pod: &Value, out: &mut Amounts) {
    for (name, q) in pod_total(pod, "requests") {
        let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-");
        if plain {
            out.insert(name.clone(), q);
        }
        if plain || name.contains('/') {
            out.insert(format!("requests.{name}"), q);
        }
    }
    for (name, q) in pod_total(pod, "limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), q);
        }
    }
}

/// What a pod asks for, or may use at most: its containers together, or an init container where that is more.
pub fn pod_total(pod: &Value, what: &str) -> Amounts {
    let spec = &pod["spec"];
    let list = |name: &str| spec[name].as_array().map_or(&[][..], Vec::as_slice);
    let of = |c: &Value| amounts(&c["resources"][what]);
    let mut total = Amounts::new();
    list("containers").iter().for_each(|c| add(&mut total, &of(c)));
    // A sidecar runs beside everything that comes after it.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in list("initContainers") {
        let mut now = sidecars.clone();
        add(&mut now, &of(c));
        if c["restartPolicy"] == "Always" {
            sidecars = now.clone();
        }
        raise(&mut peak, &now);
    }
    add(&mut total, &sidecars);
    raise(&mut total, &peak);
    raise(&mut total, &amounts(&spec["resources"][what]));
    add(&mut total, &amounts(&spec["overhead"]));
    total
}

/// What a quota of compute resources wants every container to say, and does not: `requests.cpu` to the
/// names of containers.
pub fn unsaid(pod: &Value, hard: &Amounts) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lists = ["initContainers", "containers"];
    let containers =
        lists.iter().filter_map(|l| pod["spec"][*l].as_array()).flatten().collect::<Vec<_>>();
    let wanted = hard.keys().filter_map(|name| match name.as_str() {
        "cpu" | "memory" => Some((name, "requests", name.as_str())),
        "requests.cpu" | "requests.memory" => Some((name, "requests", name.split_once('.')?.1)),
        "limits.cpu" | "limits.memory" => Some((name, "limits", name.split_once('.')?.1)),
        _ => None,
    });
    for (name, what, resource) in wanted {
        if pod["spec"]["resources"][what].get(resource).is_some() {
            continue;
        }
        for c in &containers {
            if c["resources"][what].get(resource).is_none() {
                let container = c["name"].as_str().unwrap_or_default().to_owned();
                out.entry(name.clone()).or_default().insert(container);
            }
        }
    }
    out
}

/// Whether a quota covers an object: one with scopes covers only pods that are in all of them.
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = spec["scopes"].as_array().into_iter().flatten();
    let chosen = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut scopes = plain.map(|s| (s, &Value::Null)).chain(chosen.map(|e| (&e["scopeName"], e)));
    let is_pod = group.is_empty() && plural == "pods";
    scopes.all(|(scope, e)| is_pod && in_scope(object, scope.as_str().unwrap_or_default(), e))
}

fn in_scope(pod: &Value, scope: &str, expression: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    let best_effort = || {
        let lists = ["initContainers", "containers"];
        let mut all = lists.iter().filter_map(|l| spec[*l].as_array()).flatten();
        all.all(|c| {
            let names = ["requests", "limits"].map(|w| amounts(&c["resources"][w]));
            names.iter().all(|a| !a.contains_key("cpu") && !a.contains_key("memory"))
        })
    };
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            priority(spec["priorityClassName"].as_str().unwrap_or_default(), expression)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn priority(class: &str, e: &Value) -> bool {
    let named = || e["values"].as_array().is_some_and(|v| v.iter().any(|v| v == class));
    match e["operator"].as_str() {
        Some("In") => named(),
        Some("NotIn") => !named(),
        Some("DoesNotExist") => class.is_empty(),
        _ => !class.is_empty(),
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|n| !n.is_empty())
            || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |f: &str| affinity[*kind][f].as_array().cloned().unwrap_or_default();
        list("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|t| crosses(&t["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(a: &Amounts) -> String {
        a.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_pod_uses_what_its_containers_ask_for_together() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "1"}}});
        let mut pod =
            json!({"spec": {"containers": [c("100m"), c("200m")], "initContainers": [c("500m")]}});
        let expected = "count/pods=1 cpu=500m limits.cpu=2 pods=1 requests.cpu=500m";
        assert_eq!(text(&usage("", "pods", &pod)), expected);
        pod["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
        assert_eq!(pod_total(&pod, "requests")["cpu"].to_string(), "800m");
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(text(&usage("", "pods", &pod)), "count/pods=1");
    }

    #[test]
    fn other_kinds_count_by_their_names() {
        let service =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            text(&usage("", "services", &service)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        assert_eq!(text(&usage("apps", "deployments", &json!({}))), "count/deployments.apps=1");
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        let used = usage("", "persistentvolumeclaims", &claim);
        assert_eq!(used["fast.storageclass.storage.k8s.io/requests.storage"].to_string(), "1Gi");
    }

    #[test]
    fn scopes_choose_pods() {
        let pod = json!({"spec": {"containers": [{"name": "c"}], "priorityClassName": "high"}});
        let quota = |spec: Value| json!({ "spec": spec });
        let check = |spec: Value| covers(&quota(spec), "", "pods", &pod);
        assert!(check(json!({})) && check(json!({"scopes": ["BestEffort", "NotTerminating"]})));
        assert!(!check(json!({"scopes": ["NotBestEffort"]})));
        let class = |op: &str| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": op, "values": ["high"]}]}})
        };
        assert!(check(class("In")) && !check(class("NotIn")));
        assert!(!covers(&quota(json!({"scopes": ["BestEffort"]})), "", "services", &pod));
    }
}
