//! What a schema declares of a place in an object, as far as it bounds what expressions cost.

use crate::cel::value::unescape;
use serde_json::Value;

/// Bytes that a request may have, which bound everything that says no bound of its own.
const REQUEST: u64 = 3 * 1024 * 1024;

/// A place in an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decl<'a> {
    /// What a schema describes.
    Schema(&'a Value),
    /// The same for a whole object, which has a kind and metadata.
    Resource(&'a Value),
    /// The metadata that rules see: two names.
    Metadata,
    /// A text of any length.
    Text,
    /// A key of a map, whose length nobody counts.
    Key,
}

/// What a place holds.
#[derive(Debug, Clone)]
pub(super) enum Ty<'a> {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Ty<'a>>),
    Map(Box<Ty<'a>>),
    Object(Decl<'a>),
    Optional(Box<Ty<'a>>),
    /// A type of the libraries.
    Named(&'static str),
}

impl Ty<'_> {
    /// Whether each of its values has the same size.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Ty::Bool | Ty::Int | Ty::Uint | Ty::Double | Ty::Duration | Ty::Timestamp => true,
            Ty::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn number(schema: &Value, key: &str) -> Option<u64> {
    let n = schema.get(key)?;
    n.as_u64().or_else(|| n.as_i64().map(|_| 0))
}

fn part<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).filter(|s| s.is_object())
}

fn of(schema: &Value) -> Decl<'_> {
    if is_set(schema, "x-kubernetes-embedded-resource") {
        Decl::Resource(schema)
    } else {
        Decl::Schema(schema)
    }
}

impl<'a> Decl<'a> {
    /// What its schema calls it; nothing of what expressions cannot see.
    pub(super) fn ty(self) -> Option<Ty<'a>> {
        let schema = match self {
            Decl::Schema(s) | Decl::Resource(s) => s,
            Decl::Metadata => return Some(Ty::Object(self)),
            Decl::Text | Decl::Key => return Some(Ty::Str),
        };
        if is_set(schema, "x-kubernetes-int-or-string") {
            return Some(Ty::Dyn);
        }
        Some(match (text(schema, "type"), text(schema, "format")) {
            ("boolean", _) => Ty::Bool,
            ("integer", _) => Ty::Int,
            ("number", _) => Ty::Double,
            ("string", "byte") => Ty::Bytes,
            ("string", "duration") => Ty::Duration,
            ("string", "date" | "date-time") => Ty::Timestamp,
            ("string", _) => Ty::Str,
            ("array", _) => Ty::List(Box::new(of(part(schema, "items")?).ty()?)),
            ("object", _) => match part(schema, "additionalProperties") {
                Some(values) => Ty::Map(Box::new(of(values).ty()?)),
                None => Ty::Object(self),
            },
            _ => return None,
        })
    }

    /// An element of a list, a value of a map.
    pub(super) fn element(self) -> Option<Decl<'a>> {
        let (Decl::Schema(s) | Decl::Resource(s)) = self else { return None };
        let key = if text(s, "type") == "array" { "items" } else { "additionalProperties" };
        let found = of(part(s, key)?);
        found.ty().map(|_| found)
    }

    /// A key of a map.
    pub(super) fn key(self) -> Option<Decl<'a>> {
        matches!(self.ty(), Some(Ty::Map(_))).then_some(Decl::Key)
    }

    /// A field, by the name that expressions have for it.
    pub(super) fn field(self, name: &str) -> Option<Decl<'a>> {
        let schema = match self {
            Decl::Metadata => return matches!(name, "name" | "generateName").then_some(Decl::Text),
            Decl::Resource(_) if matches!(name, "kind" | "apiVersion") => return Some(Decl::Text),
            Decl::Resource(_) if name == "metadata" => return Some(Decl::Metadata),
            Decl::Schema(s) | Decl::Resource(s) => s,
            Decl::Text | Decl::Key => return None,
        };
        if part(schema, "additionalProperties").is_some() {
            return None;
        }
        let found = of(schema.get("properties")?.get(unescape(name).as_ref())?);
        found.ty().map(|_| found)
    }

    /// The most elements, entries, or bytes of text that it can have.
    pub(super) fn most(self) -> u64 {
        let schema = match self {
            Decl::Schema(s) | Decl::Resource(s) => s,
            Decl::Text => return REQUEST - 2,
            Decl::Metadata | Decl::Key => return 0,
        };
        // A character has up to four bytes.
        let letters = || number(schema, "maxLength").map(|n| n.saturating_mul(4));
        if is_set(schema, "x-kubernetes-int-or-string") {
            return letters().unwrap_or(REQUEST - 2);
        }
        match (self.ty(), text(schema, "format")) {
            (Some(Ty::List(_)), _) => number(schema, "maxItems").unwrap_or_else(|| {
                let item = self.element().map_or(0, Decl::least);
                (REQUEST - 2) / (item + 1)
            }),
            (Some(Ty::Map(_)), _) => number(schema, "maxProperties").unwrap_or_else(|| {
                let value = self.element().map_or(0, Decl::least);
                (REQUEST - 2) / (value + 6)
            }),
            (Some(Ty::Bytes), _) => number(schema, "maxLength").unwrap_or(REQUEST - 2),
            (Some(Ty::Duration), _) | (Some(Ty::Timestamp), "date-time") => 32,
            (Some(Ty::Timestamp), _) => 12,
            (Some(Ty::Str), _) => letters().unwrap_or_else(|| longest(schema)),
            _ => 0,
        }
    }

    /// The fewest bytes that it takes in JSON.
    pub(super) fn least(self) -> u64 {
        let schema = match self {
            Decl::Schema(s) | Decl::Resource(s) => s,
            Decl::Metadata | Decl::Text | Decl::Key => return 2,
        };
        match (self.ty(), text(schema, "format")) {
            (Some(Ty::Dyn | Ty::Int | Ty::Double), _) => 1,
            (Some(Ty::Bool), _) => 4,
            (Some(Ty::Duration), _) => 3,
            (Some(Ty::Timestamp), "date") => 12,
            (Some(Ty::Timestamp), _) => 21,
            (Some(Ty::Object(_)), _) => {
                let required = schema.get("required").and_then(Value::as_array);
                let size = |name: &str| {
                    let own = schema.get("properties")?.get(name)?;
                    let bare = own.get("default").is_none_or(Value::is_null);
                    let found = Some(of(own)).filter(|d| bare && d.ty().is_some())?;
                    let name = u64::try_from(name.len()).unwrap_or(REQUEST);
                    Some(name.saturating_add(4).saturating_add(found.least()))
                };
                let names = required.into_iter().flatten().filter_map(Value::as_str);
                names.filter_map(size).fold(2, u64::saturating_add)
            }
            _ => 2,
        }
    }

    /// How often values of it can be in one object, where nothing says how often.
    pub(super) fn times(self) -> u64 {
        REQUEST / self.least().saturating_add(1)
    }
}

/// The longest of the texts that a schema allows, or of any text.
fn longest(schema: &Value) -> u64 {
    let all = schema.get("enum").and_then(Value::as_array).filter(|a| !a.is_empty());
    let Some(all) = all else { return REQUEST - 2 };
    let most = all.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
    u64::try_from(most).unwrap_or(REQUEST)
}
