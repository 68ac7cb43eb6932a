//! What the loops of workloads have in common: pods made from templates, and how far pods are.

use crate::object::{is_deleting, meta, text};
use crate::run::Context;
use crate::world::{Key, World};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use wharf_client::resources::PODS;
use wharf_client::{At, Deletion, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;
use wharf_kube::time;

/// Pods made or deleted at once.
const BURST: usize = 500;

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

fn ready_since(pod: &Value) -> Option<i64> {
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
    owner: &Value,
    owner_reference: &Value,
    selector: &Labels,
) -> Result<Vec<Object>, Fault> {
    let uid = meta(owner, "uid");
    let mut own = cx.world.managed(&PODS, uid);
    let strays: Vec<Object> =
        own.iter().filter(|p| !selector.matches(labels(p))).cloned().collect();
    own.retain(|p| selector.matches(labels(p)));
    for pod in &strays {
        let at = At { resource: &PODS, namespace: meta(pod, "namespace"), name: meta(pod, "name") };
        let refs = crate::object::owners(pod).filter(|r| r["uid"] != uid);
        let patch = json!({"metadata": {"uid": meta(pod, "uid"), "ownerReferences": refs.collect::<Vec<_>>()}});
        ignore_gone(cx.write(at, None, Write::Merge(patch)).await.map(drop))?;
    }
    if is_deleting(owner) {
        return Ok(own);
    }
    for pod in cx.world.inside(&PODS, meta(owner, "namespace")) {
        let orphan = crate::object::manager(&pod).is_none() && is_active(&pod);
        if !orphan || !selector.matches(labels(&pod)) {
            continue;
        }
        let at =
            At { resource: &PODS, namespace: meta(&pod, "namespace"), name: meta(&pod, "name") };
        let refs: Vec<&Value> = crate::object::owners(&pod).chain([owner_reference]).collect();
        let patch = json!({"metadata": {"uid": meta(&pod, "uid"), "ownerReferences": refs}});
        match cx.write(at, None, Write::Merge(patch)).await {
            Ok(pod) => own.push(pod),
            Err(f) => ignore_gone(Err(f))?,
        }
    }
    Ok(own)
}

fn ignore_gone(outcome: Result<(), Fault>) -> Result<(), Fault> {
    outcome.or_else(|f| if f.code == 404 { Ok(()) } else { Err(f) })
}

/// Makes pods: one, then twice as many as before while all goes well. Gives how many there are more.
pub(crate) async fn make(
    cx: &Context,
    namespace: &str,
    pods: Vec<Value>,
) -> (usize, Result<(), Fault>) {
    let resource = PODS;
    let (mut made, mut batch) = (0, 1);
    let mut rest = pods.into_iter().take(BURST).peekable();
    while rest.peek().is_some() {
        let some: Vec<Value> = rest.by_ref().take(batch).collect();
        let outcomes = join_all(some.into_iter().map(|p| cx.create(&resource, namespace, p))).await;
        for outcome in outcomes {
            match outcome {
                Ok(_) => made += 1,
                Err(f) => return (made, Err(f)),
            }
        }
        batch *= 2;
    }
    (made, Ok(()))
}

/// Deletes pods, each only if it is the one that is meant.
pub(crate) async fn remove(cx: &Context, pods: &[Object]) -> Result<(), Fault> {
    let one = |pod: &Object| {
        let pod = pod.clone();
        async move {
            let at = At {
                resource: &PODS,
                namespace: meta(&pod, "namespace"),
                name: meta(&pod, "name"),
            };
            let uid = Some(meta(&pod, "uid").to_owned());
            cx.delete(at, Deletion { uid, ..Deletion::default() }).await
        }
    };
    for outcome in join_all(pods.iter().take(BURST).map(one)).await {
        outcome?;
    }
    Ok(())
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
    resource: &wharf_client::Resource,
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
