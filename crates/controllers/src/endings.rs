//! How a namespace ends: its pods go first, then everything else, then itself.

use crate::accounts::tolerate;
use crate::graph::Node;
use crate::object::is_deleting;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use wharf_client::resources::{NAMESPACES, PODS};
use wharf_client::{At, Change, Deletion, Propagation, Write};
use wharf_kube::status::Fault;

/// Deletions that go on at once.
const TOGETHER: usize = 64;

/// The loop; its keys are namespaces.
pub struct Endings;

impl Loop for Endings {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, _: &Before) -> Vec<Key> {
        let key = if *change.resource == NAMESPACES {
            Key::of(&change.object)
        } else {
            Key::new("", Key::of(&change.object).namespace)
        };
        let ends = world.get(&NAMESPACES, &key).is_some_and(|n| is_deleting(&n));
        if ends { vec![key] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(namespace) = cx.world.get(&NAMESPACES, key) else { return Ok(Next::Change) };
            let own = namespace.pointer("/spec/finalizers").and_then(Value::as_array);
            if is_deleting(&namespace) && own.is_some_and(|f| f.contains(&json!("kubernetes"))) {
                end(cx, &key.name, &namespace).await?;
            }
            Ok(Next::Change)
        })
    }
}

async fn end(cx: &Context, name: &str, namespace: &Value) -> Result<(), Fault> {
    let left = cx.world.graph(|g| g.inside(name));
    if left.is_empty() {
        return finalize(cx, name, namespace).await;
    }
    // Pods first: what they use must outlive them.
    let pods = left.iter().any(|n| *n.resource == PODS);
    let now = left.iter().filter(|n| !n.deleting && (!pods || *n.resource == PODS));
    let doomed: Vec<&Arc<Node>> = now.collect();
    // One object that cannot be deleted keeps no other.
    let mut failures = Vec::new();
    for some in doomed.chunks(TOGETHER) {
        let outcomes = join_all(some.iter().map(|n| delete(cx, n))).await;
        failures.extend(outcomes.into_iter().filter_map(|o| tolerate(o).err()));
    }
    if doomed.is_empty() || !failures.is_empty() {
        report(cx, name, namespace, &left, &failures).await?;
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

async fn delete(cx: &Context, n: &Node) -> Result<(), Fault> {
    let at = At { resource: &n.resource, namespace: &n.key.namespace, name: &n.key.name };
    let how = Deletion { propagation: Some(Propagation::Background), ..Deletion::default() };
    cx.delete(at, how).await
}

async fn finalize(cx: &Context, name: &str, namespace: &Value) -> Result<(), Fault> {
    let mut next = namespace.clone();
    if let Some(list) = next.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) {
        list.retain(|f| f != "kubernetes");
    }
    let at = At { resource: &NAMESPACES, namespace: "", name };
    tolerate(cx.write(at, Some("finalize"), Write::Replace(next)).await.map(drop))
}

/// Says in the namespace's status what keeps it.
async fn report(
    cx: &Context,
    name: &str,
    namespace: &Value,
    left: &[Arc<Node>],
    failures: &[Fault],
) -> Result<(), Fault> {
    let mut conditions = conditions(left, failures, &cx.timestamp());
    let old = namespace["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    for c in conditions.as_array_mut().into_iter().flatten() {
        if let Some(old) = old.iter().find(|o| o["type"] == c["type"] && o["status"] == c["status"])
        {
            c["lastTransitionTime"] = old["lastTransitionTime"].clone();
        }
    }
    let told = |v: &Value| -> Vec<(Value, Value)> {
        v.as_array()
            .into_iter()
            .flatten()
            .map(|c| (c["type"].clone(), c["message"].clone()))
            .collect()
    };
    if told(&conditions) == told(&namespace["status"]["conditions"]) {
        return Ok(());
    }
    let at = At { resource: &NAMESPACES, namespace: "", name };
    let mut next = namespace.clone();
    next["status"]["conditions"] = conditions;
    tolerate(cx.write(at, Some("status"), Write::Replace(next)).await.map(drop))
}

fn conditions(left: &[Arc<Node>], failures: &[Fault], now: &str) -> Value {
    let (mut kinds, mut marks) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for n in left {
        *kinds.entry(format!("{}.{}", n.resource.plural, n.resource.group())).or_default() += 1;
        n.marks.iter().for_each(|m| *marks.entry(m).or_default() += 1);
    }
    let list = |counts: Vec<String>| counts.join(", ");
    let content = format!(
        "Some resources are remaining: {}",
        list(kinds.iter().map(|(k, n)| format!("{k} has {n} resource instances")).collect())
    );
    let held = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(marks.iter().map(|(m, n)| format!("{m} in {n} resource instances")).collect())
    );
    let (reason, message, status) = match marks.is_empty() {
        true => ("ContentHasNoFinalizers", "All content-preserving finalizers finished", "False"),
        false => ("SomeFinalizersRemain", held.as_str(), "True"),
    };
    let failed: Vec<&str> = failures.iter().map(|f| f.message.as_str()).collect();
    let failed = format!(
        "Failed to delete all resource types, {} remaining: {}",
        failed.len(),
        failed.join(", ")
    );
    let content_failure = if failures.is_empty() {
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        )
    } else {
        ("NamespaceDeletionContentFailure", "True", "ContentDeletionFailed", failed.as_str())
    };
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        content_failure,
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", content.as_str()),
        ("NamespaceFinalizersRemaining", status, reason, message),
    ];
    let condition = |(kind, status, reason, message): &(&str, &str, &str, &str)| json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    rows.iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_namespace_is_told() {
        let told = |failures: &[Fault]| {
            let all = conditions(&[], failures, "now");
            let one = all.as_array().unwrap().iter();
            let mut one = one.filter(|c| c["type"] == "NamespaceDeletionContentFailure");
            let c = one.next().unwrap();
            format!("{} {}", c["status"].as_str().unwrap(), c["message"].as_str().unwrap())
        };
        assert!(told(&[]).starts_with("False All content"));
        let no = Fault::bad_request("a webhook says no");
        assert_eq!(
            told(&[no]),
            "True Failed to delete all resource types, 1 remaining: a webhook says no"
        );
    }
}
