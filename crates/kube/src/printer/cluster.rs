//! Cells of nodes, volumes, policies, events and what else a cluster is run by.

use super::{Map, Value, joined, json, limited, list, number, or, since, text, time};

/// What a component says of its health.
fn health<'a>(o: &'a Value, field: &str) -> &'a str {
    let found = list(o, "/conditions").iter().find(|c| c["type"] == "Healthy");
    found.and_then(|c| c[field].as_str()).unwrap_or_default()
}

/// The cell of an expression, if it is one of these.
pub(super) fn cell(expression: &str, o: &Value, now: i64) -> Option<Value> {
    Some(json!(match expression {
        "@data_count" => {
            let count = |f: &str| o[f].as_object().map_or(0, Map::len);
            return Some(json!(count("data") + count("binaryData")));
        }
        "@component_status" => match health(o, "status") {
            "True" => "Healthy".to_owned(),
            "False" => "Unhealthy".to_owned(),
            _ => "Unknown".to_owned(),
        },
        "@component_message" => health(o, "message").to_owned(),
        "@component_error" => health(o, "error").to_owned(),
        "@node_status" => node_status(o),
        "@node_roles" => node_roles(o),
        "@internal_ip" => address(o, "InternalIP"),
        "@node_external_ip" => address(o, "ExternalIP"),
        "@os_image" => or(text(o, "/status/nodeInfo/osImage"), "<unknown>").to_owned(),
        "@kernel" => or(text(o, "/status/nodeInfo/kernelVersion"), "<unknown>").to_owned(),
        "@runtime" =>
            or(text(o, "/status/nodeInfo/containerRuntimeVersion"), "<unknown>").to_owned(),
        "@phase" => {
            let gone = !text(o, "/metadata/deletionTimestamp").is_empty();
            if gone { "Terminating".to_owned() } else { text(o, "/status/phase").to_owned() }
        }
        "@access_modes" => modes(list(o, "/spec/accessModes")),
        "@claim_modes" => {
            if text(o, "/spec/volumeName").is_empty() {
                String::new()
            } else {
                modes(list(o, "/status/accessModes"))
            }
        }
        "@claim_capacity" => {
            if text(o, "/spec/volumeName").is_empty() {
                String::new()
            } else {
                text(o, "/status/capacity/storage").to_owned()
            }
        }
        "@claim" => match o.pointer("/spec/claimRef") {
            Some(c) => format!("{}/{}", text(c, "/namespace"), text(c, "/name")),
            None => String::new(),
        },
        "@attributes_class" => or(text(o, "/spec/volumeAttributesClassName"), "<unset>").to_owned(),
        "@expansion" => return Some(json!(o["allowVolumeExpansion"] == true)),
        "@attached" => return Some(json!(o["status"]["attached"] == true)),
        "@global_default" => return Some(json!(o["globalDefault"] == true)),
        "@value" => return Some(json!(number(o, "/value"))),
        "@drivers" => return Some(json!(list(o, "/spec/drivers").len())),
        "@webhooks" => return Some(json!(list(o, "/webhooks").len())),
        "@validations" => return Some(json!(list(o, "/spec/validations").len())),
        "@unset" => "<unset>".to_owned(),
        "@modes" => joined(list(o, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str)),
        _ => return policy(expression, o, now),
    }))
}

fn policy(expression: &str, o: &Value, now: i64) -> Option<Value> {
    Some(json!(match expression {
        "@role_ref" => format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")),
        "@users" => subjects(o, "User"),
        "@groups" => subjects(o, "Group"),
        "@accounts" => subjects(o, "ServiceAccount"),
        "@hpa_reference" => {
            format!(
                "{}/{}",
                text(o, "/spec/scaleTargetRef/kind"),
                text(o, "/spec/scaleTargetRef/name")
            )
        }
        "@hpa_targets" => hpa_targets(o),
        "@hpa_min" => o.pointer("/spec/minReplicas").map_or("<unset>".to_owned(), Value::to_string),
        "@hpa_replicas" => return Some(json!(number(o, "/status/currentReplicas"))),
        "@min_available" => loose(o, "/spec/minAvailable"),
        "@max_unavailable" => loose(o, "/spec/maxUnavailable"),
        "@allowed" => return Some(json!(number(o, "/status/disruptionsAllowed"))),
        "@quota_request" => quota(o, false),
        "@quota_limit" => quota(o, true),
        "@csr_duration" => match o.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
            Some(s) => time::age(s),
            None => "<none>".to_owned(),
        },
        "@csr_condition" => csr_condition(o),
        "@api_service" => match o.pointer("/spec/service") {
            Some(s) => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
            None => "Local".to_owned(),
        },
        "@api_available" => api_available(o),
        "@distinguisher" => or(text(o, "/spec/distinguisherMethod/type"), "<none>").to_owned(),
        "@missing_level" => {
            let c = list(o, "/status/conditions").iter().find(|c| c["type"] == "Dangling");
            c.map_or("?", |c| text(c, "/status")).to_owned()
        }
        "@shares" => level(o, "nominalConcurrencyShares"),
        "@queues" => queue(o, "queues"),
        "@hand" => queue(o, "handSize"),
        "@queue_length" => queue(o, "queueLengthLimit"),
        "@param_kind" => match o.pointer("/spec/paramKind") {
            Some(p) => format!("{}/{}", text(p, "/apiVersion"), text(p, "/kind")),
            None => "<unset>".to_owned(),
        },
        "@param_ref" => match o.pointer("/spec/paramRef") {
            Some(p) => format!("{}/{}", or(text(p, "/namespace"), "*"), or(text(p, "/name"), "*")),
            None => "<unset>".to_owned(),
        },
        "@claim_state" => claim_state(o),
        _ => return event(expression, o, now),
    }))
}

fn event(expression: &str, o: &Value, now: i64) -> Option<Value> {
    // Both groups name these fields differently.
    let either = |a: &str, b: &str| or(text(o, a), text(o, b)).to_owned();
    let first = either("/firstTimestamp", "/deprecatedFirstTimestamp");
    let last = either("/lastTimestamp", "/deprecatedLastTimestamp");
    let time = text(o, "/eventTime");
    Some(json!(match expression {
        "@last_seen" => {
            let series = text(o, "/series/lastObservedTime");
            since(or(or(series, &last), or(time, &first)), now)
        }
        "@first_seen" => since(or(&first, time), now),
        "@event_object" => {
            let kind = either("/involvedObject/kind", "/regarding/kind").to_lowercase();
            format!("{kind}/{}", either("/involvedObject/name", "/regarding/name"))
        }
        "@event_source" => {
            let component = either("/source/component", "/deprecatedSource/component");
            let host = either("/source/host", "/deprecatedSource/host");
            let reporter = either("/reportingComponent", "/reportingController");
            joined([or(&component, &reporter), host.as_str()].into_iter().filter(|s| !s.is_empty()))
        }
        "@event_message" => either("/message", "/note").trim().to_owned(),
        "@event_count" => {
            let count = number(o, "/count").max(number(o, "/deprecatedCount"));
            return Some(json!(count.max(number(o, "/series/count")).max(1)));
        }
        _ => return None,
    }))
}

fn node_status(o: &Value) -> String {
    let ready = list(o, "/status/conditions").iter().find(|c| c["type"] == "Ready");
    let mut out = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o["spec"]["unschedulable"] == true {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn node_roles(o: &Value) -> String {
    let labels = o.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if k == "kubernetes.io/role" => v.as_str(),
            None => None,
        })
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(o: &Value, kind: &str) -> String {
    let found = list(o, "/status/addresses").iter().find(|a| a["type"] == kind);
    or(found.map_or("", |a| text(a, "/address")), "<none>").to_owned()
}

fn modes(list: &[Value]) -> String {
    let short = |m: &Value| match m.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    joined(list.iter().map(short))
}

fn subjects(o: &Value, kind: &str) -> String {
    let one = |s: &Value| match text(s, "/namespace") {
        "" => text(s, "/name").to_owned(),
        ns => format!("{ns}/{}", text(s, "/name")),
    };
    let all = list(o, "/subjects").iter().filter(|s| s["kind"] == kind).map(one);
    all.collect::<Vec<_>>().join(", ")
}

fn loose(o: &Value, path: &str) -> String {
    match o.pointer(path) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => "N/A".to_owned(),
    }
}

fn hpa_targets(o: &Value) -> String {
    let metrics = list(o, "/spec/metrics");
    let current = list(o, "/status/currentMetrics");
    let one = |(i, m): (usize, &Value)| {
        let part = match text(m, "/type") {
            "Resource" => "resource",
            "Pods" => "pods",
            "Object" => "object",
            "External" => "external",
            "ContainerResource" => "containerResource",
            _ => return "<unknown type>".to_owned(),
        };
        let name = match part {
            "resource" | "containerResource" => format!("{}: ", text(&m[part], "/name")),
            _ => String::new(),
        };
        let now = current.get(i).map(|c| &c[part]["current"]);
        match m[part]["target"]["averageUtilization"].as_i64() {
            Some(target) => {
                let seen = now.and_then(|c| c["averageUtilization"].as_i64());
                let seen = seen.map_or("<unknown>".to_owned(), |n| format!("{n}%"));
                format!("{name}{seen}/{target}%")
            }
            None => {
                let target =
                    or(text(&m[part], "/target/averageValue"), text(&m[part], "/target/value"));
                let seen = now.map_or("", |c| or(text(c, "/averageValue"), text(c, "/value")));
                format!("{name}{}/{target}", or(seen, "<unknown>"))
            }
        }
    };
    let all: Vec<String> = metrics.iter().enumerate().map(one).collect();
    limited(all, 2, ", ", "<none>")
}

fn quota(o: &Value, limits: bool) -> String {
    let hard = o.pointer("/status/hard").and_then(Value::as_object);
    let mut parts: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(k, _)| k.starts_with("limits.") == limits)
        .map(|(k, v)| {
            let used = o["status"]["used"][k].as_str().unwrap_or("0");
            format!("{k}: {used}/{}", v.as_str().unwrap_or("0"))
        })
        .collect();
    parts.sort();
    parts.join(", ")
}

fn csr_condition(o: &Value) -> String {
    let has = |t: &str| list(o, "/status/conditions").iter().any(|c| c["type"] == t);
    let mut out = match () {
        () if has("Denied") => "Denied".to_owned(),
        () if has("Approved") => "Approved".to_owned(),
        () => "Pending".to_owned(),
    };
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !text(o, "/status/certificate").is_empty() {
        out.push_str(",Issued");
    }
    out
}

fn api_available(o: &Value) -> String {
    let c = list(o, "/status/conditions").iter().find(|c| c["type"] == "Available");
    match c {
        Some(c) if c["status"] == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, "/status"), text(c, "/reason")),
        None => "Unknown".to_owned(),
    }
}

fn level(o: &Value, field: &str) -> String {
    let part = if o["spec"]["type"] == "Exempt" { "exempt" } else { "limited" };
    o["spec"][part].get(field).map_or("<none>".to_owned(), Value::to_string)
}

fn queue(o: &Value, field: &str) -> String {
    let v = o.pointer("/spec/limited/limitResponse/queuing").and_then(|q| q.get(field));
    v.map_or("<none>".to_owned(), Value::to_string)
}

fn claim_state(o: &Value) -> String {
    let mut out = Vec::new();
    if !text(o, "/metadata/deletionTimestamp").is_empty() {
        out.push("deleted");
    }
    if o.pointer("/status/allocation").is_some() {
        out.push("allocated");
    }
    if !list(o, "/status/reservedFor").is_empty() {
        out.push("reserved");
    }
    if out.is_empty() { "pending".to_owned() } else { out.join(",") }
}
