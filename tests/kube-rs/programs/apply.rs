//! Server-side apply: who owns which field, and what comes of two who want the same.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams, ResourceExt as _, ValidationDirective};
use serde_json::{Value, json};
use wharf_kube_rs::{Program, object, refused};

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

async fn apply(all: &Api<ConfigMap>, who: &str, data: Value) -> Result<ConfigMap, kube::Error> {
    all.patch("c", &PatchParams::apply(who), &Patch::Apply(config(data))).await
}

#[tokio::test]
async fn those_who_apply_own_their_fields() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    apply(&all, "one", json!({"a": "1", "b": "1"})).await.unwrap();
    let both = apply(&all, "two", json!({"b": "1", "c": "1"})).await.unwrap();
    assert_eq!(both.data.unwrap().len(), 3);
    let conflict = refused(apply(&all, "two", json!({"b": "2", "c": "1"})).await);
    assert!(conflict.is_conflict(), "{conflict}");
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"one\": .data.b");
    let causes = conflict.details.unwrap().causes;
    let cause = (causes[0].reason.as_str(), causes[0].field.as_str(), causes[0].message.as_str());
    assert_eq!(cause, ("FieldManagerConflict", ".data.b", "conflict with \"one\""));
    let forced = PatchParams::apply("two").force();
    let patch = Patch::Apply(config(json!({"b": "2", "c": "1"})));
    let forced = all.patch("c", &forced, &patch).await.unwrap();
    let owners: Vec<_> =
        forced.managed_fields().iter().filter_map(|m| m.manager.as_deref()).collect();
    assert_eq!(owners.len(), 2, "{owners:?}");
    // What its only owner leaves out is taken away, and what another has as well stays.
    let less = apply(&all, "two", json!({"b": "2"})).await.unwrap().data.unwrap();
    assert_eq!(less.keys().collect::<Vec<_>>(), ["a", "b"]);
    let again = all.get("c").await.unwrap();
    let same = apply(&all, "two", json!({"b": "2"})).await.unwrap();
    assert_eq!(same.resource_version(), again.resource_version(), "nothing changed");
}

#[tokio::test]
async fn applying_demands_a_name_and_known_fields() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    let nobody = all.patch("c", &PatchParams::default(), &Patch::Apply(config(json!({})))).await;
    let nobody = refused(nobody);
    assert_eq!(nobody.code, 422, "{nobody}");
    assert!(nobody.message.contains("is required for apply patch"), "{nobody}");
    let mut odd = config(json!({"a": "1"}));
    odd["dota"] = json!({});
    let strict = PatchParams::apply("one").validation(ValidationDirective::Strict);
    let strict = refused(all.patch("c", &strict, &Patch::Apply(&odd)).await);
    assert!(strict.message.contains("dota"), "{strict}");
    // What no schema knows can have no owner: it is refused however fields are looked at.
    let loose = PatchParams::apply("one").validation(ValidationDirective::Ignore);
    let loose = refused(all.patch("c", &loose, &Patch::Apply(&odd)).await);
    assert!(loose.message.contains("dota"), "{loose}");
}

#[tokio::test]
async fn lists_with_keys_are_shared_and_others_are_not() {
    let p = Program::start().await;
    let all: Api<Deployment> = p.api();
    let with = |containers: Value| {
        let labels = json!({"app": "web"});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}})
    };
    let first = with(json!([{"name": "c", "image": "i", "args": ["x"]}]));
    all.patch("web", &PatchParams::apply("one"), &Patch::Apply(&first)).await.unwrap();
    let second = with(
        json!([{"name": "sidecar", "image": "s"}, {"name": "c", "env": [{"name": "A", "value": "b"}]}]),
    );
    let shared =
        all.patch("web", &PatchParams::apply("two"), &Patch::Apply(&second)).await.unwrap();
    let containers = shared.spec.unwrap().template.spec.unwrap().containers;
    assert_eq!(containers.len(), 2);
    let c = containers.iter().find(|c| c.name == "c").unwrap();
    assert_eq!((c.image.as_deref(), c.env.as_ref().map(Vec::len)), (Some("i"), Some(1)));
    let third = with(json!([{"name": "c", "args": ["y"]}]));
    let taken = all.patch("web", &PatchParams::apply("three"), &Patch::Apply(&third)).await;
    let taken = refused(taken);
    assert!(taken.message.contains("spec.template.spec.containers[name=\"c\"].args"), "{taken}");
}

#[tokio::test]
async fn a_status_is_applied_beside_a_spec() {
    let p = Program::start().await;
    let all: Api<Deployment> = p.api();
    let labels = json!({"app": "web"});
    let made: Deployment =
        object(json!({"metadata": {"name": "web"}, "spec": {"replicas": 0, "paused": true,
        "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}}));
    all.create(&PostParams::default(), &made).await.unwrap();
    let condition =
        json!({"type": "Checked", "status": "True", "reason": "Looked", "message": "fine"});
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"conditions": [condition]}});
    let to = PatchParams::apply("checker").force();
    let said = all.patch_status("web", &to, &Patch::Apply(status)).await.unwrap();
    assert_eq!(said.spec.unwrap().replicas, Some(0));
    let own = all.get("web").await.unwrap();
    let entry = own.managed_fields().iter().find(|m| m.manager.as_deref() == Some("checker"));
    assert_eq!(entry.unwrap().subresource.as_deref(), Some("status"));
    let conditions = own.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Checked"), "{conditions:?}");
}
