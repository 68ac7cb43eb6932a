//! What little differs between kinds when objects are written: what the server sets, keeps and bumps.

use crate::api::{drop_meta, meta, set_meta};
use crate::kinds::Kind;
use base64::Engine as _;
use serde_json::{Value, json};
use wharf_kube::{names, qos};

/// Kinds whose `metadata.generation` counts changes of what users wish.
const GENERATION: &[&str] = &[
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "replicationcontrollers",
    "pods",
    "podtemplates",
    "jobs",
    "cronjobs",
    "ingresses",
    "ingressclasses",
    "networkpolicies",
    "poddisruptionbudgets",
    "customresourcedefinitions",
    "flowschemas",
    "prioritylevelconfigurations",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "priorityclasses",
    "resourceslices",
    "endpointslices",
    "servicecidrs",
    "ipaddresses",
    "deviceclasses",
];

/// Kinds that are updated only with the version they were read at.
const CONDITIONAL: &[&str] = &[
    "leases",
    "poddisruptionbudgets",
    "customresourcedefinitions",
    "apiservices",
    "csinodes",
    "csidrivers",
    "flowschemas",
    "prioritylevelconfigurations",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "runtimeclasses",
];

/// Kinds that a PUT creates where they do not exist.
const CREATED_BY_PUT: &[&str] = &[
    "endpoints",
    "events",
    "leases",
    "limitranges",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "serviceaccounts",
    "ipaddresses",
];

/// Kinds whose deletion answers with the object.
const RETURNED: &[&str] = &[
    "pods",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

/// Whether a kind counts generations.
pub fn counts_generation(kind: &Kind) -> bool {
    kind.custom.is_some() || GENERATION.contains(&kind.resource.plural)
}

/// Whether updates of a kind must name the version they are based on.
pub fn needs_version(kind: &Kind) -> bool {
    kind.custom.is_some() || CONDITIONAL.contains(&kind.resource.plural)
}

/// Whether an update of nothing is a creation.
pub fn created_by_put(kind: &Kind) -> bool {
    kind.custom.is_none() && CREATED_BY_PUT.contains(&kind.resource.plural)
}

/// Whether a deletion answers with what was deleted.
pub fn returns_deleted(kind: &Kind) -> bool {
    kind.custom.is_none() && RETURNED.contains(&kind.resource.plural)
}

/// Whether what an object of this kind owns stays, unless its deletion says otherwise: so it was before there were
/// policies, and so it is in these old versions.
pub fn orphans(kind: &Kind) -> bool {
    matches!(
        (kind.group(), kind.resource.plural),
        ("", "replicationcontrollers") | ("batch", "jobs")
    )
}

/// What keeps a text from being a name of this kind.
pub fn name_rule(kind: &Kind) -> fn(&str) -> Option<&'static str> {
    match (kind.group(), kind.resource.plural) {
        ("", "namespaces") => names::label,
        ("", "services") => names::label_1035,
        ("networking.k8s.io", "ipaddresses") => names::address,
        ("rbac.authorization.k8s.io", _) | ("apiregistration.k8s.io", _) => names::path_segment,
        _ => names::subdomain,
    }
}

/// Sets what only the server may: at creation, in the form that is stored.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    if counts_generation(kind) {
        set_meta(object, "generation", 1);
    } else {
        drop_meta(object, "generation");
    }
    if kind.has_status() {
        reset_status(kind, object);
    }
    match (kind.group(), kind.resource.plural) {
        ("", "namespaces") => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        }
        ("", "pods") => pod(object),
        ("apiregistration.k8s.io", "apiservices") => api_service(object),
        ("networking.k8s.io", "servicecidrs") if meta(object, "name") == "kubernetes" => {
            let since = meta(object, "creationTimestamp").to_owned();
            object["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since,
                "reason": "", "message": "Kubernetes Service CIDR is ready"}]);
        }
        ("batch", "jobs") => job(object),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            object["status"] = json!({});
        }
        _ => {}
    }
}

fn reset_status(kind: &Kind, object: &mut Value) {
    drop_status(kind, object);
    if matches!(kind.resource.plural, "persistentvolumes" | "persistentvolumeclaims") {
        object["status"]["phase"] = json!("Pending");
    }
}

/// Takes away the status that a client sent with a new object, for kinds that have a path for it.
pub fn drop_status(kind: &Kind, object: &mut Value) {
    let keep = matches!(kind.resource.plural, "nodes" | "apiservices");
    if keep {
        return;
    }
    let zero = kind.zero();
    if let Some(m) = object.as_object_mut() {
        match zero.get("status") {
            Some(status) => m.insert("status".to_owned(), status.clone()),
            None => m.shift_remove("status"),
        };
    }
}

/// What this server has itself is always there; of others that is found out.
fn api_service(object: &mut Value) {
    object["status"] = json!({});
    if !object["spec"]["service"].is_object() {
        let since = meta(object, "creationTimestamp").to_owned();
        object["status"]["conditions"] = json!([{"type": "Available", "status": "True", "lastTransitionTime": since,
            "reason": "Local", "message": "Local APIServices are always available"}]);
    }
}

fn pod(object: &mut Value) {
    let class = qos::class(object);
    object["status"] = json!({"phase": "Pending", "qosClass": class});
    // A pod that waits for gates says so from its first moment.
    let gated = object.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gated.is_some_and(|g| !g.is_empty()) {
        object["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
            "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
    }
}

/// A job selects its pods by labels that only it has.
fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&json!(true)) {
        return;
    }
    let (uid, name) = (meta(object, "uid").to_owned(), meta(object, "name").to_owned());
    let labels = &mut object["spec"]["template"]["metadata"]["labels"];
    if labels.is_null() {
        *labels = json!({});
    }
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = json!(value);
    }
    let selector = &mut object["spec"]["selector"];
    if selector.is_null() {
        *selector = json!({});
    }
    selector["matchLabels"]["batch.kubernetes.io/controller-uid"] = json!(uid);
}

/// Keeps what this path may not change, and counts the change: `object` is about to replace `old`.
pub fn prepare_update(kind: &Kind, subresource: Option<&str>, object: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        match old["metadata"].get(field) {
            Some(v) => set_meta(object, field, v.clone()),
            None => drop_meta(object, field),
        }
    }
    match subresource {
        Some("status" | "approval") => {
            keep_all_but(kind, object, old, subresource);
        }
        Some(below @ ("resize" | "ephemeralcontainers")) => keep_but_below(object, old, below),
        None if kind.has_status() => keep(object, old, "status"),
        _ => {}
    }
    if (kind.group(), kind.resource.plural) == ("", "namespaces") && subresource != Some("finalize")
    {
        keep(object, old, "spec");
    }
    // Being put on a node is nothing that its user wished.
    let counts = counts_generation(kind) && subresource != Some("binding");
    if counts && desired(kind, object) != desired(kind, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        set_meta(object, "generation", generation);
    }
}

/// A path below an object changes only its own part, and owners that finalize.
fn keep_all_but(kind: &Kind, object: &mut Value, old: &Value, subresource: Option<&str>) {
    let status = object.get("status").cloned();
    if kind.custom.is_some() {
        return only_status(object, old);
    }
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    *object = old.clone();
    if let Some(mut status) = status {
        if kind.resource.plural == "certificatesigningrequests" {
            status = csr_status(&status, &old["status"], subresource);
        }
        object["status"] = status;
    }
    for field in [
        "resourceVersion",
        "managedFields",
        "annotations",
        "labels",
        "finalizers",
        "ownerReferences",
    ] {
        // Labels and annotations may be changed along with a status, except where the kind's rules
        // say otherwise; finalizers and owners may not.
        let fixed = matches!(field, "finalizers" | "ownerReferences")
            || (field == "labels" && kind.resource.plural == "deployments");
        match metadata.get(field) {
            _ if fixed => {}
            Some(v) => set_meta(object, field, v.clone()),
            None => drop_meta(object, field),
        }
    }
}

/// Of a pod, `resize` changes what its containers are given, and `ephemeralcontainers` those.
fn keep_but_below(object: &mut Value, old: &Value, subresource: &str) {
    let asked = std::mem::replace(object, old.clone());
    for field in ["resourceVersion", "managedFields"] {
        match asked["metadata"].get(field) {
            Some(v) => set_meta(object, field, v.clone()),
            None => drop_meta(object, field),
        }
    }
    if subresource == "ephemeralcontainers" {
        let list = asked["spec"].get("ephemeralContainers");
        return take(&mut object["spec"], "ephemeralContainers", list);
    }
    for list in ["containers", "initContainers"] {
        let count = |v: &Value| v["spec"][list].as_array().map_or(0, Vec::len);
        if count(&asked) != count(object) {
            // Which validation refuses.
            take(&mut object["spec"], list, asked["spec"].get(list));
            continue;
        }
        let given = asked["spec"][list].as_array().into_iter().flatten();
        let kept = object["spec"].get_mut(list).and_then(Value::as_array_mut);
        for (c, given) in kept.into_iter().flatten().zip(given) {
            // A container elsewhere in the list is left for validation to find.
            for field in ["name", "resources", "resizePolicy"] {
                take(c, field, given.get(field));
            }
        }
    }
}

/// Gives an object a field, or takes it away.
fn take(object: &mut Value, field: &str, v: Option<&Value>) {
    if let Some(m) = object.as_object_mut() {
        match v {
            Some(v) => _ = m.insert(field.to_owned(), v.clone()),
            None => _ = m.shift_remove(field),
        }
    }
}

/// Of a custom resource, the path of its status changes the status and nothing else.
fn only_status(object: &mut Value, old: &Value) {
    let status = object.get("status").cloned();
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    *object = old.clone();
    if let Some(m) = object.as_object_mut() {
        match status {
            Some(status) => _ = m.insert("status".to_owned(), status),
            None => _ = m.shift_remove("status"),
        }
    }
    for field in ["resourceVersion", "managedFields"] {
        match metadata.get(field) {
            Some(v) => set_meta(object, field, v.clone()),
            None => drop_meta(object, field),
        }
    }
}

/// Approval says what conditions there are and leaves the certificate; signing leaves what was decided.
fn csr_status(new: &Value, old: &Value, subresource: Option<&str>) -> Value {
    let decision = |c: &Value| matches!(c["type"].as_str(), Some("Approved" | "Denied"));
    let part = |v: &Value, want: bool| -> Vec<Value> {
        let list = v["conditions"].as_array().cloned().unwrap_or_default();
        list.into_iter().filter(|c| decision(c) == want).collect()
    };
    let (certificate, conditions) = if subresource == Some("approval") {
        (old.get("certificate"), new["conditions"].as_array().cloned().unwrap_or_default())
    } else {
        (new.get("certificate"), [part(old, true), part(new, false)].concat())
    };
    let mut out = json!({});
    if !conditions.is_empty() {
        out["conditions"] = Value::Array(conditions);
    }
    if let Some(c) = certificate {
        out["certificate"] = c.clone();
    }
    out
}

/// Gives the conditions of a request for a certificate the times that their writer left out.
pub fn stamp(kind: &Kind, object: &mut Value, old: &Value, now: &str) {
    if kind.group() != "certificates.k8s.io" {
        return;
    }
    let before = old["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let list = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for c in list.into_iter().flatten() {
        if c["lastUpdateTime"].is_null() {
            c["lastUpdateTime"] = json!(now);
        }
        if c["lastTransitionTime"].is_null() {
            let same = before.iter().find(|b| b["type"] == c["type"] && b["status"] == c["status"]);
            let since = same.and_then(|b| b["lastTransitionTime"].as_str()).unwrap_or(now);
            c["lastTransitionTime"] = json!(since);
        }
    }
}

fn keep(object: &mut Value, old: &Value, field: &str) {
    take(object, field, old.get(field));
}

/// The part of an object whose changes are counted.
fn desired(kind: &Kind, object: &Value) -> Value {
    match kind.resource.plural {
        "podtemplates" if kind.custom.is_none() => object["template"].clone(),
        _ if kind.custom.is_none() && object.get("spec").is_some() => object["spec"].clone(),
        _ => {
            let mut v = object.clone();
            if let Some(m) = v.as_object_mut() {
                m.shift_remove("metadata");
                if kind.custom.is_none() || kind.has_status() {
                    m.shift_remove("status");
                }
            }
            v
        }
    }
}

/// What a secret was given as text becomes its data; it is never kept or shown as text.
pub fn keep_texts(secret: &mut Value) {
    let Some(Value::Object(texts)) =
        secret.as_object_mut().and_then(|m| m.shift_remove("stringData"))
    else {
        return;
    };
    if !secret["data"].is_object() {
        secret["data"] = json!({});
    }
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        secret["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvals_write_all_conditions_and_nothing_else() {
        let c = |ty: &str| json!({"type": ty});
        let old = json!({"certificate": "x", "conditions": [c("Failed")]});
        let new = json!({"certificate": "y", "conditions": [c("Approved"), c("Checked")]});
        let approved = json!({"conditions": [c("Approved"), c("Checked")], "certificate": "x"});
        assert_eq!(csr_status(&new, &old, Some("approval")), approved);
        let written = json!({"conditions": [c("Checked")], "certificate": "y"});
        assert_eq!(csr_status(&new, &old, Some("status")), written);
    }
}
