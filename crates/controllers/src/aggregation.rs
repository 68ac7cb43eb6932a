//! ClusterRoles that are made of others: the rules of every role that their selectors match.

use crate::object::meta;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use wharf_client::resources::CLUSTER_ROLES;
use wharf_client::{At, Change, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The loop; its keys are ClusterRoles.
pub struct Aggregation;

fn selectors(role: &Value) -> impl Iterator<Item = Labels> {
    let list = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Labels::from_object)
}

fn matches(selector: &Labels, role: &Value) -> bool {
    selector.matches(role.pointer("/metadata/labels").and_then(Value::as_object))
}

/// The rules of all roles that a role takes in, in the order of their names, each once.
fn rules(role: &Value, all: &[Object]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for selector in selectors(role) {
        let taken =
            all.iter().filter(|r| meta(r, "name") != meta(role, "name") && matches(&selector, r));
        for rule in taken.flat_map(|r| r["rules"].as_array().into_iter().flatten()) {
            if !out.contains(rule) {
                out.push(rule.clone());
            }
        }
    }
    out
}

impl Loop for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        if *change.resource != CLUSTER_ROLES {
            return Vec::new();
        }
        let forms: Vec<&Object> = before.object.iter().chain([&change.object]).collect();
        let takes = |role: &Object| {
            let own = Arc::ptr_eq(role, &change.object);
            selectors(role).any(|s| own || forms.iter().any(|f| matches(&s, f)))
        };
        world.all(&CLUSTER_ROLES).iter().filter(|r| takes(r)).map(|r| Key::of(r)).collect()
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(role) = cx.world.get(&CLUSTER_ROLES, key) else { return Ok(Next::Change) };
            if role.get("aggregationRule").is_none_or(Value::is_null) {
                return Ok(Next::Change);
            }
            let rules = rules(&role, &cx.world.all(&CLUSTER_ROLES));
            let has = role["rules"].as_array().map_or(&[][..], Vec::as_slice);
            let same = has.len() == rules.len() && rules.iter().all(|r| has.contains(r));
            if !same {
                let mut next = (*role).clone();
                next["rules"] = Value::Array(rules);
                let at = At { resource: &CLUSTER_ROLES, namespace: "", name: &key.name };
                cx.write(at, None, Write::Replace(next)).await?;
            }
            Ok(Next::Change)
        })
    }
}
