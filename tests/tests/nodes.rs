//! What becomes of nodes that fall silent and of their pods, on a clock that the test moves; and which loops run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod cluster;

use cluster::Cluster;
use serde_json::{Value, json};
use std::time::Duration;
use wharf_base::clock::Clock;
use wharf_controllers::{Choice, Settings};

const NODE: &str = "/api/v1/nodes/n";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// A cluster, and the clock that it goes by.
struct World {
    c: Cluster,
    clock: Clock,
}

fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Said", "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z"})
}

impl World {
    /// One with a node that is well, and a namespace for pods.
    async fn new() -> World {
        let clock = Clock::fixed(Duration::from_secs(1_800_000_000));
        let c = Cluster::at(clock.clone(), Settings::default()).await;
        c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
        c.until("/api/v1/namespaces/kube-node-lease", |_| true).await;
        let world = World { c, clock };
        world.register().await;
        world
    }

    fn now(&self) -> String {
        let seconds = self.clock.unix_nanos() / 1_000_000_000;
        wharf_kube::time::format_micros(seconds * 1_000_000)
    }

    async fn register(&self) {
        let status =
            json!({"conditions": [condition("Ready", "True"), condition("DiskPressure", "False")]});
        self.c.create("/api/v1/nodes", json!({"metadata": {"name": "n"}, "status": status})).await;
        self.c.until(NODE, |o| o["spec"].get("taints").is_none()).await;
    }

    async fn renew(&self) {
        let spec =
            json!({"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": self.now()});
        let lease = format!("{LEASES}/n");
        let (status, _) = self.c.send("PATCH", &lease, json!({ "spec": spec })).await;
        if status == 404 {
            self.c.create(LEASES, json!({"metadata": {"name": "n"}, "spec": spec})).await;
        }
    }

    /// A pod on the node that runs and is ready; `more` goes into its spec.
    async fn pod(&self, name: &str, more: Value) {
        let mut spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let meta = json!({"name": name, "labels": {"app": "web"}});
        self.c.create(PODS, json!({"metadata": meta, "spec": spec})).await;
        let status =
            json!({"status": {"phase": "Running", "conditions": [condition("Ready", "True")]}});
        self.c.send("PATCH", &format!("{PODS}/{name}/status"), status).await;
    }

    /// Lets time pass, and makes the loop look at the node: it has when the node's mark has followed.
    async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        for cordoned in [true, false] {
            let patch = json!({"spec": {"unschedulable": cordoned}});
            self.c.send("PATCH", NODE, patch).await;
            let marked = |o: &Value| {
                let key = "node.kubernetes.io/unschedulable";
                taints(o).iter().any(|t| t.starts_with(key)) == cordoned
            };
            self.c.until(NODE, marked).await;
        }
    }

    async fn read(&self, path: &str) -> Value {
        self.c.send("GET", path, Value::Null).await.1
    }
}

fn taints(node: &Value) -> Vec<String> {
    let all = node["spec"]["taints"].as_array().into_iter().flatten();
    let one =
        |t: &Value| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap());
    all.map(one).collect()
}

fn status<'a>(o: &'a Value, kind: &str) -> &'a Value {
    let all = o["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_given_up_and_its_pods_are_evicted_when_their_time_is_up() {
    let w = World::new().await;
    w.renew().await;
    w.pod("usual", json!({})).await;
    let short = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}]);
    w.pod("short", json!({"tolerations": short})).await;
    w.pod("stays", json!({"tolerations": [{"operator": "Exists"}]})).await;
    w.pass(40).await;
    w.renew().await;
    w.pass(49).await;
    assert_eq!(status(&w.read(NODE).await, "Ready")["status"], "True", "it was heard of 49 s ago");
    w.clock.advance(Duration::from_secs(1));
    w.c.send("PATCH", NODE, json!({"metadata": {"labels": {"look": "here"}}})).await;
    let unknown = |o: &Value| {
        let ready = status(o, "Ready");
        ready["status"] == "Unknown"
            && ready["reason"] == "NodeStatusUnknown"
            && taints(o).len() == 2
    };
    let node = w.c.until(NODE, unknown).await;
    let unreachable = "node.kubernetes.io/unreachable";
    assert_eq!(
        taints(&node),
        [format!("{unreachable}:NoSchedule"), format!("{unreachable}:NoExecute")]
    );
    assert_eq!(status(&node, "DiskPressure")["status"], "Unknown");
    w.c.told("Node", "NodeNotReady").await;
    let unready = |o: &Value| status(o, "Ready")["status"] == "False";
    w.c.until(&format!("{PODS}/usual"), unready).await;
    w.c.told("Pod", "NodeNotReady").await;
    w.pass(9).await;
    let going = |o: &Value| o["metadata"].get("deletionTimestamp").is_some();
    assert!(!going(&w.read(&format!("{PODS}/short")).await));
    w.pass(1).await;
    let gone = w.c.until(&format!("{PODS}/short"), going).await;
    let why = status(&gone, "DisruptionTarget");
    assert_eq!(
        (&why["status"], &why["reason"]),
        (&json!("True"), &json!("DeletionByTaintManager"))
    );
    assert_eq!(why["message"], "Taint manager: deleting due to NoExecute taint");
    w.pass(289).await;
    assert!(!going(&w.read(&format!("{PODS}/usual")).await), "it may stay for 300 s");
    w.pass(1).await;
    w.c.until(&format!("{PODS}/usual"), going).await;
    w.pass(100_000).await;
    assert!(!going(&w.read(&format!("{PODS}/stays")).await), "it tolerates everything for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_heard_of_again_takes_pods_again() {
    let w = World::new().await;
    w.renew().await;
    w.pod("usual", json!({})).await;
    w.clock.advance(Duration::from_secs(60));
    w.c.send("PATCH", NODE, json!({"metadata": {"labels": {"look": "here"}}})).await;
    w.c.until(NODE, |o| taints(o).len() == 2).await;
    w.renew().await;
    let well = json!({"status": {"conditions": [condition("Ready", "True"), condition("DiskPressure", "True")]}});
    w.c.send("PATCH", &format!("{NODE}/status"), well).await;
    let pressed = ["node.kubernetes.io/disk-pressure:NoSchedule"];
    w.c.until(NODE, |o| taints(o) == pressed).await;
    w.pass(45).await;
    w.renew().await;
    w.pass(45).await;
    assert_eq!(status(&w.read(NODE).await, "Ready")["status"], "True");
    let pod = w.read(&format!("{PODS}/usual")).await;
    assert!(pod["metadata"].get("deletionTimestamp").is_none(), "{pod}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_is_gone_wait_for_it_and_then_fail() {
    let w = World::new().await;
    w.pod("a", json!({})).await;
    let held = json!({"metadata": {"finalizers": ["example.com/look"]}});
    w.c.send("PATCH", &format!("{PODS}/a"), held).await;
    let touch = |n: u32| json!({"metadata": {"annotations": {"n": n.to_string()}}});
    let one = format!("{PODS}/a");
    w.c.send("DELETE", NODE, Value::Null).await;
    w.c.gone(NODE).await;
    w.clock.advance(Duration::from_secs(39));
    // Back in time: the quarantine is over, and the next one begins anew.
    w.register().await;
    w.c.send("DELETE", NODE, Value::Null).await;
    w.c.gone(NODE).await;
    w.c.send("PATCH", &one, touch(1)).await;
    w.pod("b", json!({})).await;
    w.clock.advance(Duration::from_secs(39));
    w.c.send("PATCH", &one, touch(2)).await;
    // Another loop has seen what this one has seen by now: its pod is no news for either.
    w.c.create("/api/v1/namespaces", json!({"metadata": {"name": "later"}})).await;
    w.c.until("/api/v1/namespaces/later/serviceaccounts/default", |_| true).await;
    assert_eq!(w.read(&one).await["status"]["phase"], "Running");
    w.clock.advance(Duration::from_secs(2));
    w.c.send("PATCH", &one, touch(3)).await;
    let failed = |o: &Value| o["status"]["phase"] == "Failed";
    let pod = w.c.until(&one, failed).await;
    let why = status(&pod, "DisruptionTarget");
    assert_eq!((&why["status"], &why["reason"]), (&json!("True"), &json!("DeletionByPodGC")));
    assert_eq!(why["message"], "PodGC: node no longer exists");
    w.c.send("PATCH", &one, json!({"metadata": {"finalizers": null}})).await;
    w.c.gone(&one).await;
    w.c.send("PATCH", &format!("{PODS}/b"), touch(1)).await;
    w.c.gone(&format!("{PODS}/b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_says_so_and_its_budget_counts_it() {
    let w = World::new().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let selector = json!({"matchLabels": {"app": "web"}});
    for name in ["a", "b"] {
        w.pod(name, json!({})).await;
    }
    w.c.create(
        budgets,
        json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": selector}}),
    )
    .await;
    let one = format!("{budgets}/web");
    w.c.until(&one, |o| o["status"]["disruptionsAllowed"] == 1).await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let (code, answer) = w.c.send("POST", &format!("{PODS}/a/eviction"), eviction.clone()).await;
    assert_eq!(code, 201, "{answer}");
    let pod = w.read(&format!("{PODS}/a")).await;
    assert_eq!(status(&pod, "DisruptionTarget")["reason"], "EvictionByEvictionAPI", "{pod}");
    assert!(pod["metadata"].get("deletionTimestamp").is_some());
    w.c.until(&one, |o| {
        o["status"]["disruptionsAllowed"] == 0 && o["status"]["currentHealthy"] == 1
    })
    .await;
    let (code, answer) =
        w.c.send(
            "POST",
            &format!("{PODS}/b/eviction"),
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}}),
        )
        .await;
    assert_eq!((code, &answer["reason"]), (429, &json!("TooManyRequests")), "{answer}");
}

/// A definition of a kind with or without a scale.
fn definition(plural: &str, kind: &str, scales: bool) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open}, "subresources": {"status": {}}});
    if scales {
        version["subresources"]["scale"] =
            json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
    }
    json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind}, "versions": [version]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_ask_owners_of_any_kind_for_their_size() {
    let w = World::new().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    w.c.create(definitions, definition("pools", "Pool", true)).await;
    w.c.create(definitions, definition("lumps", "Lump", false)).await;
    for (plural, kind) in [("pools", "Pool"), ("lumps", "Lump")] {
        let object = json!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": "o"}, "spec": {"replicas": 4}});
        let all = format!("/apis/example.com/v1/namespaces/default/{plural}");
        let owner = w.c.create(&all, object).await;
        let reference = json!([{"apiVersion": "example.com/v1", "kind": kind, "name": "o", "uid": owner["metadata"]["uid"], "controller": true}]);
        for n in 0..3 {
            let name = format!("{plural}-{n}");
            w.pod(&name, json!({})).await;
            let meta = json!({"labels": {"app": plural}, "ownerReferences": reference});
            w.c.send("PATCH", &format!("{PODS}/{name}"), json!({ "metadata": meta })).await;
        }
        let selector = json!({"matchLabels": {"app": plural}});
        let spec = json!({"minAvailable": "50%", "selector": selector});
        w.c.create(budgets, json!({"metadata": {"name": plural}, "spec": spec})).await;
    }
    let counted = |o: &Value| {
        let s = &o["status"];
        [&s["expectedPods"], &s["desiredHealthy"], &s["currentHealthy"], &s["disruptionsAllowed"]]
            == [4, 2, 3, 1]
    };
    w.c.until(&format!("{budgets}/pools"), counted).await;
    // One whose size nobody says cannot be counted: nothing of it may go.
    let failed = |o: &Value| status(o, "DisruptionAllowed")["reason"] == "SyncFailed";
    let lumps = w.c.until(&format!("{budgets}/lumps"), failed).await;
    assert_eq!(lumps["status"]["disruptionsAllowed"], 0);
    let why = "lumps.example.com does not implement the scale subresource";
    assert_eq!(status(&lumps, "DisruptionAllowed")["message"], why);
    w.c.told("PodDisruptionBudget", "CalculateExpectedPodCountFailed").await;
    // A plain number needs no size.
    w.c.send("PATCH", &format!("{budgets}/lumps"), json!({"spec": {"minAvailable": 2}})).await;
    w.c.until(&format!("{budgets}/lumps"), |o| o["status"]["disruptionsAllowed"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_pods_come_and_go_with_them() {
    let w = World::new().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let template = json!({"metadata": {"labels": {"of": "pod"}}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}});
    let volume = json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}]);
    w.pod("p", json!({"volumes": volume})).await;
    let own = format!("{claims}/p-data");
    let claim = w.c.until(&own, |_| true).await;
    assert_eq!(claim["metadata"]["labels"], json!({"of": "pod"}));
    let owner = &claim["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"], &owner["controller"]),
        (&json!("Pod"), &json!("p"), &json!(true))
    );
    // One of the same name that somebody else made is not the pod's, and it is told.
    let stranger = json!({"metadata": {"name": "q-data"}, "spec": template["spec"]});
    w.c.create(claims, stranger).await;
    w.pod("q", json!({"volumes": volume})).await;
    w.c.told("Pod", "EphemeralVolumeCreationFailed").await;
    for pod in ["p", "q"] {
        w.c.send("DELETE", &format!("{PODS}/{pod}?gracePeriodSeconds=0"), Value::Null).await;
        w.c.gone(&format!("{PODS}/{pod}")).await;
    }
    w.c.gone(&own).await;
    assert_eq!(w.read(&format!("{claims}/q-data")).await["metadata"]["name"], "q-data");
}

#[tokio::test(flavor = "multi_thread")]
async fn loops_that_are_not_chosen_do_not_run() {
    let controllers = Choice::parse(["*", "-deployment", "-node-lifecycle-controller"]).unwrap();
    let c = Cluster::with(Settings { controllers, fake_nodes: 1, ..Settings::default() }).await;
    let labels = json!({"app": "web"});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "i"}]}}});
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let apps = "/apis/apps/v1/namespaces/default";
    for plural in ["deployments", "replicasets"] {
        let object = json!({"metadata": {"name": "web"}, "spec": spec});
        c.create(&format!("{apps}/{plural}"), object).await;
    }
    c.until(&format!("{apps}/replicasets/web"), |o| o["status"]["readyReplicas"] == 1).await;
    let (_, deployment) = c.send("GET", &format!("{apps}/deployments/web"), Value::Null).await;
    assert_eq!(deployment["status"], json!({}), "nobody looked at it");
    // Nobody trusts the node, and nobody distrusts it.
    let (_, node) = c.send("GET", "/api/v1/nodes/fake-0", Value::Null).await;
    assert_eq!(taints(&node), ["node.kubernetes.io/not-ready:NoSchedule"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_alone_leaves_objects_as_they_are() {
    let controllers = Choice::parse([""]).unwrap();
    let c = Cluster::with(Settings { controllers, ..Settings::default() }).await;
    c.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let all = "/api/v1/namespaces/n/configmaps";
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0"}]);
    c.create(all, json!({"metadata": {"name": "owned", "ownerReferences": owner}})).await;
    c.send("DELETE", "/api/v1/namespaces/n", Value::Null).await;
    // What the API does itself is done when a definition is served.
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    c.create(definitions, definition("pools", "Pool", true)).await;
    let served = |o: &Value| status(o, "Established")["status"] == "True";
    c.until(&format!("{definitions}/pools.example.com"), served).await;
    let (_, space) = c.send("GET", "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(space["status"]["phase"], "Terminating");
    assert_eq!(c.send("GET", &format!("{all}/owned"), Value::Null).await.0, 200);
    let accounts = c.send("GET", "/api/v1/namespaces/n/serviceaccounts", Value::Null).await.1;
    assert_eq!(accounts["items"], json!([]));
}
