//! Nodes change only themselves, and the pods that they were given.

use crate::api::{Call, meta};
use crate::authz::node_of;
use serde_json::Value;
use wharf_kube::status::Fault;

/// Labels that a node may set on itself although they are Kubernetes' own.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];

/// Refuses a node's write to what is not its own; `new` is none for a deletion.
pub(super) fn validate(
    call: &Call<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Fault> {
    let Some(node) = node_of(call.user) else { return Ok(()) };
    let object = new.or(old).unwrap_or(&Value::Null);
    let name = call.name.filter(|n| !n.is_empty()).unwrap_or_else(|| meta(object, "name"));
    let refuse = |why: String| Err(Fault::forbidden(call.about(), name, &why));
    match (call.kind.group(), call.kind.resource.plural) {
        ("", "pods") => match pod(node, call.subresource, new, old) {
            Some(why) => refuse(why),
            None => Ok(()),
        },
        ("", "nodes") if name != node => {
            refuse(format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        ("", "nodes") => match itself(node, new, old) {
            Some(why) => refuse(why),
            None => Ok(()),
        },
        ("coordination.k8s.io", "leases") if name != node => refuse(format!(
            "can only access node lease with the same name as the requesting node, {node:?}"
        )),
        ("storage.k8s.io", "csinodes") if name != node => refuse(format!(
            "can only access CSINode with the same name as the requesting node, {node:?}"
        )),
        _ => Ok(()),
    }
}

fn pod(node: &str, sub: Option<&str>, new: Option<&Value>, old: Option<&Value>) -> Option<String> {
    let own = |p: &Value| p["spec"]["nodeName"] == node;
    match (new, old, sub) {
        (None, Some(old), _) if !own(old) => {
            Some(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        (Some(_), Some(old), Some("status")) if !own(old) => Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )),
        (Some(_), Some(_), Some("status")) => None,
        (Some(new), None, _) => {
            let mirror =
                new["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
            match (mirror, own(new)) {
                (false, _) => Some(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                )),
                (true, false) => Some(format!(
                    "node {node:?} can only create pods with spec.nodeName set to itself"
                )),
                _ => None,
            }
        }
        (Some(_), Some(_), _) => Some(format!("node {node:?} can only update pod status")),
        _ => None,
    }
}

fn itself(node: &str, new: Option<&Value>, old: Option<&Value>) -> Option<String> {
    let Some(new) = new else {
        return Some(format!("node {node:?} is not allowed to delete its own Node object"));
    };
    let labels = |o: Option<&Value>, key: &str| o.map(|o| o["metadata"]["labels"][key].clone());
    let keys =
        [Some(new), old].into_iter().flatten().filter_map(|o| o["metadata"]["labels"].as_object());
    let mut bad: Vec<&str> = keys
        .flat_map(|m| m.keys().map(String::as_str))
        .filter(|k| !is_own_label(k))
        .filter(|k| labels(Some(new), k) != labels(old, k).or(Some(Value::Null)))
        .collect();
    bad.sort_unstable();
    bad.dedup();
    if !bad.is_empty() {
        let word = if old.is_some() { "modify" } else { "set the following" };
        return Some(format!("is not allowed to {word} labels: {}", bad.join(", ")));
    }
    let taints = |o: &Value| o["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if old.is_some_and(|old| taints(old) != taints(new)) {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    None
}

fn is_own_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(d, _)| d);
    let of = |d: &str| domain == d || domain.ends_with(&format!(".{d}"));
    if of("node-restriction.kubernetes.io") {
        return false;
    }
    let kubernetes = of("kubernetes.io") || of("k8s.io");
    !kubernetes
        || of("kubelet.kubernetes.io")
        || of("node.kubernetes.io")
        || OWN_LABELS.contains(&key)
}
