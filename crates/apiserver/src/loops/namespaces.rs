//! Namespaces: the account and the authority's certificate that each has, and how one ends.

use super::bell;
use crate::api::{Api, Call, is_deleting, meta};
use crate::bootstrap::as_server;
use crate::delete::Options;
use crate::kinds::Kind;
use crate::stored;
use crate::write::Change;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::Fault;

const NAMESPACES: &str = "/registry/namespaces/";
const ACCOUNTS: &str = "/registry/serviceaccounts/";
const CONFIGS: &str = "/registry/configmaps/";
const ROOT: &str = "kube-root-ca.crt";

/// Keeps the default account and the root certificate in every namespace.
pub(super) async fn contents(api: Api, root: Arc<String>) {
    let prefixes = [NAMESPACES, ACCOUNTS, CONFIGS].map(str::to_owned).to_vec();
    let mut wake = bell(&api, prefixes);
    loop {
        if let Err(f) = fill(&api, &root).await {
            tracing::warn!(error = %f, "namespaces lack what each should have");
        }
        if wake.changed().await.is_err() {
            return;
        }
    }
}

async fn keys(api: &Api, prefix: &str) -> Result<BTreeSet<String>, Fault> {
    let range = Range::new(KeyRange::prefix(prefix.to_owned())).keys_only();
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let name = |kv: &wharf_etcd::Kv| {
        String::from_utf8_lossy(kv.key()).trim_start_matches(prefix).to_owned()
    };
    Ok(reply.kvs.iter().map(name).collect())
}

async fn values(api: &Api, prefix: &str) -> Result<Vec<Value>, Fault> {
    let range = Range::new(KeyRange::prefix(prefix.to_owned()));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    Ok(reply.kvs.iter().map(stored::decode).collect())
}

async fn fill(api: &Api, root: &str) -> Result<(), Fault> {
    let accounts = keys(api, ACCOUNTS).await?;
    let configs = keys(api, CONFIGS).await?;
    for namespace in values(api, NAMESPACES).await?.iter().filter(|n| !is_deleting(n)) {
        let ns = meta(namespace, "name");
        if !accounts.contains(&format!("{ns}/default")) {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": ns}});
            tolerate(crate::bootstrap::ensure(api, account).await)?;
        }
        if configs.contains(&format!("{ns}/{ROOT}")) {
            restore(api, ns, root).await?;
        } else {
            let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT, "namespace": ns, "annotations":
                {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."}},
                "data": {"ca.crt": root}});
            tolerate(crate::bootstrap::ensure(api, config).await)?;
        }
    }
    Ok(())
}

/// A namespace that vanished meanwhile needs nothing.
fn tolerate(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(f) if matches!(f.code, 403 | 404 | 409) => Ok(()),
        other => other,
    }
}

/// Whoever changed the certificate gets it back as it is.
async fn restore(api: &Api, ns: &str, root: &str) -> Result<(), Fault> {
    let Some(kind) = api.kinds.core("configmaps") else { return Ok(()) };
    let found = api.object(&kind, Some(ns), ROOT).await?;
    if found.is_none_or(|c| c["data"] == json!({"ca.crt": root}) || is_deleting(&c)) {
        return Ok(());
    }
    let patch = json!([{"op": "add", "path": "/data", "value": {"ca.crt": root}}]);
    let outcome = as_server(api, &kind, Some(ns), |mut call| {
        call.name = Some(ROOT);
        async move { api.change(&call, &Change::JsonPatch(&patch)).await.map(drop) }
    });
    tolerate(outcome.await)
}

/// Empties namespaces that are being deleted, and lets them go.
pub(super) async fn endings(api: Api) {
    let mut wake = bell(&api, vec!["/registry/".to_owned()]);
    loop {
        if let Err(f) = end_all(&api).await {
            tracing::warn!(error = %f, "a namespace could not be emptied");
        }
        if wake.changed().await.is_err() {
            return;
        }
    }
}

async fn end_all(api: &Api) -> Result<(), Fault> {
    for namespace in values(api, NAMESPACES).await?.iter().filter(|n| is_deleting(n)) {
        end(api, namespace).await?;
    }
    Ok(())
}

async fn end(api: &Api, namespace: &Value) -> Result<(), Fault> {
    let name = meta(namespace, "name");
    let own = namespace.pointer("/spec/finalizers").and_then(Value::as_array);
    if own.is_none_or(|f| !f.contains(&json!("kubernetes"))) {
        return Ok(());
    }
    let mut left = Vec::new();
    // Pods first: what they use must outlive them.
    let mut kinds: Vec<Arc<Kind>> = api
        .kinds
        .all()
        .into_iter()
        .filter(|k| k.resource.namespaced && k.resource.stored())
        .collect();
    kinds.sort_by_key(|k| k.resource.plural != "pods");
    for kind in &kinds {
        if kind.hub != crate::kinds::Hub::Own {
            continue;
        }
        let prefix = format!("{}{name}/", kind.prefix());
        let objects = values(api, &prefix).await?;
        for o in objects.iter().filter(|o| !is_deleting(o)) {
            delete(api, kind, name, meta(o, "name")).await?;
        }
        let remaining = values(api, &prefix).await?;
        if !remaining.is_empty() {
            left.push((kind.resource.qualified(), remaining));
            if kind.resource.plural == "pods" {
                break;
            }
        }
    }
    let kind = api.kinds.core("namespaces").ok_or_else(Fault::no_route)?;
    if left.is_empty() {
        return finalize(api, &kind, namespace, name).await;
    }
    report(api, &kind, namespace, name, &left).await
}

async fn delete(api: &Api, kind: &Arc<Kind>, ns: &str, name: &str) -> Result<(), Fault> {
    let outcome = as_server(api, kind, Some(ns), |mut call: Call<'_>| {
        call.name = Some(name);
        async move {
            let options = Options {
                propagation: Some(crate::request::Propagation::Background),
                ..Options::default()
            };
            api.delete(&call, &options).await.map(drop)
        }
    });
    tolerate(outcome.await)
}

async fn finalize(api: &Api, kind: &Arc<Kind>, namespace: &Value, name: &str) -> Result<(), Fault> {
    let mut next = namespace.clone();
    let rest: Vec<Value> = next["spec"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|f| **f != json!("kubernetes"))
        .cloned()
        .collect();
    next["spec"]["finalizers"] = Value::Array(rest);
    let outcome = as_server(api, kind, None, |mut call| {
        call.name = Some(name);
        call.subresource = Some("finalize");
        async move { api.change(&call, &Change::Replace(next)).await.map(drop) }
    });
    tolerate(outcome.await)
}

/// Says in the namespace's status what keeps it.
async fn report(
    api: &Api,
    kind: &Arc<Kind>,
    namespace: &Value,
    name: &str,
    left: &[(String, Vec<Value>)],
) -> Result<(), Fault> {
    let count = |(resource, objects): &(String, Vec<Value>)| {
        let group = if resource.contains('.') { resource.clone() } else { format!("{resource}.") };
        format!("{group} has {} resource instances", objects.len())
    };
    let content = format!(
        "Some resources are remaining: {}",
        left.iter().map(count).collect::<Vec<_>>().join(", ")
    );
    let mut marks: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for o in left.iter().flat_map(|(_, objects)| objects) {
        for f in crate::api::finalizers(o) {
            *marks.entry(f).or_default() += 1;
        }
    }
    let held: Vec<String> =
        marks.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let finalizers =
        format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
    let now = api.now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    let conditions = json!([
        condition(
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered"
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed"
        ),
        condition(
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization"
        ),
        condition("NamespaceContentRemaining", "True", "SomeResourcesRemain", &content),
        if held.is_empty() {
            condition(
                "NamespaceFinalizersRemaining",
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            )
        } else {
            condition("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", &finalizers)
        }
    ]);
    let told = |v: &Value| -> Vec<(Value, Value)> {
        v.as_array()
            .into_iter()
            .flatten()
            .map(|c| (c["type"].clone(), c["message"].clone()))
            .collect()
    };
    if told(&conditions) == told(&namespace["status"]["conditions"]) {
        return Ok(());
    }
    let patch = json!({"status": {"conditions": conditions}});
    let outcome = as_server(api, kind, None, |mut call| {
        call.name = Some(name);
        call.subresource = Some("status");
        async move { api.change(&call, &Change::MergePatch(&patch)).await.map(drop) }
    });
    tolerate(outcome.await)
}
