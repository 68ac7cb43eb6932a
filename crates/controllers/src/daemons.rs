//! DaemonSets: one pod on every node that fits.

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::schedule::{is_selected, tolerates};
use crate::sets::{self, REVISION};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use wharf_base::sync::Mutex;
use wharf_client::resources::{DAEMON_SETS, NODES, PODS};
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The longest pause between two daemons that fail on one node, in seconds: from one, doubled each time.
const LONGEST_PAUSE: i64 = 900;

/// The loop; its keys are DaemonSets.
#[derive(Default)]
pub struct DaemonSets {
    /// How often a daemon failed on a node, and when that was, by the set's uid and the node.
    failures: Mutex<HashMap<(String, String), (u32, i64)>>,
}

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
            r if *r == PODS => {
                let pod = &change.object;
                let mut keys = pods::managers("DaemonSet", pod, before.object.as_ref());
                if !change.gone {
                    let selector = |o: &Value| Labels::from_object(&o["spec"]["selector"]);
                    keys.extend(pods::takers(world, &DAEMON_SETS, pod, selector));
                }
                keys
            }
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
            let Some(set) = set else {
                self.failures.lock().retain(|_, (_, at)| *at + 2 * LONGEST_PAUSE > cx.now());
                return Ok(Next::Change);
            };
            let Some(selector) = Labels::from_object(&set["spec"]["selector"]) else {
                return Ok(Next::Change);
            };
            let reference = pods::reference("apps/v1", "DaemonSet", &set);
            let own = pods::claim(cx, &DAEMON_SETS, &set, &reference, &selector).await?;
            let revisions = sets::revise(cx, &DAEMON_SETS, &set, "DaemonSet").await?;
            let pod = template(&set, &reference, revisions.hash());
            let now = cx.now();
            let sites = sites(&pod, cx.world.all(&NODES), &own);
            let mut plan = plan(&set, &sites, revisions.hash(), now);
            let pause = self.failed(cx, &set, &mut plan, now).await;
            let failure = async {
                pods::remove(cx, &set, &plan.remove).await?;
                let make = plan.make.iter().map(|node| for_node(&pod, node)).collect();
                pods::make(cx, &set, make).await.1
            }
            .await;
            let own = cx.world.managed(&PODS, meta(&set, "uid"));
            sets::forget(cx, &set, &revisions, &own).await?;
            report(cx, key, &set, &pod, &own, revisions.hash()).await?;
            failure?;
            let quiet = number(&set, "/spec/minReadySeconds").unwrap_or(0);
            let wait = pods::next_available(&own, quiet, now);
            Ok(match (wait, pause) {
                (Next::After(a), Some(b)) => Next::After(a.min(b)),
                (Next::Change, Some(b)) => Next::After(b),
                (wait, None) => wait,
            })
        })
    }
}

impl DaemonSets {
    /// Deletes daemons that have ended, each node's at its own pace; gives when the next one's time comes.
    async fn failed(
        &self,
        cx: &Context,
        set: &Value,
        plan: &mut Plan,
        now: i64,
    ) -> Option<Duration> {
        let mut next = None;
        for (pod, node) in std::mem::take(&mut plan.ended) {
            let failed = text(&pod, "/status/phase") == "Failed";
            let left = if failed { self.pause(meta(set, "uid"), &node, now) } else { 0 };
            if left > 0 {
                let left = Duration::from_secs(left.unsigned_abs());
                next = Some(next.map_or(left, |n: Duration| n.min(left)));
                continue;
            }
            let (word, reason) = if failed {
                ("failed", "FailedDaemonPod")
            } else {
                ("succeeded", "SucceededDaemonPod")
            };
            let (ns, name) = (meta(&pod, "namespace"), meta(&pod, "name"));
            let told =
                format!("Found {word} daemon pod {ns}/{name} on node {node}, will try to kill it");
            cx.tell(set, failed, reason, &told).await;
            plan.remove.push(pod);
        }
        next
    }

    /// The seconds that are left until the next daemon of a node; if there are none, it counts as failed again.
    fn pause(&self, uid: &str, node: &str, now: i64) -> i64 {
        let mut failures = self.failures.lock();
        let (count, last) = failures.entry((uid.to_owned(), node.to_owned())).or_insert((0, now));
        if now - *last > 2 * LONGEST_PAUSE {
            *count = 0;
        }
        let pause = if *count == 0 { 0 } else { (1 << (*count - 1).min(10)).min(LONGEST_PAUSE) };
        let left = (*last + pause - now).max(0);
        if left == 0 {
            (*count, *last) = (*count + 1, now);
        }
        left
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
    let named = text(pod, "/spec/nodeName");
    if !is_selected(pod, node) || !(named.is_empty() || named == meta(node, "name")) {
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

/// A node, or the name of one that is gone, with the daemons that are there.
struct Site {
    name: String,
    /// Whether a daemon should be there, and whether one that is may stay.
    runs: bool,
    stays: bool,
    pods: Vec<Object>,
}

fn sites(pod: &Value, nodes: Vec<Object>, own: &[Object]) -> Vec<Site> {
    let mut by_node: BTreeMap<&str, Vec<Object>> = BTreeMap::new();
    for p in own {
        by_node.entry(node_of(p)).or_default().push(Arc::clone(p));
    }
    let mut out = Vec::new();
    for node in nodes {
        let (runs, stays) = fits(pod, &node);
        let name = meta(&node, "name");
        let pods = by_node.remove(name).unwrap_or_default();
        out.push(Site { name: name.to_owned(), runs, stays, pods });
    }
    // Nodes that are gone.
    out.extend(by_node.into_iter().map(|(name, pods)| Site {
        name: name.to_owned(),
        runs: false,
        stays: false,
        pods,
    }));
    out
}

/// What is to be done for a set now.
#[derive(Default)]
struct Plan {
    /// Nodes that get a daemon.
    make: Vec<String>,
    remove: Vec<Object>,
    /// Daemons that have ended, and their nodes.
    ended: Vec<(Object, String)>,
}

/// A node's daemons of the old and the new template, where the node has no more than one of each.
#[derive(Clone, Copy)]
struct Pair<'p> {
    node: &'p str,
    old: Option<&'p Object>,
    new: Option<&'p Object>,
}

fn plan(set: &Value, sites: &[Site], hash: &str, now: i64) -> Plan {
    let rolling = &set["spec"]["updateStrategy"]["rollingUpdate"];
    let on_delete = text(set, "/spec/updateStrategy/type") == "OnDelete";
    let total = i64::try_from(sites.iter().filter(|s| s.runs).count()).unwrap_or(i64::MAX);
    let bound = |f: &str, usual: i64| pods::share(&rolling[f], total, true).unwrap_or(usual);
    let surge = if on_delete { 0 } else { bound("maxSurge", 0) };
    let missing = bound("maxUnavailable", if surge > 0 { 0 } else { 1 });
    let mut plan = Plan::default();
    let (mut pairs, mut unclear) = (Vec::new(), 0);
    for site in sites {
        match tidy(site, hash, surge > 0, &mut plan) {
            Some(pair) => pairs.push(pair),
            None => unclear += i64::from(site.runs),
        }
    }
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let serves = |p: &Object| pods::is_available(p, quiet, now);
    match () {
        () if on_delete => {}
        () if surge > 0 => surging(&pairs, surge, serves, &mut plan),
        () => replacing(&pairs, missing.max(i64::from(total > 0)) - unclear, serves, &mut plan),
    }
    plan
}

/// Brings a node to at most one daemon of each template; gives them, unless something is on its way there.
fn tidy<'s>(site: &'s Site, hash: &str, surges: bool, plan: &mut Plan) -> Option<Pair<'s>> {
    let live = |p: &&Object| !is_deleting(p);
    if !site.stays {
        plan.remove.extend(site.pods.iter().filter(live).cloned());
        return None;
    }
    if site.pods.is_empty() {
        plan.make.extend(site.runs.then(|| site.name.clone()));
        return None;
    }
    let ended = site.pods.iter().filter(|p| live(p) && pods::is_finished(p));
    plan.ended.extend(ended.map(|p| (p.clone(), site.name.clone())));
    let mut active: Vec<&Object> = site.pods.iter().filter(|p| pods::is_active(p)).collect();
    // The oldest stays where there is more than one.
    active.sort_by_key(|p| meta(p, "creationTimestamp").to_owned());
    let is_new = |p: &&Object| p["metadata"]["labels"][REVISION] == hash;
    let (new, old): (Vec<&Object>, Vec<&Object>) = active.iter().copied().partition(is_new);
    let mut keep = (old.first().copied(), new.first().copied());
    if !surges && let (Some(o), Some(n)) = keep {
        let oldest = active.first().is_some_and(|p| meta(p, "uid") == meta(o, "uid"));
        keep = if oldest { (Some(o), None) } else { (None, Some(n)) };
    }
    let kept =
        |p: &&&Object| [keep.0, keep.1].iter().flatten().any(|k| meta(k, "uid") == meta(p, "uid"));
    plan.remove.extend(active.iter().filter(|p| !kept(p)).map(|p| (**p).clone()));
    // What is going will make room, and is missed until then.
    let clear = keep.0.is_some() || keep.1.is_some();
    clear.then_some(Pair { node: &site.name, old: keep.0, new: keep.1 })
}

/// Deletes old daemons: those that do not serve, and as many more as may be missing.
fn replacing(pairs: &[Pair<'_>], most: i64, serves: impl Fn(&Object) -> bool, plan: &mut Plan) {
    let unready = pairs.iter().filter(|p| p.new.is_some_and(|n| !serves(n))).count();
    let (idle, working): (Vec<&Object>, Vec<&Object>) =
        pairs.iter().filter_map(|p| p.old).partition(|p| !serves(p));
    let room = usize::try_from(most).unwrap_or(0).saturating_sub(unready);
    plan.remove.extend(idle.into_iter().chain(working.into_iter().take(room)).cloned());
}

/// Makes new daemons beside old ones, and deletes old ones beside which a new one serves.
fn surging(pairs: &[Pair<'_>], most: i64, serves: impl Fn(&Object) -> bool, plan: &mut Plan) {
    let mut room = usize::try_from(most).unwrap_or(0);
    let mut wanted = Vec::new();
    for p in pairs {
        match (p.old, p.new) {
            (Some(old), Some(new)) if serves(new) => plan.remove.push(old.clone()),
            (Some(_), Some(_)) => room = room.saturating_sub(1),
            (Some(old), None) if serves(old) => wanted.push(p.node.to_owned()),
            (Some(_), None) => plan.make.push(p.node.to_owned()),
            (None, _) => {}
        }
    }
    plan.make.extend(wanted.into_iter().take(room));
}

async fn report(
    cx: &Context,
    key: &Key,
    set: &Value,
    pod: &Value,
    own: &[Object],
    hash: &str,
) -> Result<(), Fault> {
    let quiet = number(set, "/spec/minReadySeconds").unwrap_or(0);
    let mut n = [0i64; 6];
    for node in cx.world.all(&NODES) {
        let (runs, _) = fits(pod, &node);
        let here = own.iter().filter(|p| node_of(p) == meta(&node, "name") && pods::is_active(p));
        // Beside an old daemon there may be a new one: the one that came first counts.
        let here = here.min_by_key(|p| meta(p, "creationTimestamp"));
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a:old,new-` is node a with an old daemon that serves and a new one that does not; `a!` may have none,
    /// `x` has ended, `~` goes.
    fn sites(text: &str) -> Vec<Site> {
        let site = |word: &str| {
            let (name, list) = word.split_once(':').unwrap();
            let pod = |(i, p): (usize, &str)| {
                let is = |c: char| p.contains(c);
                let mut v = json!({"metadata": {"uid": format!("{name}{i}"), "name": format!("{}-{}", name.trim_end_matches('!'), p.trim_end_matches(['-', 'x', '~'])),
                    "labels": {REVISION: p.trim_end_matches(['-', 'x', '~'])}, "creationTimestamp": format!("{i}")},
                    "status": {"phase": if is('x') { "Failed" } else { "Running" },
                        "conditions": [{"type": "Ready", "status": if is('-') || is('x') { "False" } else { "True" }}]}});
                if is('~') {
                    v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
                Arc::new(v)
            };
            let runs = !name.ends_with('!');
            let pods = list.split(',').filter(|p| !p.is_empty()).enumerate().map(pod).collect();
            Site { name: name.trim_end_matches('!').to_owned(), runs, stays: runs, pods }
        };
        text.split_whitespace().map(site).collect()
    }

    #[track_caller]
    fn check(strategy: Value, there: &str, expected: &str) {
        let set = json!({"spec": {"updateStrategy": strategy}});
        let plan = plan(&set, &sites(there), "new", 100);
        let mut out: Vec<String> = plan.make.iter().map(|n| format!("+{n}")).collect();
        out.extend(plan.remove.iter().map(|p| meta(p, "name").to_owned()));
        out.extend(plan.ended.iter().map(|(_, n)| format!("{n}x")));
        assert_eq!(out.join(" "), expected, "{there}");
    }

    #[test]
    fn each_node_has_one_daemon() {
        let s = || json!({"type": "RollingUpdate"});
        check(s(), "a: b:new c!:", "+a");
        check(s(), "a:new,new b:new~ c!:new", "a-new c-new");
        check(s(), "a:newx", "ax");
        check(json!({"type": "OnDelete"}), "a:old b:old", "");
    }

    #[test]
    fn old_daemons_are_replaced_as_many_at_once_as_may_be_missing() {
        let s = |n: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": n}});
        check(s(json!(1)), "a:old b:old c:old", "a-old");
        check(s(json!(1)), "a:new- b:old c:old", "");
        check(s(json!(1)), "a: b:old c:old", "+a");
        check(s(json!(1)), "a:old~ b:old c:old", "");
        check(s(json!(2)), "a:old- b:old c:old", "a-old b-old c-old");
        check(s(json!("50%")), "a:old b:old c:old", "a-old b-old");
    }

    #[test]
    fn new_daemons_come_beside_old_ones_where_that_is_allowed() {
        let s = |n: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": n, "maxUnavailable": 0}});
        check(s(json!(1)), "a:old b:old c:old", "+a");
        check(s(json!(1)), "a:old,new- b:old c:old", "");
        check(s(json!(1)), "a:old,new b:old c:old", "+b a-old");
        check(s(json!(1)), "a:old- b:old c:new", "+a +b");
        check(s(json!("100%")), "a:old b:old", "+a +b");
        check(s(json!(1)), "a:old,new-,new", "a-new");
    }

    #[test]
    fn a_daemon_that_fails_waits_longer_each_time() {
        let d = DaemonSets::default();
        let pauses: Vec<i64> =
            [0, 0, 1, 1, 2, 3, 3].iter().map(|t| d.pause("u", "n", *t)).collect();
        assert_eq!(pauses, [0, 1, 0, 2, 1, 0, 4]);
    }
}
