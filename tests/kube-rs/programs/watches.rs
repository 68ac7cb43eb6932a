//! Watches: plain ones, those of the runtime, in both ways of beginning, and a store that follows.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, ResourceExt as _, WatchEvent,
    WatchParams,
};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use serde_json::json;
use std::pin::pin;
use wharf_kube_rs::{Program, next, object, refused, until};

async fn create(all: &Api<ConfigMap>, name: &str) -> ConfigMap {
    let labels = json!({"of": "kube-rs"});
    let c = object(json!({"metadata": {"name": name, "labels": labels}, "data": {"n": "0"}}));
    all.create(&PostParams::default(), &c).await.unwrap()
}

async fn change(all: &Api<ConfigMap>, name: &str, patch: serde_json::Value) {
    all.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn delete(all: &Api<ConfigMap>, name: &str) {
    all.delete(name, &DeleteParams::default()).await.unwrap();
}

fn config() -> watcher::Config {
    watcher::Config::default().labels("of=kube-rs")
}

/// What a watcher saw first, in order; it ends at the end of the list.
async fn listed<S>(stream: &mut S) -> Vec<String>
where
    S: futures::Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin,
{
    assert!(matches!(next(stream).await, Event::Init));
    let mut names = Vec::new();
    loop {
        match next(stream).await {
            Event::InitApply(c) => names.push(c.name_any()),
            Event::InitDone => return names,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn watchers_begin_with_a_list_or_a_stream_and_follow() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    for config in [config().page_size(2), config().any_semantic(), config().streaming_lists()] {
        for name in ["a", "b", "c"] {
            create(&all, name).await;
        }
        let mut stream = pin!(watcher(all.clone(), config.clone()));
        assert_eq!(listed(&mut stream).await, ["a", "b", "c"], "{config:?}");
        create(&all, "d").await;
        change(&all, "a", json!({"data": {"n": "1"}})).await;
        // What leaves the selection is gone for this watcher, and what comes back is there.
        change(&all, "b", json!({"metadata": {"labels": {"of": "others"}}})).await;
        change(&all, "b", json!({"metadata": {"labels": {"of": "kube-rs"}}})).await;
        delete(&all, "c").await;
        let expected = ["Apply(d)", "Apply(a)", "Delete(b)", "Apply(b)", "Delete(c)"];
        for expected in expected {
            assert_eq!(next(&mut stream).await.to_string(), expected, "{config:?}");
        }
        let many = ListParams::default().labels("of");
        all.delete_collection(&DeleteParams::default(), &many).await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    // The server ends each watch after a second; the runtime begins the next at the last version or bookmark.
    for config in [config().timeout(1), config().timeout(1).streaming_lists()] {
        let mut stream = pin!(watcher(all.clone(), config));
        assert!(listed(&mut stream).await.is_empty());
        let writer = async {
            for i in 0..12 {
                create(&all, &format!("c{i}")).await;
                tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            }
        };
        let reader = async {
            for i in 0..12 {
                let Event::Apply(c) = next(&mut stream).await else { panic!("not at {i}") };
                assert_eq!(c.name_any(), format!("c{i}"));
            }
        };
        tokio::join!(writer, reader);
        let many = ListParams::default().labels("of");
        all.delete_collection(&DeleteParams::default(), &many).await.unwrap();
    }
}

#[tokio::test]
async fn streamed_lists_end_with_a_bookmark() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    create(&all, "a").await;
    let last = create(&all, "b").await.resource_version().unwrap();
    let params = WatchParams::streaming_lists().labels("of=kube-rs").timeout(2);
    let stream = all.watch(&params, "").await.unwrap();
    let events: Vec<_> = stream.try_collect().await.unwrap();
    let mut words = Vec::new();
    for event in &events {
        match event {
            WatchEvent::Added(c) => words.push(c.name_any()),
            WatchEvent::Bookmark(b) => {
                let end = b.metadata.annotations.get("k8s.io/initial-events-end");
                let version = |v: &str| v.parse::<u64>().unwrap();
                assert!(version(&b.metadata.resource_version) >= version(&last));
                words
                    .push(if end.is_some_and(|e| e == "true") { "end" } else { "mark" }.to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(&words[..3], ["a", "b", "end"], "{words:?}");
}

#[tokio::test]
async fn versions_that_no_server_gave_are_refused() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    let bad = all.watch(&WatchParams::default(), "nonsense").await.err().unwrap();
    let bad = refused::<()>(Err(bad));
    assert_eq!(bad.code, 400, "{bad}");
}

#[tokio::test]
async fn a_store_follows_objects_or_their_metadata() {
    let p = Program::start().await;
    let all: Api<ConfigMap> = p.api();
    create(&all, "a").await;
    let (store, writer) = reflector::store();
    let task = tokio::spawn(
        watcher(all.clone(), config()).default_backoff().reflect(writer).for_each(|e| {
            e.unwrap();
            std::future::ready(())
        }),
    );
    store.wait_until_ready().await.unwrap();
    assert_eq!(store.len(), 1);
    let partial: Api<PartialObjectMeta<ConfigMap>> = p.api();
    let mut metadata = pin!(watcher(partial, config().streaming_lists()).applied_objects());
    assert_eq!(next(&mut metadata).await.name_any(), "a");
    create(&all, "b").await;
    let seen = next(&mut metadata).await;
    assert_eq!((seen.name_any().as_str(), seen.labels()["of"].as_str()), ("b", "kube-rs"));
    change(&all, "a", json!({"data": {"n": "7"}})).await;
    let key = reflector::ObjectRef::new("a").within("default");
    until("the change", async || {
        let has = |c: &ConfigMap| c.data.as_ref().is_some_and(|d| d["n"] == "7");
        store.get(&key).filter(|c| has(c)).map(drop)
    })
    .await;
    delete(&all, "a").await;
    until("the deletion", async || store.get(&key).is_none().then_some(())).await;
    assert_eq!(store.len(), 1);
    task.abort();
}
