//! Disruption budgets: how many of their pods may go now.

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_client::resources::{
    BUDGETS, DEPLOYMENTS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;
use wharf_kube::time;

/// Seconds after which an eviction that did not end in a deletion is forgotten.
const EVICTION: i64 = 120;

/// The loop; its keys are budgets.
pub struct Budgets;

fn covers(budget: &Value, pod: &Value) -> bool {
    Labels::from_object(&budget["spec"]["selector"]).is_some_and(|s| s.matches(pods::labels(pod)))
}

impl Loop for Budgets {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        let o = &change.object;
        match &*change.resource {
            r if *r == BUDGETS && !change.gone => vec![Key::of(o)],
            r if *r == PODS => {
                let forms: Vec<&Object> = before.object.iter().chain([o]).collect();
                let all = world.inside(&BUDGETS, meta(o, "namespace"));
                all.iter()
                    .filter(|b| forms.iter().any(|p| covers(b, p)))
                    .map(|b| Key::of(b))
                    .collect()
            }
            // The number of pods that are expected comes from here.
            r if [DEPLOYMENTS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS]
                .contains(r) =>
            {
                world.inside(&BUDGETS, meta(o, "namespace")).iter().map(|b| Key::of(b)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let budget = cx.world.get(&BUDGETS, key).filter(|b| !is_deleting(b));
            let Some(budget) = budget else { return Ok(Next::Change) };
            let all = cx.world.inside(&PODS, &key.namespace);
            let own: Vec<Object> =
                all.into_iter().filter(|p| covers(&budget, p) && !pods::is_finished(p)).collect();
            if own.is_empty() {
                cx.tell(&budget, false, "NoPods", "No matching pods found").await;
            }
            let (status, forgets) = match expected(cx, &budget, &own).await {
                Ok(expected) => count(cx, &budget, &own, expected),
                Err(why) => {
                    let told = format!("Failed to calculate the number of expected pods: {why}");
                    cx.tell(&budget, true, "CalculateExpectedPodCountFailed", &told).await;
                    (failed(cx, &budget, &why), None)
                }
            };
            if status != budget["status"] {
                let mut next = (*budget).clone();
                next["status"] = status;
                let at = At { resource: &BUDGETS, namespace: &key.namespace, name: &key.name };
                cx.write(at, Some("status"), Write::Replace(next)).await?;
            }
            Ok(forgets.map_or(Next::Change, |s| Next::After(Duration::from_secs(s))))
        })
    }
}

/// The status of a budget whose pods cannot be counted: none of them may go.
fn failed(cx: &Context, budget: &Value, why: &str) -> Value {
    let mut status = budget["status"].clone();
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        if field == "disruptionsAllowed" || status.get(field).is_none() {
            status[field] = json!(0);
        }
    }
    status["conditions"] = json!([condition(cx, budget, "False", "SyncFailed", why)]);
    status
}

/// The condition that says whether pods may go.
fn condition(cx: &Context, budget: &Value, word: &str, reason: &str, message: &str) -> Value {
    let old = budget["status"]["conditions"].as_array().and_then(|l| l.first());
    let since = match old.filter(|c| c["status"] == word) {
        Some(c) => c["lastTransitionTime"].clone(),
        None => json!(cx.timestamp()),
    };
    json!({"type": "DisruptionAllowed", "status": word, "observedGeneration": budget["metadata"]["generation"],
        "lastTransitionTime": since, "reason": reason, "message": message})
}

/// The status of a budget, and the seconds until one of its evictions is forgotten.
fn count(cx: &Context, budget: &Value, own: &[Object], expected: i64) -> (Value, Option<u64>) {
    let mut disrupted = BTreeMap::new();
    let mut next = None;
    for (name, at) in budget["status"]["disruptedPods"].as_object().into_iter().flatten() {
        let there = own.iter().any(|p| meta(p, "name") == name && !is_deleting(p));
        let since = at.as_str().and_then(time::parse_micros).unwrap_or(0) / 1_000_000;
        let left = since + EVICTION - cx.now();
        if there && left > 0 {
            disrupted.insert(name.clone(), at.clone());
            let left = left.unsigned_abs();
            next = Some(next.map_or(left, |n: u64| n.min(left)));
        }
    }
    let spec = &budget["spec"];
    let bound = |v: &Value| pods::share(v, expected, true).unwrap_or(0);
    let desired = match (spec.get("maxUnavailable"), spec.get("minAvailable")) {
        (Some(n), _) => expected - bound(n).min(expected),
        (None, Some(n)) => bound(n),
        (None, None) => expected - 1,
    };
    let healthy = |p: &&Object| {
        pods::is_ready(p) && !is_deleting(p) && !disrupted.contains_key(meta(p, "name"))
    };
    let current = i64::try_from(own.iter().filter(healthy).count()).unwrap_or(i64::MAX);
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let (word, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let generation = &budget["metadata"]["generation"];
    let mut status = json!({"observedGeneration": generation});
    if !disrupted.is_empty() {
        status["disruptedPods"] = json!(disrupted);
    }
    for (field, n) in [
        ("disruptionsAllowed", allowed),
        ("currentHealthy", current),
        ("desiredHealthy", desired.max(0)),
        ("expectedPods", expected),
    ] {
        status[field] = json!(n);
    }
    status["conditions"] = json!([condition(cx, budget, word, reason, "")]);
    (status, next)
}

/// How many pods there should be: those that are there, or where a share is asked for, what their owners say.
async fn expected(cx: &Context, budget: &Value, own: &[Object]) -> Result<i64, String> {
    let spec = &budget["spec"];
    let share = spec.get("maxUnavailable").is_some()
        || spec.get("minAvailable").is_some_and(Value::is_string);
    if !share {
        return Ok(i64::try_from(own.len()).unwrap_or(i64::MAX));
    }
    let mut owners: BTreeMap<String, i64> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in own {
        let Some(m) = crate::object::manager(pod) else {
            unmanaged = true;
            continue;
        };
        if let Some((uid, replicas)) = scale(&cx.world, pod) {
            owners.insert(uid, replicas);
        } else if !owners.contains_key(text(m, "/uid")) {
            owners.insert(text(m, "/uid").to_owned(), other_scale(cx, pod, m).await?);
        }
    }
    if unmanaged {
        let selector = Labels::from_object(&spec["selector"]).map(|l| l.to_string());
        let told = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            selector.unwrap_or_default()
        );
        cx.tell(budget, true, "UnmanagedPods", &told).await;
    }
    Ok(owners.values().sum())
}

/// What a pod's owner of another kind says of its size.
async fn other_scale(cx: &Context, pod: &Value, manager: &Value) -> Result<i64, String> {
    let (version, kind) = (text(manager, "/apiVersion"), text(manager, "/kind"));
    let Some((resource, _)) = cx.lookup(version, kind) else {
        return Err(format!("no matches for kind {kind:?} in version {version:?}"));
    };
    let (ns, name) = (meta(pod, "namespace"), text(manager, "/name"));
    let none = || format!("found no controllers for pod {:?}", meta(pod, "name"));
    let group = resource.group();
    let root = if group.is_empty() { "api" } else { "apis" };
    let path = format!("/{root}/{version}/namespaces/{ns}/{}/{name}/scale", resource.plural);
    match cx.ask("GET", &path, &[], Value::Null).await {
        Ok(scale) if meta(&scale, "uid") != text(manager, "/uid") => Err(none()),
        Ok(scale) => Ok(number(&scale, "/spec/replicas").unwrap_or(1)),
        // Where there is such a path the object is named as missing.
        Err(f) if f.code == 404 && f.message.ends_with("not found") => Err(none()),
        Err(f) if f.code == 404 => {
            let dot = if group.is_empty() { "" } else { "." };
            Err(format!("{}{dot}{group} does not implement the scale subresource", resource.plural))
        }
        Err(f) => Err(f.message),
    }
}

/// The object at the top of a pod's owners that has a scale, and what it says.
fn scale(world: &World, pod: &Value) -> Option<(String, i64)> {
    let owner = |o: &Value| -> Option<Object> {
        let m = crate::object::manager(o)?;
        let resource = match m["kind"].as_str()? {
            "ReplicaSet" => REPLICA_SETS,
            "ReplicationController" => REPLICATION_CONTROLLERS,
            "StatefulSet" => STATEFUL_SETS,
            "Deployment" => DEPLOYMENTS,
            _ => return None,
        };
        world.get(&resource, &Key::new(meta(o, "namespace"), m["name"].as_str()?))
    };
    let first = owner(pod)?;
    let top = owner(&first).unwrap_or(first);
    Some((meta(&top, "uid").to_owned(), number(&top, "/spec/replicas").unwrap_or(1)))
}
