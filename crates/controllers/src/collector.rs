//! The garbage collector: what becomes of objects whose owners go.

use crate::graph::{Graph, Node, Owner};
use crate::object::{meta, owners, revision};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_client::{At, Change, Deletion, Propagation, Write};
use wharf_kube::status::Fault;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What is to be done with one object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Delete(Propagation),
    /// Take these owners' references away.
    Release(Vec<String>),
    /// The finalizer has done its work.
    Unmark(&'static str),
}

/// The loop; the names of its keys are uids.
pub struct Collector;

impl Loop for Collector {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn workers(&self) -> usize {
        8
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        let uid = match &before.node {
            Some(node) if change.gone => &node.uid,
            _ => meta(&change.object, "uid"),
        };
        world.graph(|g| {
            let mut uids = Vec::new();
            let node = g.get(uid);
            let plain = node.is_some_and(|n| n.owners.is_empty() && !n.deleting);
            if !plain && !change.gone {
                uids.push(uid.to_owned());
            }
            // What an object owns depends on it when it begins to go, and when it is gone.
            if change.gone || node.is_some_and(|n| n.deleting) {
                uids.extend(g.dependents(uid).map(|d| d.uid.clone()));
            }
            // Owners wait for what they own to go, or to be released.
            let had = before.node.iter().flat_map(|n| &n.owners);
            let has = node.into_iter().flat_map(|n| &n.owners);
            let waiting = |o: &&Owner| g.get(&o.uid).is_some_and(|p| p.deleting);
            uids.extend(had.chain(has).filter(waiting).map(|o| o.uid.clone()));
            uids.into_iter().map(|uid| Key::new("", uid)).collect()
        })
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let planned = cx.world.graph(|g| {
                let node = g.get(&key.name)?;
                Some((Arc::clone(node), plan(g, node)?))
            });
            if let Some((node, step)) = planned {
                act(cx, &node, step).await?;
            }
            Ok(Next::Change)
        })
    }
}

/// Decides without asking anybody: owners that are gone, owners that wait, owners that let go.
fn plan(g: &Graph, n: &Node) -> Option<Step> {
    if n.awaits(ORPHAN) && g.dependents(&n.uid).next().is_none() {
        return Some(Step::Unmark(ORPHAN));
    }
    let blocks = |d: &Arc<Node>| d.owners.iter().any(|o| o.uid == n.uid && o.blocks);
    if n.awaits(FOREGROUND) && !g.dependents(&n.uid).any(blocks) {
        return Some(Step::Unmark(FOREGROUND));
    }
    if n.owners.is_empty() {
        return None;
    }
    let owner = |o: &Owner| g.get(&o.uid);
    let uids = |list: &mut dyn Iterator<Item = &Owner>| -> Vec<String> {
        list.map(|o| o.uid.clone()).collect()
    };
    let orphaning =
        uids(&mut n.owners.iter().filter(|o| owner(o).is_some_and(|p| p.awaits(ORPHAN))));
    if !orphaning.is_empty() {
        return Some(Step::Release(orphaning));
    }
    // An owner in another namespace is none.
    let visible = |p: &Arc<Node>| p.key.namespace.is_empty() || p.key.namespace == n.key.namespace;
    let is_solid = |o: &&Owner| owner(o).is_some_and(|p| visible(p) && !p.awaits(FOREGROUND));
    let is_waiting = |o: &Owner| owner(o).is_some_and(|p| visible(p) && p.awaits(FOREGROUND));
    if n.owners.iter().any(|o| is_solid(&o)) {
        let gone = uids(&mut n.owners.iter().filter(|o| !is_solid(o)));
        return (!gone.is_empty()).then_some(Step::Release(gone));
    }
    if n.deleting {
        return None;
    }
    let deep = n.owners.iter().any(is_waiting) && g.dependents(&n.uid).next().is_some();
    Some(Step::Delete(if deep { Propagation::Foreground } else { Propagation::Background }))
}

async fn act(cx: &Context, n: &Node, step: Step) -> Result<(), Fault> {
    let at = At { resource: &n.resource, namespace: &n.key.namespace, name: &n.key.name };
    let (field, list) = match step {
        Step::Delete(propagation) => {
            let uid = Some(n.uid.clone());
            return cx
                .delete(at, Deletion { uid, propagation: Some(propagation), grace: None })
                .await;
        }
        Step::Unmark(mark) => {
            let object = cx.read(at).await?;
            let rest: Vec<&str> =
                crate::object::finalizers(&object).filter(|f| *f != mark).collect();
            (json!({"finalizers": rest}), object)
        }
        Step::Release(gone) => {
            let object = cx.read(at).await?;
            let stays = |r: &&Value| !gone.iter().any(|g| r["uid"] == json!(g));
            let rest: Vec<&Value> = owners(&object).filter(stays).collect();
            (json!({"ownerReferences": rest}), object)
        }
    };
    let (mut metadata, object) = (field, list);
    if meta(&object, "uid") != n.uid {
        return Ok(());
    }
    metadata["resourceVersion"] = json!(revision(&object).to_string());
    cx.write(at, None, Write::Merge(json!({"metadata": metadata}))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_client::resources::CONFIGMAPS;

    /// Name, owners with whether they block, and a finalizer of what is being deleted.
    type Row<'a> = (&'a str, &'a [(&'a str, bool)], Option<&'a str>);

    fn graph(rows: &[Row<'_>]) -> Graph {
        let mut g = Graph::default();
        for (name, owners, mark) in rows {
            let owners: Vec<Value> =
                owners.iter().map(|(o, b)| json!({"uid": o, "blockOwnerDeletion": b})).collect();
            let mut object = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "ownerReferences": owners}});
            if let Some(mark) = mark {
                object["metadata"]["finalizers"] = json!([mark]);
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let resource = Arc::new(CONFIGMAPS);
            g.apply(&Change { resource, object: Arc::new(object), gone: false });
        }
        g
    }

    #[track_caller]
    fn check(rows: &[Row<'_>], name: &str, expected: Option<Step>) {
        let g = graph(rows);
        assert_eq!(plan(&g, g.get(name).unwrap()), expected);
    }

    #[test]
    fn what_nobody_owns_any_more_is_deleted() {
        let rows: &[Row<'_>] = &[("a", &[("gone", false)], None), ("b", &[], None)];
        check(rows, "a", Some(Step::Delete(Propagation::Background)));
        check(rows, "b", None);
    }

    #[test]
    fn one_owner_left_is_enough() {
        let rows: &[Row<'_>] = &[("a", &[("b", false), ("gone", false)], None), ("b", &[], None)];
        check(rows, "a", Some(Step::Release(vec!["gone".into()])));
    }

    #[test]
    fn a_foreground_deletion_waits_for_what_blocks_it() {
        let rows: &[Row<'_>] = &[("o", &[], Some(FOREGROUND)), ("d", &[("o", true)], None)];
        check(rows, "d", Some(Step::Delete(Propagation::Background)));
        check(rows, "o", None);
        check(&rows[..1], "o", Some(Step::Unmark(FOREGROUND)));
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        let rows: &[Row<'_>] = &[("o", &[], Some(ORPHAN)), ("d", &[("o", true)], None)];
        check(rows, "d", Some(Step::Release(vec!["o".into()])));
        check(rows, "o", None);
        check(&rows[..1], "o", Some(Step::Unmark(ORPHAN)));
    }

    #[test]
    fn the_graph_follows_changes() {
        let mut g = graph(&[("o", &[], None), ("d", &[("o", false)], None)]);
        assert_eq!(g.dependents("o").count(), 1);
        assert_eq!(g.inside("n").len(), 2);
        let object = json!({"metadata": {"name": "d", "namespace": "n", "uid": "d"}});
        let resource = Arc::new(CONFIGMAPS);
        let change = Change { resource, object: Arc::new(object), gone: false };
        assert_eq!(g.apply(&change).unwrap().owners.len(), 1);
        assert_eq!(g.dependents("o").count(), 0);
        g.apply(&Change { gone: true, ..change });
        assert!(g.get("d").is_none() && g.inside("n").len() == 1);
    }
}
