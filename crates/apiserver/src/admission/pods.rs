//! What admission does to new pods: account, priority, tolerations.

use crate::api::{Api, Call, meta};
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

/// Changes a pod that is about to be created.
pub(super) async fn mutate(api: &Api, call: &Call<'_>, pod: &mut Value) -> Result<(), Fault> {
    service_account(api, call, pod).await?;
    priority(api, call, pod).await?;
    runtime_class(api, call, pod).await?;
    tolerations(pod);
    Ok(())
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

async fn service_account(api: &Api, call: &Call<'_>, pod: &mut Value) -> Result<(), Fault> {
    if is_mirror(pod) {
        return Ok(());
    }
    let ns = call.namespace.unwrap_or_default();
    let spec = &mut pod["spec"];
    if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        let old = spec["serviceAccount"].as_str().unwrap_or_default();
        spec["serviceAccountName"] = json!(if old.is_empty() { "default" } else { old });
    }
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    let account = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    let found = match api.kinds.core("serviceaccounts") {
        Some(kind) => api.object(&kind, Some(ns), &account).await?,
        None => None,
    };
    let Some(found) = found else {
        let why = format!(
            "error looking up service account {ns}/{account}: serviceaccount {account:?} not found"
        );
        return Err(Fault::forbidden(call.about(), meta(pod, "name"), &why));
    };
    let spec = &mut pod["spec"];
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && let Some(secrets) = found.get("imagePullSecrets")
    {
        spec["imagePullSecrets"] = secrets.clone();
    }
    let wanted = spec
        .get("automountServiceAccountToken")
        .or_else(|| found.get("automountServiceAccountToken"));
    if wanted != Some(&json!(false)) {
        mount_token(spec);
    }
    Ok(())
}

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Gives every container that has nothing there the account's token, the authority and the namespace.
fn mount_token(spec: &mut Value) {
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let own = volumes
        .iter()
        .filter_map(|v| v["name"].as_str())
        .find(|n| n.starts_with("kube-api-access-"));
    let name = own.map_or_else(|| crate::random::name("kube-api-access-"), str::to_owned);
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = &mut c["volumeMounts"];
            let list = mounts.as_array().cloned().unwrap_or_default();
            if list.iter().any(|m| m["mountPath"] == TOKEN) {
                continue;
            }
            used = true;
            let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN});
            *mounts = Value::Array([list, vec![mount]].concat());
        }
    }
    if used && !volumes.iter().any(|v| v["name"] == json!(name)) {
        let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
        spec["volumes"] = Value::Array([volumes, vec![volume]].concat());
    }
}

async fn priority(api: &Api, call: &Call<'_>, pod: &mut Value) -> Result<(), Fault> {
    let gv = GroupVersion::parse("scheduling.k8s.io/v1");
    let Some(kind) = api.kinds.find(&gv, "priorityclasses") else { return Ok(()) };
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if name.is_empty() {
        default_class(api, &kind.prefix()).await?.map(Arc::new)
    } else {
        let found = api.object(&kind, None, &name).await?;
        if found.is_none() {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(Fault::forbidden(call.about(), meta(pod, "name"), &why));
        }
        found
    };
    let value = class.as_ref().map_or(json!(0), |c| c["value"].clone());
    let given = &pod["spec"]["priority"];
    if !given.is_null() && *given != value {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(Fault::forbidden(call.about(), meta(pod, "name"), &why));
    }
    let policy = class.as_ref().and_then(|c| c.get("preemptionPolicy")).cloned();
    let spec = &mut pod["spec"];
    if let Some(c) = class.filter(|_| name.is_empty()) {
        spec["priorityClassName"] = c["metadata"]["name"].clone();
    }
    spec["priority"] = value;
    spec["preemptionPolicy"] = policy.unwrap_or_else(|| json!("PreemptLowerPriority"));
    Ok(())
}

async fn default_class(api: &Api, prefix: &str) -> Result<Option<Value>, Fault> {
    let range = wharf_etcd::Range::new(wharf_etcd::KeyRange::prefix(prefix.to_owned()));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let defaults =
        reply.kvs.iter().map(crate::stored::decode).filter(|c| c["globalDefault"] == true);
    Ok(defaults.min_by_key(|c| c["value"].as_i64()))
}

async fn runtime_class(api: &Api, call: &Call<'_>, pod: &mut Value) -> Result<(), Fault> {
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or_default().to_owned();
    let gv = GroupVersion::parse("node.k8s.io/v1");
    let Some(kind) = api.kinds.find(&gv, "runtimeclasses").filter(|_| !name.is_empty()) else {
        if pod["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty()) {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(Fault::forbidden(call.about(), meta(pod, "name"), why));
        }
        return Ok(());
    };
    let Some(class) = api.object(&kind, None, &name).await? else {
        let why = format!("pod rejected: RuntimeClass {name:?} not found");
        return Err(Fault::forbidden(call.about(), meta(pod, "name"), &why));
    };
    let refused = |why: &str| {
        Fault::forbidden(call.about(), meta(pod, "name"), &format!("pod rejected: {why}"))
    };
    let mut spec = pod["spec"].clone();
    if let Some(fixed) = class.pointer("/overhead/podFixed") {
        if spec["overhead"].is_object() && spec["overhead"] != *fixed {
            return Err(refused("Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        spec["overhead"] = fixed.clone();
    }
    for (key, value) in
        class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten()
    {
        if spec["nodeSelector"].get(key).is_some_and(|v| v != value) {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}, pod.spec.nodeSelector[{key}] = {}",
                spec["nodeSelector"][key]
            );
            return Err(refused(&why));
        }
        spec["nodeSelector"][key] = value.clone();
    }
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for t in
        class.pointer("/scheduling/tolerations").and_then(Value::as_array).into_iter().flatten()
    {
        if !tolerations.contains(t) {
            tolerations.push(t.clone());
        }
    }
    if !tolerations.is_empty() {
        spec["tolerations"] = json!(tolerations);
    }
    pod["spec"] = spec;
    Ok(())
}

/// A pod stays five minutes on a node that is lost, unless it says otherwise; also one that changes.
pub(super) fn tolerations(pod: &mut Value) {
    let list = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let mut out = list.clone();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = list.iter().any(|t| {
            let k = t["key"].as_str().unwrap_or_default();
            let e = t["effect"].as_str().unwrap_or_default();
            (k == key || k.is_empty()) && (e == "NoExecute" || e.is_empty())
        });
        if !covered {
            out.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    pod["spec"]["tolerations"] = Value::Array(out);
}
