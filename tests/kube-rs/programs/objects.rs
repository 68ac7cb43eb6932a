//! Objects one by one, in lists, through their subresources, and as kinds that discovery names.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::api::{
    Api, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams, Preconditions, ResourceExt as _,
};
use kube::discovery::{self, Discovery, Scope};
use kube::runtime::{conditions, wait};
use serde_json::json;
use wharf_kube_rs::{Program, names, object, refused, soon, until};

fn config(name: &str, value: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"of": "kube-rs"}}, "data": {"k": value}}))
}

fn post() -> PostParams {
    PostParams::default()
}

#[tokio::test]
async fn objects_are_made_read_replaced_and_deleted() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    let dry = PostParams { dry_run: true, ..post() };
    all.create(&dry, &config("a", "1")).await.unwrap();
    assert!(all.get_opt("a").await.unwrap().is_none());
    let made = all.create(&post(), &config("a", "1")).await.unwrap();
    assert!(refused(all.create(&post(), &config("a", "1")).await).is_already_exists());
    let mut next = all.get("a").await.unwrap();
    assert_eq!(next.uid(), made.uid());
    next.data.get_or_insert_default().insert("k".to_owned(), "2".to_owned());
    let changed = all.replace("a", &post(), &next).await.unwrap();
    assert_ne!(changed.resource_version(), made.resource_version());
    let stale = refused(all.replace("a", &post(), &made).await);
    assert!(stale.is_conflict() && stale.message.contains("object has been modified"), "{stale}");
    assert_eq!(all.get_metadata("a").await.unwrap().labels()["of"], "kube-rs");
    let wrong = Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let delete = DeleteParams::default().preconditions(wrong);
    assert!(refused(all.delete("a", &delete).await).is_conflict());
    let right = Preconditions { uid: made.uid(), resource_version: changed.resource_version() };
    let delete = DeleteParams::default().preconditions(right);
    let status = all.delete("a", &delete).await.unwrap().right().unwrap();
    assert_eq!((status.is_success(), status.details.unwrap().uid), (true, made.uid().unwrap()));
    let gone = refused(all.get("a").await);
    assert!(gone.is_not_found() && gone.message == "configmaps \"a\" not found", "{gone}");
    let bad = refused(all.create(&post(), &config("A_b", "")).await);
    let cause = &bad.details.as_ref().unwrap().causes[0];
    assert_eq!((bad.code, cause.field.as_str()), (422, "metadata.name"), "{bad}");
}

#[tokio::test]
async fn lists_come_in_pages_that_show_one_moment() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    for i in 0..25 {
        all.create(&post(), &config(&format!("c{i:02}"), "")).await.unwrap();
    }
    let params = ListParams::default().labels("of=kube-rs").limit(10);
    let first = all.list(&params).await.unwrap();
    let version = first.metadata.resource_version.clone();
    let mut seen = names(&first.items);
    // What comes later is in no page of this list.
    all.create(&post(), &config("c99", "")).await.unwrap();
    all.delete("c24", &DeleteParams::default()).await.unwrap();
    let mut token = first.metadata.continue_.clone();
    while let Some(t) = token.filter(|t| !t.is_empty()) {
        let page = all.list(&params.clone().continue_token(&t)).await.unwrap();
        assert_eq!(page.metadata.resource_version, version);
        seen.extend(names(&page.items));
        token = page.metadata.continue_;
    }
    assert_eq!(seen, (0..25).map(|i| format!("c{i:02}")).collect::<Vec<_>>());
    let bad = refused(all.list(&params.clone().continue_token("nonsense")).await);
    assert_eq!(bad.code, 400, "{bad}");
    let any = all.list(&ListParams::default().labels("of=kube-rs").match_any()).await.unwrap();
    assert_eq!(any.items.len(), 25);
    let named = ListParams::default().fields("metadata.name=c07");
    assert_eq!(names(&all.list(&named).await.unwrap()), ["c07"]);
    let exact = ListParams::default().labels("of=kube-rs").at(version.as_deref().unwrap());
    let exact = exact.matching(kube::api::VersionMatch::Exact);
    assert_eq!(names(&all.list(&exact).await.unwrap()), seen, "as it was then");
    assert_eq!(all.list_metadata(&named).await.unwrap().items[0].labels()["of"], "kube-rs");
    let many = ListParams::default().labels("of=kube-rs");
    all.delete_collection(&DeleteParams::default(), &many).await.unwrap();
    assert!(all.list(&many).await.unwrap().items.is_empty());
}

fn deployment(replicas: i32) -> Deployment {
    let labels = json!({"app": "web"});
    let containers = json!([{"name": "c", "image": "i:1"}, {"name": "d", "image": "j:1"}]);
    object(
        json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}}),
    )
}

fn images(d: &Deployment) -> Vec<(String, String)> {
    let spec = d.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let pair = |c: &k8s_openapi::api::core::v1::Container| {
        (c.name.clone(), c.image.clone().unwrap_or_default())
    };
    spec.containers.iter().map(pair).collect()
}

#[tokio::test]
async fn patches_of_each_kind_do_what_is_theirs() {
    let p = Program::start().await;
    let all: Api<Deployment> = p.api();
    all.create(&post(), &deployment(0)).await.unwrap();
    let spec = |c: serde_json::Value| json!({"spec": {"template": {"spec": {"containers": c}}}});
    let one = spec(json!([{"name": "d", "image": "j:2"}]));
    let to = PatchParams::default();
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    let merged = all.patch("web", &to, &Patch::Strategic(&one)).await.unwrap();
    let mut found = images(&merged);
    found.sort();
    assert_eq!(found, pairs(&[("c", "i:1"), ("d", "j:2")]));
    let replaced = all.patch("web", &to, &Patch::Merge(&one)).await.unwrap();
    assert_eq!(images(&replaced), pairs(&[("d", "j:2")]));
    let json = |text: serde_json::Value| Patch::Json::<()>(serde_json::from_value(text).unwrap());
    let image = "/spec/template/spec/containers/0/image";
    let steps = json!([{"op": "test", "path": image, "value": "j:2"}, {"op": "replace", "path": image, "value": "j:3"}]);
    let stepped = all.patch("web", &to, &json(steps.clone())).await.unwrap();
    assert_eq!(images(&stepped), pairs(&[("d", "j:3")]));
    let failed = refused(all.patch("web", &to, &json(steps)).await);
    assert!(failed.is_invalid(), "{failed}");
    let dry = PatchParams::default().dry_run();
    let paused = Patch::Merge(json!({"spec": {"paused": true}}));
    let dry = all.patch("web", &dry, &paused).await.unwrap();
    assert_eq!(dry.spec.unwrap().paused, Some(true));
    assert_eq!(all.get("web").await.unwrap().spec.unwrap().paused, None);
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let meta = all.patch_metadata("web", &to, &Patch::Merge(labels)).await.unwrap();
    assert_eq!(meta.labels()["x"], "y");
    let wrong = json!({"spec": {"replicas": "many"}});
    let wrong = refused(all.patch("web", &to, &Patch::Merge(wrong)).await);
    assert!(wrong.is_invalid() && wrong.message.contains("spec.replicas"), "{wrong}");
}

#[tokio::test]
async fn subresources_answer_as_their_clients_expect() {
    let p = Program::with(&["--fake-nodes", "1"]).await;
    let all: Api<Deployment> = p.api();
    all.create(&post(), &deployment(1)).await.unwrap();
    let done = wait::await_condition(all.clone(), "web", conditions::is_deployment_completed());
    soon("the deployment", done).await.unwrap();
    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    all.patch_scale("web", &PatchParams::default(), &two).await.unwrap();
    loop {
        let mut scale: Scale = all.get_scale("web").await.unwrap();
        assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(2));
        scale.spec.as_mut().unwrap().replicas = Some(3);
        match all.replace_scale("web", &post(), &scale).await {
            // The deployment's status was written meanwhile: whoever replaces reads again.
            Err(kube::Error::Api(status)) if status.is_conflict() => continue,
            replaced => break drop(replaced.unwrap()),
        }
    }
    let ready = |d: Option<&Deployment>| {
        d.and_then(|d| d.status.as_ref()?.ready_replicas).is_some_and(|n| n == 3)
    };
    soon("three", wait::await_condition(all.clone(), "web", ready)).await.unwrap();
    all.restart("web").await.unwrap();
    let pods: Api<Pod> = p.api();
    assert_eq!(all.get_status("web").await.unwrap().name_any(), "web");
    let one = names(&pods.list(&ListParams::default().labels("app=web")).await.unwrap())[0].clone();
    let evicted = pods.evict(&one, &EvictParams::default()).await.unwrap();
    assert!(evicted.is_success(), "{evicted:?}");
    let nodes: Api<Node> = Api::all(p.client.clone());
    assert_eq!(nodes.cordon("fake-0").await.unwrap().spec.unwrap().unschedulable, Some(true));
    assert_ne!(nodes.uncordon("fake-0").await.unwrap().spec.unwrap().unschedulable, Some(true));
    let accounts: Api<ServiceAccount> = p.api();
    let request: TokenRequest =
        object(json!({"spec": {"audiences": ["me"], "expirationSeconds": 600}}));
    let token = accounts.create_token_request("default", &post(), &request).await.unwrap();
    let token = token.status.unwrap().token.unwrap();
    assert_eq!(token.split('.').count(), 3);
}

#[tokio::test]
async fn foreground_and_orphan_are_honoured() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    for orphan in [false, true] {
        let owner = all.create(&post(), &config("owner", "")).await.unwrap();
        let mut child = config("child", "");
        child.owner_references_mut().extend(kube::Resource::controller_owner_ref(&owner, &()));
        all.create(&post(), &child).await.unwrap();
        let delete = if orphan { DeleteParams::orphan() } else { DeleteParams::foreground() };
        let gone = wait::delete::delete_and_finalize(all.clone(), "owner", &delete);
        soon("the end", gone).await.unwrap();
        let free = |c: &ConfigMap| c.owner_references().is_empty();
        let stays = all.get_opt("child").await.unwrap();
        assert_eq!(stays.as_ref().is_some_and(free), orphan, "{stays:?}");
        if !orphan {
            let gone = async || all.get_opt("child").await.unwrap().is_none().then_some(());
            until("the end of the child", gone).await;
        }
    }
}

#[tokio::test]
async fn discovery_names_kinds_that_can_be_used() {
    let p = Program::start().await;
    let old = Discovery::new(p.client.clone()).run().await.unwrap();
    let new = Discovery::new(p.client.clone()).run_aggregated().await.unwrap();
    let listed = |d: &Discovery| -> Vec<String> {
        let resources = d.groups_alphabetical().into_iter().flat_map(|g| {
            let recommended = g.recommended_resources().into_iter();
            recommended
                .map(|(r, c)| format!("{} {} {} {:?}", r.api_version, r.kind, r.plural, c.scope))
        });
        let mut all: Vec<String> = resources.collect();
        all.sort();
        all
    };
    assert_eq!(listed(&old), listed(&new));
    assert!(listed(&old).len() > 50, "{:?}", listed(&old));
    let kind = GroupVersionKind::gvk("", "v1", "Secret");
    let (resource, capabilities) = discovery::pinned_kind(&p.client, &kind).await.unwrap();
    assert_eq!(capabilities.scope, Scope::Namespaced);
    let dynamic: Api<DynamicObject> = Api::namespaced_with(p.client.clone(), "default", &resource);
    let secret = DynamicObject::new("s", &resource).data(json!({"stringData": {"a": "b"}}));
    dynamic.create(&post(), &secret).await.unwrap();
    let typed: Secret = p.api::<Secret>().get("s").await.unwrap();
    assert_eq!(typed.data.unwrap()["a"].0, b"b");
    let spaces: Api<Namespace> = Api::all(p.client.clone());
    spaces.create(&post(), &object(json!({"metadata": {"name": "n"}}))).await.unwrap();
    let inside: Api<ConfigMap> = Api::namespaced(p.client.clone(), "n");
    inside.create(&post(), &config("c", "")).await.unwrap();
    spaces.delete("n", &DeleteParams::default()).await.unwrap();
    until("the end of the namespace", async || {
        spaces.get_opt("n").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(inside.list(&ListParams::default()).await.unwrap().items.is_empty());
    let version = p.client.apiserver_version().await.unwrap();
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
}
