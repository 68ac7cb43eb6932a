//! Nodes that are heard of no more, and the taints that follow from what a node says of itself.

use crate::object::{is_deleting, meta, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::schedule::covers;
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::time::Duration;
use wharf_client::resources::{LEASES, NODES, PODS};
use wharf_client::{At, Change, Deletion, Write};
use wharf_kube::status::Fault;
use wharf_kube::time;

/// Seconds after which a node that does not renew its lease is unknown.
const GRACE: i64 = 50;
/// Taints that this loop alone sets: the condition, the status, the key.
const TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The loop; its keys are nodes.
pub struct Nodes {
    /// Whether it gives up nodes that are silent, and taints those that are not well.
    pub judges: bool,
    /// Whether it evicts the pods that a taint drives away.
    pub evicts: bool,
}

impl Loop for Nodes {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn wake(&self, _: &World, change: &Change, before: &Before) -> Vec<Key> {
        let name = meta(&change.object, "name");
        match &*change.resource {
            r if *r == NODES && !change.gone => vec![Key::new("", name)],
            // A renewed lease is news only of a node that was given up.
            r if *r == LEASES
                && meta(&change.object, "namespace") == "kube-node-lease"
                && before.object.is_none() =>
            {
                vec![Key::new("", name)]
            }
            r if *r == PODS && !change.gone => {
                let node = text(&change.object, "/spec/nodeName");
                let new =
                    before.object.as_ref().is_none_or(|b| text(b, "/spec/nodeName").is_empty());
                if new && !node.is_empty() { vec![Key::new("", node)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(node) = cx.world.get(&NODES, key) else { return Ok(Next::Change) };
            let mut next = None;
            if self.judges {
                match judge(cx, key, &node).await? {
                    Some(seconds) => next = Some(seconds),
                    // What follows from it is seen with the node as it is now.
                    None => return Ok(Next::Change),
                }
            }
            let evict = if self.evicts { evict(cx, &node).await? } else { None };
            if self.judges && has(&node, "Ready") && condition(&node, "Ready") != "True" {
                doubt(cx, &node).await?;
            }
            let wait = next.into_iter().chain(evict).min();
            Ok(wait.map_or(Next::Change, |s| Next::After(Duration::from_secs(s))))
        })
    }
}

/// Says of a node what its silence and its conditions mean; gives the seconds until it could be given up, or
/// nothing where it has changed.
async fn judge(cx: &Context, key: &Key, node: &Value) -> Result<Option<u64>, Fault> {
    let at = At { resource: &NODES, namespace: "", name: &key.name };
    let quiet = silence(cx, key, node);
    if quiet >= GRACE && condition(node, "Ready") != "Unknown" && has(node, "Ready") {
        let mut next = node.clone();
        give_up(&mut next, &cx.timestamp());
        cx.write(at, Some("status"), Write::Replace(next)).await?;
        let told = format!("Node {} status is now: NodeNotReady", key.name);
        cx.tell(node, false, "NodeNotReady", &told).await;
        return Ok(None);
    }
    let wanted = taints(node, &cx.timestamp());
    if node["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice) != wanted {
        let mut next = node.clone();
        next["spec"]["taints"] = Value::Array(wanted);
        cx.write(at, None, Write::Replace(next)).await?;
        return Ok(None);
    }
    Ok(Some(u64::try_from((GRACE - quiet).max(1)).unwrap_or(1)))
}

/// Seconds since a node last renewed its lease, or since it came.
fn silence(cx: &Context, key: &Key, node: &Value) -> i64 {
    let lease = cx.world.get(&LEASES, &Key::new("kube-node-lease", &*key.name));
    let renewed = lease.and_then(|l| time::parse_micros(text(&l, "/spec/renewTime")));
    let heartbeats = node["status"]["conditions"].as_array().into_iter().flatten();
    let beats = heartbeats.filter_map(|c| time::parse_micros(text(c, "/lastHeartbeatTime")));
    let born = time::parse_micros(meta(node, "creationTimestamp"));
    let last = renewed.into_iter().chain(beats).chain(born).max().unwrap_or(0);
    cx.now() - last / 1_000_000
}

fn condition<'a>(node: &'a Value, kind: &str) -> &'a str {
    let list = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().find(|c| c["type"] == kind).map_or("", |c| text(c, "/status"))
}

fn has(node: &Value, kind: &str) -> bool {
    !condition(node, kind).is_empty()
}

fn give_up(node: &mut Value, now: &str) {
    for c in node["status"]["conditions"].as_array_mut().into_iter().flatten() {
        let known = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
        if known.iter().any(|k| c["type"] == *k) {
            c["status"] = json!("Unknown");
            c["reason"] = json!("NodeStatusUnknown");
            c["message"] = json!("Kubelet stopped posting node status.");
            c["lastTransitionTime"] = json!(now);
        }
    }
}

/// The taints that a node should have: those that others set, and those that its conditions ask for.
fn taints(node: &Value, now: &str) -> Vec<Value> {
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let ours = |t: &Value| TAINTS.iter().any(|(_, _, key)| t["key"] == *key);
    let mut out: Vec<Value> = old.iter().filter(|t| !ours(t)).cloned().collect();
    for (kind, status, key) in TAINTS {
        let missing = *kind == "Ready" && *status == "False" && !has(node, "Ready");
        if condition(node, kind) != *status && !missing {
            continue;
        }
        let effects: &[&str] =
            if *kind == "Ready" { &["NoSchedule", "NoExecute"] } else { &["NoSchedule"] };
        for effect in effects {
            let kept = old.iter().find(|t| t["key"] == *key && t["effect"] == *effect);
            out.push(kept.cloned().unwrap_or_else(|| match *effect {
                "NoExecute" => json!({"key": key, "effect": effect, "timeAdded": now}),
                _ => json!({"key": key, "effect": effect}),
            }));
        }
    }
    if node["spec"]["unschedulable"] == true {
        let cordoned = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if !out.iter().any(|t| t["key"] == cordoned["key"]) {
            out.push(cordoned);
        }
    } else {
        out.retain(|t| t["key"] != "node.kubernetes.io/unschedulable");
    }
    out
}

/// Says of a silent node's pods that they are not ready: what leads to them is to lead elsewhere.
async fn doubt(cx: &Context, node: &Value) -> Result<(), Fault> {
    for pod in cx.world.placed(meta(node, "name")) {
        if !pods::is_ready(&pod) {
            continue;
        }
        let at =
            At { resource: &PODS, namespace: meta(&pod, "namespace"), name: meta(&pod, "name") };
        let ready =
            json!({"type": "Ready", "status": "False", "lastTransitionTime": cx.timestamp()});
        let patch =
            json!({"metadata": {"uid": meta(&pod, "uid")}, "status": {"conditions": [ready]}});
        match cx.write(at, Some("status"), Write::Strategic(patch)).await {
            Err(f) if f.code != 404 && f.code != 409 => return Err(f),
            _ => {}
        }
        cx.tell(&pod, true, "NodeNotReady", "Node is not ready").await;
    }
    Ok(())
}

/// Deletes the pods that may stay no longer; gives the seconds until the next one's time is up.
async fn evict(cx: &Context, node: &Value) -> Result<Option<u64>, Fault> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let driving: Vec<&Value> = taints.filter(|t| t["effect"] == "NoExecute").collect();
    if driving.is_empty() {
        return Ok(None);
    }
    let mut next = None;
    for pod in cx.world.placed(meta(node, "name")) {
        if is_deleting(&pod) {
            continue;
        }
        match seconds_left(&pod, &driving, cx.now()) {
            None => {}
            Some(0) => {
                let at = At {
                    resource: &PODS,
                    namespace: meta(&pod, "namespace"),
                    name: meta(&pod, "name"),
                };
                let why =
                    ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
                pods::disrupt(cx, &pod, why, false).await?;
                let uid = Some(meta(&pod, "uid").to_owned());
                cx.delete(at, Deletion { uid, ..Deletion::default() }).await?;
            }
            Some(left) => next = Some(next.map_or(left, |n: u64| n.min(left))),
        }
    }
    Ok(next)
}

/// How long a pod may stay; nothing is forever.
fn seconds_left(pod: &Value, driving: &[&Value], now: i64) -> Option<u64> {
    let mut least: Option<u64> = None;
    for taint in driving {
        let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
        let mut covering = tolerations.filter(|t| covers(t, taint)).peekable();
        if covering.peek().is_none() {
            return Some(0);
        }
        // The shortest counts; one without an end does not make another longer.
        let Some(seconds) = covering.filter_map(|t| t["tolerationSeconds"].as_i64()).min() else {
            continue;
        };
        let since = time::parse_micros(text(taint, "/timeAdded")).map_or(now, |t| t / 1_000_000);
        let left = u64::try_from((since + seconds - now).max(0)).unwrap_or(0);
        least = Some(least.map_or(left, |l| l.min(left)));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_follow_conditions() {
        let node = |status: &str| {
            json!({"spec": {"taints": [{"key": "own", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        let keys = |v: &Value| -> Vec<String> {
            taints(v, "now")
                .iter()
                .map(|t| format!("{}:{}", text(t, "/key"), text(t, "/effect")))
                .collect()
        };
        assert_eq!(keys(&node("True")), ["own:NoSchedule"]);
        let expected = [
            "own:NoSchedule",
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute",
        ];
        assert_eq!(keys(&node("Unknown")), expected);
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let taint = json!({"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:00Z"});
        let pod = |t: Value| json!({"spec": {"tolerations": t}});
        assert_eq!(seconds_left(&pod(json!([])), &[&taint], 100), Some(0));
        assert_eq!(
            seconds_left(&pod(json!([{"key": "k", "operator": "Exists"}])), &[&taint], 100),
            None
        );
        let some = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]);
        assert_eq!(seconds_left(&pod(some), &[&taint], 100), Some(260));
        let other = json!([{"key": "k", "effect": "NoSchedule", "operator": "Exists"}]);
        assert_eq!(seconds_left(&pod(other), &[&taint], 100), Some(0));
    }
}
