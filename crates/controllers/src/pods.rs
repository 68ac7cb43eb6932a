//! What the loops of workloads have in common: pods made from templates, and how far pods are.

use crate::object::{is_deleting, meta, text};
use crate::run::Context;
use crate::world::{Key, World};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;
use wharf_client::resources::PODS;
use wharf_client::{At, Deletion, Object, Resource, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;
use wharf_kube::time;

/// Pods made or deleted at once.
pub(crate) const BURST: usize = 500;

/// The reference by which an owner manages an object.
pub(crate) fn reference(api_version: &str, kind: &str, owner: &Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": meta(owner, "name"),
        "uid": meta(owner, "uid"), "controller": true, "blockOwnerDeletion": true})
}

/// A pod as a template wants it, managed by `owner`; its name is for the caller to set.
pub(crate) fn from_template(template: &Value, namespace: &str, owner: Value) -> Value {
    let mut metadata = Map::new();
    metadata.insert("namespace".to_owned(), json!(namespace));
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(v) = template.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), v.clone());
        }
    }
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Whether a pod counts: it neither ended nor is it going.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Since when a pod is ready, in seconds since 1970; nothing where it is not.
pub(crate) fn ready_since(pod: &Value) -> Option<i64> {
    let list = pod.pointer("/status/conditions")?.as_array()?;
    let ready = list.iter().find(|c| c["type"] == "Ready" && c["status"] == "True")?;
    Some(time::parse_micros(text(ready, "/lastTransitionTime")).unwrap_or(0) / 1_000_000)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    ready_since(pod).is_some()
}

/// Whether a pod has been ready for so many seconds.
pub(crate) fn is_available(pod: &Value, seconds: i64, now: i64) -> bool {
    ready_since(pod).is_some_and(|t| seconds == 0 || t + seconds <= now)
}

/// When the first of the pods that are ready has been so for long enough; nothing where none waits for that.
pub(crate) fn next_available(pods: &[Object], seconds: i64, now: i64) -> crate::run::Next {
    let waits = pods.iter().filter_map(|p| ready_since(p)).map(|t| t + seconds - now);
    match waits.filter(|left| *left > 0).min() {
        Some(left) => crate::run::Next::After(std::time::Duration::from_secs(left.unsigned_abs())),
        None => crate::run::Next::Change,
    }
}

/// A number, or a percentage of `total` rounded up or down; nothing where it is neither.
pub(crate) fn share(v: &Value, total: i64, up: bool) -> Option<i64> {
    if let Some(n) = v.as_i64() {
        return Some(n);
    }
    let percent: i64 = v.as_str()?.strip_suffix('%')?.parse().ok()?;
    let product = percent.saturating_mul(total);
    Some(if up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) })
}

fn restarts(pod: &Value) -> i64 {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.filter_map(|c| c["restartCount"].as_i64()).max().unwrap_or(0)
}

/// Pods in the order in which they are given up: those that serve least first.
pub(crate) fn ranked(mut pods: Vec<Object>, now: i64) -> Vec<Object> {
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for p in &pods {
        *on_node.entry(text(p, "/spec/nodeName").to_owned()).or_default() += 1;
    }
    // Times count by their order of magnitude, so that it is not always the same pod that goes.
    let age = |since: i64| i64::from((now - since).max(0).checked_ilog2().unwrap_or(0));
    let rank = |p: &Object| {
        let phase = match text(p, "/status/phase") {
            "Pending" | "" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i64 = p
            .pointer("/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost")
            .and_then(Value::as_str)
            .and_then(|c| c.parse().ok())
            .unwrap_or(0);
        let node = text(p, "/spec/nodeName");
        let together = on_node.get(node).copied().unwrap_or(0);
        let created = time::parse_micros(meta(p, "creationTimestamp")).unwrap_or(0) / 1_000_000;
        let ready = ready_since(p);
        (
            (!node.is_empty(), phase, ready.is_some(), cost),
            (Reverse(together), ready.map(age), Reverse(restarts(p)), age(created)),
            meta(p, "uid").to_owned(),
        )
    };
    pods.sort_by_cached_key(rank);
    pods
}

/// The labels of an object.
pub(crate) fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/metadata/labels").and_then(Value::as_object)
}

/// A short name for a template, the same for the same template.
pub(crate) fn hash(template: &Value, collisions: i64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut digest = Sha256::new();
    digest.update(template.to_string().as_bytes());
    digest.update(collisions.to_be_bytes());
    let bytes: [u8; 32] = digest.finalize().into();
    bytes.iter().take(10).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect()
}

/// The pods that an owner manages, after it has taken in those without a manager that it selects, and let
/// go of those that it selects no more.
pub(crate) async fn claim(
    cx: &Context,
    resource: &Resource,
    owner: &Value,
    owner_reference: &Value,
    selector: &Labels,
) -> Result<Vec<Object>, Fault> {
    let all = cx.world.managed(&PODS, meta(owner, "uid"));
    let (mut own, strays): (Vec<Object>, Vec<Object>) =
        all.into_iter().partition(|p| selector.matches(labels(p)));
    for pod in &strays {
        release(cx, &PODS, pod, meta(owner, "uid")).await?;
    }
    if is_deleting(owner) {
        return Ok(own);
    }
    let orphan = |p: &Object| is_active(p) && selector.matches(labels(p));
    let orphans = cx.world.orphans(meta(owner, "namespace")).into_iter().filter(orphan);
    own.extend(adopt(cx, resource, owner, owner_reference, &PODS, orphans.collect()).await?);
    Ok(own)
}

/// Takes in objects that have no manager; gives those that were there to be taken.
pub(crate) async fn adopt(
    cx: &Context,
    owners: &Resource,
    owner: &Value,
    reference: &Value,
    resource: &Resource,
    orphans: Vec<Object>,
) -> Result<Vec<Object>, Fault> {
    let mut out = Vec::new();
    if orphans.is_empty() {
        return Ok(out);
    }
    // What an owner that is about to go takes in would go with it.
    let at =
        At { resource: owners, namespace: meta(owner, "namespace"), name: meta(owner, "name") };
    let fresh = cx.read(at).await?;
    if is_deleting(&fresh) || meta(&fresh, "uid") != meta(owner, "uid") {
        return Ok(out);
    }
    for o in orphans {
        let at = At { resource, namespace: meta(&o, "namespace"), name: meta(&o, "name") };
        let patch = json!({"metadata": {"uid": meta(&o, "uid"), "ownerReferences": [reference]}});
        match cx.write(at, None, Write::Strategic(patch)).await {
            Ok(o) => out.push(o),
            Err(f) if f.code == 404 => {}
            Err(f) => return Err(f),
        }
    }
    Ok(out)
}

/// Takes an owner's reference from an object.
pub(crate) async fn release(
    cx: &Context,
    resource: &Resource,
    o: &Value,
    owner: &str,
) -> Result<(), Fault> {
    let at = At { resource, namespace: meta(o, "namespace"), name: meta(o, "name") };
    let gone = json!([{"$patch": "delete", "uid": owner}]);
    let patch = json!({"metadata": {"uid": meta(o, "uid"), "ownerReferences": gone}});
    match cx.write(at, None, Write::Strategic(patch)).await {
        Err(f) if f.code != 404 => Err(f),
        _ => Ok(()),
    }
}

/// Makes an owner's pods: one, then twice as many as before while all goes well. Gives how many there are more.
pub(crate) async fn make(
    cx: &Context,
    owner: &Value,
    pods: Vec<Value>,
) -> (usize, Result<(), Fault>) {
    let (resource, namespace) = (PODS, meta(owner, "namespace"));
    let (mut made, mut batch) = (0, 1);
    let mut rest = pods.into_iter().take(BURST).peekable();
    while rest.peek().is_some() {
        let some: Vec<Value> = rest.by_ref().take(batch).collect();
        let outcomes = join_all(some.into_iter().map(|p| cx.create(&resource, namespace, p))).await;
        let mut failure = None;
        for outcome in outcomes {
            match outcome {
                Ok(pod) => {
                    made += 1;
                    let told = format!("Created pod: {}", meta(&pod, "name"));
                    cx.tell(owner, false, "SuccessfulCreate", &told).await;
                }
                Err(f) => failure = Some(f),
            }
        }
        if let Some(f) = failure {
            // A namespace that ends takes nothing more; that is nobody's mistake.
            if !f.is_of_ending_namespace() {
                cx.tell(owner, true, "FailedCreate", &format!("Error creating: {f}")).await;
            }
            return (made, Err(f));
        }
        batch *= 2;
    }
    (made, Ok(()))
}

/// Deletes an owner's pods, each only if it is the one that is meant.
pub(crate) async fn remove(cx: &Context, owner: &Value, pods: &[Object]) -> Result<(), Fault> {
    let one = |pod: &Object| {
        let pod = pod.clone();
        async move {
            let name = meta(&pod, "name");
            let at = At { resource: &PODS, namespace: meta(&pod, "namespace"), name };
            let uid = Some(meta(&pod, "uid").to_owned());
            cx.delete(at, Deletion { uid, ..Deletion::default() }).await?;
            cx.tell(owner, false, "SuccessfulDelete", &format!("Deleted pod: {name}")).await;
            Ok(())
        }
    };
    let outcomes = join_all(pods.iter().take(BURST).map(one)).await;
    outcomes.into_iter().collect()
}

/// Notes on a pod, before it is deleted, that it goes for no fault of its own: reason and message. `ends` says
/// that nobody else will say that it has failed.
pub(crate) async fn disrupt(
    cx: &Context,
    pod: &Value,
    (reason, message): (&str, &str),
    ends: bool,
) -> Result<(), Fault> {
    let at = At { resource: &PODS, namespace: meta(pod, "namespace"), name: meta(pod, "name") };
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": cx.timestamp(), "observedGeneration": pod["metadata"]["generation"]});
    let mut patch =
        json!({"metadata": {"uid": meta(pod, "uid")}, "status": {"conditions": [condition]}});
    if ends {
        patch["status"]["phase"] = json!("Failed");
    }
    match cx.write(at, Some("status"), Write::Strategic(patch)).await {
        Err(f) if f.code != 404 => Err(f),
        _ => Ok(()),
    }
}

/// Keys of the owners of this kind that a pod has, or had before it changed.
pub(crate) fn managers(kind: &str, now: &Value, before: Option<&Object>) -> Vec<Key> {
    let of = |pod: &Value| {
        let m = crate::object::manager(pod).filter(|m| m["kind"] == kind)?;
        Some(Key::new(meta(pod, "namespace"), text(m, "/name")))
    };
    let mut out: Vec<Key> = of(now).into_iter().chain(before.and_then(|b| of(b))).collect();
    out.dedup();
    out
}

/// Keys of the owners of a kind that would take in a pod without a manager.
pub(crate) fn takers(
    world: &World,
    resource: &Resource,
    pod: &Value,
    selector: impl Fn(&Value) -> Option<Labels>,
) -> Vec<Key> {
    if crate::object::manager(pod).is_some() {
        return Vec::new();
    }
    let all = world.inside(resource, meta(pod, "namespace"));
    let fits = |o: &&Object| selector(o).is_some_and(|s| !s.is_empty() && s.matches(labels(pod)));
    all.iter().filter(fits).map(|o| Key::of(o)).collect()
}

/// Sets a condition; its time changes only with its status. Gives whether anything is different.
pub(crate) fn set_condition(
    list: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) -> bool {
    let old = list.iter().position(|c| c["type"] == kind);
    let mut next = json!({"type": kind, "status": status, "lastUpdateTime": now,
        "lastTransitionTime": now, "reason": reason, "message": message});
    if let Some(i) = old {
        if list[i]["status"] == status
            && list[i]["reason"] == reason
            && list[i]["message"] == message
        {
            return false;
        }
        if list[i]["status"] == status {
            next["lastTransitionTime"] = list[i]["lastTransitionTime"].clone();
        }
        list.remove(i);
    }
    list.push(next);
    true
}
