//! A small scheduler for nodes without a runtime: what fits goes to the node with the fewest pods.
//!
//! It minds resources, taints, selectors, required node affinity and gates; it knows no preemption, no
//! spreading and no volumes.

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
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

/// Where pods are, or are about to be, and what there is for them. Every change of a pod or a node moves a little of it,
/// so that a choice looks at as few nodes as it can, and at no pod but its own.
#[derive(Default)]
struct Places {
    pods: HashMap<Key, (Arc<str>, Needs)>,
    nodes: HashMap<Arc<str>, Place>,
    /// Nodes that are there, by what keeps pods away from them.
    groups: BTreeMap<String, Group>,
    /// Pods that no node had room for when they were last looked at.
    parked: BTreeMap<Key, Ask>,
}

/// Nodes that the same keeps pods away from: that is looked at once for all of them, however many have yet to be ready.
#[derive(Default)]
struct Group {
    unschedulable: bool,
    taints: Vec<Value>,
    /// By the number of their pods: the first that fits is the one to take, so that not all of them are looked at for
    /// each pod.
    nodes: BTreeSet<(i64, Arc<str>)>,
}

impl Group {
    /// The group that a node belongs to, and its name.
    fn of(node: &Value) -> (String, Group) {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let hard = taints.filter(|t| t["effect"] != "PreferNoSchedule");
        // Since when makes no difference.
        let taints: Vec<Value> = hard
            .map(|t| json!({"key": t["key"], "value": t["value"], "effect": t["effect"]}))
            .collect();
        let unschedulable = node["spec"]["unschedulable"] == true;
        let name = json!([unschedulable, taints]).to_string();
        (name, Group { unschedulable, taints, nodes: BTreeSet::new() })
    }

    /// Why a pod may be on none of these nodes; nothing where it may.
    fn bars(&self, pod: &Value) -> Option<String> {
        let cordoned = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if self.unschedulable && !tolerates(pod, &cordoned) {
            return Some("node(s) were unschedulable".to_owned());
        }
        let t = self.taints.iter().find(|t| !tolerates(pod, t))?;
        let (key, value) = (text(t, "/key"), text(t, "/value"));
        Some(format!("node(s) had untolerated taint {{{key}: {value}}}"))
    }
}

/// A node: itself if it is there, its group then, what it has, and what of that is taken.
#[derive(Default)]
struct Place {
    node: Option<Object>,
    group: String,
    room: Amounts,
    pods: i64,
    /// In thousandths.
    taken: HashMap<String, i64>,
}

/// What a pod asks for, in thousandths.
type Needs = Box<[(Box<str>, i64)]>;

/// What a choice depends on: a pod with only those parts of its spec.
struct Ask {
    pod: Value,
    needs: Needs,
}

impl Ask {
    fn of(pod: &Value) -> Ask {
        let mut spec = Map::new();
        for part in ["tolerations", "nodeSelector", "affinity"] {
            if let Some(v) = pod["spec"].get(part) {
                spec.insert(part.to_owned(), v.clone());
            }
        }
        Ask { pod: json!({"spec": spec}), needs: needs(pod) }
    }
}

/// Pods that nothing made room for are looked at again after this time, as the reference does it: what is said of them
/// may be out of date.
const AGAIN: Duration = Duration::from_secs(300);

impl Places {
    fn put(&mut self, key: Key, node: &str, needs: Needs) {
        self.take(&key);
        let name = self.count(node, 1, &needs);
        self.pods.insert(key, (name, needs));
    }

    /// Takes a pod away; gives the node that it was on.
    fn take(&mut self, key: &Key) -> Option<Arc<str>> {
        let (node, needs) = self.pods.remove(key)?;
        Some(self.count(&node, -1, &needs))
    }

    fn count(&mut self, name: &str, pods: i64, needs: &Needs) -> Arc<str> {
        let name = self.name(name);
        let place = self.nodes.entry(Arc::clone(&name)).or_default();
        if let Some(group) = self.groups.get_mut(&place.group)
            && group.nodes.remove(&(place.pods, Arc::clone(&name)))
        {
            group.nodes.insert((place.pods + pods, Arc::clone(&name)));
        }
        place.pods += pods;
        for (resource, amount) in needs {
            match place.taken.get_mut(&**resource) {
                Some(taken) => *taken += pods * amount,
                None => drop(place.taken.insert(resource.to_string(), pods * amount)),
            }
        }
        if place.node.is_none() && place.pods == 0 {
            self.nodes.remove(&name);
        }
        name
    }

    /// A node's name, which all its pods share.
    fn name(&self, name: &str) -> Arc<str> {
        let known = self.nodes.get_key_value(name);
        known.map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    fn node(&mut self, node: &Object, gone: bool) {
        let name = self.name(meta(node, "name"));
        let place = self.nodes.entry(Arc::clone(&name)).or_default();
        let entry = (place.pods, Arc::clone(&name));
        if let Some(old) = self.groups.get_mut(&place.group) {
            old.nodes.remove(&entry);
            if old.nodes.is_empty() {
                self.groups.remove(&place.group);
            }
        }
        if gone {
            place.node = None;
            if place.pods == 0 {
                self.nodes.remove(&name);
            }
            return;
        }
        let (group, empty) = Group::of(node);
        self.groups.entry(group.clone()).or_insert(empty).nodes.insert(entry);
        place.group = group;
        place.room = amounts(&node["status"]["allocatable"]);
        place.node = Some(Arc::clone(node));
    }

    /// The pods that wait and would fit on a node now; they wait no more.
    fn released(&mut self, name: &str) -> Vec<Key> {
        let Some((node, place)) = self.nodes.get(name).and_then(|p| Some((p.node.as_ref()?, p)))
        else {
            return Vec::new();
        };
        let group = self.groups.get(&place.group);
        let fits = |ask: &Ask| {
            group.is_some_and(|g| g.bars(&ask.pod).is_none())
                && misfit(&ask.pod, &ask.needs, node, place).is_none()
        };
        let parked = self.parked.extract_if(.., |_, ask| fits(ask));
        parked.map(|(key, _)| key).collect()
    }
}

fn needs(pod: &Value) -> Needs {
    let total = pod_total(pod, "requests");
    total.into_iter().map(|(name, q)| (name.into_boxed_str(), q.millis())).collect()
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
        if *change.resource != NODES && *change.resource != PODS {
            return Vec::new();
        }
        let mut places = self.places.lock();
        if *change.resource == NODES {
            places.node(&change.object, change.gone);
            return places.released(meta(&change.object, "name"));
        }
        let (pod, key) = (&change.object, Key::of(&change.object));
        let ended = change.gone || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        if !ended && waits(pod) {
            places.parked.remove(&key);
            return vec![key];
        }
        places.parked.remove(&key);
        if ended {
            // Its room may be what another waits for.
            let node = places.take(&key);
            return node.map(|node| places.released(&node)).unwrap_or_default();
        }
        let node = text(pod, "/spec/nodeName");
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
                let ask = Ask::of(&pod);
                let chosen = choose(&ask, &places);
                match &chosen {
                    Ok(node) => places.put(key.clone(), node, ask.needs),
                    // With the choice, so that no change comes in between.
                    Err(_) => drop(places.parked.insert(key.clone(), ask)),
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
                    Ok(Next::Change)
                }
                Err(why) => {
                    tell(cx, key, &pod, &why).await?;
                    Ok(Next::After(AGAIN))
                }
            }
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
fn choose(ask: &Ask, places: &Places) -> Result<Arc<str>, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<&(i64, Arc<str>)> = None;
    for group in places.groups.values() {
        if let Some(why) = group.bars(&ask.pod) {
            *reasons.entry(why).or_default() += group.nodes.len();
            continue;
        }
        for entry in &group.nodes {
            if best.is_some_and(|b| b < entry) {
                break;
            }
            let place = places.nodes.get(&entry.1).and_then(|p| Some((p.node.as_ref()?, p)));
            let Some((node, place)) = place else { continue };
            match misfit(&ask.pod, &ask.needs, node, place) {
                Some(list) => list.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1),
                None => best = Some(entry),
            }
        }
    }
    if let Some((_, name)) = best {
        return Ok(Arc::clone(name));
    }
    let nodes: usize = places.groups.values().map(|g| g.nodes.len()).sum();
    if nodes == 0 {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let mut parts: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    Err(format!("0/{} nodes are available: {}.", nodes, parts.join(", ")))
}

/// Why a pod cannot be on a node that nothing keeps it away from; nothing where it can.
fn misfit(pod: &Value, needs: &Needs, node: &Value, place: &Place) -> Option<Vec<String>> {
    if !is_selected(pod, node) {
        return Some(vec!["node(s) didn't match Pod's node affinity/selector".to_owned()]);
    }
    let mut short = Vec::new();
    if place.room.get("pods").is_some_and(|q| place.pods >= q.value()) {
        short.push("Too many pods".to_owned());
    }
    for (name, amount) in needs {
        let taken = place.taken.get(&**name).copied().unwrap_or(0);
        let has = place.room.get(&**name).map_or(0, Quantity::millis);
        if *amount > 0 && taken + amount > has {
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

    fn choice(pod: &Value, places: &Places) -> Result<String, String> {
        choose(&Ask::of(pod), places).map(|name| name.to_string())
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
            let chosen = choice(&p, &places).unwrap();
            assert_eq!(chosen, *expected);
            places.put(Key::new("n", n.to_string()), &chosen, needs(&p));
        }
        let why = choice(&pod("400m"), &places).unwrap_err();
        assert_eq!(why, "0/2 nodes are available: 2 Insufficient cpu, 2 Too many pods.");
        places.take(&Key::new("n", "0"));
        assert_eq!(choice(&pod("400m"), &places).unwrap(), "a");
        places.node(&node("b", "1"), true);
        let why = choice(&pod("900m"), &places).unwrap_err();
        assert_eq!(why, "0/1 nodes are available: 1 Insufficient cpu.");
        places.node(&node("a", "1"), true);
        let why = choice(&pod("0"), &places).unwrap_err();
        assert_eq!(why, "no nodes available to schedule pods");
        assert_eq!(places.pods.len(), 3, "what is on a node that may come back still counts");
        places.node(&node("a", "2"), false);
        assert_eq!(choice(&pod("1"), &places).unwrap(), "a");
    }

    #[test]
    fn a_node_changes_its_group_with_its_taints() {
        let mut places = Places::default();
        let tainted = |since: &str| {
            let mut node = (*node("a", "1")).clone();
            node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": since},
                {"key": "soft", "effect": "PreferNoSchedule"}]);
            Arc::new(node)
        };
        places.node(&tainted("1"), false);
        places.node(&tainted("2"), false);
        let mut other = (*tainted("3")).clone();
        other["metadata"]["name"] = json!("b");
        places.node(&Arc::new(other), false);
        assert_eq!(places.groups.len(), 1, "when it was tainted makes no difference");
        assert_eq!(
            choice(&pod("1"), &places).unwrap_err(),
            "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
        );
        places.put(Key::new("n", "p"), "a", needs(&pod("100m")));
        places.node(&node("a", "1"), false);
        assert_eq!(choice(&pod("1m"), &places).unwrap(), "a");
        let mut tolerant = pod("1m");
        tolerant["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert_eq!(
            choice(&tolerant, &places).unwrap(),
            "b",
            "of all groups, the one with fewest pods"
        );
        places.node(&node("b", "1"), true);
        places.node(&node("a", "1"), true);
        assert!(places.groups.is_empty());
    }

    #[test]
    fn pods_that_wait_are_woken_by_room_for_them_and_by_nothing_else() {
        let scheduler = Scheduler::default();
        let told = |resource, object: Object, gone| {
            let change = Change { resource: Arc::new(resource), object, stored: None, gone };
            let keys = scheduler.wake(&World::default(), &change, &Before::default());
            keys.into_iter().map(|k| k.name).collect::<Vec<String>>()
        };
        let named = |name: &str, cpu: &str, node: &str| {
            let mut pod = pod(cpu);
            pod["metadata"] = json!({"name": name, "namespace": "n"});
            pod["spec"]["nodeName"] = json!(node);
            pod["spec"]["schedulerName"] = json!("default-scheduler");
            Arc::new(pod)
        };
        let park = |name: &str, cpu: &str| {
            assert_eq!(told(PODS, named(name, cpu, ""), false), [name]);
            let mut places = scheduler.places.lock();
            let ask = Ask::of(&pod(cpu));
            assert!(choose(&ask, &places).is_err());
            places.parked.insert(Key::new("n", name), ask);
        };
        assert!(told(NODES, node("a", "1"), false).is_empty());
        assert!(told(PODS, named("big", "800m", "a"), false).is_empty());
        park("small", "500m");
        park("huge", "3");
        assert!(told(NODES, node("b", "100m"), false).is_empty(), "it has no room for any");
        assert_eq!(told(NODES, node("c", "1"), false), ["small"]);
        assert!(told(NODES, node("c", "1"), false).is_empty(), "it is told once");
        scheduler.places.lock().put(Key::new("n", "small"), "c", needs(&pod("500m")));
        park("other", "900m");
        assert_eq!(told(PODS, named("big", "800m", "a"), true), ["other"]);
        assert_eq!(told(NODES, node("c", "4"), false), ["huge"]);
        assert!(scheduler.places.lock().parked.is_empty());
    }

    #[test]
    fn taints_and_selectors_keep_pods_away() {
        let mut tainted = (*node("a", "1")).clone();
        tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let mut places = Places::default();
        places.node(&Arc::new(tainted), false);
        let mut p = pod("1");
        assert_eq!(
            choice(&p, &places).unwrap_err(),
            "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."
        );
        p["spec"]["tolerations"] = json!([{"key": "k", "operator": "Equal", "value": "v"}]);
        assert_eq!(choice(&p, &places).unwrap(), "a");
        p["spec"]["nodeSelector"] = json!({"disk": "hdd"});
        assert!(choice(&p, &places).unwrap_err().contains("node affinity/selector"));
    }
}
