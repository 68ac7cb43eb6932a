//! What quotas are used: counted again whenever something in their namespace comes, changes or goes.

use crate::graph::Node;
use crate::object::is_deleting;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{CLAIMS, PODS, QUOTAS, SERVICES};
use wharf_client::{At, Change, Write};
use wharf_kube::quantity::Quantity;
use wharf_kube::quota::{self, Amounts};
use wharf_kube::status::Fault;

/// The loop; its keys are quotas.
pub struct Quotas;

impl Loop for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        let key = Key::of(&change.object);
        if *change.resource == QUOTAS {
            return vec![key];
        }
        let came_or_went = change.gone || before.node.is_none();
        let measured = [PODS, SERVICES, CLAIMS].contains(&*change.resource);
        if key.namespace.is_empty() || !(came_or_went || measured) {
            return Vec::new();
        }
        world.inside(&QUOTAS, &key.namespace).iter().map(|q| Key::of(q)).collect()
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(quota) = cx.world.get(&QUOTAS, key) else { return Ok(Next::Change) };
            let hard = quota::amounts(&quota["spec"]["hard"]);
            let used = quota::to_value(&used(&cx.world, &quota, &hard));
            let hard = quota::to_value(&hard);
            let status = &quota["status"];
            if is_deleting(&quota) || (status["used"] == used && status["hard"] == hard) {
                return Ok(Next::Change);
            }
            let mut next = (*quota).clone();
            next["status"] = json!({"hard": hard, "used": used});
            let at = At { resource: &QUOTAS, namespace: &key.namespace, name: &key.name };
            // It names the version that was counted for: what was charged meanwhile stays charged.
            cx.write(at, Some("status"), Write::Replace(next)).await?;
            Ok(Next::Change)
        })
    }
}

/// What the objects of a quota's namespace use of what it bounds.
fn used(world: &World, quota: &Value, hard: &Amounts) -> Amounts {
    let namespace = quota["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut sum: Amounts = hard.keys().map(|name| (name.clone(), Quantity::from(0))).collect();
    for node in world.graph(|g| g.inside(namespace)) {
        let (group, plural) = (node.resource.group(), &*node.resource.plural);
        let Some(object) = measured(world, &node) else { continue };
        if quota::covers(quota, group, plural, &object) {
            quota::add(&mut sum, &quota::usage(group, plural, &object));
        }
    }
    sum.retain(|name, _| hard.contains_key(name));
    sum
}

/// The object itself where its content counts; otherwise only that there is one does.
fn measured(world: &World, node: &Node) -> Option<std::sync::Arc<Value>> {
    if [PODS, SERVICES, CLAIMS].contains(&*node.resource) {
        return world.get(&node.resource, &node.key);
    }
    Some(std::sync::Arc::new(Value::Null))
}
