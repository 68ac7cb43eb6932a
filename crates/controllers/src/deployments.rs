//! Deployments: from one template of pods to the next, by ReplicaSets.

mod status;

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
use wharf_client::{At, Change, Deletion, Object, Propagation, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const MOST: &str = "deployment.kubernetes.io/max-replicas";

/// The loop; its keys are Deployments.
pub struct Deployments;

impl Loop for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == DEPLOYMENTS => vec![Key::of(&change.object)],
            r if *r == REPLICA_SETS => {
                let mut keys = pods::managers("Deployment", &change.object, before.object.as_ref());
                let selector = |o: &Value| Labels::from_object(&o["spec"]["selector"]);
                if !change.gone {
                    keys.extend(pods::takers(world, &DEPLOYMENTS, &change.object, selector));
                }
                keys
            }
            // Recreate waits for the last pod to be gone.
            r if *r == PODS && change.gone => {
                let sets = pods::managers("ReplicaSet", &change.object, None);
                let set = sets.first().and_then(|k| world.get(&REPLICA_SETS, k));
                set.map(|s| pods::managers("Deployment", &s, None)).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(d) = cx.world.get(&DEPLOYMENTS, key) else { return Ok(Next::Change) };
            let Some(selector) = Labels::from_object(&d["spec"]["selector"]) else {
                return Ok(Next::Change);
            };
            let sets = claim(cx, &d, &selector).await?;
            if is_deleting(&d) {
                return status::report(cx, &d, &sets).await;
            }
            let paused = d["spec"]["paused"] == true;
            let found = newest(&d, &sets).cloned();
            if found.is_none() && !paused {
                begin(cx, &d, &sets).await?;
                return Ok(Next::After(Duration::ZERO));
            }
            if let Some(new) = found.as_ref().filter(|_| !paused)
                && revise(cx, &d, new, &sets).await?
            {
                return Ok(Next::After(Duration::ZERO));
            }
            let wanted = plan(&d, found.as_ref(), &sets, &cx.world);
            let mut moved = false;
            for (set, replicas) in &wanted {
                moved |= scale(cx, &d, set, *replicas).await?;
            }
            if moved {
                return Ok(Next::After(Duration::ZERO));
            }
            forget(cx, &d, found.as_ref(), &sets).await?;
            status::report(cx, &d, &sets).await
        })
    }
}

fn replicas(o: &Value) -> i64 {
    number(o, "/spec/replicas").unwrap_or(1)
}

/// The ReplicaSets that a Deployment manages, after it took in those without a manager that it selects and
/// let go of those that it selects no more.
async fn claim(cx: &Context, d: &Value, selector: &Labels) -> Result<Vec<Object>, Fault> {
    let all = cx.world.managed(&REPLICA_SETS, meta(d, "uid"));
    let (mut own, strays): (Vec<Object>, Vec<Object>) =
        all.into_iter().partition(|s| selector.matches(pods::labels(s)));
    for set in &strays {
        pods::release(cx, &REPLICA_SETS, set, meta(d, "uid")).await?;
    }
    if is_deleting(d) {
        return Ok(own);
    }
    let orphan = |s: &Object| {
        crate::object::manager(s).is_none() && !is_deleting(s) && selector.matches(pods::labels(s))
    };
    let all = cx.world.inside(&REPLICA_SETS, meta(d, "namespace"));
    let orphans = all.into_iter().filter(orphan).collect();
    let reference = pods::reference("apps/v1", "Deployment", d);
    own.extend(pods::adopt(cx, &DEPLOYMENTS, d, &reference, &REPLICA_SETS, orphans).await?);
    Ok(own)
}

fn at(set: &Value) -> At<'_> {
    static SETS: wharf_client::Resource = REPLICA_SETS;
    At { resource: &SETS, namespace: meta(set, "namespace"), name: meta(set, "name") }
}

/// The template without the label that tells ReplicaSets apart.
fn plain(template: &Value) -> Value {
    let mut t = template.clone();
    if let Some(labels) = t.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH);
    }
    t
}

/// The ReplicaSet of the present template.
fn newest<'a>(d: &Value, sets: &'a [Object]) -> Option<&'a Object> {
    let wanted = plain(&d["spec"]["template"]);
    let mut fitting: Vec<&Object> =
        sets.iter().filter(|s| plain(&s["spec"]["template"]) == wanted).collect();
    fitting.sort_by_key(|s| meta(s, "creationTimestamp").to_owned());
    fitting.first().copied()
}

fn revision(set: &Value) -> i64 {
    let text = set["metadata"]["annotations"][REVISION].as_str();
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// Annotations that a ReplicaSet takes over from its Deployment.
fn inherited(d: &Value, revision: i64, most: i64) -> Value {
    let mut out = serde_json::Map::new();
    for (k, v) in d["metadata"]["annotations"].as_object().into_iter().flatten() {
        let own = k == "kubectl.kubernetes.io/last-applied-configuration"
            || k.starts_with("deployment.kubernetes.io/");
        if !own {
            out.insert(k.clone(), v.clone());
        }
    }
    out.insert(REVISION.to_owned(), json!(revision.to_string()));
    out.insert(DESIRED.to_owned(), json!(replicas(d).to_string()));
    out.insert(MOST.to_owned(), json!(most.to_string()));
    Value::Object(out)
}

/// How many pods there may be more, and how many may be missing.
fn fenceposts(d: &Value) -> (i64, i64) {
    let strategy = &d["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return (0, 0);
    }
    let rolling = &strategy["rollingUpdate"];
    let surge = pods::share(&rolling["maxSurge"], replicas(d), true).unwrap_or(0);
    let missing = pods::share(&rolling["maxUnavailable"], replicas(d), false).unwrap_or(0);
    if surge == 0 && missing == 0 { (0, 1) } else { (surge, missing.min(replicas(d))) }
}

/// Makes the ReplicaSet of a template that has none yet.
async fn begin(cx: &Context, d: &Value, sets: &[Object]) -> Result<(), Fault> {
    let collisions = number(d, "/status/collisionCount").unwrap_or(0);
    let hash = pods::hash(&plain(&d["spec"]["template"]), collisions);
    let (ns, name) = (meta(d, "namespace"), meta(d, "name"));
    let (surge, _) = fenceposts(d);
    let next = sets.iter().map(|s| revision(s)).max().unwrap_or(0) + 1;
    let mut template = d["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = d["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    let old: i64 = sets.iter().map(|s| replicas(s)).sum();
    let first = if d["spec"]["strategy"]["type"] == "Recreate" {
        if old > 0 { 0 } else { replicas(d) }
    } else {
        (replicas(d) + surge - old).clamp(0, replicas(d))
    };
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": format!("{name}-{hash}"), "namespace": ns, "labels": template["metadata"]["labels"],
            "annotations": inherited(d, next, replicas(d) + surge),
            "ownerReferences": [pods::reference("apps/v1", "Deployment", d)]},
        "spec": {"replicas": first, "selector": selector, "template": template, "minReadySeconds": d["spec"]["minReadySeconds"]}});
    let mut status = d["status"].clone();
    match cx.create(&REPLICA_SETS, ns, set).await {
        Err(f) if f.reason == "AlreadyExists" => {
            // Another's set has the name: the next try uses another.
            status["collisionCount"] = json!(collisions + 1);
        }
        Err(f) => {
            let message = f.message.clone();
            if number(d, "/spec/progressDeadlineSeconds").is_some() {
                say(&mut status, "Progressing", "False", "ReplicaSetCreateError", &message, cx);
                store(cx, d, status).await?;
            }
            return Err(f);
        }
        Ok(made) => {
            if first > 0 {
                let told =
                    format!("Scaled up replica set {} from 0 to {first}", meta(&made, "name"));
                cx.tell(d, false, "ScalingReplicaSet", &told).await;
            }
            if number(d, "/spec/progressDeadlineSeconds").is_none() {
                return Ok(());
            }
            let message = format!("Created new replica set {:?}", meta(&made, "name"));
            say(&mut status, "Progressing", "True", "NewReplicaSetCreated", &message, cx);
        }
    }
    store(cx, d, status).await
}

/// Sets a condition of a status; the time of its last update is now in any case.
fn say(status: &mut Value, kind: &str, word: &str, reason: &str, message: &str, cx: &Context) {
    let mut list = status["conditions"].as_array().cloned().unwrap_or_default();
    let now = cx.timestamp();
    pods::set_condition(&mut list, kind, word, reason, message, &now);
    for c in list.iter_mut().filter(|c| c["type"] == kind) {
        c["lastUpdateTime"] = json!(now);
    }
    status["conditions"] = Value::Array(list);
}

/// Writes a status, if it is another.
async fn store(cx: &Context, d: &Value, status: Value) -> Result<(), Fault> {
    if crate::replicas::same_numbers(&status, &d["status"]) {
        return Ok(());
    }
    let mut next = d.clone();
    next["status"] = status;
    let at = At { resource: &DEPLOYMENTS, namespace: meta(d, "namespace"), name: meta(d, "name") };
    cx.write(at, Some("status"), Write::Replace(next)).await.map(drop)
}

/// Counts a rollout, or a return to an older template; says whether it had to.
async fn revise(cx: &Context, d: &Value, new: &Object, sets: &[Object]) -> Result<bool, Fault> {
    let others = sets.iter().filter(|s| meta(s, "uid") != meta(new, "uid"));
    let most = others.map(|s| revision(s)).max().unwrap_or(0);
    let wanted = if revision(new) > most { revision(new).max(1) } else { most + 1 };
    let mut notes = inherited(d, wanted, replicas(d) + fenceposts(d).0);
    if revision(new) != wanted && revision(new) > 0 {
        // The revisions that this template had before, for `kubectl rollout history`.
        let history = text(new, "/metadata/annotations/deployment.kubernetes.io~1revision-history");
        let more = if history.is_empty() { String::new() } else { format!("{history},") };
        notes[HISTORY] = json!(format!("{more}{}", revision(new)));
    }
    // A size is noted when it is given, not before.
    for size in [DESIRED, MOST] {
        if let Some(m) = notes.as_object_mut() {
            m.shift_remove(size);
        }
    }
    let has = &new["metadata"]["annotations"];
    let noted = notes.as_object().into_iter().flatten().all(|(k, v)| has[k] == *v);
    let quiet = number(d, "/spec/minReadySeconds").unwrap_or(0);
    if !noted || number(new, "/spec/minReadySeconds").unwrap_or(0) != quiet {
        let patch = json!({"metadata": {"annotations": notes}, "spec": {"minReadySeconds": quiet}});
        cx.write(at(new), None, Write::Merge(patch)).await?;
        return Ok(true);
    }
    if revision(d) != wanted {
        let mut next = d.clone();
        if !next["metadata"]["annotations"].is_object() {
            next["metadata"]["annotations"] = json!({});
        }
        next["metadata"]["annotations"][REVISION] = json!(wanted.to_string());
        let at =
            At { resource: &DEPLOYMENTS, namespace: meta(d, "namespace"), name: meta(d, "name") };
        cx.write(at, None, Write::Replace(next)).await?;
        return Ok(true);
    }
    Ok(false)
}

/// How many replicas each ReplicaSet should have now.
fn plan(d: &Value, new: Option<&Object>, sets: &[Object], world: &World) -> Vec<(Object, i64)> {
    let (surge, missing) = fenceposts(d);
    let total = replicas(d);
    let is_new = |s: &Object| new.is_some_and(|n| meta(n, "uid") == meta(s, "uid"));
    let mut old: Vec<&Object> = sets.iter().filter(|s| !is_new(s)).collect();
    old.sort_by_key(|s| meta(s, "creationTimestamp").to_owned());
    let active: Vec<&Object> = sets.iter().filter(|s| replicas(s) > 0).collect();
    let resized = active.iter().any(|s| {
        s["metadata"]["annotations"][DESIRED].as_str().is_some_and(|t| t != total.to_string())
    });
    if d["spec"]["paused"] == true || (resized && active.len() > 1) {
        return proportional(&active, total, surge);
    }
    let Some(new) = new else { return Vec::new() };
    let mut out = Vec::new();
    if old.iter().all(|s| replicas(s) == 0 && number(s, "/status/replicas").unwrap_or(0) == 0)
        && d["spec"]["strategy"]["type"] != "Recreate"
    {
        out.push((new.clone(), total));
        return out;
    }
    if d["spec"]["strategy"]["type"] == "Recreate" {
        out.extend(old.iter().filter(|s| replicas(s) > 0).map(|s| ((*s).clone(), 0)));
        let runs = old.iter().any(|s| {
            let pods = world.managed(&PODS, meta(s, "uid"));
            replicas(s) > 0 || pods.iter().any(|p| !pods::is_finished(p))
        });
        if !runs {
            out.push((new.clone(), total));
        }
        return out;
    }
    let now: i64 = sets.iter().map(|s| replicas(s)).sum();
    if replicas(new) > total {
        out.push((new.clone(), total));
        return out;
    }
    if replicas(new) < total && now < total + surge {
        out.push((new.clone(), replicas(new) + (total + surge - now).min(total - replicas(new))));
        return out;
    }
    out.extend(shrink(&old, new, total, missing, now));
    out
}

fn available(s: &Value) -> i64 {
    number(s, "/status/availableReplicas").unwrap_or(0)
}

/// Takes pods from old ReplicaSets: those that do not serve, then as many as may be missing.
fn shrink(old: &[&Object], new: &Object, total: i64, missing: i64, now: i64) -> Vec<(Object, i64)> {
    let unavailable = replicas(new) - available(new);
    let mut spare = (now - (total - missing) - unavailable).max(0);
    let mut left: Vec<(Object, i64)> = old.iter().map(|s| ((*s).clone(), replicas(s))).collect();
    for (set, n) in &mut left {
        let idle = (*n - available(set)).max(0).min(spare);
        *n -= idle;
        spare -= idle;
    }
    let serving: i64 = old.iter().map(|s| available(s)).sum::<i64>() + available(new);
    let mut may = (serving - (total - missing)).max(0).min(spare);
    for (_, n) in &mut left {
        let some = (*n).min(may);
        *n -= some;
        may -= some;
    }
    left.into_iter().filter(|(s, n)| replicas(s) != *n).collect()
}

/// Shares a change of size among the ReplicaSets of a rollout that is under way.
fn proportional(active: &[&Object], total: i64, surge: i64) -> Vec<(Object, i64)> {
    let [one] = active else {
        return among(active, total, surge);
    };
    if replicas(one) == total { Vec::new() } else { vec![((*one).clone(), total)] }
}

fn among(active: &[&Object], total: i64, surge: i64) -> Vec<(Object, i64)> {
    let now: i64 = active.iter().map(|s| replicas(s)).sum();
    let allowed = if total > 0 { total + surge } else { 0 };
    let mut rest = allowed - now;
    let mut sets = active.to_vec();
    // The larger first; of equals, the newer grow and the older shrink.
    sets.sort_by_key(|s| (-replicas(s), meta(s, "creationTimestamp").to_owned()));
    let mut out: Vec<(Object, i64)> = Vec::new();
    for s in &sets {
        let before =
            s["metadata"]["annotations"][MOST].as_str().and_then(|t| t.parse::<i64>().ok());
        let before = before.filter(|n| *n > 0).unwrap_or(now.max(1));
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "counts of pods"
        )]
        let share = ((replicas(s) * allowed) as f64 / before as f64).round() as i64 - replicas(s);
        let given = if rest > 0 { share.clamp(0, rest) } else { share.clamp(rest, 0) };
        rest -= given;
        out.push(((*s).clone(), replicas(s) + given));
    }
    if let Some((_, n)) = out.first_mut() {
        *n = (*n + rest).max(0);
    }
    out
}

/// Gives a ReplicaSet its replicas; says whether that was a change.
async fn scale(cx: &Context, d: &Value, set: &Object, wanted: i64) -> Result<bool, Fault> {
    let (surge, _) = fenceposts(d);
    let notes = json!({DESIRED: replicas(d).to_string(), MOST: (replicas(d) + surge).to_string()});
    let noted = [DESIRED, MOST].iter().all(|k| set["metadata"]["annotations"][*k] == notes[*k]);
    if replicas(set) == wanted && noted {
        return Ok(false);
    }
    let patch = json!({"metadata": {"annotations": notes}, "spec": {"replicas": wanted}});
    cx.write(at(set), None, Write::Merge(patch)).await?;
    let way = if wanted > replicas(set) { "up" } else { "down" };
    if wanted != replicas(set) {
        let (name, was) = (meta(set, "name"), replicas(set));
        let told = format!("Scaled {way} replica set {name} from {was} to {wanted}");
        cx.tell(d, false, "ScalingReplicaSet", &told).await;
    }
    Ok(true)
}

/// Deletes what the history no longer has room for.
async fn forget(
    cx: &Context,
    d: &Value,
    new: Option<&Object>,
    sets: &[Object],
) -> Result<(), Fault> {
    let Some(limit) = number(d, "/spec/revisionHistoryLimit") else { return Ok(()) };
    let idle = |s: &&Object| {
        new.is_none_or(|n| meta(n, "uid") != meta(s, "uid"))
            && replicas(s) == 0
            && number(s, "/status/replicas").unwrap_or(0) == 0
            && number(s, "/status/observedGeneration") >= number(s, "/metadata/generation")
            && !is_deleting(s)
    };
    let mut old: Vec<&Object> = sets.iter().filter(idle).collect();
    old.sort_by_key(|s| revision(s));
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for set in &old[..excess] {
        let how = Deletion {
            uid: Some(meta(set, "uid").to_owned()),
            propagation: Some(Propagation::Background),
            ..Deletion::default()
        };
        cx.delete(at(set), how).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn set(name: &str, replicas: i64, available: i64, most: &str) -> Object {
        Arc::new(json!({"metadata": {"name": name, "uid": name, "creationTimestamp": name,
            "annotations": {DESIRED: "10", MOST: most}},
            "spec": {"replicas": replicas, "template": {"x": name}}, "status": {"replicas": replicas, "availableReplicas": available}}))
    }

    fn deployment(replicas: i64, template: &str, surge: Value, missing: Value) -> Value {
        json!({"metadata": {"name": "d", "uid": "d"}, "spec": {"replicas": replicas, "template": {"x": template},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}}})
    }

    #[track_caller]
    fn check(d: &Value, sets: &[Object], expected: &[(&str, i64)]) {
        let new = newest(d, sets).cloned();
        let plan = plan(d, new.as_ref(), sets, &World::default());
        let plan: Vec<(&str, i64)> = plan.iter().map(|(s, n)| (meta(s, "name"), *n)).collect();
        assert_eq!(plan, expected);
    }

    #[test]
    fn rounding_favours_availability() {
        assert_eq!(fenceposts(&deployment(10, "a", json!("25%"), json!("25%"))), (3, 2));
        assert_eq!(fenceposts(&deployment(1, "a", json!("25%"), json!("25%"))), (1, 0));
        assert_eq!(fenceposts(&deployment(10, "a", json!(0), json!(0))), (0, 1));
    }

    #[test]
    fn a_rollout_moves_within_its_bounds() {
        let d = deployment(10, "b", json!(3), json!(2));
        let (a, b) = (set("a", 10, 10, "13"), set("b", 0, 0, "13"));
        check(&d, &[a.clone(), b], &[("b", 3)]);
        let b = set("b", 3, 0, "13");
        check(&d, &[a, b.clone()], &[("a", 8)]);
        let a = set("a", 8, 8, "13");
        check(&d, &[a, b], &[("b", 5)]);
    }

    #[test]
    fn a_change_of_size_is_shared_in_proportion() {
        // The conformance test: 8 + 5 of 10 with a surge of 3 become 20 + 13 of 30.
        let d = deployment(30, "b", json!(3), json!(2));
        check(&d, &[set("a", 8, 8, "13"), set("b", 5, 0, "13")], &[("a", 20), ("b", 13)]);
    }
}
