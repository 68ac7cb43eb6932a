//! The claims of a StatefulSet's pods: made with them, and kept or deleted as the set's policy says.

use super::{ordinal, range};
use crate::object::{meta, owners, text};
use crate::pods;
use crate::run::Context;
use crate::world::Key;
use serde_json::{Value, json};
use wharf_client::resources::CLAIMS;
use wharf_client::{At, Object, Write};
use wharf_kube::status::Fault;

pub(super) fn templates(set: &Value) -> impl Iterator<Item = &Value> {
    set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten()
}

/// The name of the claim that a template makes for a pod.
pub(super) fn name(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", text(template, "/metadata/name"))
}

/// Makes a claim that is not there yet.
pub(super) async fn make(
    cx: &Context,
    set: &Value,
    template: &Value,
    name: &str,
) -> Result<(), Fault> {
    let ns = meta(set, "namespace");
    if cx.world.get(&CLAIMS, &Key::new(ns, name)).is_some() {
        return Ok(());
    }
    let mut labels = set["spec"]["selector"]["matchLabels"].clone();
    for (k, v) in pods::labels(template).into_iter().flatten() {
        labels[k] = v.clone();
    }
    let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": ns, "labels": labels, "annotations": template["metadata"]["annotations"]},
        "spec": template["spec"]});
    if policy(set, "whenDeleted") {
        object["metadata"]["ownerReferences"] = json!([of_set(set)]);
    }
    let told = format!("Claim {name} in StatefulSet {}", meta(set, "name"));
    match cx.create(&CLAIMS, ns, object).await {
        Err(f) if f.reason == "AlreadyExists" => Ok(()),
        Err(f) => {
            cx.tell(set, true, "FailedCreate", &format!("create {told} failed error: {f}")).await;
            Err(f)
        }
        Ok(_) => {
            cx.tell(set, false, "SuccessfulCreate", &format!("create {told} success")).await;
            Ok(())
        }
    }
}

/// Whether claims are to be deleted then.
fn policy(set: &Value, when: &str) -> bool {
    set["spec"]["persistentVolumeClaimRetentionPolicy"][when] == "Delete"
}

fn of_set(set: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": meta(set, "name"), "uid": meta(set, "uid")})
}

/// The owners that a claim should have of those that a set gives it: the set, or a pod that is too many.
fn wanted(set: &Value, pod: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    let excess = ordinal(set, pod).is_some_and(|n| !range(set).contains(&n));
    if excess && policy(set, "whenScaled") {
        out.push(json!({"apiVersion": "v1", "kind": "Pod", "name": meta(pod, "name"), "uid": meta(pod, "uid")}));
    } else if policy(set, "whenDeleted") {
        out.push(of_set(set));
    }
    out
}

/// Gives the claims of a set's pods the owners that its policy says, before any pod goes.
pub(super) async fn settle(cx: &Context, set: &Value, own: &[Object]) -> Result<(), Fault> {
    for pod in own {
        for template in templates(set) {
            let key = Key::new(meta(set, "namespace"), name(template, meta(pod, "name")));
            let Some(claim) = cx.world.get(&CLAIMS, &key) else { continue };
            let Some(references) = settled(set, pod, &claim) else { continue };
            let mut next = (*claim).clone();
            next["metadata"]["ownerReferences"] = Value::Array(references);
            let at = At { resource: &CLAIMS, namespace: &key.namespace, name: &key.name };
            cx.write(at, None, Write::Replace(next)).await?;
        }
    }
    Ok(())
}

/// A claim's owners as they should be; nothing where they are.
fn settled(set: &Value, pod: &Value, claim: &Value) -> Option<Vec<Value>> {
    let wanted = wanted(set, pod);
    let ours = |r: &&Value| {
        r["uid"] == set["metadata"]["uid"]
            || r["name"] == pod["metadata"]["name"] && r["kind"] == "Pod"
    };
    let has: Vec<&Value> = owners(claim).filter(ours).map(|r| &r["uid"]).collect();
    if has == wanted.iter().map(|r| &r["uid"]).collect::<Vec<_>>() {
        return None;
    }
    let others = owners(claim).filter(|r| !ours(r)).cloned();
    Some(others.chain(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_belong_to_whom_the_policy_says() {
        let set = |deleted: &str, scaled: &str| {
            json!({"metadata": {"name": "w", "uid": "s"}, "spec": {"replicas": 1,
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}})
        };
        let pod = |n: i64| json!({"metadata": {"name": format!("w-{n}"), "uid": format!("p{n}")}});
        let claim = |uids: &[&str]| {
            let list: Vec<Value> = uids.iter().map(|u| json!({"uid": u})).collect();
            json!({"metadata": {"ownerReferences": list}})
        };
        let check = |set: &Value, n: i64, has: &[&str]| {
            let list = settled(set, &pod(n), &claim(has))?;
            Some(list.iter().map(|r| text(r, "/uid").to_owned()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(check(&set("Retain", "Retain"), 0, &[]), None);
        assert_eq!(check(&set("Retain", "Retain"), 0, &["s", "x"]).as_deref(), Some("x"));
        assert_eq!(check(&set("Delete", "Retain"), 0, &["x"]).as_deref(), Some("x s"));
        assert_eq!(check(&set("Delete", "Retain"), 1, &["s"]), None);
        assert_eq!(check(&set("Delete", "Delete"), 1, &["s"]).as_deref(), Some("p1"));
        assert_eq!(check(&set("Retain", "Delete"), 0, &[]), None);
    }
}
