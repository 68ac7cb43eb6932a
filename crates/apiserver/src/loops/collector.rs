//! The garbage collector: what becomes of objects whose owners go.

use super::bell;
use crate::api::{Api, Call, finalizers, is_deleting, meta};
use crate::bootstrap::as_server;
use crate::delete::Options;
use crate::kinds::{Hub, Kind};
use crate::request::Propagation;
use crate::stored;
use crate::write::Change;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::Fault;

/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// An object as the collector sees it.
struct Node {
    kind: Arc<Kind>,
    namespace: String,
    name: String,
    uid: String,
    owners: Vec<Owner>,
    deleting: bool,
    marks: Vec<String>,
}

struct Owner {
    uid: String,
    blocks: bool,
}

/// What is to be done with one object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Delete(Option<Propagation>),
    /// Take these owners' references away.
    Release(Vec<String>),
    /// The finalizer has done its work.
    Unmark(&'static str),
}

/// Runs until the process ends.
pub(super) async fn run(api: Api) {
    let mut wake = bell(&api, vec!["/registry/".to_owned()]);
    loop {
        if let Err(f) = collect(&api).await {
            tracing::warn!(error = %f, "garbage was not collected");
        }
        if wake.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
        wake.mark_unchanged();
    }
}

async fn collect(api: &Api) -> Result<(), Fault> {
    let nodes = read(api).await?;
    for (i, step) in plan(&nodes) {
        match act(api, &nodes[i], step).await {
            // Somebody else was faster; their change wakes the loop again.
            Err(f) if !matches!(f.code, 404 | 409) => return Err(f),
            _ => {}
        }
    }
    Ok(())
}

/// Reads every object that owns, is owned, or is being deleted with a mark for the collector.
async fn read(api: &Api) -> Result<Vec<Node>, Fault> {
    let mut out = Vec::new();
    for kind in api.kinds.all().into_iter().filter(|k| k.resource.stored() && k.hub == Hub::Own) {
        let range = Range::new(KeyRange::prefix(kind.prefix()));
        let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
        out.extend(reply.kvs.iter().map(|kv| node(&kind, &stored::decode(kv))));
    }
    Ok(out)
}

fn node(kind: &Arc<Kind>, o: &Value) -> Node {
    let owner = |r: &Value| Owner {
        uid: r["uid"].as_str().unwrap_or_default().to_owned(),
        blocks: r["blockOwnerDeletion"] == true,
    };
    Node {
        kind: Arc::clone(kind),
        namespace: meta(o, "namespace").to_owned(),
        name: meta(o, "name").to_owned(),
        uid: meta(o, "uid").to_owned(),
        owners: o["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .map(owner)
            .collect(),
        deleting: is_deleting(o),
        marks: finalizers(o).iter().map(|f| (*f).to_owned()).collect(),
    }
}

/// Decides without asking anybody: owners that are gone, owners that wait, owners that let go.
fn plan(nodes: &[Node]) -> Vec<(usize, Step)> {
    let by_uid: BTreeMap<&str, &Node> = nodes.iter().map(|n| (n.uid.as_str(), n)).collect();
    let has = |n: &Node, mark: &str| n.deleting && n.marks.iter().any(|m| m == mark);
    let mut owned: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for n in nodes {
        for o in &n.owners {
            owned.entry(o.uid.as_str()).or_default().push(n);
        }
    }
    let mut out = Vec::new();
    for (i, n) in nodes.iter().enumerate() {
        let dependents = owned.get(n.uid.as_str()).map_or(&[][..], Vec::as_slice);
        if has(n, ORPHAN) && dependents.is_empty() {
            out.push((i, Step::Unmark(ORPHAN)));
        }
        let blocked =
            dependents.iter().any(|d| d.owners.iter().any(|o| o.uid == n.uid && o.blocks));
        if has(n, FOREGROUND) && !blocked {
            out.push((i, Step::Unmark(FOREGROUND)));
        }
        if n.owners.is_empty() {
            continue;
        }
        let visible = |o: &&Owner| {
            by_uid
                .get(o.uid.as_str())
                .is_some_and(|p| p.namespace.is_empty() || p.namespace == n.namespace)
        };
        let orphaning: Vec<String> = n
            .owners
            .iter()
            .filter(|o| by_uid.get(o.uid.as_str()).is_some_and(|p| has(p, ORPHAN)))
            .map(|o| o.uid.clone())
            .collect();
        if !orphaning.is_empty() {
            out.push((i, Step::Release(orphaning)));
            continue;
        }
        let (solid, waiting): (Vec<&Owner>, Vec<&Owner>) = n
            .owners
            .iter()
            .filter(visible)
            .partition(|o| !by_uid.get(o.uid.as_str()).is_some_and(|p| has(p, FOREGROUND)));
        if !solid.is_empty() {
            let solid: BTreeSet<&str> = solid.iter().map(|o| o.uid.as_str()).collect();
            let gone: Vec<String> = n
                .owners
                .iter()
                .filter(|o| !solid.contains(o.uid.as_str()))
                .map(|o| o.uid.clone())
                .collect();
            if !gone.is_empty() {
                out.push((i, Step::Release(gone)));
            }
        } else if !n.deleting {
            let deep = !waiting.is_empty() && owned.contains_key(n.uid.as_str());
            out.push((
                i,
                Step::Delete(Some(if deep {
                    Propagation::Foreground
                } else {
                    Propagation::Background
                })),
            ));
        }
    }
    out
}

async fn act(api: &Api, n: &Node, step: Step) -> Result<(), Fault> {
    let ns = Some(n.namespace.as_str()).filter(|ns| !ns.is_empty());
    as_server(api, &n.kind, ns, |mut call: Call<'_>| {
        call.name = Some(&n.name);
        async move {
            if let Step::Delete(propagation) = step {
                let options = Options { propagation, uid: Some(n.uid.clone()), ..Options::default() };
                return api.delete(&call, &options).await.map(drop);
            }
            let kv = api.get(&call, &n.name).await?;
            let object = stored::decode(&kv);
            if meta(&object, "uid") != n.uid {
                return Ok(());
            }
            let (field, list) = match &step {
                Step::Unmark(mark) => {
                    let rest: Vec<&str> = finalizers(&object).into_iter().filter(|f| f != mark).collect();
                    ("finalizers", json!(rest))
                }
                Step::Release(owners) => {
                    let refs = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
                    let rest: Vec<&Value> =
                        refs.filter(|r| !owners.iter().any(|o| r["uid"] == json!(o))).collect();
                    ("ownerReferences", json!(rest))
                }
                Step::Delete(_) => return Ok(()),
            };
            let patch = json!({"metadata": {"resourceVersion": meta(&object, "resourceVersion"), field: list}});
            api.change(&call, &Change::MergePatch(&patch)).await.map(drop)
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    fn object(name: &str, owners: &[(&str, bool)], mark: Option<&str>) -> Node {
        let kind = Kinds::builtin().core("configmaps").unwrap();
        Node {
            kind,
            namespace: "n".into(),
            name: name.into(),
            uid: name.into(),
            owners: owners.iter().map(|(o, b)| Owner { uid: (*o).into(), blocks: *b }).collect(),
            deleting: mark.is_some(),
            marks: mark.into_iter().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn what_nobody_owns_any_more_is_deleted() {
        let nodes = [object("a", &[("gone", false)], None), object("b", &[], None)];
        assert_eq!(plan(&nodes), [(0, Step::Delete(Some(Propagation::Background)))]);
    }

    #[test]
    fn one_owner_left_is_enough() {
        let nodes = [object("a", &[("b", false), ("gone", false)], None), object("b", &[], None)];
        assert_eq!(plan(&nodes), [(0, Step::Release(vec!["gone".into()]))]);
    }

    #[test]
    fn a_foreground_deletion_waits_for_what_blocks_it() {
        let nodes = [object("o", &[], Some(FOREGROUND)), object("d", &[("o", true)], None)];
        assert_eq!(plan(&nodes), [(1, Step::Delete(Some(Propagation::Background)))]);
        let nodes = [object("o", &[], Some(FOREGROUND))];
        assert_eq!(plan(&nodes), [(0, Step::Unmark(FOREGROUND))]);
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        let nodes = [object("o", &[], Some(ORPHAN)), object("d", &[("o", true)], None)];
        assert_eq!(plan(&nodes), [(1, Step::Release(vec!["o".into()]))]);
        assert_eq!(plan(&nodes[..1]), [(0, Step::Unmark(ORPHAN))]);
    }
}
