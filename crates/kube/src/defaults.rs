//! Defaulting: what the API fills in before it validates and stores an object.

use crate::schema::{Schema, Ty, Type, TypeId};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Fills in the defaults of an object in normal form. The result is in normal form only after
/// [`crate::typed::normalize`] has put the fields in order.
pub fn apply(ty: TypeId, value: &mut Value) {
    let t = Schema::builtin().ty(ty);
    if let Value::Object(m) = value {
        structure(t, m);
    }
}

type Table = HashMap<&'static str, Vec<(&'static str, Value)>>;

/// The tables are part of the program: a mistake in them is a panic that the unit tests see.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut out = Table::new();
        for line in include_str!("../tables/defaults.txt").lines().filter(|l| !l.starts_with(';')) {
            let mut words = line.split(' ');
            let ty = words.next().unwrap_or_default();
            let pair = |w: &'static str| {
                let (field, v) = w.split_once('=').unwrap_or((w, "null"));
                (field, serde_json::from_str(v).unwrap_or_else(|e| panic!("{ty} {w}: {e}")))
            };
            out.insert(ty, words.map(pair).collect());
        }
        out
    })
}

fn structure(t: &Type, m: &mut Map<String, Value>) {
    before(t.name, m);
    for (field, default) in table().get(t.name).into_iter().flatten() {
        set(m, field, default.clone());
    }
    for f in &t.fields {
        if let Some(default) = f.default {
            // An empty text is what the field prints anyway.
            if default != "\"\"" {
                set(m, f.name, serde_json::from_str(default).unwrap_or_default());
            }
        }
    }
    for f in &t.fields {
        if let Some(v) = m.get_mut(f.name) {
            descend(&f.ty, v);
        }
    }
    after(t.name, m);
}

fn descend(ty: &Ty, v: &mut Value) {
    match (ty, v) {
        (Ty::Struct(id), Value::Object(m)) => structure(Schema::builtin().ty(*id), m),
        (Ty::List(item), Value::Array(list)) => list.iter_mut().for_each(|v| descend(item, v)),
        (Ty::Map(item), Value::Object(m)) => m.values_mut().for_each(|v| descend(item, v)),
        _ => {}
    }
}

/// Sets a field that is absent or prints as nothing.
fn set(m: &mut Map<String, Value>, field: &str, default: Value) {
    let unset = match m.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty() && default != json!(""),
        _ => false,
    };
    if unset {
        m.insert(field.to_owned(), default);
    }
}

fn text<'a>(m: &'a Map<String, Value>, field: &str) -> &'a str {
    m.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(m: &Map<String, Value>, field: &str) -> bool {
    m.get(field).is_some_and(|v| !v.is_null())
}

/// Defaults that decide what defaults below them are.
fn before(ty: &str, m: &mut Map<String, Value>) {
    match ty {
        "apps.DeploymentStrategy" | "apps.DaemonSetUpdateStrategy" => rolling(m),
        "apps.StatefulSetUpdateStrategy" => rolling(m),
        "core.Volume" if m.keys().all(|k| k == "name") => {
            m.insert("emptyDir".into(), json!({}));
        }
        "batch.JobSpec" => job(m),
        "networking.NetworkPolicySpec" if !is_set(m, "policyTypes") => {
            let egress = m.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            m.insert("policyTypes".into(), types);
        }
        "flowcontrol.LimitedPriorityLevelConfiguration" => {
            let response = m.entry("limitResponse").or_insert_with(|| json!({}));
            if let Some(r) = response.as_object_mut() {
                set(r, "type", json!("Queue"));
                if text(r, "type") == "Queue" {
                    set(r, "queuing", json!({}));
                }
            }
        }
        "core.ReplicationController" => controller_labels(m),
        "apiextensions.CustomResourceDefinitionSpec" => crate::custom::complete_definition(m),
        _ => {}
    }
}

fn rolling(m: &mut Map<String, Value>) {
    if matches!(text(m, "type"), "" | "RollingUpdate") {
        set(m, "rollingUpdate", json!({}));
    }
}

fn job(m: &mut Map<String, Value>) {
    if !is_set(m, "completions") && !is_set(m, "parallelism") {
        m.insert("completions".into(), json!(1));
    }
    set(m, "parallelism", json!(1));
    let limit = if is_set(m, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(m, "backoffLimit", json!(limit));
    let policy = if is_set(m, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(m, "podReplacementPolicy", json!(policy));
}

fn controller_labels(m: &mut Map<String, Value>) {
    let labels = m.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
    let Some(labels) = labels.filter(|l| l.as_object().is_some_and(|l| !l.is_empty())) else {
        return;
    };
    if let Some(spec) = m.get_mut("spec").and_then(Value::as_object_mut) {
        set(spec, "selector", labels.clone());
    }
    if let Some(metadata) = m.get_mut("metadata").and_then(Value::as_object_mut) {
        set(metadata, "labels", labels);
    }
}

/// Defaults that look at what is below them or beside them.
fn after(ty: &str, m: &mut Map<String, Value>) {
    match ty {
        "core.Container" | "core.EphemeralContainer" => {
            let policy = if follows_latest(text(m, "image")) { "Always" } else { "IfNotPresent" };
            set(m, "imagePullPolicy", json!(policy));
        }
        "core.Pod" => pod(m),
        "core.ServiceSpec" => service(m),
        "core.PersistentVolumeClaim" => {
            if let Some(status) = m.get_mut("status").and_then(Value::as_object_mut) {
                set(status, "phase", json!("Pending"));
            }
        }
        "core.Namespace" => {
            let name = m.get("metadata").and_then(|v| v.get("name")).cloned();
            let metadata = m.get_mut("metadata").and_then(Value::as_object_mut);
            if let (Some(name @ Value::String(_)), Some(metadata)) = (name, metadata) {
                let labels = metadata.entry("labels").or_insert_with(|| json!({}));
                if let Some(labels) = labels.as_object_mut() {
                    labels.insert("kubernetes.io/metadata.name".into(), name);
                }
            }
        }
        "core.LimitRangeItem" => limit_range(m),
        "core.NodeStatus" => {
            if let (false, Some(capacity)) = (is_set(m, "allocatable"), m.get("capacity").cloned())
            {
                m.insert("allocatable".into(), capacity);
            }
        }
        "batch.Job" => {
            let labels =
                m.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
            let metadata = m.get_mut("metadata").and_then(Value::as_object_mut);
            if let (Some(labels), Some(metadata)) = (labels, metadata) {
                set(metadata, "labels", labels);
            }
        }
        "rbac.Subject" if matches!(text(m, "kind"), "User" | "Group") => {
            set(m, "apiGroup", json!("rbac.authorization.k8s.io"));
        }
        "rbac.RoleRef" => set(m, "apiGroup", json!("rbac.authorization.k8s.io")),
        "apiextensions.CustomResourceDefinitionSpec" => custom_resource(m),
        "autoscaling.HorizontalPodAutoscalerSpec" => autoscaler(m),
        _ => {}
    }
}

/// Whether an image names no fixed version.
fn follows_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// What only pods get, not the templates of pods.
fn pod(m: &mut Map<String, Value>) {
    let Some(spec) = m.get_mut("spec").and_then(Value::as_object_mut) else { return };
    set(spec, "enableServiceLinks", json!(true));
    let host = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["containers", "initContainers"] {
        for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(c);
            for p in c.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if host && p.get("hostPort").is_none() {
                    p["hostPort"] = p["containerPort"].clone();
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (k, v) in limits {
            requests.entry(k).or_insert(v);
        }
    }
}

fn service(m: &mut Map<String, Value>) {
    let kind = text(m, "type").to_owned();
    if text(m, "sessionAffinity") == "ClientIP" {
        let config = m.entry("sessionAffinityConfig").or_insert_with(|| json!({}));
        if config.pointer("/clientIP/timeoutSeconds").is_none() {
            *config = json!({"clientIP": {"timeoutSeconds": 10800}});
        }
    }
    if text(m, "sessionAffinity") == "None" {
        m.shift_remove("sessionAffinityConfig");
    }
    for p in m.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(p) = p.as_object_mut() else { continue };
        let unset = matches!(p.get("targetPort"), None | Some(Value::Null))
            || p.get("targetPort") == Some(&json!(0))
            || p.get("targetPort") == Some(&json!(""));
        if unset {
            let port = p.get("port").cloned().unwrap_or_default();
            p.insert("targetPort".into(), port);
        }
    }
    let external = m.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        set(m, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind != "ExternalName" {
        set(m, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(m, "allocateLoadBalancerNodePorts", json!(true));
    }
}

fn limit_range(m: &mut Map<String, Value>) {
    if text(m, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
    {
        let Some(Value::Object(source)) = m.get(from).cloned() else { continue };
        let target = m.entry(to).or_insert_with(|| json!({}));
        if let Some(target) = target.as_object_mut() {
            for (k, v) in source {
                target.entry(k).or_insert(v);
            }
        }
    }
}

fn custom_resource(m: &mut Map<String, Value>) {
    if let Some(names) = m.get_mut("names").and_then(Value::as_object_mut) {
        let kind = text(names, "kind").to_owned();
        set(names, "singular", json!(kind.to_lowercase()));
        if !kind.is_empty() {
            set(names, "listKind", json!(format!("{kind}List")));
        }
    }
    set(m, "conversion", json!({"strategy": "None"}));
}

fn autoscaler(m: &mut Map<String, Value>) {
    let empty = m.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if empty {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        m.insert("metrics".into(), json!([metric]));
    }
    let Some(behavior) = m.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15}]});
    let down = json!({"selectPolicy": "Max", "policies": [
        {"type": "Percent", "value": 100, "periodSeconds": 15}]});
    for (field, rules) in [("scaleUp", up), ("scaleDown", down)] {
        let slot = behavior.entry(field).or_insert_with(|| json!({}));
        if let (Some(slot), Value::Object(rules)) = (slot.as_object_mut(), rules) {
            for (k, v) in rules {
                set(slot, &k, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::normalize;

    fn run(ty: &str, v: Value) -> Value {
        let id = Schema::builtin().id(ty).unwrap();
        let mut v = normalize(id, v, &mut Vec::new()).unwrap();
        apply(id, &mut v);
        normalize(id, v, &mut Vec::new()).unwrap()
    }

    #[test]
    fn the_table_names_fields_that_exist() {
        for (ty, fields) in table() {
            let id = Schema::builtin().id(ty).unwrap_or_else(|| panic!("no type {ty}"));
            for (field, _) in fields {
                assert!(Schema::builtin().ty(id).field(field).is_some(), "{ty}.{field}");
            }
        }
    }

    #[test]
    fn a_deployment_becomes_what_the_reference_server_makes_of_it() {
        let v = run(
            "apps.Deployment",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}),
        );
        let spec = r#"{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"nginx","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always"}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler"}},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}},"revisionHistoryLimit":10,"progressDeadlineSeconds":600}"#;
        assert_eq!(v["spec"].to_string(), spec);
        assert_eq!(v["status"], json!({}));
    }

    #[test]
    fn images_without_a_fixed_tag_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            let v = run("core.Container", json!({"name": "c", "image": image}));
            assert_eq!(v["imagePullPolicy"], policy, "{image}");
        }
    }

    #[test]
    fn services_and_pods_get_what_depends_on_their_other_fields() {
        let v = run("core.ServiceSpec", json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(v["ports"], json!([{"protocol": "TCP", "port": 80, "targetPort": 80}]));
        assert_eq!(v["externalTrafficPolicy"], "Cluster");
        let v = run(
            "core.Pod",
            json!({"spec": {"volumes": [{"name": "v"}], "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}),
        );
        assert_eq!(v["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
        assert_eq!(v["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(v["spec"]["enableServiceLinks"], true);
        let v = run("core.Probe", json!({"httpGet": {"port": 80}}));
        assert_eq!(v["httpGet"], json!({"path": "/", "port": 80, "scheme": "HTTP"}));
    }

    #[test]
    fn defaults_are_a_fixed_point() {
        for (id, t) in Schema::builtin().types() {
            let once = run(t.name, crate::typed::zero(id));
            assert_eq!(run(t.name, once.clone()), once, "{}", t.name);
        }
    }
}
