//! Quotas: what a namespace may hold, charged in the same step that stores the object.

use crate::api::{Api, Call, meta};
use crate::stored;
use bytes::Bytes;
use serde_json::Value;
use wharf_etcd::{Compare, KeyRange, Kv, Op, Put, Range, Txn};
use wharf_kube::quota::{self, Amounts};
use wharf_kube::status::Fault;

/// What a write adds to the quotas of its namespace.
#[derive(Debug, Default)]
pub struct Charges(Vec<(Kv, Bytes)>);

impl Charges {
    /// Makes a write and its charges one step, which fails if a quota changed meanwhile.
    pub fn join(&self, txn: &mut Txn) {
        for (kv, value) in &self.0 {
            let key = Bytes::copy_from_slice(kv.key());
            txn.when.push(Compare::unchanged(key.clone(), kv.mod_revision()));
            txn.then.push(Op::Put(Put::new(key, value.clone())));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What storing `new` in place of `old` costs; an error where a quota does not allow it.
pub async fn charges(
    api: &Api,
    call: &Call<'_>,
    new: &Value,
    old: Option<&Value>,
) -> Result<Charges, Fault> {
    let Some(ns) = call.namespace.filter(|_| call.kind.resource.namespaced) else {
        return Ok(Charges::default());
    };
    let (group, plural) = (call.kind.group(), call.kind.resource.plural);
    let grows =
        matches!(plural, "pods" | "services" | "persistentvolumeclaims") && group.is_empty();
    if call.subresource.is_some_and(|s| s != "resize") || (old.is_some() && !grows) {
        return Ok(Charges::default());
    }
    let range = Range::new(KeyRange::prefix(format!("/registry/resourcequotas/{ns}/")));
    let reply = api.store.range(range).await.map_err(|e| crate::api::fault(&e))?;
    let mut out = Charges::default();
    for kv in reply.kvs {
        let quota = api.objects.tree(&kv);
        let hard = quota::amounts(&quota["status"]["hard"]);
        let covered = |o: &Value| {
            if quota::covers(&quota, group, plural, o) {
                quota::usage(group, plural, o)
            } else {
                Amounts::new()
            }
        };
        let more = growth(&covered(new), &old.map(covered).unwrap_or_default(), &hard);
        if quota::covers(&quota, group, plural, new) && plural == "pods" && old.is_none() {
            said(call, new, &quota, &hard)?;
        }
        if more.is_empty() {
            continue;
        }
        let mut used = quota::amounts(&quota["status"]["used"]);
        allowed(call, new, &quota, &hard, &used, &more)?;
        quota::add(&mut used, &more);
        let mut next = (*quota).clone();
        next["status"]["used"] = quota::to_value(&used);
        let next = crate::write::ordered(crate::kinds::known("core.ResourceQuota"), next);
        out.0.push((kv, stored::encode(&next)));
    }
    Ok(out)
}

/// What grows of what a quota bounds.
fn growth(new: &Amounts, old: &Amounts, hard: &Amounts) -> Amounts {
    let zero = wharf_kube::quantity::Quantity::from(0);
    let bounded = new.iter().filter(|(name, _)| hard.contains_key(*name));
    let more = bounded.map(|(n, q)| (n.clone(), q.minus(old.get(n).copied().unwrap_or(zero))));
    more.filter(|(_, q)| *q > zero).collect()
}

/// A quota of compute resources wants every container to say what it needs.
fn said(call: &Call<'_>, pod: &Value, quota: &Value, hard: &Amounts) -> Result<(), Fault> {
    let unsaid = quota::unsaid(pod, hard);
    if unsaid.is_empty() {
        return Ok(());
    }
    let part = |(name, containers): (&String, &std::collections::BTreeSet<String>)| {
        let list: Vec<&str> = containers.iter().map(String::as_str).collect();
        format!("{name} for: {}", list.join(","))
    };
    let parts: Vec<String> = unsaid.iter().map(part).collect();
    let why = format!("failed quota: {}: must specify {}", meta(quota, "name"), parts.join("; "));
    Err(Fault::forbidden(call.about(), meta(pod, "name"), &why))
}

fn allowed(
    call: &Call<'_>,
    object: &Value,
    quota: &Value,
    hard: &Amounts,
    used: &Amounts,
    more: &Amounts,
) -> Result<(), Fault> {
    let zero = wharf_kube::quantity::Quantity::from(0);
    let has = |name: &String| used.get(name).copied().unwrap_or(zero);
    let over: Vec<&String> = more
        .iter()
        .filter(|(n, q)| hard.get(*n).is_some_and(|h| has(n).plus(**q) > *h))
        .map(|(n, _)| n)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let list = |of: &dyn Fn(&String) -> String| {
        over.iter().map(|n| format!("{n}={}", of(n))).collect::<Vec<_>>().join(",")
    };
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        meta(quota, "name"),
        list(&|n| more[n].to_string()),
        list(&|n| has(n).to_string()),
        list(&|n| hard[n].to_string())
    );
    Err(Fault::forbidden(call.about(), meta(object, "name"), &why))
}
