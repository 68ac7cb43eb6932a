//! A kind of one's own, derived from a type: defaults, rules, columns, scale, status, versions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use wharf_kube_rs::{Program, names, refused, until};

#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, KubeSchema)]
#[kube(
    group = "kube-rs.example.com",
    version = "v1",
    kind = "Pool",
    namespaced,
    shortname = "pl",
    category = "all"
)]
#[kube(status = "PoolStatus", derive = "PartialEq", selectable = ".spec.tier")]
#[kube(scale(
    spec_replicas_path = ".spec.size",
    status_replicas_path = ".status.size",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "Tier", type_ = "string", json_path = ".spec.tier"))]
#[kube(printcolumn(name = "Size", type_ = "integer", json_path = ".spec.size"))]
#[x_kube(validation = Rule::new("self.size <= self.limit").message("size is above the limit"))]
#[serde(rename_all = "camelCase")]
struct PoolSpec {
    tier: Tier,
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    size: i32,
    #[serde(default = "ten")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the limit is for ever"))]
    limit: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, schemars::JsonSchema)]
enum Tier {
    Small,
    Large,
}

#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, schemars::JsonSchema)]
struct PoolStatus {
    size: i32,
    selector: String,
}

fn one() -> i32 {
    1
}

fn ten() -> i32 {
    10
}

fn post() -> PostParams {
    PostParams::default()
}

#[tokio::test]
async fn a_derived_kind_is_served_with_all_that_it_declares() {
    let p = Program::start().await;
    p.define::<Pool>().await;
    let all: Api<Pool> = p.api();
    let spec = PoolSpec { tier: Tier::Small, size: 2, limit: 10, note: None };
    let made = all.create(&post(), &Pool::new("a", spec.clone())).await.unwrap();
    assert_eq!((&made.spec, &made.status), (&spec, &None));
    let kubectl = |line: &str| p.cluster.run(line);
    let short = kubectl("get pl a");
    assert!(short.contains("TIER") && short.contains("Small"), "{short}");
    assert!(kubectl("get all").contains("pool.kube-rs.example.com/a"));
    let patch = json!({"apiVersion": "kube-rs.example.com/v1", "kind": "Pool", "metadata": {"name": "b"}, "spec": {"tier": "Large"}});
    let applied = all.patch("b", &PatchParams::apply("me"), &Patch::Apply(patch)).await.unwrap();
    assert_eq!((applied.spec.size, applied.spec.limit), (1, 10), "defaults of the schema");
    let large = ListParams::default().fields("spec.tier=Large");
    assert_eq!(names(&all.list(&large).await.unwrap()), ["b"]);
    let merge = |v| Patch::Merge(v);
    let to = PatchParams::default();
    let above = all.patch("a", &to, &merge(json!({"spec": {"size": 11}}))).await;
    let above = refused(above);
    assert!(above.is_invalid() && above.message.contains("size is above the limit"), "{above}");
    let for_ever = refused(all.patch("a", &to, &merge(json!({"spec": {"limit": 20}}))).await);
    assert!(for_ever.message.contains("the limit is for ever"), "{for_ever}");
    let tier = refused(all.patch("a", &to, &merge(json!({"spec": {"tier": "Huge"}}))).await);
    assert!(tier.message.contains("Unsupported value: \"Huge\""), "{tier}");
    let range = refused(all.patch("a", &to, &merge(json!({"spec": {"size": 101}}))).await);
    assert!(range.is_invalid(), "{range}");
    let gone = DeleteParams::default();
    let crds: Api<CustomResourceDefinition> = Api::all(p.client.clone());
    crds.delete(Pool::crd_name(), &gone).await.unwrap();
    until("the end of the kind", async || {
        let listed = all.list(&ListParams::default()).await;
        listed.is_err().then(|| assert!(refused(listed).is_not_found()))
    })
    .await;
}

#[tokio::test]
async fn a_derived_kind_has_a_scale_and_a_status() {
    let p = Program::start().await;
    p.define::<Pool>().await;
    let all: Api<Pool> = p.api();
    let spec = PoolSpec { tier: Tier::Small, size: 2, limit: 10, note: None };
    all.create(&post(), &Pool::new("a", spec)).await.unwrap();
    let status = PoolStatus { size: 1, selector: "app=pool".to_owned() };
    let said = json!({"status": status, "spec": {"size": 9}});
    let said = all.patch_status("a", &PatchParams::default(), &Patch::Merge(said)).await.unwrap();
    assert_eq!((said.status.as_ref(), said.spec.size), (Some(&status), 2));
    let scale = all.get_scale("a").await.unwrap();
    let (wanted, there) = (scale.spec.unwrap().replicas, scale.status.unwrap());
    assert_eq!((wanted, there.replicas, there.selector.as_deref()), (Some(2), 1, Some("app=pool")));
    let more = Patch::Merge(json!({"spec": {"replicas": 5}}));
    all.patch_scale("a", &PatchParams::default(), &more).await.unwrap();
    let now = all.get("a").await.unwrap();
    assert_eq!((now.spec.size, now.metadata.generation), (5, Some(2)));
    let mut replaced = now.clone();
    replaced.status.as_mut().unwrap().size = 5;
    replaced.spec.size = 7;
    let replaced = all.replace_status("a", &post(), &replaced).await.unwrap();
    assert_eq!((replaced.spec.size, replaced.status.unwrap().size), (5, 5));
    let mut replaced = all.get("a").await.unwrap();
    replaced.status = None;
    replaced.spec.size = 7;
    let replaced = all.replace("a", &post(), &replaced).await.unwrap();
    assert_eq!((replaced.spec.size, replaced.status.unwrap().size), (7, 5), "a status stays");
}

#[tokio::test]
async fn a_second_version_of_a_definition_takes_over() {
    let p = Program::start().await;
    p.define::<Pool>().await;
    let all: Api<Pool> = p.api();
    let spec = PoolSpec { tier: Tier::Small, size: 2, limit: 10, note: None };
    all.create(&post(), &Pool::new("a", spec)).await.unwrap();
    let mut second = Pool::crd();
    second.spec.versions[0].name = "v2".to_owned();
    let merged = kube::core::crd::merge_crds(vec![Pool::crd(), second], "v2").unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(p.client.clone());
    let to = PatchParams::apply("kube-rs").force();
    crds.patch(Pool::crd_name(), &to, &Patch::Apply(&merged)).await.unwrap();
    let kind = kube::api::GroupVersionKind::gvk("kube-rs.example.com", "v2", "Pool");
    let (resource, _) =
        until("the version", async || kube::discovery::pinned_kind(&p.client, &kind).await.ok())
            .await;
    let newer: Api<kube::api::DynamicObject> =
        Api::namespaced_with(p.client.clone(), "default", &resource);
    let one = newer.get("a").await.unwrap();
    assert_eq!(one.types.unwrap().api_version, "kube-rs.example.com/v2");
    assert_eq!(one.data["spec"]["size"], 2);
    let stored: CustomResourceDefinition = crds.get(Pool::crd_name()).await.unwrap();
    let stored = stored.status.unwrap().stored_versions.unwrap();
    assert_eq!(stored, ["v1", "v2"]);
}
