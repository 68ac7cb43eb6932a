//! Values of the language: JSON where it lies, and what expressions make of it.

use super::EvalError;
use crate::quantity::Quantity;
use crate::time;
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

/// A value.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A double.
    Double(f64),
    /// A text.
    Str(Cow<'a, str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A list of JSON, with the schema of its elements' list.
    JsonList(&'a [Value], Option<&'a Value>),
    /// An object of JSON, with its schema.
    JsonMap(&'a Map<String, Value>, Option<&'a Value>),
    /// A list that an expression made.
    List(Arc<Vec<Val<'a>>>),
    /// A map that an expression made.
    Map(Arc<Vec<(Val<'a>, Val<'a>)>>),
    /// A typed object that an expression made.
    Object(Arc<str>, Arc<Vec<(String, Val<'a>)>>),
    /// Nanoseconds.
    Duration(i64),
    /// Nanoseconds since 1970: from the year 1 to 9999 there are more of them than a word counts.
    Timestamp(i128),
    /// The name of a type.
    Type(&'static str),
    /// A value that may be missing.
    Optional(Option<Arc<Val<'a>>>),
    /// A quantity.
    Quantity(Quantity),
    /// An address.
    Ip(IpAddr),
    /// A network: any address of it, and its prefix.
    Cidr(IpAddr, u8),
    /// A URL, as text.
    Url(Arc<str>),
    /// A version: three numbers, what precedes a release, build.
    Semver(Arc<super::library::Semver>),
    /// The name of a format.
    Format(&'static str),
    /// What an authorizer was asked so far.
    Check(Arc<super::eval::Check>),
    /// What an authorizer said.
    Decision(bool, Arc<str>),
}

/// A value of JSON, typed by its schema where there is one.
pub(super) fn from_json<'a>(v: &'a Value, schema: Option<&'a Value>) -> Val<'a> {
    let text =
        |key: &str| schema.and_then(|s| s.get(key)).and_then(Value::as_str).unwrap_or_default();
    match v {
        Value::Null => Val::Null,
        Value::Bool(b) => Val::Bool(*b),
        Value::Number(n) if text("type") == "number" => Val::Double(n.as_f64().unwrap_or(0.0)),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Val::Int(i),
            (_, Some(u)) => Val::Uint(u),
            _ => Val::Double(n.as_f64().unwrap_or(0.0)),
        },
        Value::String(s) => match text("format") {
            "date-time" => time::parse_nanos(s).map_or(Val::Null, Val::Timestamp),
            "date" => {
                time::parse_nanos(&format!("{s}T00:00:00Z")).map_or(Val::Null, Val::Timestamp)
            }
            "duration" => time::parse_duration(s).map_or(Val::Null, Val::Duration),
            "byte" => match base64::engine::general_purpose::STANDARD.decode(s) {
                Ok(b) => Val::Bytes(Arc::from(b)),
                Err(_) => Val::Null,
            },
            _ => Val::Str(Cow::Borrowed(s)),
        },
        Value::Array(a) => Val::JsonList(a, schema),
        Value::Object(m) => Val::JsonMap(m, schema),
    }
}

fn overload<T>() -> Result<T, EvalError> {
    Err(EvalError::Overload)
}

/// The name by which an expression names a field that is no name: `__if__`, `a__dot__b`.
pub(super) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && !word.is_empty()
        && !word.contains("__")
    {
        return Cow::Owned(word.to_owned());
    }
    let mut out = name.to_owned();
    for (from, to) in
        [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")]
    {
        out = out.replace(from, to);
    }
    Cow::Owned(out)
}

impl<'a> Val<'a> {
    /// A text.
    pub fn text(s: impl Into<String>) -> Val<'a> {
        Val::Str(Cow::Owned(s.into()))
    }

    /// A list.
    pub fn list(items: Vec<Val<'a>>) -> Val<'a> {
        Val::List(Arc::new(items))
    }

    /// Whether it is true; anything but a boolean is an error.
    pub fn truth(&self) -> Result<bool, EvalError> {
        if let Val::Bool(b) = self { Ok(*b) } else { overload() }
    }

    /// Its text.
    pub fn as_text(&self) -> Result<&str, EvalError> {
        if let Val::Str(s) = self { Ok(s) } else { overload() }
    }

    /// Its number.
    pub(super) fn as_int(&self) -> Result<i64, EvalError> {
        match self {
            Val::Int(n) => Ok(*n),
            Val::Uint(n) => i64::try_from(*n).map_err(|_| EvalError::Overload),
            _ => overload(),
        }
    }

    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Str(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::JsonList(..) | Val::List(_) => "list",
            Val::JsonMap(..) | Val::Map(_) => "map",
            Val::Object(..) => "object",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Ip(_) => "net.IP",
            Val::Cidr(..) => "net.CIDR",
            Val::Url(_) => "kubernetes.URL",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Check(_) => "kubernetes.authorization.Authorizer",
            Val::Decision(..) => "kubernetes.authorization.Decision",
        }
    }

    /// Its elements, where it is a list.
    pub(super) fn elements(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Val::JsonList(list, schema) => {
                let item = schema.and_then(|s| s.get("items"));
                Some(list.iter().map(|v| from_json(v, item)).collect())
            }
            Val::List(list) => Some(list.to_vec()),
            _ => None,
        }
    }

    /// Its entries, where it is a map.
    pub(super) fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Val::JsonMap(m, schema) => Some(
                m.iter()
                    .map(|(k, v)| {
                        (Val::Str(Cow::Borrowed(k.as_str())), from_json(v, property(*schema, k)))
                    })
                    .collect(),
            ),
            Val::Map(m) => Some(m.to_vec()),
            Val::Object(_, m) => {
                Some(m.iter().map(|(k, v)| (Val::text(k.clone()), v.clone())).collect())
            }
            _ => None,
        }
    }

    /// How many elements, entries, characters or bytes it has.
    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Val::JsonList(l, _) => l.len(),
            Val::List(l) => l.len(),
            Val::JsonMap(m, _) => m.len(),
            Val::Map(m) => m.len(),
            Val::Object(_, m) => m.len(),
            Val::Str(s) => s.chars().count(),
            Val::Bytes(b) => b.len(),
            _ => return None,
        })
    }

    /// A field or entry, if it is there.
    pub(super) fn field(&self, name: &str) -> Result<Option<Val<'a>>, EvalError> {
        match self {
            Val::JsonMap(m, schema) => Ok(lookup(m, *schema, name)),
            Val::Map(m) => {
                let found = m.iter().find(|(k, _)| matches!(k, Val::Str(s) if s == name));
                Ok(found.map(|(_, v)| v.clone()))
            }
            Val::Object(_, m) => {
                let plain = unescape(name);
                Ok(m.iter().find(|(k, _)| *k == plain).map(|(_, v)| v.clone()))
            }
            Val::Optional(None) => Ok(None),
            Val::Optional(Some(v)) => v.field(name),
            _ => overload(),
        }
    }

    /// An element or entry, if it is there.
    pub(super) fn index(&self, by: &Val<'a>) -> Result<Option<Val<'a>>, EvalError> {
        match self {
            Val::JsonList(..) | Val::List(_) => {
                let i = match by {
                    Val::Double(d) if d.fract() == 0.0 => int_of(*d)?,
                    by => by.as_int()?,
                };
                let Ok(i) = usize::try_from(i) else { return Ok(None) };
                Ok(match self {
                    Val::JsonList(l, schema) => {
                        l.get(i).map(|v| from_json(v, schema.and_then(|s| s.get("items"))))
                    }
                    Val::List(l) => l.get(i).cloned(),
                    _ => None,
                })
            }
            Val::JsonMap(m, schema) => match by {
                Val::Str(s) => Ok(m.get(s.as_ref()).map(|v| from_json(v, property(*schema, s)))),
                _ => Ok(None),
            },
            Val::Map(m) => Ok(m.iter().find(|(k, _)| k.equals(by)).map(|(_, v)| v.clone())),
            Val::Optional(None) => Ok(None),
            Val::Optional(Some(v)) => v.index(by),
            _ => overload(),
        }
    }

    /// Equality across types: numbers by value, all else only within a type.
    pub(super) fn equals(&self, other: &Val<'a>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a, n), Val::Cidr(b, m)) => a == b && n == m,
            (Val::Url(a), Val::Url(b)) => a == b,
            (Val::Format(a), Val::Format(b)) => a == b,
            (Val::Semver(a), Val::Semver(b)) => a.compare(b) == Ordering::Equal,
            (Val::Quantity(a), Val::Quantity(b)) => {
                super::library::compare_quantities(a, b).is_eq()
            }
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            _ => self.numbers_equal(other) || self.contents_equal(other),
        }
    }

    fn numbers_equal(&self, other: &Val<'a>) -> bool {
        self.is_number()
            && other.is_number()
            && self.compare(other).is_ok_and(|o| o == Some(Ordering::Equal))
    }

    fn contents_equal(&self, other: &Val<'a>) -> bool {
        // The same JSON, which is the common case, needs no walk of its own.
        match (self, other) {
            (Val::JsonList(a, _), Val::JsonList(b, _)) if a == b => return true,
            (Val::JsonMap(a, _), Val::JsonMap(b, _)) if a == b => return true,
            _ => {}
        }
        if let (Some(a), Some(b)) = (self.elements(), other.elements()) {
            return a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b));
        }
        if let (Some(a), Some(b)) = (self.entries(), other.entries()) {
            return a.len() == b.len()
                && a.iter().all(|(k, v)| b.iter().any(|(l, w)| k.equals(l) && v.equals(w)));
        }
        false
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Val::Int(_) | Val::Uint(_) | Val::Double(_))
    }

    /// Order within a type, and of numbers across types; nothing for NaN.
    pub(super) fn compare(&self, other: &Val<'a>) -> Result<Option<Ordering>, EvalError> {
        #[allow(
            clippy::cast_precision_loss,
            reason = "as the language compares doubles with integers"
        )]
        let order = match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Str(a), Val::Str(b)) => Some(a.cmp(b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            _ => return overload(),
        };
        Ok(order)
    }

    /// As JSON; nothing where it has no such form.
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Val::Null => Value::Null,
            Val::Bool(b) => json!(b),
            Val::Int(n) => json!(n),
            Val::Uint(n) => json!(n),
            Val::Double(n) => json!(n),
            Val::Str(s) => json!(s),
            Val::Bytes(b) => json!(base64::engine::general_purpose::STANDARD.encode(b)),
            Val::JsonList(l, _) => Value::Array(l.to_vec()),
            Val::JsonMap(m, _) => Value::Object((*m).clone()),
            Val::List(l) => Value::Array(l.iter().map(Val::to_json).collect::<Option<_>>()?),
            Val::Map(m) => {
                let entry = |(k, v): &(Val<'_>, Val<'_>)| {
                    Some((super::strings::print(k).ok()?, v.to_json()?))
                };
                Value::Object(m.iter().map(entry).collect::<Option<_>>()?)
            }
            Val::Object(_, m) => {
                let entry = |(k, v): &(String, Val<'_>)| Some((k.clone(), v.to_json()?));
                Value::Object(m.iter().map(entry).collect::<Option<_>>()?)
            }
            Val::Duration(n) => json!(time::format_duration(*n)),
            Val::Timestamp(n) => json!(super::times::print(*n)),
            Val::Quantity(q) => json!(q.to_string()),
            Val::Ip(ip) => json!(ip.to_string()),
            Val::Url(u) => json!(u.to_string()),
            Val::Optional(Some(v)) => return v.to_json(),
            _ => return None,
        })
    }
}

fn property<'a>(schema: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let schema = schema?;
    let own = schema.get("properties").and_then(|p| p.get(name));
    own.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()))
}

/// A field by its own name, or by the one that stands for it in expressions.
fn lookup<'a>(m: &'a Map<String, Value>, schema: Option<&'a Value>, name: &str) -> Option<Val<'a>> {
    if let Some(v) = m.get(name) {
        return Some(from_json(v, property(schema, name)));
    }
    let plain = unescape(name);
    m.get(plain.as_ref()).map(|v| from_json(v, property(schema, &plain)))
}

/// An integer from a double.
pub(super) fn int_of(d: f64) -> Result<i64, EvalError> {
    // The least integer itself is refused as well, as by the reference evaluator; NaN lies in no range.
    if !(d > -9_223_372_036_854_775_808.0 && d < 9_223_372_036_854_775_808.0) {
        return Err(EvalError::Other("integer overflow".to_owned()));
    }
    #[allow(clippy::cast_possible_truncation, reason = "in range, and the fraction is to go")]
    Ok(d.trunc() as i64)
}
