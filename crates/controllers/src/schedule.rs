//! A small scheduler for nodes without a runtime: what fits goes to the node with the fewest pods.
//!
//! It minds resources, taints, selectors, required node affinity and gates; it knows no preemption, no
//! spreading and no volumes.

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_client::resources::{NODES, PODS};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::quantity::Quantity;
use wharf_kube::quota::{Amounts, amounts, pod_total};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The loop; its keys are pods.
#[derive(Default)]
pub struct Scheduler {
    places: Mutex<Places>,
}

/// Where pods are, or are about to be, and what there is for them.
#[derive(Default)]
struct Places {
    pods: HashMap<Key, (String, Amounts)>,
    nodes: HashMap<String, Place>,
    /// Nodes that are there by the number of their pods: the first that fits is the one to take, so that
    /// not all of them are looked at for each pod.
    order: BTreeSet<(i64, String)>,
    /// Pods that wait for a node.
    waiting: BTreeSet<Key>,
}

/// A node: itself if it is there, what it has, and what of that is taken.
#[derive(Default)]
struct Place {
    node: Option<Object>,
    room: Amounts,
    pods: i64,
    /// In thousandths.
    taken: HashMap<String, i64>,
}

impl Places {
    fn put(&mut self, key: Key, node: &str, needs: Amounts) {
        self.take(&key);
        self.count(node, 1, &needs);
        self.pods.insert(key, (node.to_owned(), needs));
    }

    fn take(&mut self, key: &Key) {
        if let Some((node, needs)) = self.pods.remove(key) {
            self.count(&node, -1, &needs);
        }
    }

    fn count(&mut self, name: &str, pods: i64, needs: &Amounts) {
        let place = self.nodes.entry(name.to_owned()).or_default();
        if self.order.remove(&(place.pods, name.to_owned())) {
            self.order.insert((place.pods + pods, name.to_owned()));
        }
        place.pods += pods;
        for (name, q) in needs {
            *place.taken.entry(name.clone()).or_default() += pods * q.millis();
        }
        if place.node.is_none() && place.pods == 0 {
            self.nodes.remove(name);
        }
    }

    fn node(&mut self, node: &Object, gone: bool) {
        let name = meta(node, "name");
        let place = self.nodes.entry(name.to_owned()).or_default();
        let entry = (place.pods, name.to_owned());
        if gone {
            self.order.remove(&entry);
            place.node = None;
            if place.pods == 0 {
                self.nodes.remove(name);
            }
            return;
        }
        self.order.insert(entry);
        place.room = amounts(&node["status"]["allocatable"]);
        place.node = Some(Arc::clone(node));
    }
}

fn needs(pod: &Value) -> Amounts {
    pod_total(pod, "requests")
}

fn waits(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty()
        && !is_deleting(pod)
        && text(pod, "/spec/schedulerName") == "default-scheduler"
        && pod["spec"]["schedulingGates"].as_array().is_none_or(Vec::is_empty)
}

impl Loop for Scheduler {
    fn name(&self) -> &'static str {
        "kube-scheduler"
    }

    fn user(&self) -> String {
        "system:kube-scheduler".to_owned()
    }

    fn workers(&self) -> usize {
        8
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let mut places = self.places.lock();
        if *change.resource == NODES {
            places.node(&change.object, change.gone);
            return places.waiting.iter().cloned().collect();
        }
        if *change.resource != PODS {
            return Vec::new();
        }
        let (pod, key) = (&change.object, Key::of(&change.object));
        let ended = change.gone || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        if !ended && waits(pod) {
            places.waiting.insert(key.clone());
            return vec![key];
        }
        places.waiting.remove(&key);
        let node = text(pod, "/spec/nodeName");
        if ended {
            places.take(&key);
            // Its room may be what another waits for.
            let freed = !node.is_empty();
            return if freed { places.waiting.iter().cloned().collect() } else { Vec::new() };
        }
        if !node.is_empty() {
            places.put(key, node, needs(pod));
        }
        Vec::new()
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(pod) = cx.world.get(&PODS, key).filter(|p| waits(p)) else {
                return Ok(Next::Change);
            };
            let chosen = {
                let mut places = self.places.lock();
                let chosen = choose(&pod, &places);
                if let Ok(node) = &chosen {
                    places.put(key.clone(), node, needs(&pod));
                }
                chosen
            };
            match chosen {
                Ok(node) => {
                    let bound = cx.bind(&key.namespace, &key.name, &node).await;
                    if bound.is_err() {
                        self.places.lock().take(key);
                    }
                    bound?;
                    let said =
                        format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                    cx.tell(&pod, false, "Scheduled", &said).await;
                }
                Err(why) => tell(cx, key, &pod, &why).await?,
            }
            Ok(Next::Change)
        })
    }
}

/// Says in the pod's status why it is nowhere.
async fn tell(cx: &Context, key: &Key, pod: &Value, why: &str) -> Result<(), Fault> {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.clone().any(|c| c["type"] == "PodScheduled" && c["message"] == why) {
        return Ok(());
    }
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": why, "lastTransitionTime": cx.timestamp(), "observedGeneration": pod["metadata"]["generation"]});
    let at = At { resource: &PODS, namespace: &key.namespace, name: &key.name };
    let patch = json!({"status": {"conditions": [condition]}});
    cx.write(at, Some("status"), Write::Strategic(patch)).await?;
    cx.tell(pod, true, "FailedScheduling", why).await;
    Ok(())
}

/// The node for a pod, or why there is none.
fn choose(pod: &Value, places: &Places) -> Result<String, String> {
    let needs = needs(pod);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (_, name) in &places.order {
        let place = places.nodes.get(name).and_then(|p| Some((p.node.as_ref()?, p)));
        let Some((node, place)) = place else { continue };
        match misfit(pod, &needs, node, place) {
            Some(list) => list.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1),
            None => return Ok(name.clone()),
        }
    }
    if places.order.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let mut parts: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    Err(format!("0/{} nodes are available: {}.", places.order.len(), parts.join(", ")))
}

/// Why a pod cannot be on a node; nothing where it can.
fn misfit(pod: &Value, needs: &Amounts, node: &Value, place: &Place) -> Option<Vec<String>> {
    let one = |text: &str| Some(vec![text.to_owned()]);
    if node["spec"]["unschedulable"] == true
        && !tolerates(
            pod,
            &json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}),
        )
    {
        return one("node(s) were unschedulable");
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let bad = taints.filter(|t| t["effect"] != "PreferNoSchedule").find(|t| !tolerates(pod, t));
    if let Some(t) = bad {
        let (key, value) = (text(t, "/key"), text(t, "/value"));
        return one(&format!("node(s) had untolerated taint {{{key}: {value}}}"));
    }
    if !is_selected(pod, node) {
        return one("node(s) didn't match Pod's node affinity/selector");
    }
    let mut short = Vec::new();
    if place.room.get("pods").is_some_and(|q| place.pods >= q.value()) {
        short.push("Too many pods".to_owned());
    }
    for (name, q) in needs {
        let taken = place.taken.get(name).copied().unwrap_or(0);
        let has = place.room.get(name).map_or(0, Quantity::millis);
        if q.millis() > 0 && taken + q.millis() > has {
            short.push(format!("Insufficient {name}"));
        }
    }
    (!short.is_empty()).then_some(short)
}

/// Whether one of a pod's tolerations covers a taint.
pub(crate) fn tolerates(pod: &Value, taint: &Value) -> bool {
    let mut list = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    list.any(|t| covers(t, taint))
}

/// Whether a toleration covers a taint.
pub(crate) fn covers(toleration: &Value, taint: &Value) -> bool {
    let (effect, key) = (text(toleration, "/effect"), text(toleration, "/key"));
    let exists = text(toleration, "/operator") == "Exists";
    (effect.is_empty() || effect == text(taint, "/effect"))
        && (key == text(taint, "/key") || (key.is_empty() && exists))
        && (exists || text(toleration, "/value") == text(taint, "/value"))
}

/// Whether a pod's selector and required affinity choose a node.
pub(crate) fn is_selected(pod: &Value, node: &Value) -> bool {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    if let Some(selector) = pod["spec"]["nodeSelector"].as_object()
        && !Labels::from_map(selector).matches(labels)
    {
        return false;
    }
    let terms = pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    terms.and_then(Value::as_array).is_none_or(|terms| chooses(terms, node))
}

/// Whether one of these terms chooses a node.
pub(crate) fn chooses(terms: &[Value], node: &Value) -> bool {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    terms.iter().any(|t| {
        let by_labels = t
            .get("matchExpressions")
            .is_none_or(|e| Labels::from_node_terms(e).is_some_and(|l| l.matches(labels)));
        let mut fields = t["matchFields"].as_array().into_iter().flatten();
        let by_fields = fields.all(|f| {
            let named =
                f["values"].as_array().is_some_and(|v| v.contains(&node["metadata"]["name"]));
            f["key"] == "metadata.name" && (named == (f["operator"] == "In"))
        });
        by_labels
            && by_fields
            && (t.get("matchExpressions").is_some() || t.get("matchFields").is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cpu: &str) -> Object {
        Arc::new(json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": {},
            "status": {"allocatable": {"cpu": cpu, "pods": "2"}}}))
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn pods_go_where_there_is_room_and_are_spread() {
        let mut places = Places::default();
        places.node(&node("a", "1"), false);
        places.node(&node("b", "1"), false);
        for (n, expected) in ["a", "b", "a", "b"].iter().enumerate() {
            let p = pod("400m");
            let chosen = choose(&p, &places).unwrap();
            assert_eq!(chosen, *expected);
            places.put(Key::new("n", n.to_string()), &chosen, needs(&p));
        }
        let why = choose(&pod("400m"), &places).unwrap_err();
        assert_eq!(why, "0/2 nodes are available: 2 Insufficient cpu, 2 Too many pods.");
        places.take(&Key::new("n", "0"));
        assert_eq!(choose(&pod("400m"), &places).unwrap(), "a");
        places.node(&node("b", "1"), true);
        let why = choose(&pod("900m"), &places).unwrap_err();
        assert_eq!(why, "0/1 nodes are available: 1 Insufficient cpu.");
        places.node(&node("a", "1"), true);
        let why = choose(&pod("0"), &places).unwrap_err();
        assert_eq!(why, "no nodes available to schedule pods");
        assert_eq!(places.pods.len(), 3, "what is on a node that may come back still counts");
        places.node(&node("a", "2"), false);
        assert_eq!(choose(&pod("1"), &places).unwrap(), "a");
    }

    #[test]
    fn taints_and_selectors_keep_pods_away() {
        let mut tainted = (*node("a", "1")).clone();
        tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let mut places = Places::default();
        places.node(&Arc::new(tainted), false);
        let mut p = pod("1");
        assert_eq!(
            choose(&p, &places).unwrap_err(),
            "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."
        );
        p["spec"]["tolerations"] = json!([{"key": "k", "operator": "Equal", "value": "v"}]);
        assert_eq!(choose(&p, &places).unwrap(), "a");
        p["spec"]["nodeSelector"] = json!({"disk": "hdd"});
        assert!(choose(&p, &places).unwrap_err().contains("node affinity/selector"));
    }
}
