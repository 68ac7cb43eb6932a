//! StatefulSets: pods with numbers, which come in order and go in the opposite one.

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::sets::{self, REVISION, Revisions};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_client::resources::{CLAIMS, PODS, STATEFUL_SETS};
use wharf_client::{At, Change, Object, Write};
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

    fn wake(&self, _: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == STATEFUL_SETS => vec![Key::of(&change.object)],
            r if *r == PODS => {
                pods::managers("StatefulSet", &change.object, before.object.as_ref())
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
            let own = pods::claim(cx, &set, &reference, &selector).await?;
            let revisions = sets::revise(cx, &set, "apps/v1", "StatefulSet").await?;
            let outcome = balance(cx, &set, &revisions, &own).await;
            let now = cx.world.managed(&PODS, meta(&set, "uid"));
            let waits = report(cx, key, &set, &revisions, &now).await?;
            sets::forget(cx, &set, &revisions, &now).await?;
            outcome?;
            Ok(if waits { Next::After(Duration::from_secs(1)) } else { Next::Change })
        })
    }
}

/// The number of a pod of a set.
fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    meta(pod, "name").strip_prefix(meta(set, "name"))?.strip_prefix('-')?.parse().ok()
}

fn range(set: &Value) -> std::ops::Range<i64> {
    let start = number(set, "/spec/ordinals/start").unwrap_or(0);
    start..start + number(set, "/spec/replicas").unwrap_or(1)
}

/// The first number that gets the new template.
fn partition(set: &Value) -> i64 {
    number(set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0)
}

/// One step: the first thing that is not as it should be is mended, and in order nothing behind it.
async fn balance(
    cx: &Context,
    set: &Value,
    revisions: &Revisions,
    own: &[Object],
) -> Result<(), Fault> {
    let parallel = text(set, "/spec/podManagementPolicy") == "Parallel";
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let by_number: BTreeMap<i64, &Object> =
        own.iter().filter_map(|p| Some((ordinal(set, p)?, p))).collect();
    let range = range(set);
    for n in range.clone() {
        match by_number.get(&n) {
            None => make(cx, set, revisions, n).await?,
            Some(p) if pods::is_finished(p) && !is_deleting(p) => {
                pods::remove(cx, &[(*p).clone()]).await?;
            }
            Some(p) if !is_deleting(p) && pods::is_available(p, quiet, cx.now()) => continue,
            Some(_) => {}
        }
        if !parallel {
            return Ok(());
        }
    }
    let excess: Vec<Object> = by_number
        .iter()
        .rev()
        .filter(|(n, _)| !range.contains(n))
        .map(|(_, p)| (*p).clone())
        .collect();
    if parallel {
        let live: Vec<Object> = excess.into_iter().filter(|p| !is_deleting(p)).collect();
        pods::remove(cx, &live).await?;
    } else if let Some(last) = excess.first() {
        if !is_deleting(last) {
            pods::remove(cx, std::slice::from_ref(last)).await?;
        }
        return Ok(());
    }
    if text(set, "/spec/updateStrategy/type") == "OnDelete" {
        return Ok(());
    }
    // From the last to the first, each only when those before it serve again.
    for n in range.rev().filter(|n| *n >= partition(set)) {
        let Some(p) = by_number.get(&n) else { return Ok(()) };
        if p["metadata"]["labels"][REVISION] != revisions.now.as_str() {
            if !is_deleting(p) {
                pods::remove(cx, &[(*p).clone()]).await?;
            }
            return Ok(());
        }
        if !pods::is_available(p, quiet, cx.now()) {
            return Ok(());
        }
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
    for claim in set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
        let own = format!("{}-{name}", text(claim, "/metadata/name"));
        volumes.push(json!({"name": text(claim, "/metadata/name"), "persistentVolumeClaim": {"claimName": own}}));
        if cx.world.get(&CLAIMS, &Key::new(ns, &*own)).is_some() {
            continue;
        }
        let mut labels = set["spec"]["selector"]["matchLabels"].clone();
        for (k, v) in pods::labels(claim).into_iter().flatten() {
            labels[k] = v.clone();
        }
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": own, "namespace": ns, "labels": labels, "annotations": claim["metadata"]["annotations"]},
            "spec": claim["spec"]});
        match cx.create(&CLAIMS, ns, object).await {
            Err(f) if f.reason != "AlreadyExists" => return Err(f),
            _ => {}
        }
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
    match cx.create(&PODS, ns, pod).await {
        Err(f) if f.reason != "AlreadyExists" => Err(f),
        _ => Ok(()),
    }
}

async fn report(
    cx: &Context,
    key: &Key,
    set: &Value,
    revisions: &Revisions,
    own: &[Object],
) -> Result<bool, Fault> {
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
    if partition(set) == 0 && updated == wanted && ready == wanted && live.len() == wanted {
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
    Ok(available < ready)
}
