//! An operator as people write them: a controller with children, a finalizer, a status and events.

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, ResourceExt as _,
};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event as News, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::{conditions, wait, watcher};
use kube::{Client, CustomResource, Resource as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use wharf_kube_rs::{Program, object, soon, until};

#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "kube-rs.example.com",
    version = "v1",
    kind = "Site",
    namespaced,
    status = "SiteStatus"
)]
struct SiteSpec {
    replicas: i32,
    text: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SiteStatus {
    observed_generation: i64,
    ready: i32,
}

const ME: &str = "site-operator";
const FINALIZER: &str = "sites.kube-rs.example.com/cleanup";

#[derive(thiserror::Error, Debug)]
enum OperatorError {
    #[error("the API refused")]
    Api(#[from] kube::Error),
    #[error("the finalizer failed")]
    Finalizer(#[source] Box<finalizer::Error<OperatorError>>),
}

struct Operator {
    client: Client,
    recorder: Recorder,
}

impl Operator {
    /// Runs one until its task is aborted.
    fn start(client: &Client) -> JoinHandle<()> {
        let reporter = Reporter { controller: ME.to_owned(), instance: Some("one".to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let own = Arc::new(Operator { client: client.clone(), recorder });
        let config = watcher::Config::default();
        let controller = Controller::new(Api::<Site>::all(client.clone()), config.clone())
            .owns(Api::<ConfigMap>::all(client.clone()), config.clone())
            .owns(Api::<Deployment>::all(client.clone()), config.clone().streaming_lists())
            .owns(Api::<Service>::all(client.clone()), config);
        let run =
            controller.run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), own);
        tokio::spawn(run.for_each(|_| std::future::ready(())))
    }

    async fn apply(&self, site: &Site) -> Result<Action, OperatorError> {
        let ns = site.namespace().unwrap_or_default();
        let meta = ObjectMeta {
            name: site.metadata.name.clone(),
            owner_references: site.controller_owner_ref(&()).map(|r| vec![r]),
            ..ObjectMeta::default()
        };
        let name = site.name_any();
        let to = PatchParams::apply(ME).force();
        let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"text": site.spec.text}});
        let all: Api<ConfigMap> = Api::namespaced(self.client.clone(), &ns);
        all.patch(&name, &to, &Patch::Apply(text)).await?;
        let labels = json!({"site": name});
        let port = json!({"port": 80, "protocol": "TCP"});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [port]}});
        let all: Api<Service> = Api::namespaced(self.client.clone(), &ns);
        all.patch(&name, &to, &Patch::Apply(service)).await?;
        let pods = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {"replicas": site.spec.replicas, "selector": {"matchLabels": labels}, "template": pods}});
        let all: Api<Deployment> = Api::namespaced(self.client.clone(), &ns);
        let made = all.patch(&name, &to, &Patch::Apply(deployment)).await?;
        let ready = made.status.and_then(|s| s.ready_replicas).unwrap_or(0);
        self.say(site, ready).await?;
        Ok(Action::requeue(Duration::from_secs(300)))
    }

    async fn say(&self, site: &Site, ready: i32) -> Result<(), OperatorError> {
        let status =
            SiteStatus { observed_generation: site.metadata.generation.unwrap_or(0), ready };
        if site.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let all: Api<Site> =
            Api::namespaced(self.client.clone(), &site.namespace().unwrap_or_default());
        let body =
            json!({"apiVersion": "kube-rs.example.com/v1", "kind": "Site", "status": status});
        let to = PatchParams::apply(ME).force();
        all.patch_status(&site.name_any(), &to, &Patch::Apply(body)).await?;
        let news = News {
            type_: EventType::Normal,
            reason: "Counted".to_owned(),
            note: Some(format!("{ready} pods are ready")),
            action: "Count".to_owned(),
            secondary: None,
        };
        Ok(self.recorder.publish(&news, &site.object_ref(&())).await?)
    }

    /// Notes in a ConfigMap of nobody's that a site is gone: what no garbage collector does.
    async fn cleanup(&self, site: &Site) -> Result<Action, OperatorError> {
        let all: Api<ConfigMap> =
            Api::namespaced(self.client.clone(), &site.namespace().unwrap_or_default());
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {site.name_any(): "gone"}});
        all.patch("ledger", &PatchParams::apply(ME).force(), &Patch::Apply(body)).await?;
        Ok(Action::await_change())
    }
}

async fn reconcile(site: Arc<Site>, own: Arc<Operator>) -> Result<Action, OperatorError> {
    let all: Api<Site> = Api::namespaced(own.client.clone(), &site.namespace().unwrap_or_default());
    let done = finalizer(&all, FINALIZER, site, |event| async {
        match event {
            finalizer::Event::Apply(site) => own.apply(&site).await,
            finalizer::Event::Cleanup(site) => own.cleanup(&site).await,
        }
    });
    done.await.map_err(|e| OperatorError::Finalizer(Box::new(e)))
}

async fn is(all: &Api<Site>, what: &str, generation: i64, ready: i32) {
    let wanted = SiteStatus { observed_generation: generation, ready };
    let same = |s: Option<&Site>| s.is_some_and(|s| s.status.as_ref() == Some(&wanted));
    soon(what, wait::await_condition(all.clone(), "shop", same)).await.unwrap();
}

async fn site(p: &Program) -> Api<Site> {
    p.define::<Site>().await;
    let all: Api<Site> = p.api();
    let spec = SiteSpec { replicas: 2, text: "hello".to_owned() };
    all.create(&PostParams::default(), &Site::new("shop", spec)).await.unwrap();
    all
}

#[tokio::test]
async fn an_operator_makes_keeps_and_ends_what_is_its_own() {
    let p = Program::with(&["--fake-nodes", "1"]).await;
    let all = site(&p).await;
    let task = Operator::start(&p.client);
    is(&all, "two pods", 1, 2).await;
    assert_eq!(all.get("shop").await.unwrap().finalizers(), [FINALIZER]);
    // What its object asks for is what there is.
    let to = PatchParams::default();
    all.patch("shop", &to, &Patch::Merge(json!({"spec": {"replicas": 3, "text": "new"}})))
        .await
        .unwrap();
    is(&all, "three pods", 2, 3).await;
    let configs: Api<ConfigMap> = p.api();
    assert_eq!(configs.get("shop").await.unwrap().data.unwrap()["text"], "new");
    // What others take away or change comes back.
    let old = configs.get("shop").await.unwrap().uid().unwrap();
    configs.delete("shop", &DeleteParams::default()).await.unwrap();
    until("the child", async || {
        let now = configs.get_opt("shop").await.unwrap();
        now.filter(|c| c.uid().unwrap() != old).map(drop)
    })
    .await;
    configs.patch("shop", &to, &Patch::Merge(json!({"data": {"text": "theirs"}}))).await.unwrap();
    let back = |c: Option<&ConfigMap>| c.is_some_and(|c| c.data.as_ref().unwrap()["text"] == "new");
    soon("the text", wait::await_condition(configs.clone(), "shop", back)).await.unwrap();
    end(&p, &all).await;
    task.abort();
}

/// Deletes the site: its operator cleans up, and the cluster collects what it owned.
async fn end(p: &Program, all: &Api<Site>) {
    let uid = all.get("shop").await.unwrap().uid().unwrap();
    all.delete("shop", &DeleteParams::default()).await.unwrap();
    let gone = conditions::is_deleted(&uid);
    soon("the end", wait::await_condition(all.clone(), "shop", gone)).await.unwrap();
    let configs: Api<ConfigMap> = p.api();
    assert_eq!(configs.get("ledger").await.unwrap().data.unwrap()["shop"], "gone");
    until("the children's end", async || {
        let configs = configs.get_opt("shop").await.unwrap().is_none();
        let services = p.api::<Service>().get_opt("shop").await.unwrap().is_none();
        let deployments = p.api::<Deployment>().get_opt("shop").await.unwrap().is_none();
        let pods = p.api::<k8s_openapi::api::core::v1::Pod>();
        let pods = pods.list(&ListParams::default().labels("site=shop")).await.unwrap();
        (configs && services && deployments && pods.items.is_empty()).then_some(())
    })
    .await;
    let events: Api<Event> = p.api();
    let about = ListParams::default().fields("reportingController=site-operator");
    let about = events.list(&about).await.unwrap();
    // What it says again is counted, whatever the numbers in it are.
    let counted = about.items.iter().filter(|e| e.reason.as_deref() == Some("Counted"));
    let series: Vec<_> = counted.filter_map(|e| Some(e.series.as_ref()?.count)).collect();
    assert!(series.iter().any(|n| *n >= 2), "{series:?}");
    assert!(
        p.cluster.run("get events --field-selector involvedObject.kind=Site").contains("Counted")
    );
}

#[tokio::test]
async fn an_operator_that_was_away_catches_up() {
    let p = Program::with(&["--fake-nodes", "1"]).await;
    let all = site(&p).await;
    let task = Operator::start(&p.client);
    is(&all, "two pods", 1, 2).await;
    task.abort();
    _ = task.await;
    // While nobody is there the object changes, a child goes, and another object is deleted.
    let configs: Api<ConfigMap> = p.api();
    let to = PatchParams::default();
    all.patch("shop", &to, &Patch::Merge(json!({"spec": {"replicas": 1}}))).await.unwrap();
    configs.delete("shop", &DeleteParams::default()).await.unwrap();
    let other: Site = object(json!({"apiVersion": "kube-rs.example.com/v1", "kind": "Site",
        "metadata": {"name": "other", "finalizers": [FINALIZER]}, "spec": {"replicas": 0, "text": ""}}));
    all.create(&PostParams::default(), &other).await.unwrap();
    let held = all.delete("other", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    let task = Operator::start(&p.client);
    is(&all, "one pod", 2, 1).await;
    assert!(configs.get_opt("shop").await.unwrap().is_some());
    until("the end of the other", async || {
        all.get_opt("other").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(configs.get("ledger").await.unwrap().data.unwrap()["other"], "gone");
    task.abort();
}
