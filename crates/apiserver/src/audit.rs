//! The audit log: who did what, as the policy says how much of it is kept, one JSON object a line.

mod policy;

pub use policy::{Level, Policy, PolicyError};

use crate::authz::Attributes;
use crate::flow::Sorted;
use crate::respond::{Answer, Content};
use crate::server::Incoming;
use crate::user::User;
use policy::{Asked, Matched};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::sync::Arc;
use wharf_base::sync::Mutex;
use wharf_kube::time;

/// Writes what the policy wants kept.
pub struct Audit {
    policy: Policy,
    out: Mutex<Box<dyn Write + Send>>,
}

/// What is known of a request so far.
#[derive(Debug, Default)]
pub struct Trace {
    known: Mutex<Known>,
    notes: Notes,
}

/// What parts of the server note of a request, by keys; lists are written as one text.
type Notes = Arc<Mutex<Map<String, Value>>>;

tokio::task_local! {
    /// The notes of the request that is being answered.
    static NOTES: Notes;
}

/// Notes something of the request that is being answered; values of one key are joined.
pub fn note(key: &str, value: &str) {
    let add = |notes: &Notes| {
        let mut notes = notes.lock();
        let next = match notes.get(key).and_then(Value::as_str) {
            Some(old) if old != value => format!("{old}, {value}"),
            _ => value.to_owned(),
        };
        notes.insert(key.to_owned(), json!(next));
    };
    // Outside of a request there is nobody who would read it.
    _ = NOTES.try_with(add);
}

/// Adds to a list of the request that is being answered.
pub fn list(key: &str, value: Value) {
    let add = |notes: &Notes| {
        let mut notes = notes.lock();
        let list = notes.entry(key).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(value);
        }
    };
    _ = NOTES.try_with(add);
}

/// What a request asked for, in short.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Summary {
    /// The verb, as authorization names it.
    pub verb: String,
    /// The group; empty for core and for paths without objects.
    pub group: String,
    /// The version.
    pub version: String,
    /// The resource; empty for paths without objects.
    pub resource: String,
    /// What is below the object.
    pub subresource: String,
    /// How much it is about: `resource`, `namespace` or `cluster`, or nothing for paths without objects.
    pub scope: &'static str,
}

#[derive(Debug, Default, Clone)]
struct Known {
    user: Option<User>,
    impersonated: Option<User>,
    verb: String,
    object: Option<Value>,
    allowed: Option<(bool, String)>,
    sorted: Sorted,
}

impl Trace {
    /// Answers a request; what is noted meanwhile is kept here.
    pub async fn noting<T>(&self, answer: impl Future<Output = T>) -> T {
        NOTES.scope(Arc::clone(&self.notes), answer).await
    }

    /// The request comes from this user.
    pub fn user(&self, user: &User) {
        self.known.lock().user = Some(user.clone());
    }

    /// It acts as this user.
    pub fn acts_as(&self, user: &User) {
        let mut known = self.known.lock();
        if known.user.as_ref() != Some(user) {
            known.impersonated = Some(user.clone());
        }
    }

    /// It belongs to this schema and level, which its answer tells, whatever becomes of it.
    pub fn sorted(&self, sorted: Sorted) {
        self.known.lock().sorted = sorted;
    }

    /// The schema and level that it belongs to; empty before they are known.
    pub fn flow(&self) -> Sorted {
        self.known.lock().sorted.clone()
    }

    /// It wants this, and was allowed to or not.
    pub fn decided(&self, a: &Attributes<'_>, version: &str, allowed: bool, why: &str) {
        let mut known = self.known.lock();
        a.verb.clone_into(&mut known.verb);
        known.allowed = Some((allowed, why.to_owned()));
        if a.resource.is_empty() {
            return;
        }
        let mut object = Map::new();
        for (key, text) in [
            ("resource", a.resource),
            ("namespace", a.namespace),
            ("name", a.name),
            ("apiGroup", a.group),
            ("apiVersion", version),
            ("subresource", a.subresource),
        ] {
            if !text.is_empty() {
                object.insert(key.to_owned(), text.into());
            }
        }
        known.object = Some(Value::Object(object));
    }
}

impl Trace {
    /// What was asked for; nothing where the request was not understood so far.
    pub fn summary(&self) -> Option<Summary> {
        let known = self.known.lock();
        let (allowed, _) = known.allowed.as_ref()?;
        // Who may nothing does not decide what is counted either.
        let object = known.object.as_ref().filter(|_| *allowed);
        let text = |k: &str| object.and_then(|o| o[k].as_str()).unwrap_or_default();
        let scope = match object {
            None => "",
            Some(_) if !text("name").is_empty() => "resource",
            Some(_) if !text("namespace").is_empty() => "namespace",
            Some(_) => "cluster",
        };
        Some(Summary {
            verb: known.verb.clone(),
            group: text("apiGroup").to_owned(),
            version: text("apiVersion").to_owned(),
            resource: text("resource").to_owned(),
            subresource: text("subresource").to_owned(),
            scope,
        })
    }
}

impl Audit {
    /// Writes to `out` what `policy` wants kept.
    pub fn new(policy: Policy, out: Box<dyn Write + Send>) -> Audit {
        Audit { policy, out: Mutex::new(out) }
    }

    /// A request was answered; the times are when it came and when it was answered, in microseconds since 1970.
    pub fn answered(
        &self,
        r: &Incoming,
        trace: &Trace,
        answer: &Answer,
        id: &str,
        (began, now): (i64, i64),
    ) {
        let known = trace.known.lock().clone();
        let nobody = User::anonymous();
        let user = known.user.as_ref().unwrap_or(&nobody);
        let object = known.object.as_ref();
        let text = |k: &str| object.and_then(|o| o[k].as_str()).unwrap_or_default();
        let asked = Asked {
            user,
            verb: &known.verb,
            path: &r.path,
            group: text("apiGroup"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
        };
        let matched = self.policy.judge(&asked);
        let streams = matches!(answer.body, Content::Stream(_));
        let stage = if streams { "ResponseStarted" } else { "ResponseComplete" };
        let stages = [("RequestReceived", began), (stage, now)];
        for (stage, at) in stages {
            if matched.level == Level::None || matched.omits(stage) {
                continue;
            }
            let mut event = self.event(r, &known, user, id, &matched);
            event["stage"] = json!(stage);
            event["requestReceivedTimestamp"] = json!(time::format_micros(began));
            event["stageTimestamp"] = json!(time::format_micros(at));
            if stage != "RequestReceived" {
                complete(&mut event, r, answer, &known, &matched);
                for (key, v) in &*trace.notes.lock() {
                    let text = v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                    event["annotations"][key] = json!(text);
                }
            }
            self.write(&event);
        }
    }

    fn event(
        &self,
        r: &Incoming,
        known: &Known,
        user: &User,
        id: &str,
        matched: &Matched,
    ) -> Value {
        let query = if r.query.is_empty() { String::new() } else { format!("?{}", r.query) };
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": matched.level.name(),
            "auditID": id, "stage": "", "requestURI": format!("{}{query}", r.path), "verb": known.verb,
            "user": who(user)});
        if let Some(user) = &known.impersonated {
            event["impersonatedUser"] = who(user);
        }
        if let Some(peer) = r.peer {
            event["sourceIPs"] = json!([peer.ip().to_string()]);
        }
        if let Some(agent) = r.header("user-agent") {
            event["userAgent"] = json!(agent);
        }
        if let Some(object) = &known.object {
            event["objectRef"] = object.clone();
        }
        event
    }

    fn write(&self, event: &Value) {
        let mut out = self.out.lock();
        let line = format!("{event}\n");
        if let Err(e) = out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            tracing::error!(error = %e, "the audit log could not be written");
        }
    }
}

fn who(user: &User) -> Value {
    let mut out = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// Adds what is known only when the answer is: the status, the decision, and the bodies where they are wanted.
fn complete(event: &mut Value, r: &Incoming, answer: &Answer, known: &Known, matched: &Matched) {
    event["responseStatus"] = json!({"metadata": {}, "code": answer.status.as_u16()});
    let body = match &answer.body {
        Content::Whole(bytes) => {
            serde_json::from_slice::<Value>(bytes).ok().or_else(|| sealed_status(bytes))
        }
        _ => None,
    };
    if let Some(status) = body.as_ref().filter(|b| b["kind"] == "Status") {
        for field in ["status", "message", "reason"] {
            if let Some(v) = status.get(field) {
                event["responseStatus"][field] = v.clone();
            }
        }
    }
    if let Some((allowed, why)) = &known.allowed {
        event["annotations"] = json!({"authorization.k8s.io/decision": if *allowed { "allow" } else { "forbid" },
            "authorization.k8s.io/reason": why});
    }
    let strip = |mut v: Value| {
        if matched.omit_managed_fields
            && let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut)
        {
            m.shift_remove("managedFields");
        }
        v
    };
    if matched.level >= Level::Request
        && let Some(object) = sent(r)
    {
        event["requestObject"] = strip(object);
    }
    if let Some(body) = body.filter(|_| matched.level >= Level::RequestResponse) {
        event["responseObject"] = strip(body);
    }
}

/// A refusal that was answered in protobuf.
fn sealed_status(bytes: &[u8]) -> Option<Value> {
    let envelope = wharf_kube::proto::open(bytes).ok().filter(|e| e.kind == "Status")?;
    let status = wharf_kube::proto::decode(crate::kinds::known("meta.Status"), envelope.raw);
    let mut status = status.ok()?;
    status["kind"] = json!("Status");
    Some(status)
}

/// The body of a request as a tree, where it is one of the built-in kinds or no protobuf.
fn sent(r: &Incoming) -> Option<Value> {
    let notation = crate::media::essence(r.header("content-type").unwrap_or_default());
    if r.body.is_empty() {
        return None;
    }
    if !notation.contains("protobuf") {
        return wharf_kube::yaml::parse(&r.body).ok().map(|p| p.value);
    }
    let envelope = wharf_kube::proto::open(&r.body).ok()?;
    let all = wharf_kube::resources::builtin();
    let gv = wharf_kube::resources::GroupVersion::parse(&envelope.api_version);
    let kind = all.iter().find(|k| k.gv == gv && k.kind == envelope.kind)?;
    let mut object = wharf_kube::proto::decode(kind.ty, envelope.raw).ok()?;
    object["kind"] = json!(envelope.kind);
    object["apiVersion"] = json!(envelope.api_version);
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_in_protobuf_is_read() {
        let f = wharf_kube::status::Fault::unknown("no");
        let status = sealed_status(&crate::render::sealed(&f.to_value())).unwrap();
        assert_eq!((&status["message"], &status["code"]), (&json!("no"), &json!(500)));
        assert!(sealed_status(b"{}").is_none());
    }
}
