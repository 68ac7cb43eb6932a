//! Where services lead: EndpointSlices of their pods, and Endpoints for those who still read them.

use crate::object::{is_deleting, meta, text};
use crate::pods;
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{ENDPOINTS, PODS, SERVICES, SLICES};
use wharf_client::{At, Change, Deletion, Object, Write};
use wharf_kube::selector::Labels;
use wharf_kube::status::Fault;

/// Endpoints in one slice, and in one `Endpoints` (as the reference server has it).
const SLICE: usize = 100;
const MOST: usize = 1000;
const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// The loop of slices; its keys are services.
pub struct Slices;
/// The loop of `Endpoints`; its keys are services.
pub struct Endpoints;

/// The services that a pod's change concerns.
fn services(world: &World, change: &Change, before: &Before) -> Vec<Key> {
    if *change.resource == SERVICES {
        return vec![Key::of(&change.object)];
    }
    if *change.resource != PODS {
        return Vec::new();
    }
    let all = world.inside(&SERVICES, meta(&change.object, "namespace"));
    let forms: Vec<&Object> = before.object.iter().chain([&change.object]).collect();
    let leads = |s: &&Object| {
        selector(s).is_some_and(|sel| forms.iter().any(|p| sel.matches(pods::labels(p))))
    };
    all.iter().filter(leads).map(|s| Key::of(s)).collect()
}

/// Services without a selector are somebody else's work.
fn selector(service: &Value) -> Option<Labels> {
    let m = service["spec"]["selector"].as_object().filter(|m| !m.is_empty())?;
    (service["spec"]["type"] != "ExternalName").then(|| Labels::from_map(m))
}

/// A pod behind a service, with the ports that lead to it.
struct Target {
    pod: Object,
    ports: Vec<Value>,
}

/// The pods behind a service, in order.
fn targets(world: &World, service: &Value) -> Vec<Target> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let all = world.inside(&PODS, meta(service, "namespace"));
    let fits = |p: &Object| {
        selector.matches(pods::labels(p))
            && !text(p, "/status/podIP").is_empty()
            && !pods::is_finished(p)
    };
    all.into_iter()
        .filter(fits)
        .filter_map(|pod| Some(Target { ports: ports(service, &pod)?, pod }))
        .collect()
}

/// The ports of a service as numbers on one pod; nothing where a named one is not there.
fn ports(service: &Value, pod: &Value) -> Option<Vec<Value>> {
    let list = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let resolved: Vec<Value> = list
        .iter()
        .filter_map(|p| {
            let number = match &p["targetPort"] {
                Value::String(name) => named(pod, name, text(p, "/protocol"))?,
                n => n.as_i64().filter(|n| *n > 0).or_else(|| p["port"].as_i64())?,
            };
            let mut out =
                json!({"name": text(p, "/name"), "protocol": p["protocol"], "port": number});
            if let Some(app) = p.get("appProtocol") {
                out["appProtocol"] = app.clone();
            }
            Some(out)
        })
        .collect();
    (!resolved.is_empty() || list.is_empty()).then_some(resolved)
}

fn named(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let lists = ["containers", "initContainers"];
    let containers = lists.iter().filter_map(|l| pod["spec"][*l].as_array()).flatten();
    let mut ports = containers.filter_map(|c| c["ports"].as_array()).flatten();
    let fits =
        |p: &&Value| p["name"] == name && (p["protocol"] == protocol || p["protocol"].is_null());
    ports.find(fits)?["containerPort"].as_i64()
}

impl Loop for Slices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        if *change.resource == SLICES {
            let (ns, name) = (
                meta(&change.object, "namespace"),
                text(&change.object, "/metadata/labels/kubernetes.io~1service-name"),
            );
            let ours = change.object["metadata"]["labels"][MANAGED] == MANAGER;
            return if ours && !name.is_empty() { vec![Key::new(ns, name)] } else { Vec::new() };
        }
        services(world, change, before)
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let Some(service) = cx.world.get(&SERVICES, key).filter(|s| !is_deleting(s)) else {
                return Ok(Next::Change);
            };
            if selector(&service).is_none() {
                return Ok(Next::Change);
            }
            let wanted = slices(&service, &targets(&cx.world, &service), &cx.world);
            let there = cx.world.inside(&SLICES, &key.namespace);
            let own = there.into_iter().filter(|s| {
                s["metadata"]["labels"][SERVICE] == key.name.as_str()
                    && s["metadata"]["labels"][MANAGED] == MANAGER
            });
            settle(cx, key, wanted, own.collect()).await?;
            Ok(Next::Change)
        })
    }
}

/// The slices that a service should have: by the ports of its pods, a hundred each.
fn slices(service: &Value, targets: &[Target], world: &World) -> Vec<Value> {
    let (ns, name) = (meta(service, "namespace"), meta(service, "name"));
    let family = service["spec"]["ipFamilies"][0].as_str().unwrap_or("IPv4");
    let mut groups: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
    for t in targets {
        let endpoint = endpoint(service, t, world);
        match groups.iter_mut().find(|(ports, list)| *ports == t.ports && list.len() < SLICE) {
            Some((_, list)) => list.push(endpoint),
            None => groups.push((t.ports.clone(), vec![endpoint])),
        }
    }
    if groups.is_empty() {
        // A service without pods has a slice that says so.
        groups.push((Vec::new(), Vec::new()));
    }
    let mut labels = json!({});
    for (k, v) in pods::labels(service).into_iter().flatten() {
        labels[k] = v.clone();
    }
    labels[SERVICE] = json!(name);
    labels[MANAGED] = json!(MANAGER);
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let slice = |(ports, endpoints): (Vec<Value>, Vec<Value>)| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"generateName": format!("{name}-"), "namespace": ns, "labels": labels,
                "ownerReferences": [pods::reference("v1", "Service", service)]},
            "addressType": family, "endpoints": endpoints, "ports": ports})
    };
    groups.into_iter().map(slice).collect()
}

fn endpoint(service: &Value, t: &Target, world: &World) -> Value {
    let p = &t.pod;
    let (serving, going) = (pods::is_ready(p), is_deleting(p));
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let mut out = json!({"addresses": [text(p, "/status/podIP")],
        "conditions": {"ready": always || (serving && !going), "serving": serving, "terminating": going},
        "targetRef": {"kind": "Pod", "namespace": meta(p, "namespace"), "name": meta(p, "name"), "uid": meta(p, "uid")}});
    let node = text(p, "/spec/nodeName");
    if !node.is_empty() {
        out["nodeName"] = json!(node);
        let node = world.get(&wharf_client::resources::NODES, &Key::new("", node));
        let zone = node.map(|n| n["metadata"]["labels"]["topology.kubernetes.io/zone"].clone());
        if let Some(zone) = zone.filter(Value::is_string) {
            out["zone"] = zone;
        }
    }
    let host = text(p, "/spec/hostname");
    if !host.is_empty() && p["spec"]["subdomain"] == meta(service, "name") {
        out["hostname"] = json!(host);
    }
    out
}

/// Makes what is there what is wanted, with as few writes as can be.
async fn settle(
    cx: &Context,
    key: &Key,
    wanted: Vec<Value>,
    mut own: Vec<Object>,
) -> Result<(), Fault> {
    let same = |a: &Value, b: &Value| {
        ["addressType", "endpoints", "ports"].iter().all(|f| normal(&a[*f]) == normal(&b[*f]))
            && a["metadata"]["labels"] == b["metadata"]["labels"]
    };
    let mut rest = Vec::new();
    for w in wanted {
        match own.iter().position(|o| same(o, &w)) {
            Some(i) => _ = own.remove(i),
            None => rest.push(w),
        }
    }
    for w in rest {
        let Some(old) = own.pop() else {
            cx.create(&SLICES, &key.namespace, w).await?;
            continue;
        };
        let mut next = (*old).clone();
        for field in ["endpoints", "ports"] {
            next[field] = w[field].clone();
        }
        next["metadata"]["labels"] = w["metadata"]["labels"].clone();
        let at = At { resource: &SLICES, namespace: &key.namespace, name: meta(&old, "name") };
        cx.write(at, None, Write::Replace(next)).await?;
    }
    for old in own {
        let at = At { resource: &SLICES, namespace: &key.namespace, name: meta(&old, "name") };
        cx.delete(at, Deletion::default()).await?;
    }
    Ok(())
}

/// Nothing and an empty list are the same.
fn normal(v: &Value) -> Value {
    if v.is_null() { json!([]) } else { v.clone() }
}

impl Loop for Endpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn wake(&self, world: &World, change: &Change, before: &Before) -> Vec<Key> {
        if *change.resource == ENDPOINTS {
            return vec![Key::of(&change.object)];
        }
        services(world, change, before)
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let service = cx.world.get(&SERVICES, key).filter(|s| !is_deleting(s));
            let there = cx.world.get(&ENDPOINTS, key);
            let at = At { resource: &ENDPOINTS, namespace: &key.namespace, name: &key.name };
            let Some(service) = service.filter(|s| selector(s).is_some()) else {
                // They go with the service that they were made for.
                let ours = there.is_some_and(|e| {
                    e["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"]
                        == "endpoint-controller"
                });
                if ours && cx.world.get(&SERVICES, key).is_none() {
                    cx.delete(at, Deletion::default()).await?;
                }
                return Ok(Next::Change);
            };
            let mut wanted = json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": key.name, "namespace": key.namespace, "labels": {}},
                "subsets": subsets(&service, &targets(&cx.world, &service))});
            for (k, v) in pods::labels(&service).into_iter().flatten() {
                wanted["metadata"]["labels"][k] = v.clone();
            }
            wanted["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] =
                json!("endpoint-controller");
            if service["spec"]["clusterIP"] == "None" {
                wanted["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
            }
            match there {
                None => drop(cx.create(&ENDPOINTS, &key.namespace, wanted).await?),
                Some(e)
                    if normal(&e["subsets"]) != wanted["subsets"]
                        || e["metadata"]["labels"] != wanted["metadata"]["labels"] =>
                {
                    let mut next = (*e).clone();
                    next["subsets"] = wanted["subsets"].clone();
                    next["metadata"]["labels"] = wanted["metadata"]["labels"].clone();
                    cx.write(at, None, Write::Replace(next)).await?;
                }
                Some(_) => {}
            }
            Ok(Next::Change)
        })
    }
}

/// The subsets of an `Endpoints`: by ports, ready addresses and others.
fn subsets(service: &Value, targets: &[Target]) -> Value {
    let mut out: Vec<(Vec<Value>, Vec<Value>, Vec<Value>)> = Vec::new();
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    for t in targets.iter().filter(|t| !is_deleting(&t.pod)).take(MOST) {
        let p = &t.pod;
        let mut address = json!({"ip": text(p, "/status/podIP")});
        let host = text(p, "/spec/hostname");
        if !host.is_empty() && p["spec"]["subdomain"] == meta(service, "name") {
            address["hostname"] = json!(host);
        }
        if !text(p, "/spec/nodeName").is_empty() {
            address["nodeName"] = p["spec"]["nodeName"].clone();
        }
        address["targetRef"] = json!({"kind": "Pod", "namespace": meta(p, "namespace"), "name": meta(p, "name"), "uid": meta(p, "uid")});
        let at = out.iter().position(|(ports, ..)| *ports == t.ports).unwrap_or_else(|| {
            out.push((t.ports.clone(), Vec::new(), Vec::new()));
            out.len() - 1
        });
        let (_, ready, others) = &mut out[at];
        if always || pods::is_ready(p) { ready.push(address) } else { others.push(address) }
    }
    let subset = |(ports, mut ready, mut others): (Vec<Value>, Vec<Value>, Vec<Value>)| {
        let mut s = serde_json::Map::new();
        for (field, list) in [("addresses", &mut ready), ("notReadyAddresses", &mut others)] {
            list.sort_by_key(|a| text(a, "/ip").to_owned());
            if !list.is_empty() {
                s.insert(field.to_owned(), Value::Array(std::mem::take(list)));
            }
        }
        // A port without a name has none here.
        let ports = ports.into_iter().map(|mut p| {
            if let Some(m) = p.as_object_mut().filter(|m| m["name"] == "") {
                m.shift_remove("name");
            }
            p
        });
        s.insert("ports".to_owned(), ports.collect());
        Value::Object(s)
    };
    out.into_iter().map(subset).collect()
}
