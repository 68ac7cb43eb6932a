//! Claims and the volumes that they are bound to.
//!
//! A volume is first promised to a claim (`claimRef`), then the claim is told (`volumeName`): whoever comes
//! back after a crash finds the promise and keeps it. Volumes are not made here; a class's provisioner is
//! told by an annotation that one is wanted.

use crate::object::{is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::schedule::chooses;
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_client::resources::{CLAIMS, CLASSES, PODS, VOLUMES};
use wharf_client::{At, Change, Object, Resource, Write};
use wharf_kube::quantity::Quantity;
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BY_US: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const NONE: &str = "kubernetes.io/no-provisioner";

/// The loop; its keys are claims, and without a namespace volumes.
pub struct Binder;

impl Loop for Binder {
    fn name(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn component(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        let o = &change.object;
        match &*change.resource {
            r if *r == CLAIMS => {
                let volume = text(o, "/spec/volumeName");
                let mut keys = vec![Key::of(o)];
                keys.extend((!volume.is_empty()).then(|| Key::new("", volume)));
                if change.gone {
                    let all = world.all(&VOLUMES);
                    keys.extend(all.iter().filter(|v| is_for(v, o)).map(|v| Key::of(v)));
                }
                keys
            }
            r if *r == VOLUMES => {
                let mut keys = vec![Key::of(o)];
                let promised = o["spec"]["claimRef"]["name"].as_str();
                match promised {
                    Some(name) => keys.push(Key::new(text(o, "/spec/claimRef/namespace"), name)),
                    None => keys.extend(unbound(world)),
                }
                keys
            }
            r if *r == CLASSES && !change.gone => unbound(world).collect(),
            // Some claims wait for the first pod that uses them.
            r if *r == PODS && !change.gone => {
                let placed = |p: &Value| !text(p, "/spec/nodeName").is_empty();
                let was = before.object.as_ref().is_some_and(|p| placed(p));
                if was || !placed(o) {
                    return Vec::new();
                }
                let ns = meta(o, "namespace");
                crate::protection::claims(o).map(|name| Key::new(ns, name)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            if key.namespace.is_empty() {
                if let Some(volume) = cx.world.get(&VOLUMES, key) {
                    keep(cx, &volume).await?;
                }
            } else if let Some(claim) = cx.world.get(&CLAIMS, key) {
                serve(cx, &claim).await?;
            }
            Ok(Next::Change)
        })
    }
}

/// Claims that have no volume yet.
fn unbound(world: &World) -> impl Iterator<Item = Key> {
    let all = world.all(&CLAIMS).into_iter();
    all.filter(|c| text(c, "/status/phase") != "Bound").map(|c| Key::of(&c))
}

/// Whether a volume is promised to a claim.
fn is_for(volume: &Value, claim: &Value) -> bool {
    let r = &volume["spec"]["claimRef"];
    r["name"] == meta(claim, "name")
        && r["namespace"] == meta(claim, "namespace")
        && (text(r, "/uid").is_empty() || r["uid"] == meta(claim, "uid"))
}

/// The class of a claim or volume; the annotation is the old way of saying it.
fn class(o: &Value) -> &str {
    let old = text(o, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    if old.is_empty() { text(o, "/spec/storageClassName") } else { old }
}

fn storage(v: &Value) -> Option<Quantity> {
    Quantity::parse(v["storage"].as_str()?).ok()
}

/// What keeps a volume from serving a claim.
fn misfit(volume: &Value, claim: &Value) -> Option<&'static str> {
    let wanted = storage(&claim["spec"]["resources"]["requests"]);
    if storage(&volume["spec"]["capacity"]) < wanted {
        return Some("requested PV is too small");
    }
    if class(volume) != class(claim) {
        return Some("storageClassName does not match");
    }
    let mode = |o: &Value| o["spec"]["volumeMode"].as_str().unwrap_or("Filesystem").to_owned();
    if mode(volume) != mode(claim) {
        return Some("incompatible volumeMode");
    }
    let modes = claim["spec"]["accessModes"].as_array().into_iter().flatten();
    let has = volume["spec"]["accessModes"].as_array().map_or(&[][..], Vec::as_slice);
    if modes.into_iter().any(|m| !has.contains(m)) {
        return Some("incompatible accessMode");
    }
    None
}

/// The smallest volume that serves a claim; `node` is where it is to be used, if that is known.
fn best(claim: &Value, volumes: &[Object], node: Option<&Value>) -> Option<Object> {
    if let Some(promised) = volumes.iter().find(|v| is_for(v, claim)) {
        return misfit(promised, claim).is_none().then(|| Arc::clone(promised));
    }
    let selector = Labels::from_object(&claim["spec"]["selector"])
        .filter(|_| claim["spec"]["selector"].is_object());
    let fits = |v: &&Object| {
        let labels = v.pointer("/metadata/labels").and_then(Value::as_object);
        let terms = v.pointer("/spec/nodeAffinity/required/nodeSelectorTerms");
        v["spec"].get("claimRef").is_none_or(Value::is_null)
            && !is_deleting(v)
            && text(v, "/status/phase") == "Available"
            && selector.as_ref().is_none_or(|s| s.matches(labels))
            && terms.and_then(Value::as_array).is_none_or(|t| node.is_none_or(|n| chooses(t, n)))
            && misfit(v, claim).is_none()
    };
    let size = |v: &&Object| (storage(&v["spec"]["capacity"]), meta(v, "name").to_owned());
    volumes
        .iter()
        .filter(fits)
        .min_by(|a, b| size(a).partial_cmp(&size(b)).unwrap_or(std::cmp::Ordering::Equal))
        .cloned()
}

/// Brings a claim to a volume, or says what it waits for.
async fn serve(cx: &Context, claim: &Value) -> Result<(), Fault> {
    let named = text(claim, "/spec/volumeName");
    let completed = claim["metadata"]["annotations"].get(COMPLETED).is_some();
    if completed {
        let volume = cx.world.get(&VOLUMES, &Key::new("", named));
        return match volume.filter(|v| v["spec"]["claimRef"].is_null() || is_for(v, claim)) {
            Some(volume) => bind(cx, &volume, claim).await,
            None => lose(cx, claim, named).await,
        };
    }
    if is_deleting(claim) {
        return Ok(());
    }
    if !named.is_empty() {
        let Some(volume) = cx.world.get(&VOLUMES, &Key::new("", named)) else {
            return wait(cx, claim).await;
        };
        let why = match () {
            () if is_for(&volume, claim) => None,
            () if volume["spec"]["claimRef"].is_object() => {
                Some("volume already bound to a different claim.")
            }
            () => misfit(&volume, claim),
        };
        let Some(why) = why else { return bind(cx, &volume, claim).await };
        let told = format!("Cannot bind to requested volume {named:?}: {why}");
        cx.tell(claim, true, "VolumeMismatch", &told).await;
        return wait(cx, claim).await;
    }
    let of = cx.world.get(&CLASSES, &Key::new("", class(claim)));
    let node = consumer(cx, claim);
    let late = of.as_ref().is_some_and(|c| c["volumeBindingMode"] == "WaitForFirstConsumer");
    let volumes = cx.world.all(&VOLUMES);
    let waits = late && node.is_none();
    let promised = volumes.iter().any(|v| is_for(v, claim));
    if let Some(volume) = best(claim, &volumes, node.as_deref()).filter(|_| !waits || promised) {
        return bind(cx, &volume, claim).await;
    }
    if waits {
        let why = "waiting for first consumer to be created before binding";
        cx.tell(claim, false, "WaitForFirstConsumer", why).await;
        return wait(cx, claim).await;
    }
    want(cx, claim, of.as_deref()).await
}

/// The node where a claim is to be used first.
fn consumer(cx: &Context, claim: &Value) -> Option<Object> {
    let chosen = claim["metadata"]["annotations"][SELECTED_NODE].as_str().map(str::to_owned);
    let uses = |p: &Object| crate::protection::claims(p).any(|c| c == meta(claim, "name"));
    let placed = |p: &Object| text(p, "/spec/nodeName").to_owned();
    let of_pod = || {
        let pods = cx.world.inside(&PODS, meta(claim, "namespace"));
        pods.iter().filter(|p| uses(p)).map(placed).find(|n| !n.is_empty())
    };
    let name = chosen.or_else(of_pod)?;
    cx.world.get(&wharf_client::resources::NODES, &Key::new("", name))
}

/// Asks a class's provisioner for a volume, or says that there is none.
async fn want(cx: &Context, claim: &Value, of: Option<&Value>) -> Result<(), Fault> {
    let name = class(claim);
    let Some(of) = of else {
        if name.is_empty() {
            if claim["spec"]["storageClassName"].is_null()
                && let Some(usual) = usual(cx)
            {
                // A class became the usual one after the claim was made.
                let spec = json!({"storageClassName": usual});
                return write(cx, &CLAIMS, claim, None, json!({"spec": spec})).await;
            }
            let why = "no persistent volumes available for this claim and no storage class is set";
            cx.tell(claim, false, "FailedBinding", why).await;
        } else {
            let why = format!("storageclass.storage.k8s.io {name:?} not found");
            cx.tell(claim, true, "ProvisioningFailed", &why).await;
        }
        return wait(cx, claim).await;
    };
    let provisioner = text(of, "/provisioner");
    if provisioner != NONE {
        let has = &claim["metadata"]["annotations"];
        if PROVISIONER.iter().any(|p| has[*p] != provisioner) {
            let notes = json!({PROVISIONER[0]: provisioner, PROVISIONER[1]: provisioner});
            write(cx, &CLAIMS, claim, None, json!({"metadata": {"annotations": notes}})).await?;
        }
        let why = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        cx.tell(claim, false, "ExternalProvisioning", &why).await;
    }
    wait(cx, claim).await
}

/// The class for claims that name none: of several, the newest.
fn usual(cx: &Context) -> Option<String> {
    let all = cx.world.all(&CLASSES);
    let marked = all.iter().filter(|c| c["metadata"]["annotations"][DEFAULT] == "true");
    marked.max_by_key(|c| meta(c, "creationTimestamp")).map(|c| meta(c, "name").to_owned())
}

async fn wait(cx: &Context, claim: &Value) -> Result<(), Fault> {
    if text(claim, "/status/phase") == "Pending" {
        return Ok(());
    }
    write(cx, &CLAIMS, claim, Some("status"), json!({"status": {"phase": "Pending"}})).await
}

async fn lose(cx: &Context, claim: &Value, volume: &str) -> Result<(), Fault> {
    if text(claim, "/status/phase") == "Lost" {
        return Ok(());
    }
    let there = cx.world.get(&VOLUMES, &Key::new("", volume)).is_some();
    let (reason, why) = if there {
        ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
    } else {
        ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
    };
    let status = json!({"phase": "Lost", "accessModes": null, "capacity": null});
    write(cx, &CLAIMS, claim, Some("status"), json!({"status": status})).await?;
    cx.tell(claim, true, reason, why).await;
    Ok(())
}

/// Ties a claim and a volume to each other, as far as they are not.
async fn bind(cx: &Context, volume: &Value, claim: &Value) -> Result<(), Fault> {
    let r = &volume["spec"]["claimRef"];
    if r["uid"] != meta(claim, "uid") {
        let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta(claim, "namespace"),
            "name": meta(claim, "name"), "uid": meta(claim, "uid"), "resourceVersion": meta(claim, "resourceVersion")});
        let mut patch = json!({"spec": {"claimRef": reference}});
        if !r.is_object() {
            patch["metadata"] = json!({"annotations": {BY_US: "yes"}});
        }
        write(cx, &VOLUMES, volume, None, patch).await?;
    }
    let mut notes = json!({});
    if claim["metadata"]["annotations"].get(COMPLETED).is_none() {
        notes[COMPLETED] = json!("yes");
    }
    if text(claim, "/spec/volumeName").is_empty() {
        notes[BY_US] = json!("yes");
    }
    let mut patch = json!({"spec": {"volumeName": meta(volume, "name")}});
    if notes.as_object().is_some_and(|n| !n.is_empty()) {
        patch["metadata"] = json!({"annotations": notes});
        write(cx, &CLAIMS, claim, None, patch).await?;
    }
    let (modes, capacity) = (&volume["spec"]["accessModes"], &volume["spec"]["capacity"]);
    let status = json!({"phase": "Bound", "accessModes": modes, "capacity": {"storage": capacity["storage"]}});
    let has = &claim["status"];
    // A volume that grows is the claim's when its file system has grown as well: others say that.
    if has["phase"] == "Bound" && has["accessModes"] == *modes {
        return Ok(());
    }
    write(cx, &CLAIMS, claim, Some("status"), json!({"status": status})).await
}

async fn write(
    cx: &Context,
    resource: &Resource,
    o: &Value,
    sub: Option<&str>,
    mut patch: Value,
) -> Result<(), Fault> {
    patch["metadata"]["uid"] = json!(meta(o, "uid"));
    // Two claims may want the same volume: who saw it free must have seen its newest version.
    if sub.is_none() {
        patch["metadata"]["resourceVersion"] = json!(meta(o, "resourceVersion"));
    }
    let at = At { resource, namespace: meta(o, "namespace"), name: meta(o, "name") };
    // The role has `update` and no `patch` for claims.
    let current = cx.read(at).await?;
    if meta(&current, "uid") != meta(o, "uid") {
        return Ok(());
    }
    let next = wharf_kube::patch::merge(&current, &patch);
    cx.write(at, sub, Write::Replace(next)).await.map(drop)
}

/// A volume's phase, and what becomes of one whose claim is gone.
async fn keep(cx: &Context, volume: &Value) -> Result<(), Fault> {
    let r = &volume["spec"]["claimRef"];
    let phase = text(volume, "/status/phase");
    let claim = cx.world.get(&CLAIMS, &Key::new(text(r, "/namespace"), text(r, "/name")));
    let claim = claim.filter(|c| r["uid"] == meta(c, "uid"));
    let (next, why) = match () {
        () if text(r, "/uid").is_empty() => ("Available", String::new()),
        () if claim
            .as_ref()
            .is_some_and(|c| text(c, "/spec/volumeName") == meta(volume, "name")) =>
        {
            ("Bound", String::new())
        }
        // The claim is being told.
        () if claim.as_ref().is_some_and(|c| text(c, "/spec/volumeName").is_empty()) => {
            return Ok(());
        }
        () if claim.is_some() => return unbind(cx, volume).await,
        () => reclaim(volume, phase),
    };
    if phase == next {
        return Ok(());
    }
    let mut status = json!({"phase": next, "message": null, "reason": null});
    if !why.is_empty() {
        status["message"] = json!(why);
    }
    write(cx, &VOLUMES, volume, Some("status"), json!({"status": status})).await?;
    if next == "Failed" {
        cx.tell(volume, true, "VolumeFailedDelete", &why).await;
    }
    Ok(())
}

/// The claim that a volume was promised to has got another.
async fn unbind(cx: &Context, volume: &Value) -> Result<(), Fault> {
    let ours = volume["metadata"]["annotations"].get(BY_US).is_some();
    let patch = if ours {
        json!({"metadata": {"annotations": {BY_US: null}}, "spec": {"claimRef": null}})
    } else {
        json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
    };
    write(cx, &VOLUMES, volume, None, patch).await
}

/// The phase of a volume whose claim is gone, and why.
fn reclaim(volume: &Value, phase: &str) -> (&'static str, String) {
    let made = volume["metadata"]["annotations"].get(PROVISIONED_BY).is_some();
    match text(volume, "/spec/persistentVolumeReclaimPolicy") {
        // Whoever made it deletes it.
        "Delete" if !made && phase != "Bound" => {
            let name = meta(volume, "name");
            let why = format!(
                "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
            );
            ("Failed", why)
        }
        "Recycle" if phase != "Bound" => {
            ("Failed", "no volume plugin matched: volumes are not recycled here".to_owned())
        }
        _ => ("Released", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, size: &str, extra: Value) -> Object {
        let v = json!({"metadata": {"name": name, "labels": {"disk": name}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        Arc::new(wharf_kube::patch::merge(&v, &extra))
    }

    fn claim(size: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "spec": {"storageClassName": "c",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
    }

    #[track_caller]
    fn check(c: &Value, volumes: &[Object], node: Option<&Value>, expected: Option<&str>) {
        let found = best(c, volumes, node);
        assert_eq!(found.as_ref().map(|v| meta(v, "name")), expected);
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_serves_it() {
        let none = || json!({});
        let all =
            [volume("a", "10Gi", none()), volume("b", "2Gi", none()), volume("c", "5Gi", none())];
        check(&claim("1Gi"), &all, None, Some("b"));
        check(&claim("3Gi"), &all, None, Some("c"));
        check(&claim("11Gi"), &all, None, None);
        let mut chosen = claim("1Gi");
        chosen["spec"]["selector"] = json!({"matchLabels": {"disk": "a"}});
        check(&chosen, &all, None, Some("a"));
        let other = [
            volume("x", "2Gi", json!({"spec": {"storageClassName": "d"}})),
            volume("y", "2Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume("z", "2Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
            volume("t", "2Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "q"}}})),
        ];
        check(&claim("1Gi"), &other, None, None);
        let promised = [
            volume("s", "1Gi", none()),
            volume("p", "9Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "p"}}})),
        ];
        check(&claim("1Gi"), &promised, None, Some("p"));
    }

    #[test]
    fn a_volume_of_one_node_serves_pods_there() {
        let terms =
            json!([{"matchExpressions": [{"key": "host", "operator": "In", "values": ["h1"]}]}]);
        let v = [volume(
            "a",
            "1Gi",
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}),
        )];
        let node = |h: &str| json!({"metadata": {"name": h, "labels": {"host": h}}});
        check(&claim("1Gi"), &v, Some(&node("h1")), Some("a"));
        check(&claim("1Gi"), &v, Some(&node("h2")), None);
    }

    #[test]
    fn what_becomes_of_a_volume_without_claim_is_its_policy() {
        let v = |policy: &str, notes: Value| {
            volume(
                "a",
                "1Gi",
                json!({"metadata": {"annotations": notes}, "spec": {"persistentVolumeReclaimPolicy": policy}}),
            )
        };
        assert_eq!(reclaim(&v("Retain", json!({})), "Bound").0, "Released");
        assert_eq!(reclaim(&v("Delete", json!({})), "Bound").0, "Released");
        assert_eq!(reclaim(&v("Delete", json!({})), "Released").0, "Failed");
        assert_eq!(reclaim(&v("Delete", json!({PROVISIONED_BY: "x"})), "Released").0, "Released");
    }
}
