//! StatefulSets: pods with numbers, which come in order and go in the opposite one.

mod claims;

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::sets::{self, REVISION, Revisions};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wharf_client::resources::{PODS, STATEFUL_SETS};
use wharf_client::{At, Change, Deletion, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

const NAME: &str = "statefulset.kubernetes.io/pod-name";
const INDEX: &str = "apps.kubernetes.io/pod-index";

/// The loop; its keys are StatefulSets.
pub struct StatefulSets;

impl Loop for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == STATEFUL_SETS => vec![Key::of(&change.object)],
            r if *r == PODS => {
                let pod = &change.object;
                let mut keys = pods::managers("StatefulSet", pod, before.object.as_ref());
                if !change.gone {
                    let selector = |o: &Value| Labels::from_object(&o["spec"]["selector"]);
                    keys.extend(pods::takers(world, &STATEFUL_SETS, pod, selector));
                }
                keys
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let set = cx.world.get(&STATEFUL_SETS, key).filter(|s| !is_deleting(s));
            let Some(set) = set else { return Ok(Next::Change) };
            let Some(selector) = Labels::from_object(&set["spec"]["selector"]) else {
                return Ok(Next::Change);
            };
            let reference = pods::reference("apps/v1", "StatefulSet", &set);
            let own = pods::claim(cx, &STATEFUL_SETS, &set, &reference, &selector).await?;
            let revisions = sets::revise(cx, &STATEFUL_SETS, &set, "StatefulSet").await?;
            claims::settle(cx, &set, &own).await?;
            let plan = plan(&set, &revisions.now, &own, cx.now());
            let outcome = act(cx, &set, &revisions, &plan).await;
            let now = cx.world.managed(&PODS, meta(&set, "uid"));
            report(cx, key, &set, &revisions, &now).await?;
            sets::forget(cx, &set, &revisions, &now).await?;
            outcome?;
            let quiet = number(&set, "/spec/minReadySeconds").unwrap_or(0);
            Ok(pods::next_available(&now, quiet, cx.now()))
        })
    }
}

/// The number of a pod of a set.
fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    meta(pod, "name").strip_prefix(meta(set, "name"))?.strip_prefix('-')?.parse().ok()
}

fn range(set: &Value) -> std::ops::Range<i64> {
    let start = number(set, "/spec/ordinals/start").unwrap_or(0);
    start..start.saturating_add(number(set, "/spec/replicas").unwrap_or(1))
}

/// The first number that gets the new template.
fn partition(set: &Value) -> i64 {
    let first = number(set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    range(set).start.saturating_add(first)
}

/// What is to be done for a set now.
#[derive(Debug, Default)]
struct Plan {
    /// Numbers of pods to make.
    make: Vec<i64>,
    /// Pods to delete: they have ended, are too many or are to be replaced.
    remove: Vec<Object>,
}

/// In order, the first thing that is not as it should be is mended and nothing behind it; in parallel, all.
fn plan(set: &Value, revision: &str, own: &[Object], now: i64) -> Plan {
    let parallel = text(set, "/spec/podManagementPolicy") == "Parallel";
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let by_number: BTreeMap<i64, &Object> =
        own.iter().filter_map(|p| Some((ordinal(set, p)?, p))).collect();
    let serves = |p: &Object| !is_deleting(p) && pods::is_available(p, quiet, now);
    let range = range(set);
    let mut plan = Plan::default();
    for n in range.clone() {
        match by_number.get(&n) {
            None => plan.make.push(n),
            Some(p) if pods::is_finished(p) && !is_deleting(p) => plan.remove.push((*p).clone()),
            Some(p) if serves(p) => continue,
            Some(_) => {}
        }
        if !parallel {
            return plan;
        }
        if plan.make.len() >= pods::BURST {
            break;
        }
    }
    let excess = by_number.iter().rev().filter(|(n, _)| !range.contains(n)).map(|(_, p)| *p);
    for p in excess {
        if !is_deleting(p) {
            plan.remove.push(p.clone());
        }
        if !parallel {
            return plan;
        }
    }
    if text(set, "/spec/updateStrategy/type") == "OnDelete" || !plan.make.is_empty() {
        return plan;
    }
    // From the last to the first; so many at once as may be missing, which those that do not serve are already.
    let total = number(set, "/spec/replicas").unwrap_or(1);
    let most = &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
    let most = usize::try_from(pods::share(most, total, true).unwrap_or(1).max(1)).unwrap_or(1);
    let mut missing = range.clone().filter(|n| by_number.get(n).is_none_or(|p| !serves(p))).count();
    for n in range.rev().filter(|n| *n >= partition(set)) {
        let Some(p) = by_number.get(&n) else { continue };
        let old = p["metadata"]["labels"][REVISION] != revision;
        if old && !is_deleting(p) {
            // One that does not serve is missed by nobody.
            if serves(p) {
                if missing >= most {
                    return plan;
                }
                missing += 1;
            }
            plan.remove.push((*p).clone());
        }
        if missing >= most {
            return plan;
        }
    }
    plan
}

async fn act(cx: &Context, set: &Value, revisions: &Revisions, plan: &Plan) -> Result<(), Fault> {
    for n in &plan.make {
        make(cx, set, revisions, *n).await?;
    }
    for p in &plan.remove {
        let (name, ns) = (meta(p, "name"), meta(p, "namespace"));
        let at = At { resource: &PODS, namespace: ns, name };
        let uid = Some(meta(p, "uid").to_owned());
        cx.delete(at, Deletion { uid, ..Deletion::default() }).await?;
        let told = format!("delete Pod {name} in StatefulSet {} successful", meta(set, "name"));
        cx.tell(set, false, "SuccessfulDelete", &told).await;
    }
    Ok(())
}

/// Makes a pod and the claims that go with its number.
async fn make(cx: &Context, set: &Value, revisions: &Revisions, n: i64) -> Result<(), Fault> {
    let (ns, name) = (meta(set, "namespace"), format!("{}-{n}", meta(set, "name")));
    // Below the partition, pods are still of the revision that the set came from.
    let current = text(set, "/status/currentRevision");
    let old =
        revisions.all.iter().find(|r| meta(r, "name") == current).filter(|_| n < partition(set));
    let (template, revision) = match old {
        Some(r) => (&r["data"]["spec"]["template"], current),
        None => (&set["spec"]["template"], revisions.now.as_str()),
    };
    let mut volumes: Vec<Value> = Vec::new();
    for claim in claims::templates(set) {
        let own = claims::name(claim, &name);
        volumes.push(json!({"name": text(claim, "/metadata/name"), "persistentVolumeClaim": {"claimName": own}}));
        claims::make(cx, set, claim, &own).await?;
    }
    let mut pod = pods::from_template(template, ns, pods::reference("apps/v1", "StatefulSet", set));
    pod["metadata"]["name"] = json!(name);
    for (key, value) in
        [(NAME, name.clone()), (INDEX, n.to_string()), (REVISION, revision.to_owned())]
    {
        pod["metadata"]["labels"][key] = json!(value);
    }
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = set["spec"]["serviceName"].clone();
    let given = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.extend(
        given
            .filter(|v| !volumes.iter().any(|own| own["name"] == v["name"]))
            .cloned()
            .collect::<Vec<_>>(),
    );
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = Value::Array(volumes);
    }
    let of = format!("Pod {name} in StatefulSet {}", meta(set, "name"));
    match cx.create(&PODS, ns, pod).await {
        // It is there, and not this set's: it is waited for.
        Err(f) if f.reason == "AlreadyExists" => Ok(()),
        Err(f) => {
            if !f.is_of_ending_namespace() {
                let told = format!("create {of} failed error: {f}");
                cx.tell(set, true, "FailedCreate", &told).await;
            }
            Err(f)
        }
        Ok(_) => {
            cx.tell(set, false, "SuccessfulCreate", &format!("create {of} successful")).await;
            Ok(())
        }
    }
}

async fn report(
    cx: &Context,
    key: &Key,
    set: &Value,
    revisions: &Revisions,
    own: &[Object],
) -> Result<(), Fault> {
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let live: Vec<&Object> = own.iter().filter(|p| !pods::is_finished(p)).collect();
    let count = |f: &dyn Fn(&Object) -> bool| live.iter().filter(|p| f(p)).count();
    let of = |r: &str| count(&|p| p["metadata"]["labels"][REVISION] == r && !is_deleting(p));
    let mut current = text(set, "/status/currentRevision").to_owned();
    if current.is_empty() {
        current.clone_from(&revisions.now);
    }
    let wanted = usize::try_from(number(set, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
    let (ready, available) =
        (count(&|p| pods::is_ready(p)), count(&|p| pods::is_available(p, quiet, cx.now())));
    let updated = of(&revisions.now);
    // An update that is complete is what the set now is.
    if partition(set) <= range(set).start
        && updated == wanted
        && ready == wanted
        && live.len() == wanted
    {
        current.clone_from(&revisions.now);
    }
    let mut status = json!({"observedGeneration": set["metadata"]["generation"], "replicas": live.len(),
        "readyReplicas": ready, "currentReplicas": of(&current), "updatedReplicas": updated,
        "currentRevision": current, "updateRevision": revisions.now,
        "collisionCount": number(set, "/status/collisionCount").unwrap_or(0), "availableReplicas": available});
    if let Some(v) = set["status"].get("conditions") {
        status["conditions"] = v.clone();
    }
    if !crate::replicas::same_numbers(&status, &set["status"]) {
        let mut next = set.clone();
        next["status"] = status;
        let at = At { resource: &STATEFUL_SETS, namespace: &key.namespace, name: &key.name };
        cx.write(at, Some("status"), Write::Replace(next)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn set(replicas: i64, extra: Value) -> Value {
        let mut spec = json!({"replicas": replicas, "updateStrategy": {"type": "RollingUpdate"}});
        for (k, v) in extra.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        json!({"metadata": {"name": "w"}, "spec": spec})
    }

    /// `3!` is a pod of the old revision, `3-` one that does not serve, `3x` one that has ended, `3~` one that goes.
    fn pods(list: &str) -> Vec<Object> {
        let pod = |word: &str| {
            let n: String = word.chars().take_while(char::is_ascii_digit).collect();
            let is = |c: char| word.contains(c);
            let mut p = json!({"metadata": {"name": format!("w-{n}"), "labels": {REVISION: if is('!') { "old" } else { "new" }}},
                "status": {"phase": if is('x') { "Failed" } else { "Running" },
                    "conditions": [{"type": "Ready", "status": if is('-') || is('x') { "False" } else { "True" }}]}});
            if is('~') {
                p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(p)
        };
        list.split_whitespace().map(pod).collect()
    }

    /// `+2 -1`: what is made and removed.
    #[track_caller]
    fn check(set: &Value, own: &str, expected: &str) {
        let plan = plan(set, "new", &pods(own), 100);
        let mut out: Vec<String> = plan.make.iter().map(|n| format!("+{n}")).collect();
        out.extend(plan.remove.iter().map(|p| meta(p, "name").replace("w", "")));
        assert_eq!(out.join(" "), expected, "{own}");
    }

    #[test]
    fn pods_come_in_order_and_go_in_the_opposite_one() {
        let three = set(3, json!({}));
        check(&three, "", "+0");
        check(&three, "0-", "");
        check(&three, "0 1x", "-1");
        check(&three, "0 1 2", "");
        check(&three, "1 2", "+0");
        check(&set(1, json!({})), "0 1 2", "-2");
        check(&set(1, json!({})), "0 1 2~", "");
        check(&set(1, json!({})), "0- 1 2", "");
        let from = set(2, json!({"ordinals": {"start": 5}}));
        check(&from, "", "+5");
        check(&from, "5 6 0", "-0");
        let all = set(3, json!({"podManagementPolicy": "Parallel"}));
        check(&all, "1-", "+0 +2");
        check(&all, "0 1 2 3 4 5~", "-4 -3");
    }

    #[test]
    fn updates_go_from_the_last_to_the_partition() {
        let three = set(3, json!({}));
        check(&three, "0! 1! 2!", "-2");
        check(&three, "0! 1! 2", "-1");
        check(&three, "0! 1! 2-", "");
        let part = |n: i64| set(3, json!({"updateStrategy": {"rollingUpdate": {"partition": n}}}));
        check(&part(2), "0! 1! 2", "");
        check(&part(1), "0! 1! 2", "-1");
        let from = json!({"ordinals": {"start": 5}, "updateStrategy": {"rollingUpdate": {"partition": 1}}});
        check(&set(2, from), "5! 6", "");
        check(&set(3, json!({"updateStrategy": {"type": "OnDelete"}})), "0! 1! 2!", "");
        let two = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
        check(&set(4, two), "0! 1! 2! 3!", "-3 -2");
        let half = json!({"podManagementPolicy": "Parallel", "updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}});
        check(&set(4, half.clone()), "0! 1! 2! 3-", "-2");
        check(&set(4, half), "0! 1!- 2!- 3", "");
    }
}
