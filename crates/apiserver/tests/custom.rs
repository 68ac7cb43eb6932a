//! Custom resources: defined, served in every way that built-in kinds are, changed and removed.

#![allow(clippy::unwrap_used, reason = "a surprise in a test is a panic")]

mod common;

use common::World;
use http::Method;
use serde_json::json;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRON: &str = include_str!("data/crontab.yaml");
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

async fn defined() -> World {
    let w = World::new().await;
    w.create(CRDS, CRON).await;
    w
}

fn tab(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[tokio::test]
async fn a_definition_is_accepted_established_and_discovered() {
    let w = defined().await;
    let crd = w.get(&format!("{CRDS}/crontabs.stable.example.com")).await.json();
    let status = &crd["status"];
    let condition = |ty: &str| {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == ty).unwrap().clone()
    };
    assert_eq!(condition("Established")["status"], "True");
    assert_eq!(condition("NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(status["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(status["storedVersions"], json!(["v1"]));
    let list = w.get("/apis/stable.example.com/v1").await.json();
    assert_eq!(list["resources"][0]["name"], "crontabs");
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    let group = w.get("/apis/stable.example.com").await.json();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = w.send(Method::GET, "/apis", &accept, Vec::new(), &World::admin()).await.json();
    let found = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "stable.example.com")
        .unwrap();
    assert_eq!(found["versions"][0]["resources"][0]["categories"], json!(["all"]));
}

#[tokio::test]
async fn objects_are_pruned_completed_and_judged() {
    let w = defined().await;
    let got = w.write(Method::POST, TABS, "", &tab("a", "{cronSpec: '* * *', foo: 1}")).await;
    assert_eq!(got.status, 201, "{}", got.text());
    assert_eq!(got.warnings(), ["299 - \"unknown field \\\"spec.foo\\\"\""]);
    let v = got.json();
    assert_eq!(v["spec"], json!({"cronSpec": "* * *", "replicas": 1}));
    assert_eq!(v["metadata"]["generation"], 1);
    assert_eq!(
        v["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {".": {}, "f:cronSpec": {}, "f:replicas": {}}})
    );
    let strict = w
        .write(
            Method::POST,
            &format!("{TABS}?fieldValidation=Strict"),
            "",
            &tab("b", "{cronSpec: '* * *', foo: 1}"),
        )
        .await;
    assert_eq!(strict.status, 400);
    assert!(
        strict.json()["message"]
            .as_str()
            .unwrap()
            .contains("strict decoding error: unknown field \"spec.foo\""),
        "{}",
        strict.text()
    );
    let bad = w.write(Method::POST, TABS, "", &tab("b", "{cronSpec: nope, replicas: 11}")).await;
    assert_eq!(bad.status, 422);
    assert_eq!(
        bad.json()["message"],
        "CronTab.stable.example.com \"b\" is invalid: [spec.cronSpec: Invalid value: \"nope\": spec.cronSpec in body should match '^[*0-9 /]+$', spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10]"
    );
    let text = w.get(&format!("{TABS}/a")).await.text();
    assert!(text.starts_with("{\"apiVersion\":\"stable.example.com/v1\",\"kind\":\"CronTab\",\"metadata\":{\"creationTimestamp\":"), "{text}");
}

#[tokio::test]
async fn every_verb_works_on_them() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1'}")).await;
    let list = w.get(TABS).await.json();
    assert_eq!(
        (list["kind"].as_str(), list["items"][0]["kind"].as_str()),
        (Some("CronTabList"), Some("CronTab"))
    );
    let rv = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let one = format!("{TABS}/a");
    let merged = w.merge(&one, json!({"spec": {"replicas": 2}})).await.json();
    assert_eq!(
        (merged["spec"]["replicas"].as_i64(), merged["metadata"]["generation"].as_i64()),
        (Some(2), Some(2))
    );
    let patch = r#"[{"op":"replace","path":"/spec/replicas","value":3}]"#;
    let got = w.write(Method::PATCH, &one, "application/json-patch+json", patch).await;
    assert_eq!(got.json()["spec"]["replicas"], 3);
    let strategic =
        w.write(Method::PATCH, &one, "application/strategic-merge-patch+json", "{}").await;
    assert_eq!(strategic.status, 415);
    let status = w
        .merge(
            &format!("{one}/status"),
            json!({"status": {"replicas": 3, "selector": "app=x"}, "spec": {"replicas": 9}}),
        )
        .await
        .json();
    assert_eq!(
        (status["spec"]["replicas"].as_i64(), status["status"]["replicas"].as_i64()),
        (Some(3), Some(3))
    );
    assert_eq!(status["metadata"]["generation"], 3);
    let scale = w.get(&format!("{one}/scale")).await.json();
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()),
        (Some("Scale"), Some(3))
    );
    assert_eq!(scale["status"], json!({"replicas": 3, "selector": "app=x"}));
    let scaled = w.merge(&format!("{one}/scale"), json!({"spec": {"replicas": 5}})).await.json();
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(w.get(&one).await.json()["spec"]["replicas"], 5);
    let events =
        w.get(&format!("{TABS}?watch=true&timeoutSeconds=1&resourceVersion={rv}")).await.text();
    assert_eq!(events.matches("\"type\":\"MODIFIED\"").count(), 4, "{events}");
    let deleted = w.delete(&one).await;
    assert_eq!(deleted.json()["status"], "Success");
    assert_eq!(w.get(&one).await.status, 404);
}

#[tokio::test]
async fn tables_and_selectors_are_as_the_definition_says() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1', image: x}")).await;
    w.create(TABS, &tab("b", "{cronSpec: '2', image: z}")).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = w.send(Method::GET, TABS, &accept, Vec::new(), &World::admin()).await.json();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["Name", "Spec", "Replicas", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("a"), json!("1"), json!(1)]
    );
    let chosen = w.get(&format!("{TABS}?fieldSelector=spec.image%3Dz")).await.json();
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1);
    assert_eq!(chosen["items"][0]["metadata"]["name"], "b");
    let unknown = w.get(&format!("{TABS}?fieldSelector=spec.cronSpec%3Dy")).await;
    assert_eq!(unknown.json()["message"], "field label not supported: spec.cronSpec");
}

#[tokio::test]
async fn apply_merges_lists_by_their_keys() {
    let w = defined().await;
    let one = format!("{TABS}/a");
    let config = |who: &str, jobs: &str| {
        (format!("{one}?fieldManager={who}"), tab("a", &format!("{{cronSpec: '1', jobs: {jobs}}}")))
    };
    let (target, body) = config("one", "[{name: x, run: a}]");
    let got = w.apply(&target, &body).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let (target, body) = config("two", "[{name: z, run: b}]");
    let got = w.apply(&target, &body).await;
    assert_eq!(
        got.json()["spec"]["jobs"],
        json!([{"name": "x", "run": "a"}, {"name": "z", "run": "b"}])
    );
    let (target, body) = config("two", "[{name: x, run: c}]");
    let got = w.apply(&target, &body).await;
    assert_eq!(got.status, 409, "{}", got.text());
    assert_eq!(
        got.json()["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.jobs[name=\"x\"].run"
    );
}

#[tokio::test]
async fn versions_are_converted_by_name() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1'}")).await;
    let old = w.get("/apis/stable.example.com/v1beta1/namespaces/default/crontabs/a").await;
    assert_eq!(old.json()["apiVersion"], "stable.example.com/v1beta1");
    assert_eq!(
        old.warnings(),
        [
            "299 - \"stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab\""
        ]
    );
    // The older version knows no defaults and no pattern.
    assert_eq!(old.json()["spec"], json!({"cronSpec": "1", "replicas": 1}));
}

#[tokio::test]
async fn names_of_others_are_not_accepted_until_they_are_free() {
    let w = defined().await;
    let rival = CRON.replace("crontabs", "cronjabs").replace("crontab", "cronjab");
    w.create(CRDS, &rival).await;
    let target = format!("{CRDS}/cronjabs.stable.example.com");
    let conditions = w.get(&target).await.json()["status"]["conditions"].clone();
    assert_eq!(conditions[0]["reason"], "ShortNamesConflict", "{conditions}");
    assert_eq!(w.get("/apis/stable.example.com/v1/cronjabs").await.status, 404);
    w.delete(&format!("{CRDS}/crontabs.stable.example.com")).await;
    wharf_apiserver::definitions::finish(&w.server.api).await.unwrap();
    let conditions = w.get(&target).await.json()["status"]["conditions"].clone();
    assert_eq!(conditions[0]["reason"], "NoConflicts", "{conditions}");
    assert_eq!(w.get("/apis/stable.example.com/v1/cronjabs").await.status, 200);
}

#[tokio::test]
async fn a_definition_goes_after_its_objects() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1'}")).await;
    w.merge(&format!("{TABS}/a"), json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    let target = format!("{CRDS}/crontabs.stable.example.com");
    let got = w.delete(&target).await.json();
    assert_eq!(
        got["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(got["status"]["conditions"][2]["type"], "Terminating");
    let refused = w.write(Method::POST, TABS, "", &tab("b", "{cronSpec: '1'}")).await;
    assert_eq!(
        (refused.status, refused.json()["message"].as_str().unwrap().to_owned()),
        (405, "create not allowed while custom resource definition is terminating".to_owned())
    );
    wharf_apiserver::definitions::finish(&w.server.api).await.unwrap();
    assert_eq!(
        w.get(&target).await.json()["status"]["conditions"][2]["reason"],
        "InstanceDeletionInProgress"
    );
    w.merge(&format!("{TABS}/a"), json!({"metadata": {"finalizers": null}})).await;
    wharf_apiserver::definitions::finish(&w.server.api).await.unwrap();
    assert_eq!(w.get(&target).await.status, 404);
    assert_eq!(w.get(TABS).await.status, 404);
}

#[tokio::test]
async fn a_changed_definition_is_served_at_once() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1', image: x}")).await;
    let target = format!("{CRDS}/crontabs.stable.example.com");
    let patch = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/extra",
        "value": {"type": "string", "default": "new"}}]);
    let got =
        w.write(Method::PATCH, &target, "application/json-patch+json", &patch.to_string()).await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert_eq!(w.get(&format!("{TABS}/a")).await.json()["spec"]["extra"], "new");
}

#[tokio::test]
async fn unsound_definitions_are_refused_with_their_reasons() {
    let w = World::new().await;
    for (from, to, why) in [
        (
            "name: crontabs.stable.example.com",
            "name: other.stable.example.com",
            "metadata.name: Invalid value: \"other.stable.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "scope: Namespaced",
            "scope: Nowhere",
            "spec.scope: Unsupported value: \"Nowhere\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "storage: true",
            "storage: false",
            "must have exactly one version marked as storage version",
        ),
        (
            "cronSpec: {type: string, pattern: '^[*0-9 /]+$'}",
            "cronSpec: {pattern: '^[*0-9 /]+$'}",
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[cronSpec].type: Required value: must not be empty for specified object fields",
        ),
        ("'^[*0-9 /]+$'", "'('", "must be a valid regular expression, but isn't"),
        ("default: 1}", "default: many}", "properties[replicas].default: Invalid value"),
        ("jsonPath: .spec.cronSpec", "jsonPath: 'spec['", "is an invalid JSON path"),
    ] {
        assert!(CRON.contains(from), "{from}");
        let got = w.write(Method::POST, CRDS, "", &CRON.replace(from, to)).await;
        assert_eq!(got.status, 422, "{to}: {}", got.text());
        assert!(
            got.json()["message"].as_str().unwrap().contains(why),
            "{to}: {}",
            got.json()["message"]
        );
    }
}

#[tokio::test]
async fn what_is_defined_is_described() {
    let w = defined().await;
    let index = w.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let doc = w.get(url.split('?').next().unwrap()).await.json();
    let schema = &doc["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert_eq!(schema["description"], "A table of jobs.");
    assert_eq!(schema["properties"]["spec"]["properties"]["image"]["description"], "What is run.");
    assert_eq!(
        schema["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let patch = &doc["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]
        ["patch"];
    assert!(
        patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none()
    );
    let older = w.get("/openapi/v2").await;
    let doc = older.json();
    let schema = &doc["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["default"], 1);
    assert_eq!(
        schema["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert!(!older.text().contains("#/components/"));
    let etag = older.headers["etag"].to_str().unwrap().to_owned();
    let headers = [("if-none-match", etag.as_str())];
    let again = w.send(Method::GET, "/openapi/v2", &headers, Vec::new(), &World::admin()).await;
    assert_eq!(again.status, 304);
    let unserve = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    w.write(
        Method::PATCH,
        &format!("{CRDS}/crontabs.stable.example.com"),
        "application/json-patch+json",
        &unserve.to_string(),
    )
    .await;
    let changed = w.send(Method::GET, "/openapi/v2", &headers, Vec::new(), &World::admin()).await;
    assert_eq!(changed.status, 200);
    let doc = changed.json();
    assert!(doc["definitions"].get("com.example.stable.v1beta1.CronTab").is_none());
    assert!(doc["definitions"].get("com.example.stable.v1.CronTab").is_some());
    assert_eq!(w.get("/openapi/v3/apis/stable.example.com/v1beta1").await.status, 404);
}

#[tokio::test]
async fn rules_are_checked_when_defined_and_judged_when_written() {
    let w = World::new().await;
    let with = |rule: &str| {
        CRON.replace("            description: What is wanted.\n", &format!("            description: What is wanted.\n            x-kubernetes-validations: [{rule}]\n"))
    };
    for (rule, why) in [
        (
            "{rule: 'self.nope > 1'}",
            "compilation failed: ERROR: <input>:1:5: undefined field 'nope'",
        ),
        ("{rule: 'self.replicas'}", "must evaluate to a bool"),
        (
            "{rule: 'self.replicas > 1', messageExpression: '1'}",
            "messageExpression must evaluate to a string",
        ),
    ] {
        let got = w.write(Method::POST, CRDS, "", &with(rule)).await;
        assert_eq!(got.status, 422, "{rule}: {}", got.text());
        assert!(
            got.json()["message"].as_str().unwrap().contains(why),
            "{rule}: {}",
            got.json()["message"]
        );
    }
    w.create(CRDS, &with("{rule: 'self.replicas <= 5 || has(self.image)', message: too many}"))
        .await;
    let got = w.write(Method::POST, TABS, "", &tab("a", "{cronSpec: '1', replicas: 6}")).await;
    assert_eq!(
        got.json()["message"],
        "CronTab.stable.example.com \"a\" is invalid: spec: Invalid value: \"object\": too many"
    );
    w.create(TABS, &tab("a", "{cronSpec: '1', replicas: 6, image: x}")).await;
}

#[tokio::test]
async fn roles_decide_about_them_as_about_all_else() {
    let w = defined().await;
    w.create(TABS, &tab("a", "{cronSpec: '1'}")).await;
    let jane = wharf_apiserver::user::User::new("jane", Vec::new());
    let read = || w.send(Method::GET, TABS, &[], Vec::new(), &jane);
    assert_eq!(
        read().await.json()["message"],
        "crontabs.stable.example.com is forbidden: User \"jane\" cannot list resource \"crontabs\" in API group \"stable.example.com\" in the namespace \"default\""
    );
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    w.create(&format!("{rbac}/roles"), "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r}\nrules: [{apiGroups: [stable.example.com], resources: [crontabs], verbs: [list]}]\n").await;
    w.create(&format!("{rbac}/rolebindings"), "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: r}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]\n").await;
    assert_eq!(read().await.status, 200);
}
