//! The two live conversions between built-in versions: autoscaling v1 and v2, events of two groups.

use serde_json::{Map, Value, json};

fn take(m: &mut Map<String, Value>, key: &str) -> Option<Value> {
    m.swap_remove(key).filter(|v| !v.is_null())
}

fn put(m: &mut Map<String, Value>, key: &str, v: Option<Value>) {
    if let Some(v) = v {
        m.insert(key.to_owned(), v);
    }
}

fn set_kind(v: &mut Value, api_version: &str) {
    if let Some(m) = v.as_object_mut() {
        m.insert("apiVersion".to_owned(), api_version.into());
    }
}

/// Fields of an event that only changed their names: core's first.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(mut v: Value, back: bool, api_version: &str) -> Value {
    if let Some(m) = v.as_object_mut() {
        for (core, other) in EVENT {
            let (from, to) = if back { (other, core) } else { (core, other) };
            let moved = take(m, from);
            put(m, to, moved);
        }
    }
    set_kind(&mut v, api_version);
    v
}

/// From a core event to one of `events.k8s.io`. The result is not in normal form.
pub fn event_from_core(v: Value) -> Value {
    rename(v, false, "events.k8s.io/v1")
}

/// From an event of `events.k8s.io` to a core event. The result is not in normal form.
pub fn event_to_core(v: Value) -> Value {
    rename(v, true, "v1")
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// From autoscaling/v1 to v2: what v1 has no fields for comes back from annotations.
pub fn autoscaler_to_v2(mut v: Value) -> Value {
    set_kind(&mut v, "autoscaling/v2");
    let Some(m) = v.as_object_mut() else { return v };
    let mut notes = Map::new();
    if let Some(a) = m.get_mut("metadata").and_then(|m| m.get_mut("annotations"))
        && let Some(a) = a.as_object_mut()
    {
        for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
            if let Some(Value::String(text)) = a.shift_remove(key) {
                put(&mut notes, key, serde_json::from_str(&text).ok());
            }
        }
    }
    if let Some(spec) = m.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = Vec::new();
        if let Some(percent) = take(spec, "targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics
                .push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if let Some(Value::Array(more)) = notes.swap_remove(METRICS) {
            metrics.extend(more);
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), Value::Array(metrics));
        }
        let behavior = notes.swap_remove(BEHAVIOR);
        put(spec, "behavior", behavior);
    }
    if let Some(status) = m.get_mut("status").and_then(Value::as_object_mut) {
        let mut current = Vec::new();
        if let Some(percent) = take(status, "currentCPUUtilizationPercentage") {
            let now = json!({"averageUtilization": percent});
            current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": now}}));
        }
        if let Some(Value::Array(more)) = notes.swap_remove(CURRENT) {
            current.extend(more);
        }
        if !current.is_empty() {
            status.insert("currentMetrics".to_owned(), Value::Array(current));
        }
        let conditions = notes.swap_remove(CONDITIONS);
        put(status, "conditions", conditions);
    }
    v
}

/// From autoscaling/v2 to v1: what v1 has no fields for goes into annotations.
pub fn autoscaler_from_v2(mut v: Value) -> Value {
    set_kind(&mut v, "autoscaling/v1");
    let Some(m) = v.as_object_mut() else { return v };
    let mut notes: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = m.get_mut("spec").and_then(Value::as_object_mut) {
        let (percent, rest) =
            split_cpu(take(spec, "metrics"), "/resource/target/averageUtilization");
        put(spec, "targetCPUUtilizationPercentage", percent);
        notes.extend(rest.map(|r| (METRICS, r)));
        notes.extend(take(spec, "behavior").map(|b| (BEHAVIOR, b)));
    }
    if let Some(status) = m.get_mut("status").and_then(Value::as_object_mut) {
        let (percent, rest) =
            split_cpu(take(status, "currentMetrics"), "/resource/current/averageUtilization");
        put(status, "currentCPUUtilizationPercentage", percent);
        notes.extend(rest.map(|r| (CURRENT, r)));
        notes.extend(take(status, "conditions").map(|c| (CONDITIONS, c)));
    }
    if !notes.is_empty() {
        let metadata = m.entry("metadata").or_insert_with(|| json!({}));
        for (key, note) in notes {
            metadata["annotations"][key] = Value::String(note.to_string());
        }
    }
    v
}

/// The first CPU percentage of a list of metrics, and the other metrics.
fn split_cpu(list: Option<Value>, path: &str) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(mut list)) = list else { return (None, None) };
    let cpu = |m: &Value| {
        m["type"] == "Resource" && m["resource"]["name"] == "cpu" && m.pointer(path).is_some()
    };
    let percent = list.iter().position(cpu).and_then(|i| list.remove(i).pointer(path).cloned());
    (percent, (!list.is_empty()).then_some(Value::Array(list)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_survive_the_way_through_v1() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h"}, "spec": {"metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}}}], "behavior": {"scaleUp": {}}}});
        let v1 = autoscaler_from_v2(v2.clone());
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        let mut back = autoscaler_to_v2(v1);
        back["metadata"].as_object_mut().unwrap().shift_remove("annotations");
        assert_eq!(back, v2);
    }

    #[test]
    fn events_survive_the_way_through_the_other_group() {
        let core = json!({"apiVersion": "v1", "involvedObject": {"name": "p"}, "message": "m", "count": 2, "type": "Normal"});
        let other = event_from_core(core.clone());
        assert_eq!(other["regarding"]["name"], "p");
        assert_eq!(event_to_core(other), core);
    }
}
