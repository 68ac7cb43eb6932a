//! Claims and volumes that are in use stay until they are not.

use crate::object::{finalizers, is_deleting, meta, text};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{CLAIMS, PODS, VOLUMES};
use wharf_client::{At, Change, Resource, Write};
use wharf_kube::status::Fault;

/// The loop of claims, whose keys they are.
pub struct Claims;
/// The loop of volumes, whose keys they are.
pub struct Volumes;
/// The loop of volumes that live as long as their pods; its keys are pods.
pub struct Ephemeral;

const CLAIM_MARK: &str = "kubernetes.io/pvc-protection";
const VOLUME_MARK: &str = "kubernetes.io/pv-protection";

/// The claims that a pod mounts.
pub(crate) fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|v| {
        let own = || {
            v["ephemeral"]
                .is_object()
                .then(|| format!("{}-{}", meta(pod, "name"), text(v, "/name")))
        };
        v.pointer("/persistentVolumeClaim/claimName")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .or_else(own)
    })
}

impl Loop for Claims {
    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let (o, ns) = (&change.object, meta(&change.object, "namespace"));
        match &*change.resource {
            r if *r == CLAIMS && is_deleting(o) && !change.gone => vec![Key::of(o)],
            r if *r == PODS && (change.gone || crate::pods::is_finished(o)) => {
                claims(o).map(|name| Key::new(ns, name)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let pods = cx.world.inside(&PODS, &key.namespace);
            // A pod that has no node yet will not get one while the claim is going.
            let lives =
                |p: &Value| !crate::pods::is_finished(p) && !text(p, "/spec/nodeName").is_empty();
            let used = pods.iter().any(|p| lives(p) && claims(p).any(|c| c == key.name));
            if !used {
                release(cx, &CLAIMS, key, CLAIM_MARK).await?;
            }
            Ok(Next::Change)
        })
    }
}

impl Loop for Volumes {
    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let going = *change.resource == VOLUMES && is_deleting(&change.object) && !change.gone;
        if going { vec![Key::of(&change.object)] } else { Vec::new() }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let volume = cx.world.get(&VOLUMES, key);
            if volume.is_some_and(|v| text(&v, "/status/phase") != "Bound") {
                release(cx, &VOLUMES, key, VOLUME_MARK).await?;
            }
            Ok(Next::Change)
        })
    }
}

impl Loop for Ephemeral {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn component(&self) -> &'static str {
        "ephemeral_volume"
    }

    fn wake(&self, world: &World, change: &Change, _: &Before) -> Vec<Key> {
        let asks = |p: &Value| {
            let mut volumes = p["spec"]["volumes"].as_array().into_iter().flatten();
            volumes.any(|v| v["ephemeral"].is_object())
        };
        let (o, ns) = (&change.object, meta(&change.object, "namespace"));
        match &*change.resource {
            r if *r == PODS && !change.gone && asks(o) => vec![Key::of(o)],
            r if *r == CLAIMS && change.gone => {
                let own =
                    |p: &&wharf_client::Object| asks(p) && claims(p).any(|c| c == meta(o, "name"));
                world.inside(&PODS, ns).iter().filter(own).map(|p| Key::of(p)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(pod) = cx.world.get(&PODS, key).filter(|p| !is_deleting(p)) else {
                return Ok(Next::Change);
            };
            for v in pod["spec"]["volumes"].as_array().into_iter().flatten() {
                let Some(template) = v.pointer("/ephemeral/volumeClaimTemplate") else { continue };
                let name = format!("{}-{}", key.name, text(v, "/name"));
                if let Some(there) = cx.world.get(&CLAIMS, &Key::new(&*key.namespace, &*name)) {
                    let owner = crate::object::manager(&there).map_or("", |m| text(m, "/uid"));
                    if owner != meta(&pod, "uid") {
                        let why = format!(
                            "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                            key.namespace, key.namespace, key.name
                        );
                        cx.tell(&pod, true, "EphemeralVolumeCreationFailed", &why).await;
                    }
                    continue;
                }
                let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"name": name, "namespace": key.namespace, "labels": template["metadata"]["labels"],
                        "annotations": template["metadata"]["annotations"],
                        "ownerReferences": [crate::pods::reference("v1", "Pod", &pod)]},
                    "spec": template["spec"]});
                cx.create(&CLAIMS, &key.namespace, claim).await?;
            }
            Ok(Next::Change)
        })
    }
}

async fn release(cx: &Context, resource: &Resource, key: &Key, mark: &str) -> Result<(), Fault> {
    let Some(object) = cx.world.get(resource, key) else { return Ok(()) };
    if !is_deleting(&object) || !finalizers(&object).any(|f| f == mark) {
        return Ok(());
    }
    let mut next = (*object).clone();
    let rest: Vec<&str> = finalizers(&object).filter(|f| *f != mark).collect();
    next["metadata"]["finalizers"] = json!(rest);
    let at = At { resource, namespace: &key.namespace, name: &key.name };
    cx.write(at, None, Write::Replace(next)).await.map(drop)
}
