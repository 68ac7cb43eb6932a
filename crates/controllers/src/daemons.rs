//! DaemonSets: one pod on every node that fits.

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::schedule::{is_selected, tolerates};
use crate::sets::{self, REVISION};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wharf_client::resources::{DAEMON_SETS, NODES, PODS};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The loop; its keys are DaemonSets.
pub struct DaemonSets;

/// Taints that every daemon tolerates.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const FIELD: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";

impl Loop for DaemonSets {
    fn name(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == DAEMON_SETS => vec![Key::of(&change.object)],
            r if *r == PODS => pods::managers("DaemonSet", &change.object, before.object.as_ref()),
            r if *r == NODES => {
                // A heartbeat changes nothing that matters here.
                let part = |o: &Value| (o["spec"].clone(), o["metadata"]["labels"].clone());
                let same = before.object.as_ref().is_some_and(|b| part(b) == part(&change.object));
                if same && !change.gone {
                    return Vec::new();
                }
                world.all(&DAEMON_SETS).iter().map(|d| Key::of(d)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let set = cx.world.get(&DAEMON_SETS, key).filter(|d| !is_deleting(d));
            let Some(set) = set else { return Ok(Next::Change) };
            let Some(selector) = Labels::from_object(&set["spec"]["selector"]) else {
                return Ok(Next::Change);
            };
            let reference = pods::reference("apps/v1", "DaemonSet", &set);
            let own = pods::claim(cx, &set, &reference, &selector).await?;
            let revisions = sets::revise(cx, &set, "apps/v1", "DaemonSet").await?;
            let pod = template(&set, &reference, revisions.hash());
            let failure = balance(cx, &set, &pod, &own, revisions.hash()).await;
            let now = cx.world.managed(&PODS, meta(&set, "uid"));
            sets::forget(cx, &set, &revisions, &now).await?;
            let waits = report(cx, key, &set, &pod, &now, revisions.hash()).await?;
            failure?;
            Ok(if waits { Next::After(Duration::from_secs(1)) } else { Next::Change })
        })
    }
}

/// A daemon, before it is told its node.
fn template(set: &Value, reference: &Value, hash: &str) -> Value {
    let (ns, name) = (meta(set, "namespace"), meta(set, "name"));
    let mut pod = pods::from_template(&set["spec"]["template"], ns, reference.clone());
    pod["metadata"]["generateName"] = json!(format!("{name}-"));
    pod["metadata"]["labels"][REVISION] = json!(hash);
    if let Some(n) = set["metadata"].get("generation") {
        pod["metadata"]["labels"]["pod-template-generation"] = json!(n.to_string());
    }
    let mut list = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let own_network = (pod["spec"]["hostNetwork"] == true).then_some(&network);
    for (key, effect) in TOLERATED.iter().chain(own_network) {
        let t = json!({"key": key, "operator": "Exists", "effect": effect});
        if !list.contains(&t) {
            list.push(t);
        }
    }
    pod["spec"]["tolerations"] = Value::Array(list);
    pod
}

/// Whether a daemon should be on a node, and whether one that is there may stay.
fn fits(pod: &Value, node: &Value) -> (bool, bool) {
    if !is_selected(pod, node) {
        return (false, false);
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let bad: Vec<&Value> =
        taints.filter(|t| t["effect"] != "PreferNoSchedule" && !tolerates(pod, t)).collect();
    (bad.is_empty(), !bad.iter().any(|t| t["effect"] == "NoExecute"))
}

/// The node that a daemon is on, or is meant for.
fn node_of(pod: &Value) -> &str {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() { text(pod, FIELD) } else { name }
}

fn for_node(pod: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    let fields = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let terms = &mut pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    match terms.as_array_mut().filter(|l| !l.is_empty()) {
        Some(list) => list.iter_mut().for_each(|t| t["matchFields"] = fields.clone()),
        None => *terms = json!([{"matchFields": fields}]),
    }
    pod
}

async fn balance(
    cx: &Context,
    set: &Value,
    pod: &Value,
    own: &[Object],
    hash: &str,
) -> Result<(), Fault> {
    let mut by_node: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for p in own {
        by_node.entry(node_of(p)).or_default().push(p);
    }
    let (mut doomed, mut wanted) = (Vec::new(), Vec::new());
    let nodes = cx.world.all(&NODES);
    let mut stale = Vec::new();
    let mut missing = 0;
    for node in &nodes {
        let (runs, stays) = fits(pod, node);
        let here = by_node.remove(meta(node, "name")).unwrap_or_default();
        let lives: Vec<&&Object> = here.iter().filter(|p| pods::is_active(p)).collect();
        doomed.extend(
            here.iter().filter(|p| pods::is_finished(p) && !is_deleting(p)).map(|p| (**p).clone()),
        );
        if runs && here.iter().all(|p| pods::is_finished(p) && !is_deleting(p)) {
            wanted.push(for_node(pod, meta(node, "name")));
        }
        if !stays {
            doomed.extend(lives.iter().map(|p| (***p).clone()));
            continue;
        }
        // The oldest stays where there is more than one.
        let mut lives = lives;
        lives.sort_by_key(|p| meta(p, "creationTimestamp").to_owned());
        doomed.extend(lives.iter().skip(1).map(|p| (***p).clone()));
        let Some(one) = lives.first() else {
            missing += i64::from(runs);
            continue;
        };
        if !pods::is_ready(one) {
            missing += 1;
        }
        if one["metadata"]["labels"][REVISION] != hash {
            stale.push((***one).clone());
        }
    }
    // Nodes that are gone.
    doomed.extend(by_node.into_values().flatten().filter(|p| !is_deleting(p)).cloned());
    if text(set, "/spec/updateStrategy/type") != "OnDelete" {
        let total =
            i64::try_from(nodes.iter().filter(|n| fits(pod, n).0).count()).unwrap_or(i64::MAX);
        let most =
            bound(&set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], total).max(1);
        stale.sort_by_key(|p| pods::is_ready(p));
        let mut room = most - missing;
        for p in stale {
            if !pods::is_ready(&p) {
                doomed.push(p);
            } else if room > 0 {
                room -= 1;
                doomed.push(p);
            }
        }
    }
    pods::remove(cx, &doomed).await?;
    pods::make(cx, meta(set, "namespace"), wanted).await.1
}

/// A number, or a percentage rounded up.
fn bound(v: &Value, total: i64) -> i64 {
    let percent = || v.as_str()?.strip_suffix('%')?.parse::<i64>().ok();
    v.as_i64().or_else(|| percent().map(|p| (p * total + 99) / 100)).unwrap_or(1)
}

async fn report(
    cx: &Context,
    key: &Key,
    set: &Value,
    pod: &Value,
    own: &[Object],
    hash: &str,
) -> Result<bool, Fault> {
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let mut n = [0i64; 6];
    for node in cx.world.all(&NODES) {
        let (runs, _) = fits(pod, &node);
        let here = own.iter().find(|p| node_of(p) == meta(&node, "name") && pods::is_active(p));
        match (runs, here) {
            (true, here) => {
                n[0] += 1;
                let Some(p) = here else { continue };
                n[1] += 1;
                n[2] += i64::from(pods::is_ready(p));
                n[3] += i64::from(pods::is_available(p, quiet, cx.now()));
                n[4] += i64::from(p["metadata"]["labels"][REVISION] == hash);
            }
            (false, here) => n[5] += i64::from(here.is_some()),
        }
    }
    let [desired, current, ready, available, updated, wrong] = n;
    let mut status = json!({"currentNumberScheduled": current, "numberMisscheduled": wrong,
        "desiredNumberScheduled": desired, "numberReady": ready,
        "observedGeneration": set["metadata"]["generation"], "updatedNumberScheduled": updated,
        "numberAvailable": available, "numberUnavailable": desired - available});
    for field in ["collisionCount", "conditions"] {
        if let Some(v) = set["status"].get(field) {
            status[field] = v.clone();
        }
    }
    if !crate::replicas::same_numbers(&status, &set["status"]) {
        let mut next = set.clone();
        next["status"] = status;
        let at = At { resource: &DAEMON_SETS, namespace: &key.namespace, name: &key.name };
        cx.write(at, Some("status"), Write::Replace(next)).await?;
    }
    Ok(available < ready)
}
