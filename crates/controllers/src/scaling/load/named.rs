//! Metrics that have names: those of pods, of another object, and from outside, as the servers of
//! `custom.metrics.k8s.io` and `external.metrics.k8s.io` give them.

use super::{Failure, Group, TOLERANCE, Target, Usage, ceil, count, own_pods, quantity, why};
use crate::object::{meta, text};
use crate::pods;
use crate::run::Context;
use serde_json::{Value, json};
use std::collections::HashMap;
use wharf_client::Object;
use wharf_kube::quantity::Quantity;
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;
use wharf_kube::time;

/// The versions of the custom metrics API, the newest first.
const CUSTOM: [&str; 2] = ["v1beta2", "v1beta1"];

/// What is asked for replicas that are `current` in the spec and `there` in the status.
pub(super) struct Question<'a> {
    pub(super) scaler: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) selector: &'a str,
    pub(super) current: i64,
    pub(super) there: i64,
}

/// How many replicas a metric asks for, why, and its status.
pub(super) async fn metric(
    cx: &Context,
    q: &Question<'_>,
) -> Result<(i64, String, Value), Failure> {
    let (field, reason) = match text(q.spec, "/type") {
        "Pods" => ("pods", "FailedGetPodsMetric"),
        "Object" => ("object", "FailedGetObjectMetric"),
        _ => ("external", "FailedGetExternalMetric"),
    };
    let source = &q.spec[field];
    let name = text(source, "/metric/name");
    let outcome = match field {
        "pods" => of_pods(cx, q, source).await,
        "object" => of_object(cx, q, source).await,
        _ => from_outside(cx, q, source).await,
    };
    let (n, current) = outcome.map_err(|e| match field {
        "external" => (reason, format!("failed to get {name} external metric value: {e}")),
        _ => (reason, format!("failed to get {field} metric value: {e}")),
    })?;
    let what = match field {
        "pods" => format!("pods metric {name}"),
        "object" => format!("{} metric {name}", text(source, "/describedObject/kind")),
        _ => format!("external metric {name}({})", selector(source)),
    };
    let mut of = json!({"metric": source["metric"], "current": current});
    if field == "object" {
        of["describedObject"] = source["describedObject"].clone();
    }
    let mut status = json!({"type": q.spec["type"]});
    status[field] = of;
    Ok((n, why(&what, n, q.current), status))
}

/// The labels that a metric must have.
fn selector(source: &Value) -> String {
    Labels::from_object(&source["metric"]["selector"]).map(|l| l.to_string()).unwrap_or_default()
}

fn millis(v: &Value) -> Option<i64> {
    Some(Quantity::parse(v.as_str()?).ok()?.millis())
}

async fn of_pods(cx: &Context, q: &Question<'_>, source: &Value) -> Result<(i64, Value), String> {
    let (ns, name) = (meta(q.scaler, "namespace"), text(source, "/metric/name"));
    let unable = |e: String| format!("unable to get metric {name}: {e}");
    let wanted = selector(source);
    let chosen = [("labelSelector", q.selector), ("metricLabelSelector", &wanted)];
    let list = custom(cx, &format!("namespaces/{ns}/pods/*/{name}"), &chosen).await;
    let used = usages(&list.map_err(unable)?);
    if used.is_empty() {
        return Err(unable("no metrics returned from custom metrics API".to_owned()));
    }
    let own = own_pods(cx, ns, q.selector)?;
    let target = millis(&source["target"]["averageValue"]).ok_or("the target has no average")?;
    let group = Group::of(&own, &used, "", None, cx.now())?;
    let (n, _) = group.replicas(Target::Average(target), q.current)?;
    Ok((n, json!({"averageValue": quantity(group.average())})))
}

/// What each pod's metric says.
fn usages(list: &Value) -> HashMap<String, Usage> {
    let items = list["items"].as_array().into_iter().flatten();
    let one = |i: &Value| {
        let at = time::parse_micros(text(i, "/timestamp")).unwrap_or(0) / 1_000_000;
        let window = i["windowSeconds"].as_i64().unwrap_or(60);
        let name = text(i, "/describedObject/name").to_owned();
        Some((name, Usage { amount: millis(&i["value"])?, at, window }))
    };
    items.filter_map(one).collect()
}

async fn of_object(cx: &Context, q: &Question<'_>, source: &Value) -> Result<(i64, Value), String> {
    let (ns, name) = (meta(q.scaler, "namespace"), text(source, "/metric/name"));
    let of = &source["describedObject"];
    let (kind, object) = (text(of, "/kind"), text(of, "/name"));
    let unable = |e: String| format!("unable to get metric {name}: {e} on {kind} {ns}/{object}");
    let version = text(of, "/apiVersion");
    let version = if version.is_empty() { "v1" } else { version };
    let found = cx.lookup(version, kind);
    let (resource, namespaced) = found
        .ok_or_else(|| unable(format!("no matches for kind {kind:?} in version {version:?}")))?;
    let plural = match resource.group() {
        "" => resource.plural.to_string(),
        group => format!("{}.{group}", resource.plural),
    };
    let path = match (namespaced, plural.as_str()) {
        (_, "namespaces") => format!("namespaces/{object}/metrics/{name}"),
        (true, _) => format!("namespaces/{ns}/{plural}/{object}/{name}"),
        (false, _) => format!("{plural}/{object}/{name}"),
    };
    let wanted = selector(source);
    let list = custom(cx, &path, &[("metricLabelSelector", &wanted)]).await.map_err(unable)?;
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let value = match items {
        [one] => {
            millis(&one["value"]).ok_or_else(|| unable("its value is no quantity".to_owned()))?
        }
        _ => {
            let why = format!(
                "the custom metrics API server returned {} results when we asked for exactly one",
                items.len()
            );
            return Err(unable(why));
        }
    };
    decide(cx, q, source, value)
}

async fn from_outside(
    cx: &Context,
    q: &Question<'_>,
    source: &Value,
) -> Result<(i64, Value), String> {
    let (ns, name) = (meta(q.scaler, "namespace"), text(source, "/metric/name"));
    let unable = |e: String| format!("unable to get external metric {ns}/{name}: {e}");
    let wanted = selector(source);
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{ns}/{name}");
    let list = cx.ask("GET", &path, &[("labelSelector", &wanted)], Value::Null).await;
    let list = list.map_err(|f| unable(said(&f, "external")))?;
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return Err(unable("no metrics returned from external metrics API".to_owned()));
    }
    decide(cx, q, source, items.iter().filter_map(|i| millis(&i["value"])).sum())
}

/// Asks the custom metrics API in a version that somebody serves.
async fn custom(cx: &Context, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
    let mut failure = String::new();
    for version in CUSTOM {
        let path = format!("/apis/custom.metrics.k8s.io/{version}/{path}");
        match cx.ask("GET", &path, query, Value::Null).await {
            Ok(list) => return Ok(list),
            Err(f) => {
                failure = said(&f, "custom");
                if !is_unserved(&f) {
                    break;
                }
            }
        }
    }
    Err(failure)
}

fn is_unserved(f: &Fault) -> bool {
    f.code == 404 && f.message.contains("could not find the requested resource")
}

/// What a failure means to people: an API that nobody serves is named.
fn said(f: &Fault, which: &str) -> String {
    if is_unserved(f) {
        return format!(
            "unable to fetch metrics from {which} metrics API: nobody serves {which}.metrics.k8s.io"
        );
    }
    format!("unable to fetch metrics from {which} metrics API: {f}")
}

/// What one value asks for, as a whole or for each pod.
fn decide(
    cx: &Context,
    q: &Question<'_>,
    source: &Value,
    value: i64,
) -> Result<(i64, Value), String> {
    let target = &source["target"];
    if let Some(whole) = millis(&target["value"]) {
        let own = own_pods(cx, meta(q.scaler, "namespace"), q.selector)?;
        let ready = |p: &&Object| text(p, "/status/phase") == "Running" && pods::is_ready(p);
        let n = by_whole(value, whole, q.current, own.iter().filter(ready).count());
        return Ok((n, json!({"value": quantity(value)})));
    }
    let each =
        millis(&target["averageValue"]).ok_or("the target has neither a value nor an average")?;
    let average = ceil(ratio(value, q.there.max(1)));
    Ok((by_each(value, each, q.there), json!({"averageValue": quantity(average)})))
}

#[allow(clippy::cast_precision_loss, reason = "ratios for a comparison with a tolerance")]
fn ratio(a: i64, b: i64) -> f64 {
    a as f64 / b.max(1) as f64
}

/// Replicas where the whole value should be `target`.
fn by_whole(value: i64, target: i64, current: i64, ready: usize) -> i64 {
    let ratio = ratio(value, target);
    match current {
        0 => ceil(ratio),
        _ if (1.0 - ratio).abs() <= TOLERANCE => current,
        _ => ceil(ratio * count(ready)),
    }
}

/// Replicas where each should have `target` of the value.
fn by_each(value: i64, target: i64, there: i64) -> i64 {
    let near = (1.0 - ratio(value, target.saturating_mul(there))).abs() <= TOLERANCE;
    if near { there } else { ceil(ratio(value, target)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_a_whole_and_for_each_ask_for_replicas() {
        // value, target, current, ready
        for (case, expected) in [
            ((20_000, 10_000, 3, 3), 6),
            ((20_000, 10_000, 3, 2), 4),
            ((10_500, 10_000, 3, 3), 3),
            ((1_000, 10_000, 3, 3), 1),
            ((25_000, 10_000, 0, 0), 3),
        ] {
            assert_eq!(by_whole(case.0, case.1, case.2, case.3), expected, "{case:?}");
        }
        // value, target, there
        for (case, expected) in [
            ((20_000, 5_000, 2), 4),
            ((10_500, 5_000, 2), 2),
            ((0, 5_000, 2), 0),
            ((5_000, 5_000, 0), 1),
        ] {
            assert_eq!(by_each(case.0, case.1, case.2), expected, "{case:?}");
        }
    }
}
