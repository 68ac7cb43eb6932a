//! Lists: pages, selectors, and which moment of history they show.

use crate::api::{Api, Call, fault, revision};
use crate::kinds::{Hub, Kind};
use crate::{select, stored};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use wharf_etcd::{KeyRange, Kv, Range, Revision, StoreError};
use wharf_kube::status::{Fault, Problem};

/// What a list holds.
#[derive(Debug)]
pub struct Listed {
    /// Its objects, in the order of their keys.
    pub items: Vec<Kv>,
    /// The revision it shows.
    pub revision: Revision,
    /// Where the next page begins.
    pub next: Option<String>,
    /// How many objects follow, where that is known.
    pub remaining: Option<u64>,
}

impl Listed {
    /// The list's `metadata`.
    pub fn metadata(&self) -> Value {
        let mut m = Map::new();
        m.insert("resourceVersion".into(), self.revision.to_string().into());
        if let Some(next) = &self.next {
            m.insert("continue".into(), next.clone().into());
        }
        if let Some(n) = self.remaining.filter(|_| self.next.is_some()) {
            m.insert("remainingItemCount".into(), n.into());
        }
        Value::Object(m)
    }
}

/// Keys looked at between two pages of the store, where a selector drops some.
const PAGE: usize = 1000;

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl Api {
    /// Lists what a call names.
    pub async fn list(&self, call: &Call<'_>) -> Result<Listed, Fault> {
        check(call)?;
        let selection = select::Selection::of(call)?;
        let prefix = scope(call);
        let mut from = prefix.clone();
        let mut at = None;
        let wanted = revision(&call.query.resource_version)?;
        let exact = call.query.resource_version_match == "Exact"
            || (call.query.resource_version_match.is_empty() && call.query.limit > 0);
        if !call.query.continue_token.is_empty() {
            let (rv, start) = open_token(call, &prefix)?;
            from = start;
            at = rv;
        } else if let Some(wanted) = wanted.filter(|r| r.0 > 0) {
            self.wait_for(wanted).await?;
            at = exact.then_some(wanted);
        }
        self.pages(call, &selection, &prefix, from, at).await
    }

    async fn pages(
        &self,
        call: &Call<'_>,
        selection: &select::Selection,
        prefix: &str,
        mut from: String,
        mut at: Option<Revision>,
    ) -> Result<Listed, Fault> {
        let limit = call.query.limit;
        // Revision 0 is whatever is at hand.
        let any = call.query.resource_version == "0" && call.query.continue_token.is_empty();
        let end = successor(prefix);
        let mut items: Vec<Kv> = Vec::new();
        loop {
            let page = match (limit, selection.is_empty()) {
                (0, _) => 0,
                (n, true) => n - items.len(),
                (n, false) => n.max(PAGE),
            };
            let keys = KeyRange::span(from.clone().into_bytes(), end.clone());
            let mut range = Range::new(keys).limit(page);
            range.revision = at;
            // How many follow is said only of what is not selected from.
            range.uncounted = !selection.is_empty();
            range.local = any;
            let reply =
                self.store.range(range).await.map_err(|e| history(&e, call, prefix, &from))?;
            let shown = *at.get_or_insert(reply.revision);
            let more = reply.more();
            let chosen = self.chosen(selection, call.kind, &reply.kvs).await?;
            let mut taken = 0;
            for (kv, chosen) in reply.kvs.into_iter().zip(chosen) {
                taken += 1;
                from = format!("{}\0", String::from_utf8_lossy(kv.key()));
                if !chosen {
                    continue;
                }
                items.push(kv);
                if limit > 0 && items.len() == limit {
                    break;
                }
            }
            let left = reply.count.saturating_sub(taken);
            if limit > 0 && items.len() == limit && left > 0 {
                let next = Some(token(shown.0, prefix, &from));
                let remaining = selection.is_empty().then_some(left);
                return Ok(Listed { items, revision: shown, next, remaining });
            }
            if !more {
                return Ok(Listed { items, revision: shown, next: None, remaining: None });
            }
        }
    }
}

/// The keys that a call's path covers.
pub fn scope(call: &Call<'_>) -> String {
    match call.namespace.filter(|_| call.kind.resource.namespaced) {
        Some(ns) => format!("{}{ns}/", call.kind.prefix()),
        None => call.kind.prefix(),
    }
}

fn successor(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Refuses what the options of a list cannot say together.
fn check(call: &Call<'_>) -> Result<(), Fault> {
    let q = call.query;
    let mut problems = Vec::new();
    let how = q.resource_version_match.as_str();
    if !how.is_empty() {
        if q.resource_version.is_empty() {
            problems.push(Problem::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !q.continue_token.is_empty() {
            problems.push(Problem::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !matches!(how, "Exact" | "NotOlderThan") {
            let value = json!(how);
            let allowed = ["Exact", "NotOlderThan", ""];
            problems.push(Problem::unsupported("resourceVersionMatch", &value, &allowed));
        }
        if how == "Exact" && q.resource_version == "0" {
            problems.push(Problem::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if q.initial_events.is_some() {
        problems.push(Problem::forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    if !problems.is_empty() {
        return Err(Fault::invalid("meta.k8s.io", "ListOptions", "", &problems));
    }
    if !q.continue_token.is_empty() && !matches!(q.resource_version.as_str(), "" | "0") {
        return Err(Fault::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    Ok(())
}

/// A token for the keys from `start` on, as of a revision; -1 is whatever is then.
fn token(rv: i64, prefix: &str, start: &str) -> String {
    let root = prefix.trim_end_matches('/');
    let start = start.strip_prefix(root).unwrap_or(start);
    let v = json!({"v": "meta.k8s.io/v1", "rv": rv, "start": start});
    URL_SAFE_NO_PAD.encode(v.to_string())
}

fn open_token(call: &Call<'_>, prefix: &str) -> Result<(Option<Revision>, String), Fault> {
    let bad = |why: &str| Fault::bad_request(format!("invalid continue token: {why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(&call.query.continue_token)
        .map_err(|_| bad("continue key is not valid: illegal base64 data at input byte 0"))?;
    let v: Value = serde_json::from_slice(&bytes).map_err(|_| {
        let first = bytes.first().copied().map_or('\0', char::from);
        bad(&format!(
            "continue key is not valid: invalid character '{first}' looking for beginning of value"
        ))
    })?;
    if v["v"] != "meta.k8s.io/v1" {
        return Err(bad(
            "continue key is not valid: server does not recognize this encoded version",
        ));
    }
    let start = v["start"].as_str().unwrap_or_default();
    let rv = v["rv"].as_i64().unwrap_or_default();
    if rv == 0 {
        return Err(bad(
            "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ));
    }
    let inside = start.starts_with('/') && !start.split('/').any(|p| matches!(p, "." | ".."));
    if !inside {
        return Err(bad(
            "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
        ));
    }
    let root = prefix.trim_end_matches('/');
    Ok(((rv > 0).then_some(Revision(rv)), format!("{root}{start}")))
}

/// A failed read: history that is gone becomes 410, for a page with a token that goes on from now.
fn history(e: &StoreError, call: &Call<'_>, prefix: &str, from: &str) -> Fault {
    match e {
        StoreError::Compacted { .. } if !call.query.continue_token.is_empty() => {
            Fault { next: Some(token(-1, prefix, from)), ..Fault::expired(EXPIRED) }
        }
        StoreError::Compacted { .. } => {
            Fault::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::FutureRevision { current } => {
            let asked = call.query.resource_version.parse().unwrap_or(u64::MAX);
            Fault::too_large_revision(asked, current.0)
        }
        e => fault(e),
    }
}

/// A list in JSON: from the stored texts of its objects, or where those are in another version, from `objects`.
pub fn json_text(kind: &Kind, listed: &Listed, objects: &[Arc<Value>]) -> Vec<u8> {
    if kind.custom.is_some() {
        return custom_text(kind, listed, objects);
    }
    let mut out = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        kind.name(),
        kind.api_version,
        listed.metadata()
    )
    .into_bytes();
    for (i, kv) in listed.items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        item(kind, kv, objects.get(i).map(|o| &**o), &mut out);
    }
    out.extend_from_slice(b"]}");
    out
}

/// Lists of custom resources have their keys in order, and items that say their kind.
fn custom_text(kind: &Kind, listed: &Listed, objects: &[Arc<Value>]) -> Vec<u8> {
    let mut metadata = listed.metadata();
    let next = listed.next.clone().unwrap_or_default();
    metadata["continue"] = next.into();
    let objects: Vec<&Value> = objects.iter().map(|o| &**o).collect();
    let list = json!({"apiVersion": kind.api_version, "items": objects, "kind": kind.list_kind(),
        "metadata": wharf_kube::custom::sorted(metadata)});
    list.to_string().into_bytes()
}

/// Items of a list do not say their kind.
fn item(kind: &Kind, kv: &Kv, object: Option<&Value>, out: &mut Vec<u8>) {
    let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.name(), kind.api_version);
    let text = match kind.hub {
        Hub::Own => stored::text(kv.value(), kv.mod_revision()),
        _ => object.map(ToString::to_string).unwrap_or_default().into_bytes(),
    };
    match text.strip_prefix(head.as_bytes()) {
        Some(rest) => {
            out.push(b'{');
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(&text),
    }
}
