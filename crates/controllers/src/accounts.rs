//! The account `default` that every namespace has.

use crate::object::{is_deleting, meta};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::json;
use wharf_client::Change;
use wharf_client::resources::{NAMESPACES, SERVICE_ACCOUNTS};
use wharf_kube::status::Fault;

const NAME: &str = "default";

/// The loop; its keys are namespaces.
pub struct Accounts;

impl Loop for Accounts {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == NAMESPACES && !change.gone => vec![Key::of(&change.object)],
            r if *r == SERVICE_ACCOUNTS && change.gone && meta(&change.object, "name") == NAME => {
                vec![Key::new("", meta(&change.object, "namespace"))]
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let ns = &key.name;
            let lives = cx.world.get(&NAMESPACES, key).is_some_and(|n| !is_deleting(&n));
            if lives && cx.world.get(&SERVICE_ACCOUNTS, &Key::new(ns, NAME)).is_none() {
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": NAME, "namespace": ns}});
                tolerate(cx.create(&SERVICE_ACCOUNTS, ns, account).await.map(drop))?;
            }
            Ok(Next::Change)
        })
    }
}

/// A namespace that vanished meanwhile needs nothing, and what is there already is there.
pub(crate) fn tolerate(outcome: Result<(), Fault>) -> Result<(), Fault> {
    match outcome {
        Err(f) if f.reason == "AlreadyExists" || f.code == 404 || f.is_of_ending_namespace() => {
            Ok(())
        }
        other => other,
    }
}
