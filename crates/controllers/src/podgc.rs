//! Pods that nobody else cleans up: those of nodes that are gone, and those that ended long ago.

use crate::object::{is_deleting, meta, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::time::Duration;
use wharf_base::sync::Mutex;
use wharf_client::resources::{NODES, PODS};
use wharf_client::{At, Change, Deletion, Object};
use wharf_kube::status::Fault;

/// Seconds that a node is waited for: it may be about to register again.
const QUARANTINE: i64 = 40;
/// So many pods that have ended may stay (as the reference server's `--terminated-pod-gc-threshold`).
const ENDED: usize = 12_500;
/// How often they are counted.
const PERIOD: i64 = 20;

/// The loop; its keys are pods, and an empty one is all that have ended.
#[derive(Default)]
pub struct Leftovers {
    /// Since when nodes are missed, in seconds since 1970.
    missed: Mutex<HashMap<String, i64>>,
    counted: Mutex<i64>,
}

impl Loop for Leftovers {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn wake(&self, world: &World, change: &Change, _: &Before) -> Vec<Key> {
        let o = &change.object;
        match &*change.resource {
            r if *r == NODES && change.gone => {
                world.placed(meta(o, "name")).iter().map(|p| Key::of(p)).collect()
            }
            r if *r == NODES => {
                self.missed.lock().remove(meta(o, "name"));
                Vec::new()
            }
            r if *r == PODS && !change.gone => {
                let node = text(o, "/spec/nodeName");
                let lost = !node.is_empty() && world.get(&NODES, &Key::new("", node)).is_none();
                let stuck = node.is_empty() && is_deleting(o);
                let mut keys = Vec::new();
                keys.extend((lost || stuck).then(|| Key::of(o)));
                keys.extend(pods::is_finished(o).then(Key::default));
                keys
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            if key.name.is_empty() {
                return self.thin(cx).await;
            }
            let Some(pod) = cx.world.get(&PODS, key) else { return Ok(Next::Change) };
            let node = text(&pod, "/spec/nodeName");
            if node.is_empty() {
                // It never ran, so nobody says that it has ended.
                if is_deleting(&pod) {
                    remove(cx, &pod).await?;
                }
                return Ok(Next::Change);
            }
            if cx.world.get(&NODES, &Key::new("", node)).is_some() {
                return Ok(Next::Change);
            }
            let since = *self.missed.lock().entry(node.to_owned()).or_insert(cx.now());
            let left = since + QUARANTINE - cx.now();
            if left > 0 {
                return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
            }
            if !pods::is_finished(&pod) {
                let why = ("DeletionByPodGC", "PodGC: node no longer exists");
                pods::disrupt(cx, &pod, why, true).await?;
            }
            remove(cx, &pod).await?;
            Ok(Next::Change)
        })
    }
}

impl Leftovers {
    /// Deletes the oldest of too many pods that have ended.
    async fn thin(&self, cx: &Context) -> Result<Next, Fault> {
        let left = *self.counted.lock() + PERIOD - cx.now();
        if left > 0 {
            return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
        }
        *self.counted.lock() = cx.now();
        let all = cx.world.all(&PODS);
        for pod in excess(all, ENDED) {
            remove(cx, &pod).await?;
        }
        Ok(Next::Change)
    }
}

/// The oldest pods that have ended, beyond so many.
fn excess(mut pods: Vec<Object>, most: usize) -> Vec<Object> {
    pods.retain(|p| pods::is_finished(p) && !is_deleting(p));
    pods.sort_by_cached_key(|p| {
        (meta(p, "creationTimestamp").to_owned(), meta(p, "name").to_owned())
    });
    let over = pods.len().saturating_sub(most);
    pods.truncate(over);
    pods
}

async fn remove(cx: &Context, pod: &Object) -> Result<(), Fault> {
    let at = At { resource: &PODS, namespace: meta(pod, "namespace"), name: meta(pod, "name") };
    let uid = Some(meta(pod, "uid").to_owned());
    cx.delete(at, Deletion { uid, grace: Some(0), ..Deletion::default() }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn the_oldest_of_too_many_go() {
        let pod = |n: usize, phase: &str| {
            Arc::new(
                json!({"metadata": {"name": n.to_string(), "creationTimestamp": n.to_string()}, "status": {"phase": phase}}),
            )
        };
        let all = vec![pod(3, "Failed"), pod(1, "Succeeded"), pod(0, "Running"), pod(2, "Failed")];
        let names = |most| {
            excess(all.clone(), most).iter().map(|p| meta(p, "name").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["1", "2"]);
        assert!(names(3).is_empty());
    }
}
