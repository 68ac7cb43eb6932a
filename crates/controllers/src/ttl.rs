//! What is deleted when its time is up: jobs that have ended, and bootstrap tokens.

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use base64::Engine as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::time::Duration;
use wharf_client::resources::{JOBS, SECRETS};
use wharf_client::{At, Change, Deletion, Object, Propagation, Resource};
use wharf_kube::status::Fault;
use wharf_kube::time;

/// The loop of jobs, whose keys they are.
pub struct Finished;
/// The loop of bootstrap tokens, whose keys are their secrets.
pub struct Tokens;

impl Loop for Finished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let timed = *change.resource == JOBS && !change.gone && due_job(&change.object).is_some();
        if timed { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(
            async move { expire(cx, &JOBS, key, due_job, Some(Propagation::Foreground)).await },
        )
    }
}

impl Loop for Tokens {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let timed =
            *change.resource == SECRETS && !change.gone && due_token(&change.object).is_some();
        if timed { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move { expire(cx, &SECRETS, key, due_token, None).await })
    }
}

/// When a job that has ended is to go, in seconds since 1970.
fn due_job(job: &Value) -> Option<i64> {
    let ttl = job.pointer("/spec/ttlSecondsAfterFinished")?.as_i64()?;
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    let ended = conditions
        .iter()
        .find(|c| c["status"] == "True" && matches!(text(c, "/type"), "Complete" | "Failed"))?;
    let at = time::parse_micros(text(ended, "/lastTransitionTime"))?;
    Some(at / 1_000_000 + ttl)
}

/// When a bootstrap token ends; nothing for those that do not.
fn due_token(secret: &Value) -> Option<i64> {
    if secret["type"] != "bootstrap.kubernetes.io/token"
        || meta(secret, "namespace") != "kube-system"
    {
        return None;
    }
    let data = secret.pointer("/data/expiration")?.as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
    // A date that cannot be read never comes: such a token is not accepted anyway.
    Some(time::parse_micros(std::str::from_utf8(&bytes).ok()?)? / 1_000_000)
}

async fn expire(
    cx: &Context,
    resource: &Resource,
    key: &Key,
    due: fn(&Value) -> Option<i64>,
    propagation: Option<Propagation>,
) -> Result<Next, Fault> {
    let object: Option<Object> = cx.world.get(resource, key);
    let Some(object) = object.filter(|o| !is_deleting(o)) else { return Ok(Next::Change) };
    let Some(due) = due(&object) else { return Ok(Next::Change) };
    let left = due - cx.now();
    if left > 0 {
        return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
    }
    let at = At { resource, namespace: &key.namespace, name: &key.name };
    let uid = Some(meta(&object, "uid").to_owned());
    cx.delete(at, Deletion { uid, propagation, ..Deletion::default() }).await?;
    Ok(Next::Change)
}
