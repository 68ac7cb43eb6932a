//! What is kept without effect, and said to be.

use crate::api::Call;
use serde_json::Value;

/// Fields of workloads that are kept and that no loop acts on yet.
const FIELDS: &[(&str, &str, &str)] = &[
    ("batch", "jobs", "/spec/podFailurePolicy"),
    ("batch", "jobs", "/spec/successPolicy"),
    ("batch", "jobs", "/spec/backoffLimitPerIndex"),
    ("batch", "jobs", "/spec/maxFailedIndexes"),
    ("batch", "cronjobs", "/spec/timeZone"),
    ("apps", "daemonsets", "/spec/updateStrategy/rollingUpdate/maxSurge"),
    ("apps", "statefulsets", "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted"),
    ("apps", "statefulsets", "/spec/persistentVolumeClaimRetentionPolicy/whenScaled"),
    ("apps", "statefulsets", "/spec/updateStrategy/rollingUpdate/maxUnavailable"),
    ("autoscaling", "horizontalpodautoscalers", "/spec/maxReplicas"),
];

/// Whether a value asks for what happens anyway.
fn is_usual(v: &Value) -> bool {
    matches!(v.as_str(), Some("Retain" | "UTC" | "Etc/UTC" | "0" | "0%")) || v.as_i64() == Some(0)
}

/// Warns of the fields of a new object that nothing acts on.
pub(super) fn warn(call: &Call<'_>, object: &Value, old: Option<&Value>) {
    if old.is_some() {
        return;
    }
    let (group, plural) = (call.kind.group(), call.kind.resource.plural);
    for (_, _, field) in FIELDS.iter().filter(|(g, p, _)| (*g, *p) == (group, plural)) {
        if object.pointer(field).is_some_and(|v| !is_usual(v)) {
            let field = field.trim_start_matches('/').replace('/', ".");
            call.warn(format!("{field}: the loops of this server do not act on it yet"));
        }
    }
}
