//! What Kubernetes' own end-to-end suite relies on: each case is one that it found.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Got, World};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A server whose default namespace has an account, and a pod in it.
async fn with_pod(spec: &str) -> World {
    let w = World::new().await;
    w.create("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}").await;
    w.create(PODS, &format!("{{metadata: {{name: p, generation: 7}}, spec: {{{spec}}}}}")).await;
    w
}

async fn strategic(w: &World, path: &str, patch: Value) -> Got {
    w.write(Method::PATCH, path, STRATEGIC, &patch.to_string()).await
}

#[tokio::test]
async fn addresses_are_named_by_themselves() {
    let w = World::new().await;
    let all = "/apis/networking.k8s.io/v1/ipaddresses";
    let body = |name: &str| {
        format!(
            "{{metadata: {{name: '{name}'}}, spec: {{parentRef: {{group: g, resource: r, name: o}}}}}}"
        )
    };
    for good in ["255.255.255.255", "fe80::42:1dff:fe84:f9e2"] {
        w.create(all, &body(good)).await;
        assert_eq!(w.delete(&format!("{all}/{good}")).await.status, 200, "{good}");
    }
    for (bad, why) in
        [("a", "not a valid IP address"), ("fe80::0042:1", "must be a canonical format IP address")]
    {
        let got = w.write(Method::POST, all, "", &body(bad)).await;
        let message = format!("Invalid value: \"{bad}\": {why}");
        assert_eq!(got.json()["details"]["causes"][0]["message"], json!(message));
    }
}

#[tokio::test]
async fn a_pod_counts_what_its_user_changes_and_not_where_it_is() {
    let w = with_pod("containers: [{name: c, image: i}]").await;
    let one = format!("{PODS}/p");
    let generation = async || w.get(&one).await.json()["metadata"]["generation"].clone();
    assert_eq!(generation().await, 1);
    let binding = r#"{"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}"#;
    w.create(&format!("{one}/binding"), binding).await;
    let pod = w.get(&one).await.json();
    assert_eq!(
        (&pod["spec"]["nodeName"], &pod["metadata"]["generation"]),
        (&json!("n"), &json!(1))
    );
    let scheduled = &pod["status"]["conditions"][0];
    assert_eq!(
        (&scheduled["type"], &scheduled["status"]),
        (&json!("PodScheduled"), &json!("True"))
    );
    assert_eq!(scheduled["observedGeneration"], 1);
    // Tolerations that replace those of admission get these again.
    let toleration = json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]);
    let got = w.merge(&one, json!({"spec": {"tolerations": toleration}})).await;
    assert_eq!(
        got.json()["spec"]["tolerations"].as_array().map(Vec::len),
        Some(3),
        "{}",
        got.text()
    );
    assert_eq!(w.merge(&one, json!({"metadata": {"labels": {"a": "b"}}})).await.status, 200);
    assert_eq!(generation().await, 2);
    w.delete(&format!("{one}?gracePeriodSeconds=60")).await;
    assert_eq!(generation().await, 3);
}

#[tokio::test]
async fn a_pod_is_resized_on_a_path_of_its_own() {
    let given = "requests: {cpu: 10m, memory: 20Mi}, limits: {cpu: 10m, memory: 20Mi}";
    let w = with_pod(&format!("containers: [{{name: c, image: i, resources: {{{given}}}}}]")).await;
    let one = format!("{PODS}/p");
    let to = |requests: &str, limits: &str| {
        let r = json!({"requests": {"cpu": requests}, "limits": {"cpu": limits}});
        json!({"spec": {"containers": [{"name": "c", "resources": r, "image": "other"}]}})
    };
    let got = strategic(&w, &one, to("20m", "20m")).await;
    assert_eq!((got.status, &got.json()["details"]["causes"][0]["field"]), (422, &json!("spec")));
    let resize = format!("{one}/resize");
    let got = strategic(&w, &resize, to("20m", "20m")).await;
    let container = &got.json()["spec"]["containers"][0];
    assert_eq!(
        (&container["resources"]["limits"]["cpu"], &container["image"]),
        (&json!("20m"), &json!("i"))
    );
    let got = strategic(&w, &resize, to("20m", "30m")).await;
    let cause = &got.json()["details"]["causes"][0];
    assert_eq!(
        cause["message"],
        "Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing"
    );
    let range = "{metadata: {name: r}, spec: {limits: [{type: Container, max: {cpu: 25m}}]}}";
    w.create("/api/v1/namespaces/default/limitranges", range).await;
    let got = strategic(&w, &resize, to("30m", "30m")).await;
    assert_eq!(got.status, 403, "{}", got.text());
    let none = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": null}}]}});
    let got = strategic(&w, &resize, none).await;
    assert!(got.text().contains("resource limits cannot be removed"), "{}", got.text());
}

#[tokio::test]
async fn ephemeral_containers_are_added_on_a_path_of_their_own() {
    let w = with_pod("containers: [{name: c, image: i}]").await;
    let one = format!("{PODS}/p");
    let with = |image: &str| json!({"spec": {"ephemeralContainers": [{"name": "e", "image": image}], "nodeName": "elsewhere"}});
    let mut alone = with("i");
    alone["spec"]["nodeName"] = Value::Null;
    assert_eq!(strategic(&w, &one, alone).await.status, 422);
    let path = format!("{one}/ephemeralcontainers");
    let got = strategic(&w, &path, with("i")).await.json();
    assert_eq!(got["spec"]["ephemeralContainers"][0]["name"], "e");
    assert!(got["spec"].get("nodeName").is_none(), "{got}");
    let got = strategic(&w, &path, with("j")).await;
    assert!(got.text().contains("may not be changed"), "{}", got.text());
}

#[tokio::test]
async fn a_runtime_class_says_where_its_pods_may_be() {
    let w = with_pod("containers: [{name: c, image: i}]").await;
    let class = "{metadata: {name: rc}, handler: h, overhead: {podFixed: {cpu: 1}}, scheduling: {nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}]}}";
    w.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let pod = |name: &str, more: &str| {
        format!(
            "{{metadata: {{name: {name}}}, spec: {{{more} containers: [{{name: c, image: i}}]}}}}"
        )
    };
    let made = w.create(PODS, &pod("a", "runtimeClassName: rc, nodeSelector: {c: d},")).await;
    assert_eq!(made["spec"]["nodeSelector"], json!({"a": "b", "c": "d"}));
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "1"}));
    let tolerated = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerated.iter().any(|t| t["key"] == "k"), "{made}");
    for (more, why) in [
        ("runtimeClassName: rc, nodeSelector: {a: x},", "conflict"),
        ("runtimeClassName: rc, overhead: {cpu: 2},", "doesn't match RuntimeClass"),
        ("overhead: {cpu: 2},", "without corresponding RuntimeClass"),
    ] {
        let got = w.write(Method::POST, PODS, "", &pod("b", more)).await;
        assert_eq!(got.status, 403, "{}", got.text());
        assert!(got.text().contains(why), "{}", got.text());
    }
}

#[tokio::test]
async fn approval_sets_any_condition_and_takes_no_decision_back() {
    let w = World::new().await;
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.encode(request.pem().unwrap());
    let body = json!({"metadata": {"name": "c"},
        "spec": {"request": pem, "signerName": "example.com/signer", "usages": ["client auth"]}});
    w.create(all, &body.to_string()).await;
    let with = |kinds: &[&str]| {
        let one = |k: &&str| json!({"type": k, "status": "True", "reason": "e2e"});
        json!({"status": {"conditions": kinds.iter().map(one).collect::<Vec<_>>()}})
    };
    let approval = format!("{all}/c/approval");
    let got = w.merge(&approval, with(&["Other"])).await.json();
    let first = &got["status"]["conditions"][0];
    assert_eq!(first["type"], "Other", "{got}");
    // Without times the loop that cleans up would take it for one of long ago.
    assert!(
        first["lastUpdateTime"].is_string() && first["lastTransitionTime"].is_string(),
        "{got}"
    );
    let got = w.merge(&approval, with(&["Other", "Approved"])).await.json();
    assert_eq!(got["status"]["conditions"].as_array().map(Vec::len), Some(2), "{got}");
    let got = w.merge(&approval, with(&["Other"])).await;
    let why = "Forbidden: updates may not remove a condition of type \"Approved\"";
    assert_eq!(got.json()["details"]["causes"][0]["message"], why);
}

#[tokio::test]
async fn a_newer_event_has_its_controller_as_its_source() {
    let w = World::new().await;
    let event = "{metadata: {name: e}, regarding: {namespace: default}, type: Normal, reason: r, action: a, reportingController: test-controller, reportingInstance: i, eventTime: '2026-01-01T00:00:00.000000Z'}";
    w.create("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let older = "/api/v1/namespaces/default/events?fieldSelector=source=test-controller";
    assert_eq!(w.get(older).await.json()["items"].as_array().map(Vec::len), Some(1));
    let newer = "/apis/events.k8s.io/v1/events?fieldSelector=reportingController=test-controller";
    assert_eq!(w.get(newer).await.json()["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn older_openapi_says_nothing_of_what_may_be_anything() {
    let w = World::new().await;
    let definition = "{metadata: {name: frees.tests.example.com}, spec: {group: tests.example.com, scope: Cluster, names: {plural: frees, kind: Free}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}}}]}}";
    w.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let spec = w.get("/openapi/v2").await.json();
    let kind = json!([{"group": "tests.example.com", "kind": "Free", "version": "v1"}]);
    let expected = json!({"type": "object", "x-kubernetes-group-version-kind": kind});
    assert_eq!(spec["definitions"]["com.example.tests.v1.Free"], expected);
}

#[tokio::test]
async fn discovery_says_by_a_hash_how_objects_are_stored() {
    let w = World::new().await;
    // As the reference server has them.
    for (path, plural, expected) in [
        ("/api/v1", "pods", "xPOwRZ+Yhw8="),
        ("/apis/events.k8s.io/v1", "events", "r2yiGXH7wu8="),
        ("/apis/autoscaling/v1", "horizontalpodautoscalers", "qwQve8ut294="),
        ("/apis/apps/v1", "deployments", "8aSe+NMegvE="),
    ] {
        let list = w.get(path).await.json()["resources"].as_array().cloned().unwrap();
        let one = list.iter().find(|r| r["name"] == plural).unwrap();
        assert_eq!(one["storageVersionHash"], expected, "{path} {plural}");
    }
}

#[tokio::test]
async fn what_old_kinds_own_stays_unless_their_deletion_says_otherwise() {
    let w = World::new().await;
    let template =
        "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]";
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let controller = format!("{{replicas: 0, selector: {{a: b}}, {template}}}}}}}");
    let job = format!("{{{template}, restartPolicy: Never}}}}}}");
    for (all, spec, warned) in [(controllers, &controller, 0), (jobs, &job, 1)] {
        for (query, finalizers) in [
            ("", json!(["orphan"])),
            ("?propagationPolicy=Background", Value::Null),
            ("?propagationPolicy=Foreground", json!(["foregroundDeletion"])),
        ] {
            let name = format!("o{}", query.len());
            w.create(all, &format!("{{metadata: {{name: {name}}}, spec: {spec}}}")).await;
            let one = format!("{all}/{name}");
            let got = w.delete(&format!("{one}{query}")).await;
            let warnings = if query.is_empty() { warned } else { 0 };
            assert_eq!((got.status, got.warnings().len()), (200, warnings), "{one}{query}");
            let left = w.get(&one).await.json();
            assert_eq!(left["metadata"]["finalizers"], finalizers, "{one}{query}");
        }
    }
}
