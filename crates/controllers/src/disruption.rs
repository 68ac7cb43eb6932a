//! Disruption budgets: how many of their pods may go now.

use crate::object::{is_deleting, meta, number};
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
            let scales = scales(cx, &own).await;
            let (status, forgets) = count(cx, &budget, &own, &scales);
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

/// The status of a budget, and the seconds until one of its evictions is forgotten.
fn count(
    cx: &Context,
    budget: &Value,
    own: &[Object],
    scales: &BTreeMap<String, i64>,
) -> (Value, Option<u64>) {
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
    let expected = expected(&cx.world, spec, own, scales);
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
    let old = budget["status"]["conditions"].as_array().and_then(|l| l.first());
    let since = match old.filter(|c| c["status"] == word) {
        Some(c) => c["lastTransitionTime"].clone(),
        None => json!(cx.timestamp()),
    };
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
    status["conditions"] = json!([{"type": "DisruptionAllowed", "status": word, "observedGeneration": generation,
        "lastTransitionTime": since, "reason": reason, "message": ""}]);
    (status, next)
}

/// How many pods there should be: those that are there, or where a share is asked for, what their owners say.
fn expected(world: &World, spec: &Value, own: &[Object], scales: &BTreeMap<String, i64>) -> i64 {
    let there = i64::try_from(own.len()).unwrap_or(i64::MAX);
    let share = spec.get("maxUnavailable").is_some()
        || spec.get("minAvailable").is_some_and(Value::is_string);
    if !share {
        return there;
    }
    let mut owners: BTreeMap<String, i64> = BTreeMap::new();
    for pod in own {
        if let Some((uid, replicas)) = scale(world, pod) {
            owners.insert(uid, replicas);
        } else if let Some(m) = crate::object::manager(pod)
            && let Some((uid, n)) = m["uid"].as_str().and_then(|u| scales.get_key_value(u))
        {
            owners.insert(uid.clone(), *n);
        }
    }
    owners.values().sum()
}

/// What owners of other kinds say of their size, by their uids: they have a scale, or they do not count.
async fn scales(cx: &Context, own: &[Object]) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for pod in own.iter().filter(|p| scale(&cx.world, p).is_none()) {
        let Some(m) = crate::object::manager(pod) else { continue };
        let word = |f: &str| m[f].as_str().unwrap_or_default();
        let Some((resource, true)) = cx.lookup(word("apiVersion"), word("kind")) else { continue };
        // Built-in kinds of one group only have none.
        if out.contains_key(word("uid")) || resource.group().is_empty() {
            continue;
        }
        let (version, ns) = (word("apiVersion"), meta(pod, "namespace"));
        let path =
            format!("/apis/{version}/namespaces/{ns}/{}/{}/scale", resource.plural, word("name"));
        if let Ok(scale) = cx.ask("GET", &path, &[], Value::Null).await {
            out.insert(word("uid").to_owned(), number(&scale, "/spec/replicas").unwrap_or(1));
        }
    }
    out
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
