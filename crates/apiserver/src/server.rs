//! One request from its first byte to its answer: who asks, what for, whether they may, and what comes of it.

use crate::api::{Api, Call};
use crate::audit::{Audit, Trace};
use crate::authn::Authenticator;
use crate::authz::{Attributes, Decision};
use crate::body::{self, Expected};
use crate::delete::Options;
use crate::flow::{Flow, Turn};
use crate::kinds::Hub;
use crate::media::{self, Notation, View};
use crate::metrics::Metrics;
use crate::render;
use crate::request::{self, Query, Route, Target};
use crate::respond::{Answer, is_pretty};
use crate::user::User;
use crate::write::{Change, Written};
use crate::{aggregator, discovery, openapi, random, stored, subresource, virtuals};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_kube::proto;
use wharf_kube::status::Fault;

/// What serves requests.
pub struct Server {
    /// The registry.
    pub api: Api,
    /// Who asks.
    pub authenticator: Authenticator,
    /// Where clients reach it.
    pub address: String,
    /// Where what is done is written down.
    pub audit: Option<Audit>,
    /// How many requests it works on at once.
    pub flow: Flow,
    /// What it counts about itself.
    pub metrics: Metrics,
}

/// A request that was read.
pub struct Incoming {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query, without its question mark.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Who the client's certificate says it is.
    pub certificate: Option<User>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
}

impl Incoming {
    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn agent(&self) -> &str {
        self.header("user-agent").unwrap_or_default()
    }
}

/// The patches that custom resources take.
pub const PATCHES_OF_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// The most bytes that a body may have (3 MiB).
pub const BODY: usize = 3 * 1024 * 1024;

impl Server {
    /// A server that keeps no audit log and has the usual limits.
    pub fn new(api: Api, authenticator: Authenticator, address: String) -> Server {
        Server {
            api,
            authenticator,
            address,
            audit: None,
            flow: Flow::default(),
            metrics: Metrics::default(),
        }
    }

    /// Answers a request. Dropping the future abandons the request; a write that reached the store stays.
    pub async fn handle(&self, r: Incoming) -> Answer {
        let (trace, began) = (Trace::default(), self.api.clock.unix_nanos() / 1000);
        let q = Query::parse(&r.query);
        let pretty = is_pretty(q.as_ref().ok().and_then(|q| q.pretty), r.agent());
        let q_dry = q.as_ref().is_ok_and(|q| q.dry_run);
        let outcome = trace.noting(self.route(&r, q, pretty, &trace)).await;
        let mut answer = outcome.unwrap_or_else(|f| {
            let accept = media::accept(r.header("accept"), true, true).ok();
            Answer::fault(&f, accept, pretty)
        });
        let sorted = trace.flow();
        if !sorted.schema.is_empty() {
            answer.header("x-kubernetes-pf-flowschema-uid", &sorted.schema);
            answer.header("x-kubernetes-pf-prioritylevel-uid", &sorted.level);
        }
        let id = r.header("audit-id").map_or_else(random::uid, str::to_owned);
        answer.header("audit-id", &id);
        let micros = self.api.clock.unix_nanos() / 1000 - began;
        self.metrics.answered(&trace, answer.status.as_u16(), micros, q_dry);
        if let Some(audit) = &self.audit {
            let now = self.api.clock.unix_nanos() / 1000;
            audit.answered(&r, &trace, &answer, &id, (began, now));
        }
        if !answer.headers.contains_key("cache-control") {
            answer.header("cache-control", "no-cache, private");
        }
        answer
    }

    async fn route(
        &self,
        r: &Incoming,
        q: Result<Query, Fault>,
        pretty: bool,
        trace: &Trace,
    ) -> Result<Answer, Fault> {
        let user = self.authenticator.authenticate(&self.api, r).await?;
        trace.user(&user);
        let user = self.impersonated(r, user).await?;
        trace.acts_as(&user);
        let route = request::route(&r.path);
        if let Some(object) = self.elsewhere(&route).await? {
            return self.pass(r, &route, &user, &object, trace).await;
        }
        if let Route::Objects(target) = &route {
            return self.objects(r, q, target, (&user, trace), pretty).await;
        }
        let _turn = self.authorize_path(r, &user, trace).await?;
        q?;
        match route {
            Route::Version => Ok(Answer::json(StatusCode::OK, &version(), true)),
            Route::Health => self.health(r).await,
            Route::Groups { core } => self.groups(r, core, pretty),
            Route::Group(name) => {
                let mut list = discovery::api_groups(&self.api.kinds);
                aggregator::merge_groups(&self.api, &mut list);
                discovery::api_group(&list, &name)
                    .map(|v| document(r, &v, pretty))
                    .ok_or_else(Fault::no_route)
            }
            Route::Resources(gv) => discovery::resources(&self.api.kinds, &gv)
                .map(|v| document(r, &v, pretty))
                .ok_or_else(Fault::no_route),
            Route::OpenApi(rest) => openapi::serve(&self.api.kinds, &rest, r),
            Route::Other if r.path == "/metrics" => crate::metrics::serve(self).await,
            Route::Other => self.other(r),
            Route::Objects(_) => Err(Fault::no_route()),
        }
    }

    /// The object that says another server has what a path leads to.
    async fn elsewhere(&self, route: &Route) -> Result<Option<Value>, Fault> {
        match route {
            Route::Resources(gv) => aggregator::find(&self.api, gv).await,
            Route::Objects(target) => aggregator::find(&self.api, &target.gv).await,
            _ => Ok(None),
        }
    }

    /// Passes a request on to another server, if the client may make it here.
    async fn pass(
        &self,
        r: &Incoming,
        route: &Route,
        user: &User,
        object: &Value,
        trace: &Trace,
    ) -> Result<Answer, Fault> {
        let _turn = match route {
            Route::Objects(t) => {
                let q = Query::parse(&r.query)?;
                let verb = verb(&r.method, t, &q)?;
                let attributes = Attributes { path: &r.path, ..Attributes::of(t, verb) };
                let turn = self.turn(user, &attributes, trace).await?;
                self.authorize(user, &attributes, &t.gv.version, trace).await?;
                turn
            }
            _ => self.authorize_path(r, user, trace).await?,
        };
        aggregator::pass(&self.api, r, user, object).await
    }

    /// Waits until it is a request's turn. Where it was sorted in is told by its answer, whatever that is.
    async fn turn(&self, user: &User, a: &Attributes<'_>, trace: &Trace) -> Result<Turn, Fault> {
        self.flow.enter(&self.api, user, a, |sorted| trace.sorted(sorted)).await
    }

    async fn authorize_path(
        &self,
        r: &Incoming,
        user: &User,
        trace: &Trace,
    ) -> Result<Turn, Fault> {
        let verb = match r.method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let attributes = Attributes { verb, path: &r.path, ..Attributes::default() };
        let turn = self.turn(user, &attributes, trace).await?;
        self.authorize(user, &attributes, "", trace).await?;
        Ok(turn)
    }

    async fn authorize(
        &self,
        user: &User,
        a: &Attributes<'_>,
        version: &str,
        trace: &Trace,
    ) -> Result<(), Fault> {
        let decision = self.api.roles.decide(&self.api, user, a).await;
        let (allowed, why) = match &decision {
            Decision::Allow(why) => (true, why),
            Decision::Deny(why) => (false, why),
        };
        trace.decided(a, version, allowed, why);
        if allowed { Ok(()) } else { Err(a.refusal(user, why)) }
    }

    async fn health(&self, r: &Incoming) -> Result<Answer, Fault> {
        let check = r.path.trim_start_matches('/').split_once('/').map_or("", |(_, c)| c);
        if !matches!(check.trim_end_matches('/'), "" | "ping" | "etcd" | "informer-sync" | "log") {
            return Err(Fault::no_route());
        }
        self.api.store.revision().await.map_err(|e| crate::api::fault(&e))?;
        if r.query.contains("verbose") {
            let name = r.path.trim_start_matches('/').split('/').next().unwrap_or_default();
            return Ok(Answer::text(format!("[+]ping ok\n[+]etcd ok\n{name} check passed\n")));
        }
        Ok(Answer::text("ok"))
    }

    fn groups(&self, r: &Incoming, core: bool, pretty: bool) -> Result<Answer, Fault> {
        let accept = media::accept(r.header("accept"), false, true)?;
        if let View::Discovery(version) = accept.view {
            let mut doc = discovery::aggregated(&self.api.kinds, core, version);
            if !core {
                aggregator::merge_discovery(&self.api, &mut doc);
            }
            let bytes = crate::respond::json_bytes(&doc, pretty);
            let media = format!(
                "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            );
            return Ok(validated(r, &media, bytes));
        }
        let doc = if core {
            discovery::api_versions(&self.address)
        } else {
            let mut list = discovery::api_groups(&self.api.kinds);
            aggregator::merge_groups(&self.api, &mut list);
            list
        };
        Ok(document(r, &doc, pretty))
    }

    fn other(&self, r: &Incoming) -> Result<Answer, Fault> {
        match r.path.as_str() {
            "/" => {
                let mut paths: Vec<String> = vec!["/api".into(), "/api/v1".into(), "/apis".into()];
                for k in self.api.kinds.all().iter().filter(|k| !k.group().is_empty()) {
                    for p in [format!("/apis/{}", k.group()), format!("/apis/{}", k.api_version)] {
                        if !paths.contains(&p) {
                            paths.push(p);
                        }
                    }
                }
                paths.extend(
                    [
                        "/healthz",
                        "/livez",
                        "/metrics",
                        "/openapi/v2",
                        "/openapi/v3",
                        "/readyz",
                        "/version",
                    ]
                    .map(str::to_owned),
                );
                paths.sort();
                Ok(Answer::json(StatusCode::OK, &json!({"paths": paths}), true))
            }
            "/.well-known/openid-configuration" | "/openid/v1/jwks" => {
                self.authenticator.openid(&r.path).ok_or_else(Fault::no_route)
            }
            _ => Err(Fault::no_route()),
        }
    }

    async fn objects(
        &self,
        r: &Incoming,
        q: Result<Query, Fault>,
        t: &Target,
        (user, trace): (&User, &Trace),
        pretty: bool,
    ) -> Result<Answer, Fault> {
        let mut q = q?;
        q.watch |= t.watch;
        let verb = verb(&r.method, t, &q)?;
        let mut attributes = Attributes::of(t, verb);
        attributes.path = &r.path;
        attributes.selector = &q.field_selector;
        let _turn = self.turn(user, &attributes, trace).await?;
        self.authorize(user, &attributes, &t.gv.version, trace).await?;
        let kind = self.api.kinds.find(&t.gv, &t.resource).ok_or_else(Fault::no_route)?;
        // A namespace is an object of the whole cluster, and the one that is below itself.
        let misplaced = match (&t.namespace, kind.resource.namespaced) {
            (None, true) => t.name.is_some() || verb == "create",
            (Some(_), false) => t.resource != "namespaces",
            _ => false,
        };
        if misplaced {
            return Err(Fault::no_route());
        }
        let sub = match t.subresource.as_deref() {
            None => None,
            Some(name) => Some(kind.subresource(name).ok_or_else(Fault::no_route)?.clone()),
        };
        let verbs = sub.as_ref().map_or(&kind.resource.verbs, |s| &s.verbs);
        if !verbs.contains(&verb) {
            return Err(Fault::wrong_method());
        }
        if kind.resource.namespaced && t.namespace.is_none() && verb == "deletecollection" {
            // Only what lies in one namespace is deleted at once.
            let custom = kind.custom.is_some();
            return Err(if custom { Fault::no_route() } else { Fault::wrong_method() });
        }
        let namespace = if kind.resource.namespaced { t.namespace.as_deref() } else { None };
        let call = Call {
            user,
            kind: &kind,
            namespace,
            name: t.name.as_deref(),
            subresource: t.subresource.as_deref(),
            query: &q,
            agent: r.agent(),
            inner: false,
            warnings: Mutex::default(),
        };
        if let Some(old) = kind.custom.as_ref().and_then(|c| c.deprecation.as_ref()) {
            call.warn(old.clone());
        }
        let mut answer = self.act(r, &call, verb, pretty).await?;
        let written = !matches!(verb, "get" | "list" | "watch");
        if written && crate::hooks::is_hook(&kind) {
            crate::hooks::forget(&self.api);
        }
        if written && crate::definitions::is_definition(&kind) {
            // Who defined something finds it served.
            crate::definitions::refresh(&self.api).await?;
        }
        let warnings = std::mem::take(&mut *call.warnings.lock());
        warnings.iter().for_each(|w| answer.warn(w));
        Ok(answer)
    }

    async fn act(
        &self,
        r: &Incoming,
        call: &Call<'_>,
        verb: &str,
        pretty: bool,
    ) -> Result<Answer, Fault> {
        if call.subresource.is_some_and(|s| s != "status") {
            return subresource::serve(self, r, call, verb, pretty).await;
        }
        if !call.kind.resource.stored() {
            return virtuals::serve(self, r, call, pretty).await;
        }
        let tables = matches!(verb, "get" | "list" | "watch");
        let protobuf = call.kind.has_protobuf();
        let accept = media::accept(r.header("accept"), tables || verb != "create", protobuf)?;
        match verb {
            "get" => {
                let kv = self.api.get(call, call.name()?).await?;
                if accept.notation == Notation::Json
                    && accept.view == View::Whole
                    && call.kind.hub == Hub::Own
                    && !pretty
                {
                    let mut text = stored::text(kv.value(), kv.mod_revision());
                    text.push(b'\n');
                    return Ok(Answer::bytes(StatusCode::OK, "application/json", text));
                }
                if (accept.notation, accept.view) == (Notation::Protobuf, View::Whole) {
                    let message = self.api.objects.message(call.kind, &kv);
                    let kind = call.kind;
                    let bytes = proto::seal(&kind.api_version, kind.name(), &message);
                    let media = "application/vnd.kubernetes.protobuf";
                    return Ok(Answer::bytes(StatusCode::OK, media, bytes));
                }
                let object = self.api.seen(call.kind, &kv).await?;
                Ok(self.show(call, accept, StatusCode::OK, &object, pretty))
            }
            "list" => self.list(call, accept, pretty).await,
            "watch" => {
                media::streams(accept, protobuf)?;
                self.watch(call, accept).await
            }
            "create" => {
                let object = self.read_body(r, call, Expected::of(call.kind))?;
                let w = self.api.create(call, object).await?;
                Ok(self.show(call, accept, StatusCode::CREATED, &w.object, pretty))
            }
            "update" => {
                let object = self.read_body(r, call, Expected::of(call.kind))?;
                let w = self.api.change(call, &Change::Replace(object)).await?;
                Ok(self.written(call, accept, &w, pretty))
            }
            "patch" => {
                let w = self.patch(r, call).await?;
                Ok(self.written(call, accept, &w, pretty))
            }
            "delete" => {
                let options = self.delete_options(r, call)?;
                let d = self.api.delete(call, &options).await?;
                if d.is_object {
                    return Ok(self.show(call, accept, StatusCode::OK, &d.answer, pretty));
                }
                Ok(Answer::object(StatusCode::OK, accept, &d.answer, pretty, || {
                    render::sealed(&d.answer)
                }))
            }
            "deletecollection" => {
                let options = self.delete_options(r, call)?;
                let listed = self.api.delete_collection(call, &options).await?;
                self.show_list(call, accept, &listed, pretty).await
            }
            _ => Err(Fault::wrong_method()),
        }
    }

    /// Reads a body that is an object.
    pub fn read_body(
        &self,
        r: &Incoming,
        call: &Call<'_>,
        expected: Expected<'_>,
    ) -> Result<Value, Fault> {
        let notation = media::body(r.header("content-type"))?;
        body::decode(call, &r.body, notation, expected)
    }

    fn delete_options(&self, r: &Incoming, call: &Call<'_>) -> Result<Options, Fault> {
        if r.body.is_empty() {
            return Options::read(call, None);
        }
        let notation = media::body(r.header("content-type"))?;
        let ty = crate::kinds::known("meta.DeleteOptions");
        let value = if notation == Notation::Protobuf {
            let e = proto::open(&r.body).map_err(Fault::bad_request_from)?;
            proto::decode(ty, e.raw).map_err(Fault::bad_request_from)?
        } else {
            body::tree(&r.body, notation)?.value
        };
        let value = wharf_kube::typed::normalize(ty, value, &mut Vec::new())
            .map_err(Fault::bad_request_from)?;
        Options::read(call, Some(&value))
    }

    /// Applies the patch that a request's body is.
    pub async fn patch(&self, r: &Incoming, call: &Call<'_>) -> Result<Written, Fault> {
        let content_type = media::essence(r.header("content-type").unwrap_or_default());
        let json = |bytes: &[u8]| {
            wharf_kube::json::parse(bytes)
                .map(|p| p.value)
                .map_err(|e| Fault::bad_request(format!("error decoding patch: {e}")))
        };
        match content_type.as_str() {
            "application/json-patch+json" => {
                self.api.change(call, &Change::JsonPatch(&json(&r.body)?)).await
            }
            "application/merge-patch+json" => {
                self.api.change(call, &Change::MergePatch(&json(&r.body)?)).await
            }
            "application/strategic-merge-patch+json" if call.kind.custom.is_none() => {
                self.api.change(call, &Change::StrategicPatch(&json(&r.body)?)).await
            }
            "application/apply-patch+yaml" => self.apply(r, call).await,
            _ if call.kind.custom.is_some() => Err(Fault::media_type(PATCHES_OF_CUSTOM)),
            _ => Err(Fault::media_type(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json, application/apply-patch+cbor",
            )),
        }
    }

    async fn apply(&self, r: &Incoming, call: &Call<'_>) -> Result<Written, Fault> {
        check_manager(call)?;
        let tree = body::tree(&r.body, Notation::Yaml)
            .map_err(|f| Fault::bad_request(format!("error decoding YAML: {}", f.message)))?;
        if tree
            .value
            .pointer("/metadata/managedFields")
            .and_then(Value::as_array)
            .is_some_and(|l| !l.is_empty())
        {
            return Err(Fault::bad_request("metadata.managedFields must be nil"));
        }
        let config = body::applied(call, tree)?;
        let given = crate::api::meta(&config, "name");
        let name = call.name()?;
        if !given.is_empty() && given != name {
            return Err(Fault::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        self.api.change(call, &Change::Apply(&config)).await
    }

    /// The user that a request wants to be, if the one it is may be that.
    async fn impersonated(&self, r: &Incoming, user: User) -> Result<User, Fault> {
        let Some(wanted) = crate::authn::impersonation(&r.headers)? else { return Ok(user) };
        for (resource, sub, name) in wanted.checks() {
            let mut a = Attributes { verb: "impersonate", resource, name, ..Attributes::default() };
            if resource == "serviceaccounts" {
                (a.namespace, a.name) = name.split_once('/').unwrap_or(("", name));
            } else if matches!(resource, "uids" | "userextras") {
                a.group = "authentication.k8s.io";
                a.subresource = sub;
            }
            if let Decision::Deny(why) = self.api.roles.decide(&self.api, &user, &a).await {
                return Err(a.refusal(&user, &why));
            }
        }
        Ok(wanted.user())
    }
}

/// A document of discovery in YAML where that is asked for, else in JSON, which every client reads.
fn document(r: &Incoming, value: &Value, pretty: bool) -> Answer {
    let json = media::Accept { notation: Notation::Json, view: View::Whole, stream: false };
    let accept = media::accept(r.header("accept"), false, false).unwrap_or(json);
    Answer::object(StatusCode::OK, accept, value, pretty, Vec::new)
}

/// A document with a validator: 304 where the client has it already.
pub fn validated(r: &Incoming, media: &str, bytes: Vec<u8>) -> Answer {
    let etag = discovery::etag(&bytes);
    let known = r.header("if-none-match").is_some_and(|h| h.split(',').any(|t| t.trim() == etag));
    let mut answer = if known {
        Answer::bytes(StatusCode::NOT_MODIFIED, media, Bytes::new())
    } else {
        Answer::bytes(StatusCode::OK, media, bytes)
    };
    answer.header("etag", &etag);
    answer.header("vary", "Accept");
    answer.header("cache-control", "public");
    answer
}

/// The verb of a request on objects, as authorization names it.
fn verb(method: &Method, t: &Target, q: &Query) -> Result<&'static str, Fault> {
    Ok(match (method, t.name.is_some()) {
        (&Method::GET | &Method::HEAD, true) if q.watch && t.subresource.is_none() => "watch",
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) if q.watch => "watch",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return Err(Fault::wrong_method()),
    })
}

/// What `/version` says: the release whose API this is, and that it is wharf's.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+wharf", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"), ".", env!("CARGO_PKG_VERSION_PATCH")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64")
    })
}

/// Shared by everything that serves.
pub type Shared = Arc<Server>;

/// Whoever applies says who it is.
pub(crate) fn check_manager(call: &Call<'_>) -> Result<(), Fault> {
    if call.query.field_manager.is_empty() {
        let why = "is required for apply patch";
        let p = wharf_kube::status::Problem::required("fieldManager", why);
        return Err(Fault::invalid("meta.k8s.io", "PatchOptions", "", &[p]));
    }
    Ok(())
}
