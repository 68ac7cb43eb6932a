//! What stock clients rely on beyond the recorded exchanges: each case is one that some client's own suite found.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::World;
use http::Method;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn an_update_may_leave_out_its_namespace_but_not_its_name() {
    let w = World::new().await;
    w.create(MAPS, r#"{"metadata": {"name": "a"}}"#).await;
    let (one, json) = (format!("{MAPS}/a"), "application/json");
    let body = r#"{"metadata": {"name": "a"}, "data": {"b": "c"}}"#;
    let got = w.write(Method::PUT, &one, json, body).await;
    assert_eq!((got.status, &got.json()["metadata"]["namespace"]), (200, &json!("default")));
    let got = w.merge(&one, json!({"metadata": {"namespace": null}})).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let got = w.write(Method::PUT, &one, json, r#"{"metadata": {}}"#).await;
    let why = "the name of the object (a based on URL) was undeterminable: name must be provided";
    assert_eq!((got.status, &got.json()["message"]), (400, &json!(why)));
}

#[tokio::test]
async fn what_belongs_to_the_whole_cluster_is_not_below_a_namespace() {
    let w = World::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    for nowhere in ["/api/v1/namespaces/default/nodes", "/api/v1/namespaces/default/nodes/n"] {
        assert_eq!(w.get(nowhere).await.status, 404, "{nowhere}");
    }
    assert_eq!(w.get(&format!("{roles}/namespaces/default/clusterroles")).await.status, 404);
    let body = r#"{"metadata": {"name": "n"}}"#;
    let json = "application/json";
    let got = w.write(Method::POST, "/api/v1/namespaces/default/nodes", json, body).await;
    assert_eq!(got.status, 404, "{}", got.text());
    for there in ["/api/v1/nodes", "/api/v1/namespaces/default", &format!("{roles}/clusterroles")] {
        assert_eq!(w.get(there).await.status, 200, "{there}");
    }
}

#[tokio::test]
async fn what_is_applied_is_of_the_version_of_its_path() {
    let w = World::new().await;
    let body = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: p}}";
    let got = w.apply(&format!("{PODS}/p?fieldManager=me"), body).await;
    let why = "Incorrect version specified in apply patch. Specified patch version: apps/v1, expected: v1";
    assert_eq!((got.status, &got.json()["message"]), (400, &json!(why)));
}

#[tokio::test]
async fn a_pod_keeps_its_containers_and_its_tolerations() {
    let w = World::new().await;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    w.create(account, "{metadata: {name: default}}").await;
    let pod = "{metadata: {name: p}, spec: {tolerations: [{key: a, operator: Exists}], containers: [{name: c, image: i}]}}";
    w.create(PODS, pod).await;
    let one = format!("{PODS}/p");
    let strategic = "application/strategic-merge-patch+json";
    let more = r#"{"spec": {"containers": [{"name": "d", "image": "i"}]}}"#;
    let got = w.write(Method::PATCH, &one, strategic, more).await;
    let cause = &got.json()["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.containers");
    assert_eq!(cause["message"], "Forbidden: pod updates may not add or remove containers");
    let tolerations = |list: serde_json::Value| json!({"spec": {"tolerations": list}});
    let mut kept = w.get(&one).await.json()["spec"]["tolerations"].as_array().unwrap().clone();
    kept.push(json!({"key": "b", "operator": "Exists"}));
    let got = w.merge(&one, tolerations(json!(kept))).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let got = w.merge(&one, tolerations(json!([]))).await;
    assert_eq!(got.json()["details"]["causes"][0]["field"], "spec.tolerations");
}

#[tokio::test]
async fn components_and_metrics_are_shown() {
    let w = World::new().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let admin = World::admin();
    let states = "/api/v1/componentstatuses";
    let got = w.send(Method::GET, states, &table, Vec::new(), &admin).await.json();
    assert_eq!(got["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    w.create(MAPS, "{metadata: {name: a}}").await;
    let nobody = wharf_apiserver::user::User::anonymous();
    assert_eq!(w.send(Method::GET, MAPS, &[], Vec::new(), &nobody).await.status, 403);
    let text = w.get("/metrics").await.text();
    for line in [
        "apiserver_request_total{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"POST\",version=\"v1\",code=\"201\"} 1",
        "apiserver_request_total{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"\",verb=\"LIST\",version=\"\",code=\"403\"} 1",
        "# TYPE apiserver_request_duration_seconds histogram",
        "apiserver_storage_objects{resource=\"configmaps\"} 1",
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn older_openapi_is_served_in_protobuf() {
    let w = World::new().await;
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let accept = [("accept", asked)];
    let got = w.send(Method::GET, "/openapi/v2", &accept, Vec::new(), &World::admin()).await;
    let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!((got.status, got.headers["content-type"].to_str().unwrap()), (200, media));
    assert!(got.body.starts_with(b"\n\x032.0"), "the first field is the version");
    let etag = got.headers["etag"].to_str().unwrap().to_owned();
    let known = [("accept", asked), ("if-none-match", &etag)];
    let again = w.send(Method::GET, "/openapi/v2", &known, Vec::new(), &World::admin()).await;
    assert_eq!(again.status, 304);
    let json = [("accept", "application/json"), ("if-none-match", &etag)];
    let got = w.send(Method::GET, "/openapi/v2", &json, Vec::new(), &World::admin()).await;
    assert_eq!((got.status, &got.json()["swagger"]), (200, &json!("2.0")));
}

#[tokio::test]
async fn a_version_of_what_is_created_is_judged_last() {
    let w = World::new().await;
    let body = r#"{"metadata": {"name": "a", "resourceVersion": "7"}}"#;
    let json = "application/json";
    let got = w.write(Method::POST, &format!("{MAPS}?dryRun=All"), json, body).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let got = w.write(Method::POST, MAPS, json, body).await;
    let why = json!("resourceVersion should not be set on objects to be created");
    assert_eq!((got.status, &got.json()["message"]), (500, &why));
    let bad = r#"{"metadata": {"name": "A_", "resourceVersion": "7"}}"#;
    assert_eq!(w.write(Method::POST, MAPS, json, bad).await.status, 422);
    assert_eq!(w.get(&format!("{MAPS}/a")).await.status, 404);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let w = World::new().await;
    let got = w.get("/apis?timeout=soon").await;
    let why = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    assert_eq!((got.status, &got.json()["message"]), (400, &json!(why)));
    assert_eq!(w.get(&format!("{MAPS}?timeout=32s")).await.status, 200);
    assert_eq!(w.get("/readyz/nothing").await.status, 404);
    assert_eq!(w.get("/readyz/ping").await.status, 200);
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let short = "{metadata: {name: e}, regarding: {namespace: default}, type: Normal, reason: r}";
    let got = w.write(Method::POST, events, "", short).await;
    assert_eq!(got.json()["details"]["causes"][0]["field"], "eventTime");
    let whole = "{metadata: {name: e}, regarding: {namespace: default}, type: Normal, reason: r, action: a, reportingController: x.com/c, reportingInstance: i, eventTime: '2026-01-01T00:00:00.000000Z'}";
    w.create(events, whole).await;
    let services = "/api/v1/namespaces/default/services";
    let both =
        "{metadata: {name: s}, spec: {ipFamilyPolicy: RequireDualStack, ports: [{port: 1}]}}";
    let got = w.write(Method::POST, services, "", both).await;
    assert_eq!(got.json()["details"]["causes"][0]["field"], "spec.ipFamilyPolicy");
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    w.create(quotas, "{metadata: {name: q}, spec: {hard: {pods: 1}, scopes: [BestEffort]}}").await;
    let got = w.merge(&format!("{quotas}/q"), json!({"spec": {"scopes": ["NotBestEffort"]}})).await;
    assert_eq!(got.json()["details"]["causes"][0]["field"], "spec.scopes");
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    w.create(revisions, "{metadata: {name: r}, data: {a: 1}, revision: 1}").await;
    let got = w.merge(&format!("{revisions}/r"), json!({"data": {"a": 2}})).await;
    assert_eq!(got.json()["details"]["causes"][0]["field"], "data");
    assert_eq!(w.merge(&format!("{revisions}/r"), json!({"revision": 2})).await.status, 200);
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/tests.example.com/v1/foos";

/// A definition of two versions, of which `v1beta1` is stored.
fn foos() -> serde_json::Value {
    let field = |name: &str| {
        json!({"type": "object", "properties": {
        "own": {"type": "string", "default": name},
        "part": {"type": "object", "nullable": true, "required": ["a"], "properties": {"a": {"type": "string"}}}},
        "x-kubernetes-preserve-unknown-fields": true})
    };
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "deprecated": !storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": field(name)}}}})
    };
    json!({"metadata": {"name": "foos.tests.example.com"}, "spec": {"group": "tests.example.com", "scope": "Cluster",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

async fn with_foos() -> World {
    let w = World::new().await;
    w.create(CRDS, &foos().to_string()).await;
    w
}

#[tokio::test]
async fn a_deprecated_version_names_the_better_one() {
    let w = with_foos().await;
    let got = w.get("/apis/tests.example.com/v1beta1/foos").await;
    let text =
        "299 - \"tests.example.com/v1beta1 Foo is deprecated; use tests.example.com/v1 Foo\"";
    assert_eq!(got.warnings(), [text]);
}

#[tokio::test]
async fn defaults_of_the_stored_version_are_there_in_every_version() {
    let w = World::new().await;
    let mut crd = foos();
    let stored = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    stored["properties"] = json!({"other": {"type": "string", "default": "stored"}});
    w.create(CRDS, &crd.to_string()).await;
    let old = "/apis/tests.example.com/v1beta1/foos";
    let made = w.create(old, r#"{"apiVersion": "tests.example.com/v1beta1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {}}"#).await;
    assert_eq!(made["spec"], json!({"other": "stored", "own": "v1beta1"}));
    assert_eq!(w.get(&format!("{old}/a")).await.json()["spec"]["other"], "stored");
}

#[tokio::test]
async fn null_is_applied_where_the_schema_allows_it() {
    let w = with_foos().await;
    let one = format!("{FOOS}/a?fieldManager=me");
    let apply = |spec: &str| {
        format!(
            "{{apiVersion: tests.example.com/v1, kind: Foo, metadata: {{name: a}}, spec: {spec}}}"
        )
    };
    assert_eq!(w.apply(&one, &apply("{part: {a: x}}")).await.status, 201);
    let got = w.apply(&one, &apply("{part: null}")).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert_eq!(got.json()["spec"], json!({"own": "v1", "part": null}));
    let got = w.apply(&one, &apply("{own: null}")).await;
    assert_eq!(got.json()["spec"], json!({"own": "v1"}), "a default takes the place of a null");
}

#[tokio::test]
async fn watches_of_a_definition_that_changes_end() {
    let w = with_foos().await;
    let changed = async {
        // The watch begins with what is there.
        w.create(
            FOOS,
            r#"{"apiVersion": "tests.example.com/v1", "kind": "Foo", "metadata": {"name": "a"}}"#,
        )
        .await;
        let patch = json!({"spec": {"names": {"shortNames": ["fo"]}}});
        let got = w.merge(&format!("{CRDS}/foos.tests.example.com"), patch).await;
        assert_eq!(got.status, 200, "{}", got.text());
    };
    let target = format!("{FOOS}?watch=1&timeoutSeconds=600");
    let soon = std::time::Duration::from_secs(60);
    let (got, ()) = tokio::join!(tokio::time::timeout(soon, w.get(&target)), changed);
    let text = got.expect("it ends before its time").text();
    assert!(text.contains("\"ADDED\""), "{text}");
}

#[tokio::test]
async fn groups_of_kubernetes_own_need_an_approval() {
    let w = World::new().await;
    let mut crd = foos();
    crd["metadata"]["name"] = json!("foos.sigs.k8s.io");
    crd["spec"]["group"] = json!("sigs.k8s.io");
    let got = w.write(Method::POST, CRDS, "", &crd.to_string()).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!(cause["field"], "metadata.annotations[api-approved.kubernetes.io]");
    let link = "https://github.com/kubernetes/kubernetes/pull/79724";
    crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": link});
    w.create(CRDS, &crd.to_string()).await;
    let crd = w.get(&format!("{CRDS}/foos.sigs.k8s.io")).await.json();
    let all = crd["status"]["conditions"].as_array().unwrap();
    let of = |c: &&serde_json::Value| c["type"] == "KubernetesAPIApprovalPolicyConformant";
    let found = all.iter().find(of).unwrap();
    assert_eq!(
        (&found["status"], &found["message"]),
        (&json!("True"), &json!(format!("approved in {link}")))
    );
}

#[tokio::test]
async fn converters_may_read_the_older_reviews_only() {
    let w = World::new().await;
    let mut crd = foos();
    let config = json!({"url": "https://127.0.0.1:9/convert"});
    crd["spec"]["conversion"] = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1beta1"]}});
    w.create(CRDS, &crd.to_string()).await;
    crd["metadata"]["name"] = json!("bars.tests.example.com");
    crd["spec"]["names"] = json!({"plural": "bars", "kind": "Bar"});
    crd["spec"]["conversion"]["webhook"]["conversionReviewVersions"] = json!(["v9"]);
    let got = w.write(Method::POST, CRDS, "", &crd.to_string()).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!(cause["field"], "spec.conversion.conversionReviewVersions");
}

#[tokio::test]
async fn objects_of_a_definition_are_told_from_others_by_their_kind() {
    let w = with_foos().await;
    let other =
        r#"{"apiVersion": "tests.example.com/v1", "kind": "Bar", "metadata": {"name": "a"}}"#;
    let got = w.write(Method::POST, FOOS, "", other).await;
    let why = r#"Bar.tests.example.com "a" is invalid: kind: Invalid value: "Bar": must be Foo"#;
    assert_eq!((got.status, &got.json()["message"]), (422, &json!(why)));
}

#[tokio::test]
async fn discovery_is_read_as_yaml_too() {
    let w = World::new().await;
    let yaml = [("accept", "application/yaml")];
    for target in ["/apis", "/apis/apps", "/apis/apps/v1", "/api", "/api/v1"] {
        let got = w.send(Method::GET, target, &yaml, Vec::new(), &World::admin()).await;
        let text = got.text();
        assert_eq!(got.headers["content-type"], "application/yaml", "{target}");
        assert!(text.starts_with("kind: ") || text.starts_with("apiVersion: "), "{target}: {text}");
    }
    let none = format!("{MAPS}/none");
    let got = w.send(Method::GET, &none, &yaml, Vec::new(), &World::admin()).await;
    assert_eq!(
        (got.status, got.headers["content-type"].to_str().unwrap()),
        (404, "application/yaml")
    );
    assert!(got.text().contains("reason: NotFound"), "{}", got.text());
}

#[tokio::test]
async fn what_scaling_reads_is_a_number_of_replicas() {
    let w = World::new().await;
    let mut crd = foos();
    for v in crd["spec"]["versions"].as_array_mut().unwrap() {
        v["subresources"] =
            json!({"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}});
    }
    w.create(CRDS, &crd.to_string()).await;
    let foo = |n: i64| json!({"apiVersion": "tests.example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"n": n}});
    let got = w.write(Method::POST, FOOS, "", &foo(1 << 31).to_string()).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!((got.status, &cause["field"]), (422, &json!(".spec.n")));
    w.create(FOOS, &foo(2).to_string()).await;
    let scale = format!("{FOOS}/a/scale");
    assert_eq!(w.get(&scale).await.json()["spec"]["replicas"], 2);
    let strategic = "application/strategic-merge-patch+json";
    let patch = r#"{"spec": {"replicas": 3}}"#;
    assert_eq!(w.write(Method::PATCH, &scale, strategic, patch).await.status, 415);
    assert_eq!(w.merge(&scale, json!({"spec": {"replicas": 3}})).await.status, 200);
    let body = |n: u32| {
        format!(
            "{{apiVersion: autoscaling/v1, kind: Scale, metadata: {{name: a}}, spec: {{replicas: {n}}}}}"
        )
    };
    let nobody = w.apply(&scale, &body(4)).await;
    assert_eq!(nobody.json()["details"]["causes"][0]["field"], "fieldManager");
    let conflict = w.apply(&format!("{scale}?fieldManager=me"), &body(4)).await;
    assert_eq!((conflict.status, &conflict.json()["reason"]), (409, &json!("Conflict")));
    let got = w.apply(&format!("{scale}?fieldManager=me&force=true"), &body(4)).await;
    assert_eq!((got.status, &got.json()["spec"]["replicas"]), (200, &json!(4)));
    let fields = w.get(&format!("{FOOS}/a")).await.json()["metadata"]["managedFields"].clone();
    let own = fields.as_array().unwrap().iter().find(|e| e["manager"] == "me").unwrap();
    assert_eq!(
        (&own["operation"], &own["subresource"], &own["fieldsV1"]),
        (&json!("Apply"), &json!("scale"), &json!({"f:spec": {"f:n": {}}}))
    );
}

#[tokio::test]
async fn texts_of_secrets_become_their_data() {
    let w = World::new().await;
    let all = "/api/v1/namespaces/default/secrets";
    let body = "{metadata: {name: a}, data: {x: b2xk, y: eQ==}, stringData: {x: new}}";
    let made = w.create(all, body).await;
    assert_eq!(made["data"], json!({"x": "bmV3", "y": "eQ=="}));
    assert_eq!(made["stringData"], json!(null));
    let fields = &made["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:data"], json!({".": {}, "f:x": {}, "f:y": {}}));
    let got = w.merge(&format!("{all}/a"), json!({"stringData": {"y": "z"}})).await.json();
    assert_eq!(got["data"], json!({"x": "bmV3", "y": "eg=="}));
    let docker = "{apiVersion: v1, kind: Secret, metadata: {name: d}, type: kubernetes.io/dockercfg, stringData: {.dockercfg: '{}'}}";
    let got = w.apply(&format!("{all}/d?fieldManager=me"), docker).await;
    assert_eq!((got.status, &got.json()["data"]), (201, &json!({".dockercfg": "e30="})));
}

#[tokio::test]
async fn fields_that_no_schema_knows_cannot_be_applied() {
    let w = World::new().await;
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: default}, data: {a: b}, dota: {}}";
    for how in ["", "&fieldValidation=Warn", "&fieldValidation=Ignore", "&fieldValidation=Strict"] {
        let path = format!("/api/v1/namespaces/default/configmaps/c?fieldManager=me{how}");
        let got = w.apply(&path, config).await;
        let status = got.json();
        assert_eq!((got.status, status.get("reason")), (500, None), "{}", got.text());
        let why = "failed to create typed patch object (default/c; /v1, Kind=ConfigMap): .dota: field not declared in schema";
        assert_eq!(status["message"], why, "{how}");
    }
}

#[tokio::test]
async fn null_is_refused_where_the_schema_has_none() {
    let w = World::new().await;
    let mut crd = foos();
    let field = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    field["properties"]["bare"] =
        json!({"type": "object", "properties": {"a": {"type": "string"}}});
    w.create(CRDS, &crd.to_string()).await;
    let one = format!("{FOOS}/a?fieldManager=me");
    let apply = |bare: &str| {
        format!(
            "{{apiVersion: tests.example.com/v1, kind: Foo, metadata: {{name: a}}, spec: {{bare: {bare}}}}}"
        )
    };
    assert_eq!(w.apply(&one, &apply("{a: x}")).await.status, 201);
    let got = w.apply(&one, &apply("null")).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!((got.status, &cause["field"]), (422, &json!("spec.bare")), "{}", got.text());
    // What is sent whole may say null for nothing.
    let merged = w.merge(&format!("{FOOS}/a"), json!({"spec": {"own": "x"}})).await;
    assert_eq!(merged.status, 200, "{}", merged.text());
    let mut whole = merged.json();
    whole["spec"]["bare"] = json!(null);
    let got = w.write(Method::PUT, &format!("{FOOS}/a"), "", &whole.to_string()).await;
    assert_eq!((got.status, got.json()["spec"].get("bare")), (200, None));
}

#[tokio::test]
async fn defaults_are_those_of_the_version_that_is_stored() {
    let w = with_foos().await;
    let made = json!({"apiVersion": "tests.example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"x": 1}});
    w.create(FOOS, &made.to_string()).await;
    let remove = json!([{"op": "add", "path": "/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/later",
        "value": {"type": "string", "default": "new"}}]);
    let crd = format!("{CRDS}/foos.tests.example.com");
    let got =
        w.write(Method::PATCH, &crd, "application/json-patch+json", &remove.to_string()).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let old = w.get("/apis/tests.example.com/v1beta1/foos/a").await.json();
    assert_eq!(old["spec"], json!({"own": "v1", "x": 1}), "a read in another version adds nothing");
}

#[tokio::test]
async fn a_watch_is_no_yaml() {
    let w = World::new().await;
    let yaml = [("accept", "application/yaml")];
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let got = w.send(Method::GET, &watch, &yaml, Vec::new(), &World::admin()).await;
    assert_eq!(
        (got.status, got.headers["content-type"].to_str().unwrap()),
        (406, "application/yaml")
    );
    let why = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(got.text().contains(why), "{}", got.text());
}

#[tokio::test]
async fn objects_are_selected_by_the_fields_of_the_version_that_is_asked() {
    let w = World::new().await;
    let mut crd = foos();
    for v in crd["spec"]["versions"].as_array_mut().unwrap() {
        v["selectableFields"] = json!([{"jsonPath": ".spec.own"}]);
    }
    w.create(CRDS, &crd.to_string()).await;
    for name in ["a", "b"] {
        let own = if name == "a" { json!({}) } else { json!({"own": "mine"}) };
        let made = json!({"apiVersion": "tests.example.com/v1", "kind": "Foo", "metadata": {"name": name}, "spec": own});
        w.create(FOOS, &made.to_string()).await;
    }
    let old = "/apis/tests.example.com/v1beta1/foos";
    let chosen = w.get(&format!("{old}?fieldSelector=spec.own%3Dmine")).await.json();
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1, "{chosen}");
    let got = w.delete(&format!("{old}?fieldSelector=spec.own%3Dmine")).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let left = w.get(FOOS).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "a");
    let doc = w.get("/openapi/v3/apis/tests.example.com/v1").await.json();
    for name in ["Foo", "FooList"] {
        let schema = &doc["components"]["schemas"][format!("com.example.tests.v1.{name}")];
        let fields = &schema["x-kubernetes-selectable-fields"];
        assert_eq!(fields, &json!([{"fieldPath": "spec.own"}]), "{name}");
    }
}

#[tokio::test]
async fn a_converter_with_a_bad_bundle_is_not_established() {
    let w = World::new().await;
    let mut crd = foos();
    let bad = "bm8gY2VydGlmaWNhdGU=";
    let config = json!({"url": "https://127.0.0.1:9/convert", "caBundle": bad});
    crd["spec"]["conversion"] = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]}});
    w.create(CRDS, &crd.to_string()).await;
    let one = format!("{CRDS}/foos.tests.example.com");
    let established = |crd: &serde_json::Value| {
        let all = crd["status"]["conditions"].as_array().unwrap();
        let found = all.iter().find(|c| c["type"] == "Established").unwrap();
        (found["status"].clone(), found["reason"].clone())
    };
    let made = w.get(&one).await.json();
    assert_eq!(established(&made), (json!("False"), json!("InvalidCABundle")));
    assert_eq!(w.get(FOOS).await.status, 404);
    let bundle = |to: serde_json::Value| json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": to}}}}});
    assert_eq!(w.merge(&one, bundle(json!(null))).await.status, 200);
    assert_eq!(established(&w.get(&one).await.json()).0, json!("True"));
    let got = w.merge(&one, bundle(json!(bad))).await;
    let cause = got.json()["details"]["causes"][0].clone();
    let field = "spec.conversion.webhookClientConfig.caBundle";
    assert_eq!((got.status, &cause["field"]), (422, &json!(field)));
    let why = "unable to load root certificates: unable to parse bytes as PEM block";
    assert!(cause["message"].as_str().unwrap().ends_with(why), "{cause}");
}

#[tokio::test]
async fn a_resize_keeps_the_class_of_a_pod() {
    let w = World::new().await;
    w.create("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}").await;
    w.create(PODS, "{metadata: {name: p}, spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 100m}}}]}}").await;
    let resize = |resources: serde_json::Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    let send = async |patch: serde_json::Value| {
        let strategic = "application/strategic-merge-patch+json";
        w.write(Method::PATCH, &format!("{PODS}/p/resize"), strategic, &patch.to_string()).await
    };
    let got = send(resize(json!({"requests": {"cpu": "200m"}}))).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let all = json!({"cpu": "200m", "memory": "1Mi"});
    let got = send(resize(json!({"requests": all, "limits": all}))).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!((got.status, &cause["field"]), (422, &json!("spec")));
    let why = "Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing";
    assert_eq!(cause["message"], why);
}

#[tokio::test]
async fn addresses_of_services_are_objects() {
    let w = World::new().await;
    let all = "/apis/networking.k8s.io/v1/ipaddresses";
    let services = "/api/v1/namespaces/default/services";
    let own = w.get(&format!("{all}/10.96.0.1")).await.json();
    let parent = |name: &str| json!({"parentRef": {"name": name, "namespace": "default", "resource": "services"}});
    assert_eq!(own["spec"], parent("kubernetes"));
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(own["metadata"]["labels"], labels);
    let made = w.create(services, "{metadata: {name: s}, spec: {ports: [{port: 1}]}}").await;
    let one = format!("{all}/{}", made["spec"]["clusterIP"].as_str().unwrap());
    assert_eq!(w.get(&one).await.json()["spec"], parent("s"));
    w.create(services, "{metadata: {name: h}, spec: {clusterIP: None, ports: [{port: 1}]}}").await;
    assert_eq!(w.get(all).await.json()["items"].as_array().unwrap().len(), 2);
    // What somebody deletes comes back, and what nobody has goes.
    assert_eq!(w.delete(&one).await.status, 200);
    let stray = "{metadata: {name: 10.96.9.9, labels: {ipaddress.kubernetes.io/managed-by: ipallocator.k8s.io}}, spec: {parentRef: {resource: services, namespace: default, name: gone}}}";
    w.create(all, stray).await;
    let kinds = &w.server.api.kinds;
    let gv = wharf_kube::resources::GroupVersion::parse("networking.k8s.io/v1");
    let kind = kinds.find(&gv, "ipaddresses").unwrap();
    wharf_apiserver::addresses::repair(&w.server.api, &kind).await.unwrap();
    assert_eq!(w.get(&one).await.json()["spec"], parent("s"));
    assert_eq!(w.get(&format!("{all}/10.96.9.9")).await.status, 404);
    assert_eq!(w.delete(&format!("{services}/s")).await.status, 200);
    assert_eq!(w.get(&one).await.status, 404);
    let cidr = w.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.json();
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16"]));
}

#[tokio::test]
async fn entries_that_no_schema_names_exist_by_themselves() {
    let w = World::new().await;
    let mut crd = foos();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    w.create(CRDS, &crd.to_string()).await;
    let config = "{apiVersion: tests.example.com/v1, kind: Foo, metadata: {name: a}, spec: {n: 1}}";
    let one = format!("{FOOS}/a");
    let got = w.apply(&format!("{one}?fieldManager=me"), config).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let merge = "application/merge-patch+json";
    let other = format!("{one}?fieldManager=other");
    w.write(Method::PATCH, &other, merge, r#"{"spec": {"n": 2}}"#).await;
    let fields = w.get(&one).await.json()["metadata"]["managedFields"].clone();
    let of = |who: &str| {
        let all = fields.as_array().unwrap();
        all.iter().find(|e| e["manager"] == who).unwrap()["fieldsV1"].clone()
    };
    assert_eq!((of("me"), of("other")), (json!({"f:spec": {}}), json!({"f:spec": {"f:n": {}}})));
}

#[tokio::test]
async fn objects_of_many_namespaces_are_not_deleted_at_once() {
    let w = World::new().await;
    assert_eq!(w.delete("/api/v1/pods").await.status, 405);
    let mut crd = foos();
    crd["spec"]["scope"] = json!("Namespaced");
    w.create(CRDS, &crd.to_string()).await;
    assert_eq!(w.delete(FOOS).await.status, 404);
    assert_eq!(w.delete("/apis/tests.example.com/v1/namespaces/default/foos").await.status, 200);
}

#[tokio::test]
async fn below_a_pod_only_what_the_path_names_is_written() {
    let w = World::new().await;
    w.create("/api/v1/namespaces/default/serviceaccounts", "{metadata: {name: default}}").await;
    w.create(PODS, "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}").await;
    let part = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [], ephemeralContainers: [{name: e, image: x}]}}";
    let got = w.write(Method::PUT, &format!("{PODS}/p/ephemeralcontainers"), "", part).await;
    assert_eq!(got.status, 200, "{}", got.text());
    let pod = w.get(&format!("{PODS}/p")).await.json();
    assert_eq!(pod["spec"]["containers"][0]["image"], "i");
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "e");
}

#[tokio::test]
async fn who_creates_an_object_owns_no_status_of_it() {
    let w = World::new().await;
    let mut crd = foos();
    for v in crd["spec"]["versions"].as_array_mut().unwrap() {
        v["subresources"] = json!({"status": {}});
        v["schema"]["openAPIV3Schema"]["properties"]["status"] =
            json!({"type": "object", "properties": {"phase": {"type": "string", "enum": ["ok"]}}});
    }
    w.create(CRDS, &crd.to_string()).await;
    let foo =
        "{apiVersion: tests.example.com/v1, kind: Foo, metadata: {name: a}, status: {phase: bad}}";
    w.create(FOOS, foo).await;
    let status = format!("{FOOS}/a/status?fieldManager=me");
    let got = w.apply(&status, foo).await;
    let cause = got.json()["details"]["causes"][0].clone();
    assert_eq!((got.status, &cause["field"]), (422, &json!("status.phase")), "{}", got.text());
    assert_eq!(w.apply(&status, &foo.replace("bad", "ok")).await.status, 200);
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = "{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}, status: {phase: Bound}}";
    let made = w.create(claims, claim).await;
    assert_eq!(made["status"], json!({"phase": "Pending"}));
    let fields = &made["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields.get("f:status"), None, "{fields}");
}
