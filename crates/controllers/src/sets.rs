//! What StatefulSets and DaemonSets have in common: revisions of their templates.

use crate::object::{is_deleting, meta, number, text};
use crate::pods;
use crate::run::Context;
use serde_json::{Value, json};
use wharf_client::resources::REVISIONS;
use wharf_client::{At, Deletion, Object, Resource, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// The label by which a pod says which revision it is of.
pub(crate) const REVISION: &str = "controller-revision-hash";

/// A set's revisions after the present template got one.
pub(crate) struct Revisions {
    /// The present one's name.
    pub(crate) now: String,
    /// All of them, the oldest first.
    pub(crate) all: Vec<Object>,
}

impl Revisions {
    /// The hash that pods of the present revision carry.
    pub(crate) fn hash(&self) -> &str {
        self.now.rsplit('-').next().unwrap_or_default()
    }
}

/// What a revision keeps: the patch that restores the template, with its keys in order, since clients that
/// make it themselves compare the text.
fn content(owner: &Value) -> Value {
    let mut template = owner["spec"]["template"].clone();
    template["$patch"] = json!("replace");
    let mut data = json!({"spec": {"template": template}});
    data.sort_all_objects();
    data
}

/// Finds or makes the revision of a set's present template.
pub(crate) async fn revise(
    cx: &Context,
    resource: &Resource,
    owner: &Value,
    kind: &str,
) -> Result<Revisions, Fault> {
    let (ns, name) = (meta(owner, "namespace"), meta(owner, "name"));
    let data = content(owner);
    let mut all = cx.world.managed(&REVISIONS, meta(owner, "uid"));
    let reference = pods::reference(&resource.api_version, kind, owner);
    // What another owner of this name left behind, as when one is replaced and its pods stay.
    let selector = Labels::from_object(&owner["spec"]["selector"]).unwrap_or_default();
    let orphan = |r: &Object| {
        crate::object::manager(r).is_none() && !is_deleting(r) && selector.matches(pods::labels(r))
    };
    let orphans = cx.world.inside(&REVISIONS, ns).into_iter().filter(orphan).collect();
    all.extend(pods::adopt(cx, resource, owner, &reference, &REVISIONS, orphans).await?);
    all.sort_by_key(|r| number(r, "/revision").unwrap_or(0));
    let next = all.last().map_or(0, |r| number(r, "/revision").unwrap_or(0)) + 1;
    if let Some(same) = all.iter().find(|r| r["data"] == data).cloned() {
        // A return to an older template makes it the newest again.
        if number(&same, "/revision").unwrap_or(0) + 1 < next {
            let at = At { resource: &REVISIONS, namespace: ns, name: meta(&same, "name") };
            cx.write(at, None, Write::Merge(json!({"revision": next}))).await?;
        }
        return Ok(Revisions { now: meta(&same, "name").to_owned(), all });
    }
    let hash = pods::hash(&data, number(owner, "/status/collisionCount").unwrap_or(0));
    let mut labels = owner["spec"]["template"]["metadata"]["labels"].clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels[REVISION] = json!(hash);
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": format!("{name}-{hash}"), "namespace": ns, "labels": labels,
            "ownerReferences": [reference]},
        "data": data, "revision": next});
    let made = match cx.create(&REVISIONS, ns, revision).await {
        Err(f) if f.reason == "AlreadyExists" => {
            // Another's revision has the name: the next try uses another.
            let mut next = owner.clone();
            let collisions = number(owner, "/status/collisionCount").unwrap_or(0);
            next["status"]["collisionCount"] = json!(collisions + 1);
            let at = At { resource, namespace: ns, name };
            cx.write(at, Some("status"), Write::Replace(next)).await?;
            return Err(f);
        }
        made => made?,
    };
    let now = meta(&made, "name").to_owned();
    all.push(made);
    Ok(Revisions { now, all })
}

/// Deletes revisions that no pod has and that the history has no room for.
pub(crate) async fn forget(
    cx: &Context,
    owner: &Value,
    r: &Revisions,
    own: &[Object],
) -> Result<(), Fault> {
    let limit =
        usize::try_from(number(owner, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(0);
    let used = |o: &&Object| {
        let hash = &o["metadata"]["labels"][REVISION];
        // Daemons carry the hash, pods of StatefulSets the name.
        let has = |p: &Object| {
            let label = &p["metadata"]["labels"][REVISION];
            label == hash || *label == meta(o, "name")
        };
        let named = [&*r.now, text(owner, "/status/currentRevision")].contains(&meta(o, "name"));
        !named && !own.iter().any(has)
    };
    let old: Vec<&Object> = r.all.iter().filter(used).collect();
    let excess = old.len().saturating_sub(limit);
    for revision in &old[..excess] {
        let at = At {
            resource: &REVISIONS,
            namespace: meta(revision, "namespace"),
            name: meta(revision, "name"),
        };
        cx.delete(at, Deletion::default()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_the_text_that_clients_make() {
        let spec = json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]});
        let owner =
            json!({"spec": {"template": {"spec": spec, "metadata": {"labels": {"a": "b"}}}}});
        let text = r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"image":"i","name":"c"}],"restartPolicy":"Always"}}}}"#;
        assert_eq!(content(&owner).to_string(), text);
    }
}
