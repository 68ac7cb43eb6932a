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
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";
/// Of `Endpoints` that have not all of their addresses.
const OVER: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// The loop of slices; its keys are services.
pub struct Slices;
/// The loop of `Endpoints`; its keys are services.
pub struct Endpoints;
/// The loop of the slices of `Endpoints` that somebody else writes; its keys are these.
pub struct Mirrors;

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

/// The slices that a service should have: for each kind of address by the ports of its pods, a hundred each.
fn slices(service: &Value, targets: &[Target], world: &World) -> Vec<Value> {
    let mut labels = json!({});
    for (k, v) in pods::labels(service).into_iter().flatten() {
        labels[k] = v.clone();
    }
    labels[SERVICE] = json!(meta(service, "name"));
    labels[MANAGED] = json!(MANAGER);
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let owner = pods::reference("v1", "Service", service);
    let families = service["spec"]["ipFamilies"].as_array().into_iter().flatten();
    let mut families: Vec<&str> = families.filter_map(Value::as_str).collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    let mut out = Vec::new();
    for family in families {
        let mut groups: Vec<Group> = Vec::new();
        for t in targets {
            let Some(ip) = pod_address(&t.pod, family) else { continue };
            place(&mut groups, &t.ports, endpoint(service, t, ip, world));
        }
        if groups.is_empty() {
            // A service without pods has a slice that says so.
            groups.push((Vec::new(), Vec::new()));
        }
        out.extend(groups.into_iter().map(|g| slice(service, &owner, &labels, family, g)));
    }
    out
}

/// Ports and the endpoints that have them.
type Group = (Vec<Value>, Vec<Value>);

/// Puts an endpoint beside those with the same ports, where there is room.
fn place(groups: &mut Vec<Group>, ports: &[Value], endpoint: Value) {
    match groups.iter_mut().find(|(p, list)| *p == ports && list.len() < SLICE) {
        Some((_, list)) => list.push(endpoint),
        None => groups.push((ports.to_vec(), vec![endpoint])),
    }
}

/// A slice beside `of`, which names it and is in its namespace.
fn slice(
    of: &Value,
    owner: &Value,
    labels: &Value,
    family: &str,
    (ports, endpoints): Group,
) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"generateName": format!("{}-", meta(of, "name")), "namespace": meta(of, "namespace"),
            "labels": labels, "ownerReferences": [owner]},
        "addressType": family, "endpoints": endpoints, "ports": ports})
}

fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

/// A pod's address of a family.
fn pod_address<'p>(pod: &'p Value, family: &str) -> Option<&'p str> {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let all = all.filter_map(|ip| ip["ip"].as_str()).chain(pod["status"]["podIP"].as_str());
    all.filter(|ip| !ip.is_empty()).find(|ip| family_of(ip) == family)
}

fn endpoint(service: &Value, t: &Target, ip: &str, world: &World) -> Value {
    let p = &t.pod;
    let (serving, going) = (pods::is_ready(p), is_deleting(p));
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let mut out = json!({"addresses": [ip],
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
        // The kind of addresses of a slice is for good.
        let reused = own.iter().position(|o| o["addressType"] == w["addressType"]);
        let Some(old) = reused.map(|i| own.remove(i)) else {
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
            let all = targets(&cx.world, &service);
            let mut wanted = json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": key.name, "namespace": key.namespace, "labels": {}},
                "subsets": subsets(&service, &all)});
            for (k, v) in pods::labels(&service).into_iter().flatten() {
                wanted["metadata"]["labels"][k] = v.clone();
            }
            wanted["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] =
                json!("endpoint-controller");
            if service["spec"]["clusterIP"] == "None" {
                wanted["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
            }
            let over = (all.len() > MOST).then(|| json!("truncated"));
            if let Some(word) = &over {
                wanted["metadata"]["annotations"] = json!({OVER: word});
            }
            match there {
                None => drop(cx.create(&ENDPOINTS, &key.namespace, wanted).await?),
                Some(e)
                    if normal(&e["subsets"]) != wanted["subsets"]
                        || e["metadata"]["labels"] != wanted["metadata"]["labels"]
                        || e["metadata"]["annotations"].get(OVER) != over.as_ref() =>
                {
                    let mut next = (*e).clone();
                    match (over, next["metadata"]["annotations"].as_object_mut()) {
                        (Some(word), _) => next["metadata"]["annotations"][OVER] = word,
                        (None, Some(m)) => _ = m.shift_remove(OVER),
                        (None, None) => {}
                    }
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

impl Loop for Mirrors {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        let o = &change.object;
        match &*change.resource {
            r if [ENDPOINTS, SERVICES].contains(r) => vec![Key::of(o)],
            r if *r == SLICES && o["metadata"]["labels"][MANAGED] == MIRROR => {
                vec![Key::new(
                    meta(o, "namespace"),
                    text(o, "/metadata/labels/kubernetes.io~1service-name"),
                )]
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let service = cx.world.get(&SERVICES, key).filter(|s| !is_deleting(s));
            // Those of services with a selector are made from their pods.
            let service = service.filter(|s| {
                s["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty)
            });
            let endpoints =
                cx.world.get(&ENDPOINTS, key).filter(|e| is_mirrored(e) && service.is_some());
            let wanted = endpoints.map(|e| mirror(&e)).unwrap_or_default();
            let there = cx.world.inside(&SLICES, &key.namespace).into_iter();
            let own = there.filter(|s| {
                s["metadata"]["labels"][SERVICE] == key.name.as_str()
                    && s["metadata"]["labels"][MANAGED] == MIRROR
            });
            settle(cx, key, wanted, own.collect()).await?;
            Ok(Next::Change)
        })
    }
}

fn is_mirrored(endpoints: &Value) -> bool {
    let m = &endpoints["metadata"];
    m["labels"]["endpointslice.kubernetes.io/skip-mirror"] != "true"
        && m["annotations"].get("control-plane.alpha.kubernetes.io/leader").is_none()
        && !is_deleting(endpoints)
}

/// The slices of `Endpoints`.
fn mirror(e: &Value) -> Vec<Value> {
    let mut labels = json!({});
    for (k, v) in pods::labels(e).into_iter().flatten() {
        labels[k] = v.clone();
    }
    labels[SERVICE] = json!(meta(e, "name"));
    labels[MANAGED] = json!(MIRROR);
    let owner = pods::reference("v1", "Endpoints", e);
    let mut groups: Vec<(&str, Vec<Group>)> = vec![("IPv4", Vec::new()), ("IPv6", Vec::new())];
    for subset in e["subsets"].as_array().into_iter().flatten() {
        let ports: Vec<Value> =
            subset["ports"].as_array().into_iter().flatten().map(named_port).collect();
        let lists = [("addresses", true), ("notReadyAddresses", false)];
        let all = lists.iter().flat_map(|(f, ready)| {
            subset[*f].as_array().into_iter().flatten().map(move |a| (a, *ready))
        });
        for (a, ready) in all.take(MOST) {
            let ip = text(a, "/ip");
            let mut out = json!({"addresses": [ip], "conditions": {"ready": ready}});
            for f in ["hostname", "nodeName", "targetRef"] {
                if let Some(v) = a.get(f) {
                    out[f] = v.clone();
                }
            }
            if let Some((_, groups)) = groups.iter_mut().find(|(f, _)| *f == family_of(ip)) {
                place(groups, &ports, out);
            }
        }
    }
    let of = |(family, groups): (&str, Vec<Group>)| {
        groups.into_iter().map(|g| slice(e, &owner, &labels, family, g)).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(of).collect()
}

/// A port as slices have it: its name is empty where it has none.
fn named_port(p: &Value) -> Value {
    let mut out = p.clone();
    if out.get("name").is_none() {
        out["name"] = json!("");
    }
    out
}

/// The subsets of an `Endpoints`: by ports, ready addresses and others.
fn subsets(service: &Value, targets: &[Target]) -> Value {
    let mut out: Vec<(Vec<Value>, Vec<Value>, Vec<Value>)> = Vec::new();
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let family = service["spec"]["ipFamilies"][0].as_str().unwrap_or("IPv4");
    for t in targets.iter().filter(|t| always || !is_deleting(&t.pod)).take(MOST) {
        let p = &t.pod;
        let Some(ip) = pod_address(p, family) else { continue };
        let mut address = json!({"ip": ip});
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn target(n: usize, ips: &[&str]) -> Target {
        let list: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let pod = json!({"metadata": {"name": format!("p{n}"), "namespace": "n"}, "spec": {},
            "status": {"podIP": ips[0], "podIPs": list, "conditions": [{"type": "Ready", "status": "True"}]}});
        Target {
            pod: Arc::new(pod),
            ports: vec![json!({"name": "", "port": 80, "protocol": "TCP"})],
        }
    }

    /// `IPv4:10.0.0.1,10.0.0.2` for each slice.
    fn shown(slices: &[Value]) -> String {
        let one = |s: &Value| {
            let all = s["endpoints"].as_array().unwrap().iter();
            let all: Vec<&str> = all.map(|e| text(e, "/addresses/0")).collect();
            format!("{}:{}", text(s, "/addressType"), all.join(","))
        };
        slices.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_service_of_two_families_has_slices_of_both() {
        let targets = [target(1, &["10.0.0.1", "fd00::1"]), target(2, &["10.0.0.2"])];
        let service = |families: Value| json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ipFamilies": families}});
        let world = World::default();
        let of = |families: Value| shown(&slices(&service(families), &targets, &world));
        assert_eq!(of(json!(["IPv4", "IPv6"])), "IPv4:10.0.0.1,10.0.0.2 IPv6:fd00::1");
        assert_eq!(of(json!(["IPv6"])), "IPv6:fd00::1");
        assert_eq!(shown(&slices(&service(json!(["IPv4"])), &[], &world)), "IPv4:");
        let many: Vec<Target> = (0..250).map(|n| target(n, &["10.0.0.1"])).collect();
        let sizes: Vec<usize> = slices(&service(json!(null)), &many, &world)
            .iter()
            .map(|s| s["endpoints"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn endpoints_of_others_are_mirrored() {
        let e = json!({"metadata": {"name": "s", "namespace": "n"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}], "notReadyAddresses": [{"ip": "10.0.0.8"}], "ports": [{"port": 1}]}]});
        let all = mirror(&e);
        assert_eq!(shown(&all), "IPv4:10.0.0.9,10.0.0.8 IPv6:fd00::9");
        assert_eq!(all[0]["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(all[0]["metadata"]["labels"][MANAGED], MIRROR);
        assert!(is_mirrored(&e));
        let skipped =
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
        assert!(!is_mirrored(&skipped));
    }
}
