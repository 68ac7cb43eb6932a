//! Deletion: at once, gracefully, or when the last finalizer is gone.

use crate::api::{Api, Call, fault, finalizers, is_deleting, meta, set_meta};
use crate::list::Listed;
use crate::request::Propagation;
use crate::write::has_spec_finalizers;
use crate::{addresses, admission, definitions, hooks, stored, strategy};
use bytes::Bytes;
use serde_json::{Value, json};
use wharf_etcd::{Compare, Delete, KeyRange, Kv, Op, Put, Revision, Txn};
use wharf_kube::status::{self, Fault};
use wharf_kube::time;

/// `DeleteOptions`, from body and query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Seconds that the object may take to end.
    pub grace_period: Option<i64>,
    /// What becomes of what it owns.
    pub propagation: Option<Propagation>,
    /// It must have this uid.
    pub uid: Option<String>,
    /// It must have this version.
    pub resource_version: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
}

/// What a deletion answers with.
#[derive(Debug)]
pub struct Deleted {
    /// A `Status`, or the object.
    pub answer: Value,
    /// Whether the answer is the object, in the version of the request.
    pub is_object: bool,
    /// The revision of the deletion, or of what was marked before.
    pub revision: Revision,
}

/// The finalizers by which the garbage collector does what a deletion asked for.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 10;

/// What is to happen to one object.
enum Step {
    Gone,
    Mark(Value),
    Nothing(Value),
}

impl Options {
    /// Reads a `DeleteOptions` object on top of what the query says.
    pub fn read(call: &Call<'_>, body: Option<&Value>) -> Result<Options, Fault> {
        let q = call.query;
        let mut o = Options {
            grace_period: q.grace_period,
            propagation: q.propagation,
            dry_run: q.dry_run,
            ..Options::default()
        };
        let Some(b) = body else { return Ok(o) };
        if let Some(g) = b["gracePeriodSeconds"].as_i64() {
            o.grace_period = Some(g);
        }
        if let Some(p) = b["propagationPolicy"].as_str() {
            o.propagation = Some(crate::request::propagation(p)?);
        } else if let Some(orphan) = b["orphanDependents"].as_bool() {
            o.propagation =
                Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        o.uid = b.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned);
        o.resource_version =
            b.pointer("/preconditions/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        let all = b["dryRun"].as_array().is_some_and(|d| d.iter().any(|v| v == "All"));
        o.dry_run |= all;
        Ok(o)
    }
}

impl Api {
    /// Deletes one object.
    pub async fn delete(&self, call: &Call<'_>, options: &Options) -> Result<Deleted, Fault> {
        let name = call.name()?;
        warn_of_orphans(call, options);
        for _ in 0..TRIES {
            let kv = self.read(&call.key(name)).await?;
            let kv = kv.ok_or_else(|| Fault::not_found(call.about(), name))?;
            if let Some(done) = self.delete_once(call, options, &kv).await? {
                return Ok(done);
            }
        }
        Err(Fault::stale(call.about(), name))
    }

    async fn delete_once(
        &self,
        call: &Call<'_>,
        options: &Options,
        kv: &Kv,
    ) -> Result<Option<Deleted>, Fault> {
        let object = stored::decode(kv);
        preconditions(call, options, &object)?;
        let seen = self.read_stored(call.kind, object.clone()).await?;
        hooks::validate(self, call, None, Some(&seen)).await?;
        admission::validate(self, call, None, Some(&object)).await?;
        let step = self.plan(call, options, &object);
        let key = Bytes::copy_from_slice(kv.key());
        let op = match &step {
            Step::Nothing(_) => None,
            _ if options.dry_run => None,
            Step::Gone => Some(Op::Delete(Delete::new(KeyRange::key(key.clone())))),
            Step::Mark(v) => {
                let put = Put::new(key.clone(), stored::encode(v));
                Some(Op::Put(Put { lease: kv.lease(), ..put }))
            }
        };
        let mut revision = kv.mod_revision();
        if let Some(op) = op {
            let mut txn = Txn {
                when: vec![Compare::unchanged(key, kv.mod_revision())],
                then: vec![op],
                otherwise: Vec::new(),
            };
            if matches!(step, Step::Gone) {
                txn.then.extend(addresses::ops(self, call.kind, Some(&object), None));
            }
            let reply = self.store.txn(txn).await.map_err(|e| fault(&e))?;
            if !reply.succeeded {
                return Ok(None);
            }
            revision = reply.revision;
        }
        Ok(Some(match step {
            Step::Gone => {
                if !options.dry_run {
                    self.services.forget(call.kind, &object);
                }
                self.finished(call, object, revision).await?
            }
            Step::Mark(mut v) | Step::Nothing(mut v) => {
                set_meta(&mut v, "resourceVersion", revision.to_string());
                let v = call.kind.ordered_hub(v);
                let answer = self.read_stored(call.kind, v).await?;
                Deleted { answer, is_object: true, revision }
            }
        }))
    }

    fn plan(&self, call: &Call<'_>, options: &Options, object: &Value) -> Step {
        let kind = call.kind;
        let mut next = object.clone();
        let grace = grace(call, options, object);
        let mut marks: Vec<String> = finalizers(object).iter().map(|f| (*f).to_owned()).collect();
        if !is_deleting(object) {
            let decided = marks.iter().any(|m| m == ORPHAN || m == FOREGROUND);
            let usual = (strategy::orphans(kind) && !decided).then_some(Propagation::Orphan);
            apply_propagation(options.propagation.or(usual), &mut marks);
        } else if let Some(p) = options.propagation {
            // A second deletion may change its mind about what the object owns.
            apply_propagation(Some(p), &mut marks);
        }
        if definitions::is_definition(kind) && !is_deleting(object) {
            // Its objects go before it does.
            marks.retain(|m| m != definitions::CLEANUP);
            marks.push(definitions::CLEANUP.to_owned());
            definitions::mark(&mut next, &self.now());
        }
        let list: Vec<Value> = marks.iter().map(|m| json!(m)).collect();
        set_meta(&mut next, "finalizers", Value::Array(list));
        let pending = !marks.is_empty() || has_spec_finalizers(kind, object);
        let already =
            object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        match (is_deleting(object), grace) {
            (false, g) if g > 0 || pending => {
                let at = self.now_seconds() + g;
                set_meta(&mut next, "deletionTimestamp", time::format_seconds(at));
                set_meta(&mut next, "deletionGracePeriodSeconds", g);
                if strategy::counts_generation(kind) {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                    set_meta(&mut next, "generation", generation + 1);
                }
                if kind.group().is_empty() && kind.resource.plural == "namespaces" {
                    next["status"]["phase"] = json!("Terminating");
                }
            }
            (false, _) => return Step::Gone,
            // A shorter grace period than the one that runs takes its place.
            (true, g) if already.is_some_and(|a| g < a) => {
                if g == 0 && !pending {
                    return Step::Gone;
                }
                let old =
                    time::parse_micros(meta(object, "deletionTimestamp")).unwrap_or(0) / 1_000_000;
                let at = old - already.unwrap_or(0) + g;
                set_meta(&mut next, "deletionTimestamp", time::format_seconds(at));
                set_meta(&mut next, "deletionGracePeriodSeconds", g);
            }
            (true, 0) if !pending => return Step::Gone,
            (true, _) => {}
        }
        let next = kind.ordered_hub(next);
        if next == *object { Step::Nothing(next) } else { Step::Mark(next) }
    }

    async fn finished(
        &self,
        call: &Call<'_>,
        object: Value,
        revision: Revision,
    ) -> Result<Deleted, Fault> {
        if strategy::returns_deleted(call.kind) {
            let answer = self.read_stored(call.kind, object).await?;
            return Ok(Deleted { answer, is_object: true, revision });
        }
        let answer = status::deleted(call.about(), meta(&object, "name"), meta(&object, "uid"));
        Ok(Deleted { answer, is_object: false, revision })
    }

    /// Deletes what a list names.
    pub async fn delete_collection(
        &self,
        call: &Call<'_>,
        options: &Options,
    ) -> Result<Listed, Fault> {
        let listed = self.list(call).await?;
        warn_of_orphans(call, options);
        for kv in &listed.items {
            let object = stored::decode(kv);
            let name = meta(&object, "name").to_owned();
            let one = Call {
                name: Some(&name),
                namespace: Some(meta(&object, "namespace")).filter(|n| !n.is_empty()),
                user: call.user,
                kind: call.kind,
                subresource: None,
                query: call.query,
                agent: call.agent,
                inner: call.inner,
                warnings: wharf_base::sync::Mutex::default(),
            };
            match self.delete(&one, options).await {
                Ok(_) => {}
                Err(f) if f.code == 404 => {}
                Err(f) => return Err(f),
            }
        }
        Ok(listed)
    }
}

fn preconditions(call: &Call<'_>, options: &Options, object: &Value) -> Result<(), Fault> {
    let name = meta(object, "name");
    let differs = |what: &str, wanted: &str, field: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({}). The object might have been deleted and then recreated",
            meta(object, field)
        );
        Fault::conflict(call.about(), name, &why)
    };
    if let Some(uid) = options.uid.as_deref().filter(|u| *u != meta(object, "uid")) {
        return Err(differs("UID", uid, "uid"));
    }
    match options.resource_version.as_deref() {
        Some(rv) if rv != meta(object, "resourceVersion") => {
            let why = format!(
                "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({}). The object might have been modified",
                meta(object, "resourceVersion")
            );
            Err(Fault::conflict(call.about(), name, &why))
        }
        _ => Ok(()),
    }
}

/// The pods of a job stay where nobody says what becomes of them, which few expect.
fn warn_of_orphans(call: &Call<'_>, options: &Options) {
    if options.propagation.is_none() && strategy::orphans(call.kind) && call.kind.group() == "batch"
    {
        call.warn("child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned());
    }
}

/// Seconds that the object gets. Only pods on nodes need any.
fn grace(call: &Call<'_>, options: &Options, object: &Value) -> i64 {
    if call.kind.resource.plural != "pods" || !call.kind.group().is_empty() {
        return 0;
    }
    let assigned = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if assigned.is_empty() || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_period.or(own).unwrap_or(30).max(0)
}

fn apply_propagation(policy: Option<Propagation>, marks: &mut Vec<String>) {
    let wanted = match policy {
        None => return,
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
    };
    marks.retain(|m| m != ORPHAN && m != FOREGROUND);
    marks.extend(wanted.map(str::to_owned));
}
