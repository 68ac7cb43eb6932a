//! Definitions that go: their objects go first.

use super::names::condition;
use super::{CLEANUP, PREFIX, definition_kind, write_status};
use crate::api::{Api, Call, fault, finalizers, is_deleting, meta};
use crate::bootstrap::as_server;
use crate::delete::Options;
use crate::kinds::Kind;
use crate::stored;
use crate::write::Change;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::Fault;

/// Says of a definition that its deletion was asked for.
pub(crate) fn mark(crd: &mut Value, now: &str) {
    let c = (
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    condition(&mut crd["status"], c, now);
}

/// Deletes the objects of definitions that are going, and lets those go that have none left. Says
/// whether objects are left, which others must let go.
pub async fn finish(api: &Api) -> Result<bool, Fault> {
    let range = Range::new(KeyRange::prefix(PREFIX));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let marker = br#""deletionTimestamp""#;
    let mut left = false;
    let going = reply.kvs.iter().filter(|kv| memchr::memmem::find(kv.value(), marker).is_some());
    for crd in going.map(stored::decode).filter(is_deleting) {
        if finalizers(&crd).contains(&CLEANUP) {
            left |= clean(api, &crd).await?;
        }
    }
    Ok(left)
}

async fn clean(api: &Api, crd: &Value) -> Result<bool, Fault> {
    let name = meta(crd, "name");
    // A definition may serve no version; what was stored goes all the same.
    let versions = crd["spec"]["versions"].as_array();
    let hidden = || {
        let first = versions.and_then(|v| v.first())?;
        Some(Arc::new(super::kind(crd, first, &crd["status"])))
    };
    let established = super::names::is_established(&crd["status"]);
    let kind = api.kinds.defined().of(name).or_else(|| hidden().filter(|_| established));
    if let Some(kind) = &kind
        && remove(api, kind).await? > 0
    {
        let message = "CustomResource deletion is in progress";
        say(api, crd, ("Terminating", "True", "InstanceDeletionInProgress", message)).await?;
        return Ok(true);
    }
    let definitions = definition_kind(api)?;
    let rest: Vec<&str> = finalizers(crd).into_iter().filter(|f| *f != CLEANUP).collect();
    let patch =
        json!({"metadata": {"resourceVersion": meta(crd, "resourceVersion"), "finalizers": rest}});
    let outcome = as_server(api, &definitions, None, |mut call: Call<'_>| {
        call.name = Some(name);
        async move { api.change(&call, &Change::MergePatch(&patch)).await.map(drop) }
    });
    tolerate(outcome.await)?;
    super::refresh(api).await?;
    Ok(false)
}

/// Deletes every object of a kind; says how many are left, held by finalizers.
async fn remove(api: &Api, kind: &Arc<Kind>) -> Result<usize, Fault> {
    let range = || Range::new(KeyRange::prefix(kind.prefix()));
    let reply = api.store.range(range()).await.map_err(|e| fault(&e))?;
    let objects: Vec<Value> = reply.kvs.iter().map(stored::decode).collect();
    for o in objects.iter().filter(|o| !is_deleting(o)) {
        let ns = Some(meta(o, "namespace")).filter(|n| !n.is_empty());
        let uid = Some(meta(o, "uid").to_owned());
        let outcome = as_server(api, kind, ns, |mut call| {
            call.name = Some(meta(o, "name"));
            async move {
                let options = Options { uid, ..Options::default() };
                api.delete(&call, &options).await.map(drop)
            }
        });
        tolerate(outcome.await)?;
    }
    let left = api.store.range(range().keys_only()).await.map_err(|e| fault(&e))?;
    Ok(left.kvs.len())
}

async fn say(api: &Api, crd: &Value, c: (&str, &str, &str, &str)) -> Result<(), Fault> {
    let mut status = crd["status"].clone();
    condition(&mut status, c, &api.now());
    if status != crd["status"] {
        write_status(api, meta(crd, "name"), crd, status).await?;
    }
    Ok(())
}

/// What somebody else did meanwhile wakes the loop again.
fn tolerate(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(f) if matches!(f.code, 404 | 409) => Ok(()),
        other => other,
    }
}
