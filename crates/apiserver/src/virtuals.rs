//! Kinds that are answered rather than kept: reviews of access and identity, bindings, component states.

use crate::api::{Call, meta};
use crate::authz::{Attributes, Decision};
use crate::body::Expected;
use crate::media::{self, View};
use crate::render::{self, TableOptions};
use crate::respond::Answer;
use crate::server::{Incoming, Server};
use crate::user::User;
use http::StatusCode;
use serde_json::{Value, json};
use wharf_kube::managed::{self, Writer};
use wharf_kube::status::{Fault, Problem};

/// Answers a request on a kind that is not kept.
pub async fn serve(
    server: &Server,
    r: &Incoming,
    call: &Call<'_>,
    pretty: bool,
) -> Result<Answer, Fault> {
    if call.kind.name() == "ComponentStatus" {
        return component(server, r, call, pretty);
    }
    let accept = media::accept(r.header("accept"), false, true)?;
    let mut object = server.read_body(r, call, Expected::of(call.kind))?;
    if call.kind.name() == "Binding" {
        let name = meta(&object, "name").to_owned();
        crate::subresource::bind(server, call, &name, object).await?;
        return Ok(Answer::json(
            StatusCode::CREATED,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            pretty,
        ));
    }
    track(server, call, &mut object);
    let status = match call.kind.name() {
        "SelfSubjectAccessReview" => access(server, call.user, &object["spec"]).await,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let user = subject(call, &object)?;
            access(server, &user, &object["spec"]).await
        }
        "SelfSubjectRulesReview" => rules(server, call, &object).await?,
        "SelfSubjectReview" => json!({"userInfo": info(call.user)}),
        "TokenReview" => token(server, &object["spec"]).await,
        _ => return Err(Fault::wrong_method()),
    };
    object["status"] = status;
    let object = crate::write::ordered(call.kind.ty(), object);
    Ok(server.show(call, accept, StatusCode::CREATED, &object, pretty))
}

fn track(server: &Server, call: &Call<'_>, object: &mut Value) {
    let (manager, now) = (call.manager(), server.api.now());
    let writer = Writer {
        manager: &manager,
        api_version: &call.kind.api_version,
        subresource: "",
        now: &now,
    };
    managed::update(&wharf_kube::typed::zero(call.kind.ty()), object, call.kind.shape(), &writer);
}

fn component(
    server: &Server,
    r: &Incoming,
    call: &Call<'_>,
    pretty: bool,
) -> Result<Answer, Fault> {
    let accept = media::accept(r.header("accept"), true, false)?;
    // The store answered, or the request would not have come this far.
    let all = ["etcd-0"].map(|name| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    });
    if let Some(name) = call.name {
        let one = all.iter().find(|o| meta(o, "name") == name);
        let one = one.ok_or_else(|| Fault::not_found(call.about(), name))?;
        return Ok(server.show(call, accept, StatusCode::OK, one, pretty));
    }
    if accept.view == View::Table {
        let rows: Vec<&Value> = all.iter().collect();
        let options = TableOptions::of(call, server.api.now_seconds());
        let table = render::table(call.kind, &rows, &json!({}), &options);
        return Ok(Answer::json(StatusCode::OK, &table, pretty));
    }
    let list =
        json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all});
    Ok(Answer::json(StatusCode::OK, &list, pretty))
}

/// Whom a review of access is about.
fn subject(call: &Call<'_>, object: &Value) -> Result<User, Fault> {
    let spec = &object["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut problems = Vec::new();
    if spec["user"].as_str().unwrap_or_default().is_empty() && texts(&spec["groups"]).is_empty() {
        problems.push(Problem::invalid(
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        ));
    }
    let both = spec["resourceAttributes"].is_object() == spec["nonResourceAttributes"].is_object();
    if both {
        problems.push(Problem::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    if let Some(ns) = call.namespace {
        let given = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
        if given != ns {
            problems.push(Problem::invalid(
                "spec.resourceAttributes.namespace",
                &json!(given),
                "must match metadata.namespace",
            ));
        }
    }
    if !problems.is_empty() {
        return Err(Fault::invalid(call.kind.group(), call.kind.name(), "", &problems));
    }
    Ok(User {
        name: text(&spec["user"]),
        uid: text(&spec["uid"]),
        groups: texts(&spec["groups"]),
        ..User::default()
    })
}

async fn access(server: &Server, user: &User, spec: &Value) -> Value {
    fn text<'a>(v: &'a Value, k: &str) -> &'a str {
        v[k].as_str().unwrap_or_default()
    }
    let (res, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let a = if path.is_object() {
        Attributes { verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() }
    } else {
        Attributes {
            verb: text(res, "verb"),
            group: text(res, "group"),
            resource: text(res, "resource"),
            subresource: text(res, "subresource"),
            namespace: text(res, "namespace"),
            name: text(res, "name"),
            ..Attributes::default()
        }
    };
    match server.api.roles.decide(&server.api, user, &a).await {
        Decision::Allow(why) if why.is_empty() => json!({"allowed": true}),
        Decision::Allow(why) => json!({"allowed": true, "reason": why}),
        Decision::Deny(why) if why.is_empty() => json!({"allowed": false}),
        Decision::Deny(why) => json!({"allowed": false, "reason": why}),
    }
}

async fn rules(server: &Server, call: &Call<'_>, object: &Value) -> Result<Value, Fault> {
    let ns = object["spec"]["namespace"].as_str().unwrap_or_default();
    if ns.is_empty() {
        return Err(Fault::bad_request("no namespace on request"));
    }
    let all = server.api.roles.rules(&server.api, call.user, ns).await?;
    let (paths, resources): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|r| r.get("nonResourceURLs").is_some());
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

fn info(user: &User) -> Value {
    let mut out = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

async fn token(server: &Server, spec: &Value) -> Value {
    let audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let token = spec["token"].as_str().unwrap_or_default();
    match server.authenticator.token(&server.api, token, &audiences).await {
        Some(v) => json!({"authenticated": true, "user": info(&v.user), "audiences": v.audiences}),
        None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
    }
}
