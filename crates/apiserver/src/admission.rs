//! Admission: one ordered chain over what is and what is to be, changing first, then judging.

mod limits;
mod nodes;
mod pods;
pub mod quota;

use crate::api::{Api, Call, finalizers, is_deleting, meta, set_meta};
use serde_json::{Value, json};
use wharf_kube::status::{Cause, Fault};

/// The namespaces that a cluster cannot be without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// The resource as `group/plural`, the core group being empty.
fn resource<'a>(call: &'a Call<'_>) -> (&'a str, &'a str) {
    (call.kind.group(), call.kind.resource.plural)
}

/// Changes an object that is about to be created, or to replace `old`. It is in the version of the request.
pub async fn mutate(
    api: &Api,
    call: &Call<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Fault> {
    namespace_lives(api, call, old).await?;
    if call.subresource.is_some() {
        return Ok(());
    }
    unserved(call, old)?;
    match (resource(call), old) {
        (("", "pods"), None) => {
            pods::mutate(api, call, object).await?;
            limits::mutate(api, call, object).await?;
        }
        (("", "pods"), Some(_)) => pods::tolerations(object),
        (("", "nodes"), None) => untrusted_node(object),
        (("", "persistentvolumeclaims"), None) => {
            protect(object, "kubernetes.io/pvc-protection");
            default_storage_class(api, object).await?;
        }
        (("", "persistentvolumes"), None) => protect(object, "kubernetes.io/pv-protection"),
        (("networking.k8s.io", "ingresses"), None) => default_ingress_class(api, object).await?,
        (("certificates.k8s.io", "certificatesigningrequests"), None) => requested_by(call, object),
        _ => {}
    }
    Ok(())
}

/// Judges a creation (`old` is none), an update, or a deletion (`new` is none). Both are in the stored form.
pub async fn validate(
    api: &Api,
    call: &Call<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Fault> {
    let object = new.or(old);
    let name = object.map_or("", |o| meta(o, "name"));
    if new.is_none() && resource(call) == ("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(Fault::forbidden(call.about(), name, "this namespace may not be deleted"));
    }
    nodes::validate(call, new, old)?;
    if let Some(new) = new {
        no_escalation(api, call, new, old).await?;
        match (resource(call), old) {
            (("", "pods"), None) => limits::validate(api, call, new).await?,
            (("", "pods"), Some(_)) if call.subresource == Some("resize") => {
                limits::validate(api, call, new).await?;
            }
            (("", "persistentvolumeclaims"), _) if call.subresource.is_none() => {
                limits::validate(api, call, new).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What this server keeps without acting on it, it says; what would be useless to keep, it refuses.
fn unserved(call: &Call<'_>, old: Option<&Value>) -> Result<(), Fault> {
    if old.is_some() {
        return Ok(());
    }
    let warning = match resource(call) {
        ("networking.k8s.io", "networkpolicies") => {
            "this server does not enforce network policies yet: the object is kept and has no effect"
        }
        _ => return Ok(()),
    };
    call.warn(warning);
    Ok(())
}

/// Nothing is created in a namespace that is not there, or is going.
async fn namespace_lives(api: &Api, call: &Call<'_>, old: Option<&Value>) -> Result<(), Fault> {
    let Some(ns) = call.namespace.filter(|_| old.is_none() && call.kind.resource.namespaced) else {
        return Ok(());
    };
    let Some(kind) = api.kinds.core("namespaces") else { return Ok(()) };
    let Some(namespace) = api.object(&kind, None, ns).await? else {
        return Err(Fault::not_found(kind.about(), ns));
    };
    if is_deleting(&namespace) {
        let why = format!(
            "unable to create new content in namespace {ns} because it is being terminated"
        );
        let mut f = Fault::forbidden(call.about(), call.name.unwrap_or_default(), &why);
        if let Some(d) = &mut f.details {
            d.causes.push(Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {ns} is being terminated"),
                field: "metadata.namespace".to_owned(),
            });
        }
        return Err(f);
    }
    Ok(())
}

/// A node that was just made is not ready, whatever it says.
fn untrusted_node(object: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = &mut object["spec"]["taints"];
    match taints.as_array_mut() {
        Some(list)
            if list.iter().any(|t| t["key"] == taint["key"] && t["effect"] == taint["effect"]) => {}
        Some(list) => list.push(taint),
        None => *taints = json!([taint]),
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    if finalizers(object).contains(&finalizer) {
        return;
    }
    let mut list: Vec<Value> = finalizers(object).iter().map(|f| json!(f)).collect();
    list.push(json!(finalizer));
    set_meta(object, "finalizers", Value::Array(list));
}

/// The newest object of a kind that is marked as the default.
async fn default_of(
    api: &Api,
    group: &str,
    plural: &str,
    mark: &str,
) -> Result<Option<String>, Fault> {
    let prefix = format!("/registry/{group}/{plural}/");
    let range = wharf_etcd::Range::new(wharf_etcd::KeyRange::prefix(prefix));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let objects = reply.kvs.iter().map(crate::stored::decode);
    let marked = objects.filter(|o| o["metadata"]["annotations"][mark] == "true");
    let newest = marked.max_by_key(|o| meta(o, "creationTimestamp").to_owned());
    Ok(newest.map(|o| meta(&o, "name").to_owned()))
}

async fn default_storage_class(api: &Api, object: &mut Value) -> Result<(), Fault> {
    if object["spec"].get("storageClassName").is_some() {
        return Ok(());
    }
    let mark = "storageclass.kubernetes.io/is-default-class";
    if let Some(name) = default_of(api, "storage.k8s.io", "storageclasses", mark).await? {
        object["spec"]["storageClassName"] = json!(name);
    }
    Ok(())
}

async fn default_ingress_class(api: &Api, object: &mut Value) -> Result<(), Fault> {
    let old = &object["metadata"]["annotations"]["kubernetes.io/ingress.class"];
    if object["spec"].get("ingressClassName").is_some() || !old.is_null() {
        return Ok(());
    }
    let mark = "ingressclass.kubernetes.io/is-default-class";
    if let Some(name) = default_of(api, "networking.k8s.io", "ingressclasses", mark).await? {
        object["spec"]["ingressClassName"] = json!(name);
    }
    Ok(())
}

/// Who asked for a certificate is what the server knows, not what the request says.
fn requested_by(call: &Call<'_>, object: &mut Value) {
    let spec = &mut object["spec"];
    spec["username"] = json!(call.user.name);
    spec["groups"] = json!(call.user.groups);
    spec["uid"] = json!(call.user.uid);
    spec["extra"] = json!(call.user.extra);
}

/// Nobody grants rights that they do not have, unless they may escalate or bind.
async fn no_escalation(
    api: &Api,
    call: &Call<'_>,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Fault> {
    if call.kind.group() != "rbac.authorization.k8s.io" || call.user.is_in(crate::user::MASTERS) {
        return Ok(());
    }
    let part = |v: &Value| match call.kind.name() {
        "Role" | "ClusterRole" => v["rules"].clone(),
        _ => json!([v["roleRef"], v["subjects"]]),
    };
    if old.is_some_and(|old| part(old) == part(new)) {
        return Ok(());
    }
    let authorizer = &api.roles;
    let namespace = call.namespace.unwrap_or_default();
    let name = meta(new, "name");
    let is_role = matches!(call.kind.name(), "Role" | "ClusterRole");
    let (verb, group_resource, role, rules) = if is_role {
        ("escalate", call.kind.resource.plural, name, new["rules"].clone())
    } else {
        let (kind, role) =
            (&new["roleRef"]["kind"], new["roleRef"]["name"].as_str().unwrap_or_default());
        let kind = kind.as_str().unwrap_or_default();
        let rules = authorizer.role_rules(api, kind, namespace, role).await?;
        let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        ("bind", plural, role, Value::Array(rules))
    };
    let a = crate::authz::Attributes {
        verb,
        group: "rbac.authorization.k8s.io",
        resource: group_resource,
        namespace,
        name: role,
        ..crate::authz::Attributes::default()
    };
    if matches!(authorizer.decide(api, call.user, &a).await, crate::authz::Decision::Allow(_)) {
        return Ok(());
    }
    if authorizer.covers(api, call.user, namespace, &rules).await? {
        return Ok(());
    }
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
        call.user.name, call.user.groups
    );
    Err(Fault::forbidden(call.about(), name, &why))
}
