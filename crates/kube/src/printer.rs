//! Tables: the columns that `kubectl get` shows of each kind, and the cells of one object.

mod cluster;
mod pods;

use crate::selector::Labels;
use crate::time;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// A column's head.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    ty: &'static str,
    priority: i64,
    expression: &'static str,
}

impl Column {
    const fn new(name: &'static str, expression: &'static str) -> Column {
        Column { name, ty: "string", priority: 0, expression }
    }

    /// As tables carry it.
    pub fn to_value(&self) -> Value {
        let format = if self.expression == "@name" { "name" } else { "" };
        json!({"name": self.name, "type": self.ty, "format": format,
            "description": self.description(), "priority": self.priority})
    }

    fn description(&self) -> String {
        match self.expression {
            "@name" => "Name of the object, unique within its namespace and kind.".to_owned(),
            "@age" => "Time since the object was created.".to_owned(),
            path if path.starts_with('/') => {
                format!("The object's {}.", path.trim_start_matches('/').replace('/', "."))
            }
            _ => format!("{} of the object.", self.name),
        }
    }
}

type Table = HashMap<(&'static str, &'static str), Vec<Column>>;

/// The tables are part of the program: a mistake in them is a panic that the unit tests see.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut out = Table::new();
        for line in include_str!("../tables/columns.txt").lines().filter(|l| !l.starts_with(';')) {
            let mut parts = line.split('|');
            let (group, kind) = parts.next().and_then(|k| k.split_once('/')).unwrap_or_default();
            let mut columns = vec![Column::new("Name", "@name")];
            columns.extend(parts.map(|p| {
                let words: Vec<&str> = p.split(';').collect();
                let [name, ty, priority, expression] = words[..] else { panic!("{line}") };
                Column { name, ty, priority: priority.parse().unwrap_or(0), expression }
            }));
            out.insert((group, kind), columns);
        }
        out
    })
}

/// The columns of a kind.
pub fn columns(group: &str, kind: &str) -> Vec<Column> {
    // Both groups show events alike.
    let group = if kind == "Event" { "" } else { group };
    let known =
        table().iter().find(|((g, k), _)| *g == group && *k == kind).map(|(_, c)| c.clone());
    known.unwrap_or_else(|| vec![Column::new("Name", "@name"), Column::new("Age", "@age")])
}

/// The cells of one object; `now` is seconds since 1970.
pub fn cells(group: &str, kind: &str, object: &Value, now: i64) -> Vec<Value> {
    columns(group, kind).iter().map(|c| cell(c, object, now)).collect()
}

/// What a row says about its object beyond its cells.
pub fn row_conditions(group: &str, kind: &str, object: &Value) -> Vec<Value> {
    if (group, kind) != ("", "Pod") {
        return Vec::new();
    }
    let done = |reason: &str, message: &str| {
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    };
    match text(object, "/status/phase") {
        "Succeeded" => done("Succeeded", "The pod has completed successfully."),
        "Failed" => done("Failed", "The pod failed."),
        _ => Vec::new(),
    }
}

fn text<'a>(v: &'a Value, path: &str) -> &'a str {
    v.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(v: &'a Value, path: &str) -> &'a [Value] {
    v.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(v: &Value, path: &str) -> i64 {
    v.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn or<'a>(s: &'a str, other: &'a str) -> &'a str {
    if s.is_empty() { other } else { s }
}

fn joined<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// How long ago a time was.
fn since(text: &str, now: i64) -> String {
    match time::parse_micros(text) {
        Some(t) => time::age(now - t.div_euclid(1_000_000)),
        None => "<unknown>".to_owned(),
    }
}

fn pairs(v: Option<&Value>) -> String {
    let empty = Map::new();
    let m = v.and_then(Value::as_object).unwrap_or(&empty);
    if m.is_empty() { "<none>".to_owned() } else { Labels::from_map(m).to_string() }
}

fn selector(v: Option<&Value>) -> String {
    match v.and_then(Labels::from_object) {
        Some(l) if !l.is_empty() => l.to_string(),
        _ => "<none>".to_owned(),
    }
}

fn cell(c: &Column, o: &Value, now: i64) -> Value {
    if c.expression.starts_with('/') {
        return match (o.pointer(c.expression), c.ty) {
            (Some(v), _) if !v.is_null() => v.clone(),
            (_, "integer") => json!(0),
            (_, "boolean") => json!(false),
            _ if c.priority > 0 && !c.expression.contains("fieldPath") => json!("<none>"),
            _ => json!(""),
        };
    }
    if let Some(v) = pods::cell(c.expression, o, now) {
        return v;
    }
    workload(c.expression, o, now)
        .or_else(|| network(c.expression, o))
        .or_else(|| cluster::cell(c.expression, o, now))
        .unwrap_or_else(|| json!("<none>"))
}

fn workload(expression: &str, o: &Value, now: i64) -> Option<Value> {
    let spec = |path: &str, field: &str| {
        json!(joined(list(o, path).iter().map(|c| c[field].as_str().unwrap_or_default())))
    };
    Some(match expression {
        "@name" => json!(text(o, "/metadata/name")),
        "@age" => json!(since(text(o, "/metadata/creationTimestamp"), now)),
        "@ready_of_desired" => {
            let desired = number(o, "/spec/replicas");
            json!(format!("{}/{desired}", number(o, "/status/readyReplicas")))
        }
        "@containers" => spec("/spec/template/spec/containers", "name"),
        "@images" => spec("/spec/template/spec/containers", "image"),
        "@cron_containers" => spec("/spec/jobTemplate/spec/template/spec/containers", "name"),
        "@cron_images" => spec("/spec/jobTemplate/spec/template/spec/containers", "image"),
        "@cron_selector" => json!(selector(o.pointer("/spec/jobTemplate/spec/selector"))),
        "@selector" => json!(selector(o.pointer("/spec/selector"))),
        "@map_selector" => json!(pairs(o.pointer("/spec/selector"))),
        "@node_selector" => json!(pairs(o.pointer("/spec/template/spec/nodeSelector"))),
        "@controller" => {
            let owner =
                list(o, "/metadata/ownerReferences").iter().find(|r| r["controller"] == true)?;
            let (group, kind) = (text(owner, "/apiVersion"), text(owner, "/kind").to_lowercase());
            let group = group.split_once('/').map_or(String::new(), |(g, _)| format!(".{g}"));
            json!(format!("{kind}{group}/{}", text(owner, "/name")))
        }
        "@job_status" => json!(job_status(o)),
        "@job_completions" => json!(job_completions(o)),
        "@job_duration" => json!(job_duration(o, now)),
        "@suspend" => json!(if o["spec"]["suspend"] == true { "True" } else { "False" }),
        "@active" => json!(list(o, "/status/active").len()),
        "@last_schedule" => match text(o, "/status/lastScheduleTime") {
            "" => json!("<none>"),
            t => json!(since(t, now)),
        },
        _ => return None,
    })
}

fn condition(o: &Value, kind: &str) -> bool {
    list(o, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn job_status(o: &Value) -> &'static str {
    match () {
        () if condition(o, "Complete") => "Complete",
        () if condition(o, "Failed") => "Failed",
        () if !text(o, "/metadata/deletionTimestamp").is_empty() => "Terminating",
        () if condition(o, "Suspended") => "Suspended",
        () if condition(o, "FailureTarget") => "FailureTarget",
        () if condition(o, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn job_completions(o: &Value) -> String {
    let done = number(o, "/status/succeeded");
    match o.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(n) => format!("{done}/{n}"),
        None => match number(o, "/spec/parallelism") {
            n if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        },
    }
}

fn job_duration(o: &Value, now: i64) -> String {
    let seconds = |t: &str| time::parse_micros(t).map(|t| t.div_euclid(1_000_000));
    match (seconds(text(o, "/status/startTime")), seconds(text(o, "/status/completionTime"))) {
        (None, _) => String::new(),
        (Some(start), Some(end)) => time::age(end - start),
        (Some(start), None) => time::age(now - start),
    }
}

fn network(expression: &str, o: &Value) -> Option<Value> {
    Some(json!(match expression {
        "@cluster_ip" => or(text(o, "/spec/clusterIP"), "<none>").to_owned(),
        "@external_ip" => external_ip(o),
        "@service_ports" => service_ports(o),
        "@endpoints" => endpoints(o),
        "@slice_ports" => {
            let ports = list(o, "/ports")
                .iter()
                .map(|p| p["port"].as_i64().map_or("*".to_owned(), |n| n.to_string()));
            limited(ports.collect(), 3, ",", "<unset>")
        }
        "@slice_endpoints" => {
            let all = list(o, "/endpoints").iter().flat_map(|e| list(e, "/addresses"));
            limited(all.filter_map(Value::as_str).map(str::to_owned).collect(), 3, ",", "<unset>")
        }
        "@ingress_class" => or(text(o, "/spec/ingressClassName"), "<none>").to_owned(),
        "@ingress_hosts" => {
            let hosts: Vec<String> = list(o, "/spec/rules")
                .iter()
                .map(|r| or(text(r, "/host"), "*").to_owned())
                .collect();
            limited(hosts, 3, ",", "*")
        }
        "@load_balancer" => load_balancer(o),
        "@ingress_ports" => {
            if list(o, "/spec/tls").is_empty() { "80".to_owned() } else { "80, 443".to_owned() }
        }
        "@ingress_parameters" => match o.pointer("/spec/parameters") {
            Some(p) => {
                let group = text(p, "/apiGroup");
                let dot = if group.is_empty() { String::new() } else { format!(".{group}") };
                format!("{}{dot}/{}", text(p, "/kind"), text(p, "/name"))
            }
            None => "<none>".to_owned(),
        },
        "@pod_selector" => selector(o.pointer("/spec/podSelector")),
        "@cidrs" => joined(list(o, "/spec/cidrs").iter().filter_map(Value::as_str)),
        "@parent_ref" => match o.pointer("/spec/parentRef") {
            Some(p) =>
                format!("{}/{}/{}", text(p, "/resource"), text(p, "/namespace"), text(p, "/name")),
            None => "<none>".to_owned(),
        },
        _ => return None,
    }))
}

fn limited(items: Vec<String>, max: usize, by: &str, none: &str) -> String {
    match items.len() {
        0 => none.to_owned(),
        n if n > max => format!("{} + {} more...", items[..max].join(by), n - max),
        _ => items.join(by),
    }
}

fn load_balancer(o: &Value) -> String {
    let one = |i: &Value| {
        let ip = text(i, "/ip");
        or(ip, text(i, "/hostname")).to_owned()
    };
    list(o, "/status/loadBalancer/ingress").iter().map(one).collect::<Vec<_>>().join(",")
}

fn external_ip(o: &Value) -> String {
    let given = joined(list(o, "/spec/externalIPs").iter().filter_map(Value::as_str));
    match text(o, "/spec/type") {
        "ExternalName" => text(o, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balanced = load_balancer(o);
            match (balanced.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (true, false) => given,
                (false, true) => balanced,
                (false, false) => format!("{balanced},{given}"),
            }
        }
        _ if given.is_empty() => "<none>".to_owned(),
        _ => given,
    }
}

fn service_ports(o: &Value) -> String {
    let one = |p: &Value| {
        let protocol = or(text(p, "/protocol"), "TCP");
        match number(p, "/nodePort") {
            0 => format!("{}/{protocol}", number(p, "/port")),
            n => format!("{}:{n}/{protocol}", number(p, "/port")),
        }
    };
    let all: Vec<String> = list(o, "/spec/ports").iter().map(one).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn endpoints(o: &Value) -> String {
    let mut out = Vec::new();
    for s in list(o, "/subsets") {
        for a in list(s, "/addresses") {
            let ports = list(s, "/ports");
            if ports.is_empty() {
                out.push(text(a, "/ip").to_owned());
            }
            out.extend(ports.iter().map(|p| format!("{}:{}", text(a, "/ip"), number(p, "/port"))));
        }
    }
    limited(out, 3, ",", "<none>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(group: &str, kind: &str, object: Value, expected: Value) {
        assert_eq!(Value::Array(cells(group, kind, &object, 1000)), expected);
    }

    #[test]
    fn every_expression_of_the_table_is_known() {
        for ((group, kind), columns) in table() {
            for c in columns.iter().filter(|c| c.expression.starts_with('@')) {
                let o = json!({"metadata": {"ownerReferences": [{"controller": true}]}});
                let known = pods::cell(c.expression, &o, 0)
                    .or_else(|| workload(c.expression, &o, 0))
                    .or_else(|| network(c.expression, &o))
                    .or_else(|| cluster::cell(c.expression, &o, 0));
                assert!(known.is_some(), "{group}/{kind} {}", c.expression);
            }
        }
    }

    #[test]
    fn cells_are_those_of_the_reference_server() {
        let t = "1970-01-01T00:16:37Z";
        check(
            "",
            "ConfigMap",
            json!({"metadata": {"name": "a", "creationTimestamp": t}, "data": {"k": "w"}}),
            json!(["a", 1, "3s"]),
        );
        check(
            "apps",
            "Deployment",
            json!({"metadata": {"name": "web", "creationTimestamp": t}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
                "template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}),
            json!(["web", "1/2", 2, 0, "3s", "c", "nginx", "a=b"]),
        );
        check(
            "",
            "Service",
            json!({"metadata": {"name": "s", "creationTimestamp": t}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}}),
            json!(["s", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP", "3s", "<none>"]),
        );
        check(
            "x",
            "Custom",
            json!({"metadata": {"name": "c", "creationTimestamp": t}}),
            json!(["c", "3s"]),
        );
    }
}
