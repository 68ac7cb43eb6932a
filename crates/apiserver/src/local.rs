//! The cluster as its own parts reach it: the same calls as through the door, without the door.

use crate::api::{Api, Call};
use crate::authz::{Attributes, Decision};
use crate::kinds::Kind;
use crate::request::{self, Query};
use crate::respond::Content;
use crate::server::{Incoming, Server};
use crate::user::User;
use crate::write::Change as Edit;
use crate::{authn, delete, stored, subresource};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_client::{
    At, Change, Changes, Cluster, Deletion, Item, Object, Propagation, Question, Resource, Stored,
    Write,
};
use wharf_etcd::{EventKind, KeyRange, Kv, Range, Watch, WatchItem, WatchRequest};
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::Fault;

/// A server, reached by one of its own parts as some user.
pub struct Local {
    server: Arc<Server>,
    user: User,
    agent: String,
    query: Query,
}

impl Local {
    /// Reaches `server` as the user of this name.
    pub fn new(server: Arc<Server>, name: &str) -> Local {
        let user = identity(name);
        let agent = name.rsplit(':').next().unwrap_or_default().to_owned();
        let query = Query { field_manager: agent.clone(), ..Query::default() };
        Local { server, user, agent, query }
    }

    fn kind(&self, resource: &Resource) -> Result<Arc<Kind>, Fault> {
        let gv = GroupVersion::parse(&resource.api_version);
        self.server.api.kinds.find(&gv, &resource.plural).ok_or_else(Fault::no_route)
    }

    fn call<'a>(&'a self, kind: &'a Arc<Kind>, at: At<'a>, sub: Option<&'a str>) -> Call<'a> {
        Call {
            user: &self.user,
            kind,
            namespace: Some(at.namespace).filter(|ns| !ns.is_empty()),
            name: Some(at.name).filter(|n| !n.is_empty()),
            subresource: sub,
            query: &self.query,
            agent: &self.agent,
            inner: false,
            warnings: Mutex::default(),
        }
    }

    async fn allowed(&self, call: &Call<'_>, verb: &'static str) -> Result<(), Fault> {
        let a = Attributes {
            verb,
            group: call.kind.group(),
            resource: call.kind.resource.plural,
            subresource: call.subresource.unwrap_or_default(),
            namespace: call.namespace.unwrap_or_default(),
            name: call.name.unwrap_or_default(),
            ..Attributes::default()
        };
        match self.decide(&self.user, &a).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) => Err(a.refusal(&self.user, &why)),
        }
    }

    async fn decide(&self, user: &User, a: &Attributes<'_>) -> Decision {
        self.server.api.roles.decide(&self.server.api, user, a).await
    }
}

/// The user of a name, in the groups that an authenticator would give it.
fn identity(name: &str) -> User {
    if let Some((ns, account)) =
        name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
    {
        return authn::account_user(ns, account);
    }
    if name == "system:apiserver" {
        return User::server();
    }
    let groups =
        if name.starts_with("system:node:") { vec!["system:nodes".to_owned()] } else { vec![] };
    User::new(name, groups)
}

impl Cluster for Local {
    fn as_user(&self, name: &str) -> Arc<dyn Cluster> {
        Arc::new(Local::new(Arc::clone(&self.server), name))
    }

    fn now(&self) -> i64 {
        self.server.api.now_seconds()
    }

    fn follow(&self) -> BoxFuture<'_, Result<Box<dyn Changes>, Fault>> {
        Box::pin(
            async move { Ok(Box::new(Stream::open(&self.server.api).await?) as Box<dyn Changes>) },
        )
    }

    fn get<'a>(&'a self, at: At<'a>) -> BoxFuture<'a, Result<Object, Fault>> {
        Box::pin(async move {
            let kind = self.kind(at.resource)?;
            let call = self.call(&kind, at, None);
            self.allowed(&call, "get").await?;
            let kv = self.server.api.get(&call, at.name).await?;
            Ok(self.server.api.objects.shown(&kind, &kv))
        })
    }

    fn create<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        object: Value,
    ) -> BoxFuture<'a, Result<Object, Fault>> {
        Box::pin(async move {
            let kind = self.kind(resource)?;
            let call = self.call(&kind, At { resource, namespace, name: "" }, None);
            self.allowed(&call, "create").await?;
            let object = kind.normalize(object, &mut Vec::new()).map_err(Fault::internal)?;
            Ok(Arc::new(self.server.api.create(&call, object).await?.object))
        })
    }

    fn write<'a>(
        &'a self,
        at: At<'a>,
        subresource: Option<&'a str>,
        write: Write,
    ) -> BoxFuture<'a, Result<Object, Fault>> {
        Box::pin(async move {
            let kind = self.kind(at.resource)?;
            let call = self.call(&kind, at, subresource);
            let verb = if matches!(write, Write::Replace(_)) { "update" } else { "patch" };
            self.allowed(&call, verb).await?;
            let edit = match &write {
                Write::Replace(v) => Edit::Replace(
                    kind.normalize(v.clone(), &mut Vec::new()).map_err(Fault::internal)?,
                ),
                Write::Merge(v) => Edit::MergePatch(v),
                Write::Strategic(v) => Edit::StrategicPatch(v),
                Write::Json(v) => Edit::JsonPatch(v),
            };
            Ok(Arc::new(self.server.api.change(&call, &edit).await?.object))
        })
    }

    fn delete<'a>(&'a self, at: At<'a>, how: Deletion) -> BoxFuture<'a, Result<i64, Fault>> {
        Box::pin(async move {
            let kind = self.kind(at.resource)?;
            let call = self.call(&kind, at, None);
            self.allowed(&call, "delete").await?;
            let options = delete::Options {
                uid: how.uid,
                resource_version: how.revision.map(|r| r.to_string()),
                grace_period: how.grace,
                propagation: how.propagation.map(|p| match p {
                    Propagation::Background => request::Propagation::Background,
                    Propagation::Foreground => request::Propagation::Foreground,
                }),
                ..delete::Options::default()
            };
            Ok(self.server.api.delete(&call, &options).await?.revision.0)
        })
    }

    fn bind<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        node: &'a str,
    ) -> BoxFuture<'a, Result<i64, Fault>> {
        Box::pin(async move {
            let resource = &wharf_client::resources::PODS;
            let kind = self.kind(resource)?;
            let call = self.call(&kind, At { resource, namespace, name: pod }, Some("binding"));
            self.allowed(&call, "create").await?;
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
                "target": {"kind": "Node", "name": node}});
            let bound = subresource::bind(&self.server, &call, pod, binding).await?;
            Ok(crate::api::meta(&bound, "resourceVersion").parse().unwrap_or(0))
        })
    }

    fn lookup(&self, api_version: &str, kind: &str) -> Option<(Resource, bool)> {
        let gv = GroupVersion::parse(api_version);
        let all = self.server.api.kinds.all();
        // An object is known by the version in which it is kept; a reference may name another.
        let mut group = all.iter().filter(|k| k.resource.gv.group == gv.group && k.name() == kind);
        let found = group.find(|k| k.resource.stored())?;
        let (version, plural) = (found.api_version.clone(), found.resource.plural.to_owned());
        let resource = Resource { api_version: version.into(), plural: plural.into() };
        Some((resource, found.resource.namespaced))
    }

    fn ask<'a>(
        &'a self,
        method: &'a str,
        path: &'a str,
        query: &'a [(&'a str, &'a str)],
        body: Value,
    ) -> BoxFuture<'a, Result<Value, Fault>> {
        Box::pin(async move {
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", http::HeaderValue::from_static("application/json"));
            if let Ok(agent) = http::HeaderValue::from_str(&self.agent) {
                headers.insert("user-agent", agent);
            }
            let pairs = query.iter().map(|(k, v)| format!("{k}={}", encoded(v)));
            let incoming = Incoming {
                method: method.parse().map_err(Fault::internal)?,
                path: path.to_owned(),
                query: pairs.collect::<Vec<_>>().join("&"),
                headers,
                body: if body.is_null() { Bytes::new() } else { body.to_string().into() },
                certificate: Some(self.user.clone()),
                peer: None,
            };
            let answer = self.server.handle(incoming).await;
            let bytes = match answer.body {
                Content::Whole(bytes) | Content::Ended(bytes) => bytes,
                // Another API server's answer.
                Content::Passed(body) => {
                    let all = Limited::new(body, LONGEST).collect().await;
                    all.map_err(Fault::internal)?.to_bytes()
                }
                Content::Stream(_) => return Err(Fault::internal("a stream is no document")),
            };
            let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if answer.status.is_success() {
                return Ok(document);
            }
            let told = document["message"].as_str().map(str::to_owned);
            let told = told.unwrap_or_else(|| answer.status.to_string());
            Err(Fault::answered(answer.status.as_u16(), told))
        })
    }

    fn account_token(&self, claims: &Value) -> Option<String> {
        // Whoever can write a Secret's token could be anybody: that is for the server's own parts.
        let own = self.user.name == "system:kube-controller-manager";
        own.then(|| self.server.authenticator.legacy(claims)).flatten()
    }

    fn may<'a>(&'a self, q: Question<'a>) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move {
            let asked = Attributes {
                verb: "create",
                group: "authorization.k8s.io",
                resource: "subjectaccessreviews",
                ..Attributes::default()
            };
            if let Decision::Deny(why) = self.decide(&self.user, &asked).await {
                return Err(asked.refusal(&self.user, &why));
            }
            let groups = q.groups.iter().map(|g| (*g).to_owned()).collect();
            let user = User { name: q.user.to_owned(), groups, ..User::default() };
            let a = Attributes {
                verb: q.verb,
                group: q.group,
                resource: q.resource,
                subresource: q.subresource,
                ..Attributes::default()
            };
            Ok(matches!(self.decide(&user, &a).await, Decision::Allow(_)))
        })
    }
}

/// The longest answer of another API server that is read (32 MiB).
const LONGEST: usize = 32 << 20;

/// A text as it stands in a query.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

/// Every object's prefix and the kind that it is stored as.
const ROOT: &str = "/registry/";
const CUSTOM: &[u8] = b"/registry/apiextensions.k8s.io/";
/// Objects handed out at once at the start.
const PIECE: usize = 500;

/// All of the store, then its changes.
struct Stream {
    api: Api,
    kinds: HashMap<String, (Arc<Kind>, Arc<Resource>)>,
    begin: std::vec::IntoIter<Kv>,
    begun: Option<i64>,
    watch: Watch,
}

impl Stream {
    async fn open(api: &Api) -> Result<Stream, Fault> {
        let keys = KeyRange::prefix(ROOT);
        let all =
            api.store.range(Range::new(keys.clone())).await.map_err(|e| crate::api::fault(&e))?;
        let request = WatchRequest::new(keys).from(all.revision.next()).previous();
        let watch = api.store.watch(request).await.map_err(|e| crate::api::fault(&e))?;
        let mut stream = Stream {
            api: api.clone(),
            kinds: HashMap::new(),
            begin: all.kvs.into_iter(),
            begun: Some(all.revision.0),
            watch,
        };
        stream.learn();
        Ok(stream)
    }

    /// Reads which kinds there are.
    fn learn(&mut self) {
        let kinds = self.api.kinds.all();
        let stored = kinds.into_iter().filter(|k| k.resource.stored() && k.keeps());
        let entry = |k: Arc<Kind>| {
            let resource = Arc::new(Resource {
                api_version: k.api_version.clone().into(),
                plural: k.resource.plural.to_owned().into(),
            });
            (k.prefix(), (k, resource))
        };
        self.kinds = stored.map(entry).collect();
    }

    /// The resource that a key belongs to; nothing for keys that are no objects.
    fn resource(&self, key: &[u8]) -> Option<Arc<Resource>> {
        let text = std::str::from_utf8(key).ok()?;
        let slashes: Vec<usize> = text.match_indices('/').map(|(i, _)| i).skip(2).take(2).collect();
        let found = slashes.iter().rev().find_map(|i| self.kinds.get(&text[..=*i]));
        found.map(|(_, resource)| Arc::clone(resource))
    }

    fn change(&self, kv: &Kv) -> Option<Change> {
        let resource = self.resource(kv.key())?;
        let object = Arc::new(stored::lean(kv, kv.mod_revision()));
        Some(Change { resource, object, stored: Some(Arc::new(InStore(kv.clone()))), gone: false })
    }

    fn deletion(&self, kv: &Kv, previous: Option<&Kv>) -> Option<Change> {
        let resource = self.resource(kv.key())?;
        let object = match previous {
            Some(previous) => stored::lean(previous, kv.mod_revision()),
            None => bare(kv.key()),
        };
        Some(Change { resource, object: Arc::new(object), stored: None, gone: true })
    }
}

/// An object that loops do not keep: a pointer to what the store has.
#[derive(Debug)]
struct InStore(Kv);

impl Stored for InStore {
    fn object(&self) -> Object {
        Arc::new(stored::lean(&self.0, self.0.mod_revision()))
    }
}

/// What can be said of an object whose last version is compacted: its place.
fn bare(key: &[u8]) -> Value {
    let text = String::from_utf8_lossy(key);
    let mut parts = text.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let namespace = parts.next().unwrap_or_default();
    json!({"metadata": {"name": name, "namespace": namespace}})
}

impl Changes for Stream {
    fn next(&mut self) -> BoxFuture<'_, Result<Item, Fault>> {
        Box::pin(async move {
            let piece: Vec<Kv> = self.begin.by_ref().take(PIECE).collect();
            if !piece.is_empty() {
                let changes: Vec<Change> = piece.iter().filter_map(|kv| self.change(kv)).collect();
                return Ok(Item::Changes { revision: 0, changes });
            }
            if let Some(revision) = self.begun.take() {
                return Ok(Item::Synced(revision));
            }
            let item = self.watch.next().await.map_err(|e| crate::api::fault(&e))?;
            let (through, events) = match item {
                WatchItem::Events { through, events } => (through, events),
                WatchItem::Progress(through) => {
                    return Ok(Item::Changes { revision: through.0, changes: Vec::new() });
                }
            };
            let mut changes = Vec::with_capacity(events.len());
            for e in events.iter() {
                if e.kv.key().starts_with(CUSTOM) {
                    self.learn();
                }
                changes.extend(match e.kind {
                    EventKind::Put => self.change(&e.kv),
                    EventKind::Delete => self.deletion(&e.kv, e.previous.as_ref()),
                });
            }
            Ok(Item::Changes { revision: through.0, changes })
        })
    }
}
