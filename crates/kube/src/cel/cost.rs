//! What an expression may cost at most, known before anything runs: the limits of a schema bound it.
//!
//! The estimate is never above the reference server's, which also counts the lengths of texts: what
//! that accepts, this accepts.

use super::ast::{Bind, Expr, Node};
use super::infer::Known;
use serde_json::Value;

/// Bytes that a request may have, which bound every list that says no bound of its own.
const REQUEST: u64 = 3 * 1024 * 1024;

/// The most elements that a list or map of a schema may have.
pub(crate) fn most(schema: &Value) -> u64 {
    let number = |key: &str| schema.get(key).and_then(Value::as_u64);
    let list = schema.get("type").and_then(Value::as_str) == Some("array");
    let own = if list { number("maxItems") } else { number("maxProperties") };
    let item = schema.get("items").or_else(|| schema.get("additionalProperties"));
    own.unwrap_or_else(|| (REQUEST - 2) / (least(item, 8) + if list { 1 } else { 5 }))
}

/// The fewest bytes that a value of a schema takes in JSON.
fn least(schema: Option<&Value>, depth: u8) -> u64 {
    let Some(s) = schema.filter(|s| s.is_object() && depth > 0) else { return 2 };
    match s.get("type").and_then(Value::as_str).unwrap_or_default() {
        "boolean" => 4,
        "integer" | "number" => 1,
        "string" => 2 + s.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(REQUEST),
        "object" => {
            let required = s.get("required").and_then(Value::as_array).into_iter().flatten();
            let size = |name: &str| {
                let property = s.get("properties").and_then(|p| p.get(name));
                let bytes = u64::try_from(name.len()).unwrap_or(REQUEST);
                bytes.saturating_add(4).saturating_add(least(property, depth - 1))
            };
            2 + required
                .filter_map(Value::as_str)
                .map(size)
                .fold(0, u64::saturating_add)
                .min(REQUEST)
        }
        _ => 2,
    }
}

/// The most units that an expression over `own` may cost.
pub(super) fn estimate(root: &Node, own: &Known<'_>) -> u64 {
    let mut walk = Walk { own, local: Vec::new() };
    walk.cost(root)
}

/// What is known of a value's size and contents.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Schema(&'a Value),
    /// So many elements of which nothing is known.
    Count(u64),
    Unknown,
}

struct Walk<'k, 'a> {
    own: &'k Known<'a>,
    local: Vec<(String, Seen<'a>)>,
}

impl<'a> Walk<'_, 'a> {
    fn cost(&mut self, n: &Node) -> u64 {
        match &n.expr {
            Expr::Each(e) => {
                let over = self.seen(&e.over);
                let (count, item) = match over {
                    Seen::Schema(s) => {
                        (most(s), s.get("items").or_else(|| s.get("additionalProperties")))
                    }
                    Seen::Count(n) => (n, None),
                    Seen::Unknown => (1, None),
                };
                let before = self.cost(&e.over);
                let depth = self.local.len();
                let seen = item.filter(|i| i.is_object()).map_or(Seen::Unknown, Seen::Schema);
                for name in &e.names {
                    self.local.push((name.clone(), seen));
                }
                let mut each = self.cost(&e.body);
                if let Some(filter) = &e.filter {
                    each = each.saturating_add(self.cost(filter));
                }
                self.local.truncate(depth);
                before.saturating_add(count.saturating_mul(each.saturating_add(1)))
            }
            Expr::Bind { how, name, value, body } => {
                let before = self.cost(value);
                let seen = if *how == Bind::Plain { self.seen(value) } else { Seen::Unknown };
                self.local.push((name.clone(), seen));
                let after = self.cost(body);
                self.local.pop();
                before.saturating_add(after)
            }
            _ => n.parts().into_iter().map(|p| self.cost(p)).fold(1, u64::saturating_add),
        }
    }

    fn seen(&self, n: &Node) -> Seen<'a> {
        match &n.expr {
            Expr::Name(name) => {
                if let Some((_, seen)) = self.local.iter().rev().find(|(n, _)| n == name) {
                    return *seen;
                }
                match (name.trim_start_matches('.'), self.own) {
                    ("self" | "oldSelf", Known::Schema(s) | Known::Resource(s)) => Seen::Schema(s),
                    _ => Seen::Unknown,
                }
            }
            Expr::Field { of, name, .. } => match self.seen(of) {
                Seen::Schema(s) => {
                    let plain = super::value::unescape(name);
                    let property = s.get("properties").and_then(|p| p.get(plain.as_ref()));
                    let found = property.or_else(|| s.get("additionalProperties"));
                    found.filter(|f| f.is_object()).map_or(Seen::Unknown, Seen::Schema)
                }
                _ => Seen::Unknown,
            },
            Expr::Index { of, .. } => match self.seen(of) {
                Seen::Schema(s) => {
                    let item = s.get("items").or_else(|| s.get("additionalProperties"));
                    item.filter(|i| i.is_object()).map_or(Seen::Unknown, Seen::Schema)
                }
                _ => Seen::Unknown,
            },
            Expr::List(items) => Seen::Count(u64::try_from(items.len()).unwrap_or(u64::MAX)),
            Expr::Each(e) => match self.seen(&e.over) {
                Seen::Schema(s) => Seen::Count(most(s)),
                seen => seen,
            },
            _ => Seen::Unknown,
        }
    }
}
