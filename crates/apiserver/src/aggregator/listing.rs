//! The list of all groups and versions: this server's own as `APIService` objects, the others' in discovery.

use super::{Offer, PREFIX};
use crate::api::{Api, Call, fault, meta};
use crate::bootstrap::as_server;
use crate::delete::Options;
use crate::kinds::Kind;
use crate::stored;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// The kind of the objects.
pub(super) fn kind(api: &Api) -> Result<Arc<Kind>, Fault> {
    let gv = GroupVersion::parse("apiregistration.k8s.io/v1");
    api.kinds.find(&gv, "apiservices").ok_or_else(Fault::no_route)
}

/// The object of a group and version that this server has itself. The core group and built-in ones
/// come first; custom resources after them.
pub fn local(gv: &GroupVersion, built_in: bool) -> Value {
    let (group, version) = match (gv.group.as_str(), built_in) {
        ("", _) => (18000, 1),
        ("events.k8s.io", _) => (17750, 15),
        (_, true) => (17800, 15),
        (_, false) => (1000, 100),
    };
    let mut spec = Map::new();
    if !gv.group.is_empty() {
        spec.insert("group".to_owned(), json!(gv.group));
    }
    spec.insert("version".to_owned(), json!(gv.version));
    spec.insert("groupPriorityMinimum".to_owned(), json!(group));
    spec.insert("versionPriority".to_owned(), json!(version));
    let how = if built_in { "onstart" } else { "true" };
    json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": {"name": format!("{}.{}", gv.version, gv.group), "labels": {MANAGED: how}}, "spec": spec})
}

/// Makes the objects of what this server has, and removes those of what it has no more.
pub(super) async fn register(api: &Api) -> Result<(), Fault> {
    let range = Range::new(KeyRange::prefix(PREFIX));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for o in reply.kvs.iter().map(stored::decode) {
        known.insert(meta(&o, "name").to_owned(), o);
    }
    let mut wanted = BTreeSet::new();
    let built_in: BTreeSet<&GroupVersion> =
        api.kinds.fixed().iter().map(|k| &k.resource.gv).collect();
    for k in api.kinds.all() {
        let gv = &k.resource.gv;
        // The reference server keeps the core group under its version alone.
        let name = if gv.group.is_empty() {
            format!("{}.", gv.version)
        } else {
            format!("{}.{}", gv.version, gv.group)
        };
        if !wanted.insert(name.clone()) || known.contains_key(&name) {
            continue;
        }
        crate::bootstrap::ensure(api, local(gv, built_in.contains(gv))).await?;
    }
    let kind = kind(api)?;
    for (name, o) in &known {
        let ours =
            o["metadata"]["labels"][MANAGED].is_string() && !o["spec"]["service"].is_object();
        if !ours || wanted.contains(name) {
            continue;
        }
        let outcome = as_server(api, &kind, None, |mut call: Call<'_>| {
            call.name = Some(name);
            async move { api.delete(&call, &Options::default()).await.map(drop) }
        });
        match outcome.await {
            Err(f) if f.code != 404 => return Err(f),
            _ => {}
        }
    }
    Ok(())
}

/// What other servers offer, by group, the preferred version first.
fn groups(api: &Api) -> Vec<(String, Vec<Offer>)> {
    let mut out: BTreeMap<String, Vec<Offer>> = BTreeMap::new();
    for offer in api.peers.offers.lock().values() {
        out.entry(offer.gv.group.clone()).or_default().push(offer.clone());
    }
    for offers in out.values_mut() {
        offers.sort_by_key(|offer| std::cmp::Reverse(offer.priority.1));
    }
    out.into_iter().collect()
}

/// The `APIGroup`s of other servers that `list` lacks.
pub fn merge_groups(api: &Api, list: &mut Value) {
    for (group, offers) in groups(api) {
        let versions: Vec<Value> = offers
            .iter()
            .map(|o| json!({"groupVersion": o.gv.to_string(), "version": o.gv.version}))
            .collect();
        let Some(all) = list["groups"].as_array_mut() else { return };
        match all.iter_mut().find(|g| g["name"] == json!(group)) {
            Some(known) => {
                if let Some(own) = known["versions"].as_array_mut() {
                    own.extend(versions);
                }
            }
            None => all.push(
                json!({"name": group, "versions": versions, "preferredVersion": versions.first()}),
            ),
        }
    }
}

/// The same for discovery in one document.
pub fn merge_discovery(api: &Api, doc: &mut Value) {
    for (group, offers) in groups(api) {
        let versions: Vec<Value> = offers
            .iter()
            .map(|o| json!({"version": o.gv.version, "resources": resources(o), "freshness": "Current"}))
            .collect();
        let Some(all) = doc["items"].as_array_mut() else { return };
        match all.iter_mut().find(|g| g["metadata"]["name"] == json!(group)) {
            Some(known) => {
                if let Some(own) = known["versions"].as_array_mut() {
                    own.extend(versions);
                }
            }
            None => all.push(json!({"metadata": {"name": group}, "versions": versions})),
        }
    }
}

/// A list of resources in the form of one document: subresources below what they belong to.
fn resources(offer: &Offer) -> Vec<Value> {
    let text = |r: &Value, key: &str| r[key].as_str().unwrap_or_default().to_owned();
    let kind = |r: &Value| {
        let or = |own: String, other: &str| if own.is_empty() { other.to_owned() } else { own };
        json!({"group": or(text(r, "group"), &offer.gv.group), "version": or(text(r, "version"), &offer.gv.version), "kind": text(r, "kind")})
    };
    let mut out: Vec<Value> = Vec::new();
    for r in offer.resources.iter().filter(|r| !text(r, "name").contains('/')) {
        let scope = if r["namespaced"] == json!(true) { "Namespaced" } else { "Cluster" };
        let mut m = json!({"resource": r["name"], "responseKind": kind(r), "scope": scope,
            "singularResource": text(r, "singularName"), "verbs": r["verbs"]});
        for key in ["shortNames", "categories"] {
            if r[key].is_array() {
                m[key] = r[key].clone();
            }
        }
        let prefix = format!("{}/", text(r, "name"));
        let below: Vec<Value> = offer
            .resources
            .iter()
            .filter_map(|s| {
                let name = text(s, "name");
                let sub = name.strip_prefix(&prefix)?.to_owned();
                Some(json!({"subresource": sub, "responseKind": kind(s), "verbs": s["verbs"]}))
            })
            .collect();
        if !below.is_empty() {
            m["subresources"] = Value::Array(below);
        }
        out.push(m);
    }
    out
}
