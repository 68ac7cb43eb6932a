//! Rules of events in their own group, which is stricter than the core group.

use crate::status::Problem;
use serde_json::{Value, json};

/// Judges an event that was sent to `events.k8s.io`; it comes in the form that is stored.
pub(super) fn strict(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    if old.is_some() {
        return;
    }
    let text = |field: &str| new[field].as_str().unwrap_or_default();
    if text("eventTime").is_empty() {
        out.push(Problem::required("eventTime", ""));
    } else {
        for (stored, field) in [
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if text(stored).is_empty() {
                out.push(Problem::required(field, ""));
            }
        }
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        let why = format!("has invalid value: {}", text("type"));
        out.push(Problem::invalid("type", &json!(""), why));
    }
    let unset = |field: &str| match &new[field] {
        Value::Null => true,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Object(m) => m.is_empty(),
        _ => false,
    };
    for (stored, field) in [
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("source", "deprecatedSource"),
    ] {
        if !unset(stored) {
            out.push(Problem::invalid(field, &json!(""), "needs to be unset"));
        }
    }
}
