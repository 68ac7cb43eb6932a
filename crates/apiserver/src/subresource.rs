//! What is below objects: scale, bindings, evictions, tokens, approvals, finalizing.

use crate::api::{Api, Call, meta, set_meta};
use crate::body::{self, Expected};
use crate::definitions::Scale;
use crate::hooks;
use crate::media::{self, Accept, Notation, View};
use crate::respond::Answer;
use crate::server::{Incoming, PATCHES_OF_CUSTOM, Server, check_manager};
use crate::stored;
use crate::strategy;
use crate::streams;
use crate::write::{Change, ordered};
use http::StatusCode;
use serde_json::{Value, json};
use wharf_kube::patch;
use wharf_kube::resources::GroupVersion;
use wharf_kube::selector::Labels;
use wharf_kube::status::{Cause, Details, Fault, Problem};
use wharf_kube::validate;

/// Answers a request on what is below an object.
pub async fn serve(
    server: &Server,
    r: &Incoming,
    call: &Call<'_>,
    verb: &str,
    pretty: bool,
) -> Result<Answer, Fault> {
    let accept = media::accept(r.header("accept"), false, true)?;
    match call.subresource.unwrap_or_default() {
        "scale" => scale(server, r, call, verb, accept, pretty).await,
        "approval" | "ephemeralcontainers" | "resize" | "finalize" => {
            whole(server, r, call, verb, accept, pretty).await
        }
        "binding" => {
            let object = read(server, r, call, "Binding")?;
            bind(server, call, call.name()?, object).await?;
            Ok(Answer::json(StatusCode::CREATED, &success(201), pretty))
        }
        "eviction" => {
            let mut object = read(server, r, call, "Eviction")?;
            hooks::below(&server.api, call, "CREATE", &mut object).await?;
            evict(server, call, &object).await?;
            Ok(Answer::json(StatusCode::CREATED, &success(201), pretty))
        }
        "token" => {
            let mut object = read(server, r, call, "TokenRequest")?;
            hooks::below(&server.api, call, "CREATE", &mut object).await?;
            let answer = token(server, call, object).await?;
            let kind = call.kind.subresource("token").map(|s| s.ty);
            Ok(Answer::object(StatusCode::CREATED, accept, &answer, pretty, || {
                let message =
                    kind.map(|ty| wharf_kube::proto::encode(ty, &answer)).unwrap_or_default();
                wharf_kube::proto::seal("authentication.k8s.io/v1", "TokenRequest", &message)
            }))
        }
        "log" | "exec" | "attach" | "portforward" | "proxy" => {
            streams::serve(server, r, call).await
        }
        _ => Err(Fault::no_route()),
    }
}

fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

fn read(server: &Server, r: &Incoming, call: &Call<'_>, _kind: &str) -> Result<Value, Fault> {
    let Some(s) = call.subresource.and_then(|s| call.kind.subresource(s)) else {
        return Err(Fault::no_route());
    };
    let version = s.gv.to_string();
    server.read_body(
        r,
        call,
        Expected { api_version: &version, kind: s.kind, ty: s.ty, custom: None },
    )
}

/// A path whose body is the object itself.
async fn whole(
    server: &Server,
    r: &Incoming,
    call: &Call<'_>,
    verb: &str,
    accept: Accept,
    pretty: bool,
) -> Result<Answer, Fault> {
    let object = match verb {
        "get" => {
            let kv = server.api.get(call, call.name()?).await?;
            server.api.read_stored(call.kind, stored::decode(&kv)).await?
        }
        "update" => {
            let object = server.read_body(r, call, Expected::of(call.kind))?;
            server.api.change(call, &Change::Replace(object)).await?.object
        }
        "patch" => server.patch(r, call).await?.object,
        _ => return Err(Fault::wrong_method()),
    };
    Ok(server.show(call, accept, StatusCode::OK, &object, pretty))
}

/// The `Scale` of an object.
fn scale_of(object: &Value) -> Value {
    let m = &object["metadata"];
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = m.get(field) {
            metadata.insert(field.to_owned(), v.clone());
        }
    }
    let selector = match object["spec"].get("selector") {
        Some(s) if s.get("matchLabels").is_some() || s.get("matchExpressions").is_some() => {
            Labels::from_object(s).map(|l| l.to_string())
        }
        Some(Value::Object(plain)) => Some(Labels::from_map(plain).to_string()),
        _ => None,
    };
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    if let Some(s) = selector.filter(|s| !s.is_empty()) {
        status["selector"] = json!(s);
    }
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(0);
    let spec = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The `Scale` of a custom resource, from where its definition says.
fn custom_scale(paths: &Scale, object: &Value) -> Value {
    let number = |p: &wharf_kube::jsonpath::Path| {
        p.find(object).first().and_then(|v| v.as_i64()).unwrap_or(0)
    };
    let mut flat = json!({"metadata": object["metadata"], "spec": {"replicas": number(&paths.wanted)},
        "status": {"replicas": number(&paths.actual)}});
    let selector = paths.selector.as_ref().and_then(|p| p.find(object).first().copied());
    let mut scale = scale_of(&std::mem::take(&mut flat));
    if let Some(s) = selector.and_then(Value::as_str).filter(|s| !s.is_empty()) {
        scale["status"]["selector"] = json!(s);
    }
    scale
}

async fn scale(
    server: &Server,
    r: &Incoming,
    call: &Call<'_>,
    verb: &str,
    accept: Accept,
    pretty: bool,
) -> Result<Answer, Fault> {
    let kv = server.api.get(call, call.name()?).await?;
    let object = server.api.read_stored(call.kind, stored::decode(&kv)).await?;
    let paths = call.kind.custom.as_ref().and_then(|c| c.scale.as_ref());
    let current = match paths {
        Some(paths) => custom_scale(paths, &object),
        None => scale_of(&object),
    };
    let wanted = match verb {
        "get" => return Ok(show_scale(accept, &current, pretty)),
        "update" => read(server, r, call, "Scale")?,
        "patch" => patched_scale(r, call, &current)?,
        _ => return Err(Fault::wrong_method()),
    };
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let p = Problem::invalid(
            "spec.replicas",
            &json!(replicas),
            "must be greater than or equal to 0",
        );
        return Err(Fault::invalid("autoscaling", "Scale", call.name()?, &[p]));
    }
    let mut change = json!({"spec": {"replicas": replicas}});
    if let Some(fields) = paths.and_then(|p| p.wanted.fields()) {
        change = fields.iter().rev().fold(json!(replicas), |v, field| json!({*field: v}));
    }
    let version = meta(&wanted, "resourceVersion");
    if !version.is_empty() {
        set_meta(&mut change, "resourceVersion", version);
    }
    let applied = verb == "patch" && is_applied(r);
    let change = if applied { Change::Apply(&change) } else { Change::MergePatch(&change) };
    if applied {
        check_manager(call)?;
    }
    let written = server.api.change(call, &change).await?;
    let scale = match paths {
        Some(paths) => custom_scale(paths, &written.object),
        None => scale_of(&written.object),
    };
    Ok(show_scale(accept, &scale, pretty))
}

fn show_scale(accept: Accept, scale: &Value, pretty: bool) -> Answer {
    Answer::object(StatusCode::OK, accept, scale, pretty, || {
        let ty = crate::kinds::known("autoscaling1.Scale");
        let message = wharf_kube::proto::encode(ty, &ordered(ty, scale.clone()));
        wharf_kube::proto::seal("autoscaling/v1", "Scale", &message)
    })
}

/// Whether a patch is a configuration that is applied: then whoever applies it owns the number of replicas.
fn is_applied(r: &Incoming) -> bool {
    media::essence(r.header("content-type").unwrap_or_default()) == "application/apply-patch+yaml"
}

fn patched_scale(r: &Incoming, call: &Call<'_>, current: &Value) -> Result<Value, Fault> {
    let media = media::essence(r.header("content-type").unwrap_or_default());
    let notation =
        if media == "application/apply-patch+yaml" { Notation::Yaml } else { Notation::Json };
    let p = body::tree(&r.body, notation)?.value;
    match media.as_str() {
        "application/strategic-merge-patch+json" if call.kind.custom.is_some() => {
            Err(Fault::media_type(PATCHES_OF_CUSTOM))
        }
        "application/json-patch+json" => patch::json(current, &p).map_err(|_| {
            Fault::unprocessable("the server rejected our request due to an error in our request")
        }),
        "application/merge-patch+json"
        | "application/strategic-merge-patch+json"
        | "application/apply-patch+yaml" => Ok(patch::merge(current, &p)),
        _ => Err(Fault::media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
        )),
    }
}

/// A call like `call` in which the pod is written as a whole.
fn on_pod<'a>(
    call: &'a Call<'_>,
    name: &'a str,
    pods: &'a std::sync::Arc<crate::kinds::Kind>,
) -> Call<'a> {
    Call {
        user: call.user,
        kind: pods,
        namespace: call.namespace,
        name: Some(name),
        subresource: None,
        query: call.query,
        agent: call.agent,
        inner: true,
        warnings: wharf_base::sync::Mutex::default(),
    }
}

/// Puts a pod on the node that a `Binding` names; gives the pod.
pub async fn bind(
    server: &Server,
    call: &Call<'_>,
    name: &str,
    mut binding: Value,
) -> Result<Value, Fault> {
    hooks::below(&server.api, call, "CREATE", &mut binding).await?;
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    let mut problems = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        problems.push(Problem::unsupported("target.kind", &target["kind"], &["Node", "<empty>"]));
    }
    if node.is_empty() {
        problems.push(Problem::required("target.name", ""));
    }
    if !problems.is_empty() {
        return Err(Fault::invalid("", "Binding", name, &problems));
    }
    let pods = server.api.kinds.core("pods").ok_or_else(Fault::no_route)?;
    // What changes beside the pod itself (its node, and that it has one) is of the status's kind: no quota counts it.
    let mut one = on_pod(call, name, &pods);
    one.subresource = Some("status");
    for _ in 0..TRIES {
        let kv = server.api.get(&one, name).await?;
        let pod = stored::decode(&kv);
        unbound(&one, &pod)?;
        let bound = bound(server, &one, &pod, &binding)?;
        if let Some(written) = server.api.replace(&one, &kv, bound, &pod).await? {
            return Ok(written.object);
        }
    }
    Err(Fault::stale(pods.about(), name))
}

/// Times that a pod is read again because it changed meanwhile.
const TRIES: usize = 10;

/// Refuses to put a pod on a node that cannot be put on one now.
fn unbound(call: &Call<'_>, pod: &Value) -> Result<(), Fault> {
    let (name, current) = (meta(pod, "name"), pod["spec"]["nodeName"].as_str().unwrap_or_default());
    let why = if crate::api::is_deleting(pod) {
        format!("pod {name} is being deleted, cannot be assigned to a host")
    } else if !current.is_empty() {
        format!("pod {name} is already assigned to node {current:?}")
    } else if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        format!("pod {name} has non-empty .spec.schedulingGates")
    } else {
        return Ok(());
    };
    Err(Fault::conflict(call.about(), name, &why))
}

/// A pod on the node of a binding, and saying so: one change, as the reference makes it.
fn bound(server: &Server, call: &Call<'_>, pod: &Value, binding: &Value) -> Result<Value, Fault> {
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = binding["target"]["name"].clone();
    if let Some(more) = binding.pointer("/metadata/annotations").and_then(Value::as_object) {
        let all = more.iter().map(|(k, v)| (k.clone(), v.clone()));
        let mut annotations =
            pod["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        annotations.extend(all);
        set_meta(&mut bound, "annotations", annotations);
    }
    strategy::prepare_update(call.kind, Some("binding"), &mut bound, pod);
    let problems = validate::metadata(&bound, true, |_| None);
    if !problems.is_empty() {
        return Err(Fault::invalid("", "Pod", meta(pod, "name"), &problems));
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": server.api.now(),
        "observedGeneration": pod["metadata"]["generation"]});
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(c) => *c = scheduled,
        None => conditions.push(scheduled),
    }
    bound["status"]["conditions"] = Value::Array(conditions);
    Ok(call.kind.ordered_hub(bound))
}

/// Deletes a pod as far as its disruption budgets allow.
async fn evict(server: &Server, call: &Call<'_>, eviction: &Value) -> Result<(), Fault> {
    let name = call.name()?;
    let given = meta(eviction, "name");
    if !given.is_empty() && given != name {
        return Err(Fault::bad_request("name in URL does not match name in Eviction object"));
    }
    let pod = stored::decode(&server.api.get(call, name).await?);
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|l| l.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if !matches!(phase, "Succeeded" | "Failed" | "Pending") && !crate::api::is_deleting(&pod) {
        spend_budget(&server.api, call, &pod, ready).await?;
    }
    let pods = server.api.kinds.core("pods").ok_or_else(Fault::no_route)?;
    let options = crate::delete::Options::read(call, eviction.get("deleteOptions"))?;
    let one = on_pod(call, name, &pods);
    if !options.dry_run {
        disrupted(server, &one, &pod).await?;
    }
    server.api.delete(&one, &options).await.map(drop)
}

/// Notes on a pod that its end is none of its own doing, which Jobs go by.
async fn disrupted(server: &Server, call: &Call<'_>, pod: &Value) -> Result<(), Fault> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": server.api.now()});
    let change =
        json!({"metadata": {"uid": meta(pod, "uid")}, "status": {"conditions": [condition]}});
    let below = Call {
        user: call.user,
        kind: call.kind,
        namespace: call.namespace,
        name: call.name,
        subresource: Some("status"),
        query: call.query,
        agent: call.agent,
        inner: true,
        warnings: wharf_base::sync::Mutex::default(),
    };
    server.api.change(&below, &Change::StrategicPatch(&change)).await.map(drop)
}

/// Takes one disruption from the budget that covers a pod.
async fn spend_budget(api: &Api, call: &Call<'_>, pod: &Value, ready: bool) -> Result<(), Fault> {
    let gv = GroupVersion::parse("policy/v1");
    let Some(kind) = api.kinds.find(&gv, "poddisruptionbudgets") else { return Ok(()) };
    let ns = call.namespace.unwrap_or_default();
    let range =
        wharf_etcd::Range::new(wharf_etcd::KeyRange::prefix(format!("{}{ns}/", kind.prefix())));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
    let budgets: Vec<Value> = reply
        .kvs
        .iter()
        .map(stored::decode)
        .filter(|b| Labels::from_object(&b["spec"]["selector"]).is_some_and(|s| s.matches(labels)))
        .collect();
    let budget = match &budgets[..] {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Fault::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let status = &budget["status"];
    let number = |f: &str| status[f].as_i64().unwrap_or(0);
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !ready
        && (always
            || number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
    {
        return Ok(());
    }
    let name = meta(budget, "name");
    let observed =
        number("observedGeneration") >= budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if !observed || number("disruptionsAllowed") <= 0 {
        let message = if observed {
            format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            )
        } else {
            format!("The disruption budget {name} is still being processed by the server.")
        };
        let mut f = Fault::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            if observed { 0 } else { 10 },
        );
        let cause = Cause { reason: "DisruptionBudget".to_owned(), message, field: String::new() };
        f.details = Some(Details { causes: vec![cause], ..f.details.unwrap_or_default() });
        return Err(f);
    }
    let pod_name = meta(pod, "name");
    let change = json!({"metadata": {"resourceVersion": meta(budget, "resourceVersion")},
        "status": {"disruptionsAllowed": number("disruptionsAllowed") - 1, "disruptedPods": {pod_name: api.now()}}});
    let one = Call {
        user: call.user,
        kind: &kind,
        namespace: call.namespace,
        name: Some(name),
        subresource: Some("status"),
        query: call.query,
        agent: call.agent,
        inner: true,
        warnings: wharf_base::sync::Mutex::default(),
    };
    api.change(&one, &Change::MergePatch(&change)).await.map(drop)
}

/// The shortest and the usual time that a token lasts, in seconds.
const SHORTEST: i64 = 600;
const USUAL: i64 = 3600;

async fn token(server: &Server, call: &Call<'_>, mut request: Value) -> Result<Value, Fault> {
    let name = call.name()?;
    let account = stored::decode(&server.api.get(call, name).await?);
    let ns = meta(&account, "namespace").to_owned();
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(USUAL);
    if seconds < SHORTEST {
        let p = Problem::invalid(
            "spec.expirationSeconds",
            &json!(seconds),
            "may not specify a duration less than 10 minutes",
        );
        return Err(Fault::invalid("authentication.k8s.io", "TokenRequest", name, &[p]));
    }
    let audiences = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => Value::Array(list.clone()),
        _ => json!([server.authenticator.issuer]),
    };
    let now = server.api.now_seconds();
    let mut own =
        json!({"namespace": ns, "serviceaccount": {"name": name, "uid": meta(&account, "uid")}});
    let bound = request["spec"].get("boundObjectRef").cloned().unwrap_or_default();
    if bound.is_object() {
        let (claim, plural) = match bound["kind"].as_str().unwrap_or_default() {
            "Pod" => ("pod", "pods"),
            "Secret" => ("secret", "secrets"),
            "Node" => ("node", "nodes"),
            _ => {
                return Err(Fault::bad_request(format!(
                    "cannot bind token for serviceaccount {name:?} to object {}",
                    bound["kind"]
                )));
            }
        };
        let kind = server.api.kinds.core(plural).ok_or_else(Fault::no_route)?;
        let object_name = bound["name"].as_str().unwrap_or_default();
        let object = server.api.object(&kind, Some(&ns), object_name).await?;
        let object = object.ok_or_else(|| Fault::not_found(kind.about(), object_name))?;
        let uid = bound["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && uid != meta(&object, "uid") {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Fault::conflict(kind.about(), object_name, &why));
        }
        own[claim] = json!({"name": object_name, "uid": meta(&object, "uid")});
    }
    let claims = json!({"aud": audiences, "exp": now + seconds, "iat": now, "nbf": now, "iss": server.authenticator.issuer,
        "jti": crate::random::uid(), "kubernetes.io": own, "sub": format!("system:serviceaccount:{ns}:{name}")});
    let signed = server
        .authenticator
        .keys
        .sign(&claims)
        .ok_or_else(|| Fault::internal("the token could not be signed"))?;
    request["spec"]["audiences"] = audiences;
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["status"] = json!({"token": signed, "expirationTimestamp": wharf_kube::time::format_seconds(now + seconds)});
    set_meta(&mut request, "name", name);
    set_meta(&mut request, "namespace", ns);
    set_meta(&mut request, "creationTimestamp", server.api.now());
    let ty = crate::kinds::known("authentication.TokenRequest");
    Ok(ordered(ty, request))
}

/// Whether an answer may be shown as a table, which these may not.
pub const VIEW: View = View::Whole;
