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
    /// Delete it, in this way or as its finalizers say.
    Delete(Option<Propagation>),
    /// Take these owners' references away.
    Release(Vec<String>),
    /// Its owners no longer wait for it: they wait for each other.
    Unblock,
    /// The finalizer has done its work.
    Unmark(&'static str),
}

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is there, or it cannot be told.
    Solid,
    /// It is deleted in the foreground.
    Waits,
    /// It is gone, or was never where the reference looks.
    Gone,
}

/// Whether objects of `apps/v1 Deployment` have namespaces; nothing for a kind that is not kept here.
type Scope<'s> = &'s dyn Fn(&str) -> Option<bool>;

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
            let scope = |kind: &str| {
                let (version, kind) = kind.split_once(' ')?;
                cx.lookup(version, kind).map(|(_, namespaced)| namespaced)
            };
            let planned = cx.world.graph(|g| {
                let node = g.get(&key.name)?;
                Some((Arc::clone(node), plan(g, node, &scope)?))
            });
            if let Some((node, step)) = planned {
                act(cx, &node, step).await?;
            }
            Ok(Next::Change)
        })
    }
}

/// What has become of an owner of `n`.
fn fate(g: &Graph, n: &Node, o: &Owner, scope: Scope<'_>) -> Fate {
    let wide = n.key.namespace.is_empty();
    match g.get(&o.uid) {
        // What has no namespace cannot be owned by what has one: such a reference is left alone.
        Some(p) if wide && !p.key.namespace.is_empty() => Fate::Solid,
        // An owner in another namespace is none.
        Some(p) if !p.key.namespace.is_empty() && p.key.namespace != n.key.namespace => Fate::Gone,
        Some(p) if p.awaits(FOREGROUND) => Fate::Waits,
        Some(_) => Fate::Solid,
        None if g.is_lost(&o.uid) => Fate::Gone,
        None => match scope(&o.kind) {
            Some(namespaced) if !(namespaced && wide) => Fate::Gone,
            // Objects of a kind that is not kept here may well be there.
            _ => Fate::Solid,
        },
    }
}

/// Decides without asking anybody: owners that are gone, owners that wait, owners that let go.
fn plan(g: &Graph, n: &Node, scope: Scope<'_>) -> Option<Step> {
    if n.awaits(ORPHAN) && g.dependents(&n.uid).next().is_none() {
        return Some(Step::Unmark(ORPHAN));
    }
    let blocks = |d: &Arc<Node>| d.owners.iter().any(|o| o.uid == n.uid && o.blocks);
    if n.awaits(FOREGROUND) && !g.dependents(&n.uid).any(blocks) {
        return Some(Step::Unmark(FOREGROUND));
    }
    let uids = |list: &mut dyn Iterator<Item = &Owner>| -> Vec<String> {
        list.map(|o| o.uid.clone()).collect()
    };
    let lets_go = |o: &&Owner| g.get(&o.uid).is_some_and(|p| p.awaits(ORPHAN));
    let orphaning = uids(&mut n.owners.iter().filter(lets_go));
    if !orphaning.is_empty() {
        return Some(Step::Release(orphaning));
    }
    if n.owners.is_empty() || n.deleting {
        return None;
    }
    let fates: Vec<Fate> = n.owners.iter().map(|o| fate(g, n, o, scope)).collect();
    if fates.contains(&Fate::Solid) {
        let gone = n.owners.iter().zip(&fates).filter(|(_, f)| **f != Fate::Solid);
        let gone = uids(&mut gone.map(|(o, _)| o));
        return (!gone.is_empty()).then_some(Step::Release(gone));
    }
    if fates.contains(&Fate::Waits) && g.dependents(&n.uid).next().is_some() {
        // Owners that wait for each other in a circle would wait forever.
        let circle = g.dependents(&n.uid).any(|d| d.awaits(FOREGROUND));
        if circle && n.owners.iter().any(|o| o.blocks) {
            return Some(Step::Unblock);
        }
        return Some(Step::Delete(Some(Propagation::Foreground)));
    }
    let said = n.marks.iter().any(|m| m == ORPHAN || m == FOREGROUND);
    Some(Step::Delete((!said).then_some(Propagation::Background)))
}

async fn act(cx: &Context, n: &Node, step: Step) -> Result<(), Fault> {
    let at = At { resource: &n.resource, namespace: &n.key.namespace, name: &n.key.name };
    let object = cx.read(at).await?;
    if meta(&object, "uid") != n.uid {
        return Ok(());
    }
    let mut metadata = match step {
        Step::Delete(propagation) => {
            let uids = |list: &mut dyn Iterator<Item = &str>| -> Vec<String> {
                list.map(str::to_owned).collect()
            };
            let now = uids(&mut owners(&object).filter_map(|o| o["uid"].as_str()));
            if now != uids(&mut n.owners.iter().map(|o| o.uid.as_str())) {
                // Somebody else took it in meanwhile; that change wakes this loop again.
                return Ok(());
            }
            let (uid, revision) = (Some(n.uid.clone()), Some(revision(&object)));
            return cx.delete(at, Deletion { uid, revision, propagation, grace: None }).await;
        }
        Step::Unmark(mark) => {
            let rest: Vec<&str> =
                crate::object::finalizers(&object).filter(|f| *f != mark).collect();
            json!({"finalizers": rest})
        }
        Step::Release(gone) => {
            let stays = |r: &&Value| !gone.iter().any(|g| r["uid"] == json!(g));
            let rest: Vec<&Value> = owners(&object).filter(stays).collect();
            json!({"ownerReferences": rest})
        }
        Step::Unblock => {
            let mut rest: Vec<Value> = owners(&object).cloned().collect();
            rest.iter_mut().for_each(|r| r["blockOwnerDeletion"] = json!(false));
            json!({"ownerReferences": rest})
        }
    };
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
                owners.iter().map(|(o, b)| json!({"apiVersion": "v1", "kind": if *o == "far" { "Metric" } else { "ConfigMap" },
                    "uid": o, "blockOwnerDeletion": b})).collect();
            let mut object = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "ownerReferences": owners}});
            if let Some(mark) = mark {
                object["metadata"]["finalizers"] = json!([mark]);
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let resource = Arc::new(CONFIGMAPS);
            g.apply(&Change { resource, object: Arc::new(object), stored: None, gone: false });
        }
        g
    }

    #[track_caller]
    fn check(rows: &[Row<'_>], name: &str, expected: Option<Step>) {
        let g = graph(rows);
        let scope = |kind: &str| (kind == "v1 ConfigMap").then_some(true);
        assert_eq!(plan(&g, g.get(name).unwrap(), &scope), expected);
    }

    #[test]
    fn what_nobody_owns_any_more_is_deleted() {
        let rows: &[Row<'_>] = &[("a", &[("gone", false)], None), ("b", &[], None)];
        check(rows, "a", Some(Step::Delete(Some(Propagation::Background))));
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
        check(rows, "d", Some(Step::Delete(Some(Propagation::Background))));
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
    fn a_circle_that_waits_for_itself_is_opened() {
        let rows: &[Row<'_>] = &[
            ("a", &[("c", true)], Some(FOREGROUND)),
            ("b", &[("a", true)], Some(FOREGROUND)),
            ("c", &[("b", true)], None),
        ];
        check(rows, "c", Some(Step::Unblock));
        let rows = [rows[0], rows[1], ("c", &[("b", false)], None)];
        check(&rows, "b", Some(Step::Unmark(FOREGROUND)));
    }

    #[test]
    fn owners_of_kinds_that_are_not_kept_here_are_left_alone() {
        let rows: &[Row<'_>] = &[("a", &[("far", false)], None)];
        check(rows, "a", None);
    }

    #[test]
    fn an_owner_of_a_kind_that_went_with_it_is_gone_all_the_same() {
        let mut g = graph(&[("far", &[], None), ("d", &[("far", true)], None)]);
        let object = Arc::new(json!({"metadata": {"name": "far", "namespace": "n", "uid": "far"}}));
        g.apply(&Change { resource: Arc::new(CONFIGMAPS), object, stored: None, gone: true });
        let d = g.get("d").unwrap();
        assert_eq!(plan(&g, d, &|_| None), Some(Step::Delete(Some(Propagation::Background))));
    }

    #[test]
    fn what_has_no_namespace_is_not_judged_by_an_owner_that_has_one() {
        let mut g = graph(&[("o", &[], None)]);
        let object = json!({"metadata": {"name": "w", "uid": "w", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "uid": "o"}, {"apiVersion": "v1", "kind": "ConfigMap", "uid": "x"}]}});
        let resource = Arc::new(wharf_client::resources::NODES);
        g.apply(&Change { resource, object: Arc::new(object), stored: None, gone: false });
        assert_eq!(plan(&g, g.get("w").unwrap(), &|_| Some(true)), None);
    }

    #[test]
    fn an_object_whose_kind_changed_its_version_is_there_once() {
        let mut g = graph(&[("o", &[], None)]);
        let object = Arc::new(json!({"metadata": {"name": "o", "namespace": "n", "uid": "o"}}));
        let resource = Arc::new(wharf_client::Resource::new("v2", "configmaps"));
        g.apply(&Change { resource, object, stored: None, gone: false });
        assert_eq!(g.inside("n").len(), 1);
    }

    #[test]
    fn the_graph_follows_changes() {
        let mut g = graph(&[("o", &[], None), ("d", &[("o", false)], None)]);
        assert_eq!(g.dependents("o").count(), 1);
        assert_eq!(g.inside("n").len(), 2);
        let object = json!({"metadata": {"name": "d", "namespace": "n", "uid": "d"}});
        let resource = Arc::new(CONFIGMAPS);
        let change = Change { resource, object: Arc::new(object), stored: None, gone: false };
        assert_eq!(g.apply(&change).unwrap().owners.len(), 1);
        assert_eq!(g.dependents("o").count(), 0);
        g.apply(&Change { gone: true, ..change });
        assert!(g.get("d").is_none() && g.inside("n").len() == 1);
    }
}
