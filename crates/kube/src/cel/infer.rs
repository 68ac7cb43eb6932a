//! What can be known of an expression before it runs: names, fields, functions, and types where they are plain.

use super::CompileError;
use super::ast::{Binary, Bind, EachKind, Expr, Node, Unary};
use super::eval::namespace;
use super::functions::{FUNCTIONS, TYPE_SPACES, TYPES};
use super::value::{Val, unescape};
use serde_json::Value;

/// What an expression may name.
#[derive(Clone, Default)]
pub struct Declared<'a> {
    names: Vec<(String, Known<'a>)>,
    /// The type names that objects may be made of; nothing forbids all.
    objects: Vec<&'static str>,
}

/// A type, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Known<'a> {
    /// Nothing is known.
    Dyn,
    /// `null`.
    Null,
    /// A boolean.
    Bool,
    /// An integer.
    Int,
    /// An unsigned integer.
    Uint,
    /// A double.
    Double,
    /// A text.
    Str,
    /// Bytes.
    Bytes,
    /// A duration.
    Duration,
    /// A moment.
    Timestamp,
    /// A list of something.
    List(Box<Known<'a>>),
    /// A map of texts to something.
    Map(Box<Known<'a>>),
    /// What a schema describes.
    Schema(&'a Value),
    /// The same for a whole object: it has a kind and metadata, whatever its schema says.
    Resource(&'a Value),
}

impl<'a> Declared<'a> {
    /// Nothing.
    pub fn new() -> Declared<'a> {
        Declared::default()
    }

    /// A name of which nothing is known.
    #[must_use]
    pub fn dynamic(self, name: &str) -> Declared<'a> {
        self.known(name, Known::Dyn)
    }

    /// A name whose values a schema describes.
    #[must_use]
    pub fn schema(self, name: &str, schema: &'a Value) -> Declared<'a> {
        self.known(name, Known::Schema(schema))
    }

    /// A name of a known type.
    #[must_use]
    pub fn known(mut self, name: &str, ty: Known<'a>) -> Declared<'a> {
        self.names.push((name.to_owned(), ty));
        self
    }

    /// What another declares as well; of a name that both declare, this one's type counts.
    #[must_use]
    pub fn with(mut self, other: &Declared<'a>) -> Declared<'a> {
        self.names.extend(other.names.iter().cloned());
        self.objects.extend(&other.objects);
        self
    }

    /// Lets expressions make objects whose type name begins so.
    #[must_use]
    pub fn object(mut self, name: &'static str) -> Declared<'a> {
        self.objects.push(name);
        self
    }
}

/// Checks an expression and says of what type it is.
pub(super) fn check<'a>(
    root: &Node,
    source: &str,
    declared: &Declared<'a>,
) -> Result<Known<'a>, CompileError> {
    let mut walk = Walk { source, declared, local: Vec::new() };
    walk.node(root)
}

struct Walk<'s, 'd, 'a> {
    source: &'s str,
    declared: &'d Declared<'a>,
    local: Vec<(String, Known<'a>)>,
}

type Found<'a> = Result<Known<'a>, CompileError>;

impl<'a> Known<'a> {
    /// What a schema describes, one level deep.
    pub fn of(schema: &'a Value) -> Known<'a> {
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            return Known::Dyn;
        }
        if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            return Known::Resource(schema);
        }
        match (text("type"), text("format")) {
            ("boolean", _) => Known::Bool,
            ("integer", _) => Known::Int,
            ("number", _) => Known::Double,
            ("string", "date-time" | "date") => Known::Timestamp,
            ("string", "duration") => Known::Duration,
            ("string", "byte") => Known::Bytes,
            ("string", _) => Known::Str,
            ("array", _) => {
                Known::List(Box::new(schema.get("items").map_or(Known::Dyn, Known::of)))
            }
            ("object", _) => Known::Schema(schema),
            _ => Known::Dyn,
        }
    }

    fn name(&self) -> String {
        match self {
            Known::Dyn => "dyn".to_owned(),
            Known::Null => "null".to_owned(),
            Known::Bool => "bool".to_owned(),
            Known::Int => "int".to_owned(),
            Known::Uint => "uint".to_owned(),
            Known::Double => "double".to_owned(),
            Known::Str => "string".to_owned(),
            Known::Bytes => "bytes".to_owned(),
            Known::Duration => "google.protobuf.Duration".to_owned(),
            Known::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Known::List(t) => format!("list({})", t.name()),
            Known::Map(t) => format!("map(string, {})", t.name()),
            Known::Schema(_) | Known::Resource(_) => "object".to_owned(),
        }
    }

    fn is_plain(&self) -> bool {
        !matches!(
            self,
            Known::Dyn
                | Known::Schema(_)
                | Known::Resource(_)
                | Known::List(_)
                | Known::Map(_)
                | Known::Null
        )
    }
}

/// The schema of the metadata that every object has.
fn metadata() -> &'static Value {
    static SCHEMA: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(|| {
        serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}})
    })
}

impl<'a> Walk<'_, '_, 'a> {
    fn fail<T>(&self, at: usize, why: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.source, at, why))
    }

    fn node(&mut self, n: &Node) -> Found<'a> {
        match &n.expr {
            Expr::Literal(v) => Ok(literal(v)),
            Expr::Name(name) => self.name(name, n.at),
            Expr::Field { of, name, optional } => {
                let of = self.node(of)?;
                let found = self.field(&of, name, n.at)?;
                Ok(if *optional { Known::Dyn } else { found })
            }
            Expr::Has { of, name } => {
                let of = self.node(of)?;
                self.field(&of, name, n.at)?;
                Ok(Known::Bool)
            }
            Expr::Index { of, by, optional } => {
                let of = self.node(of)?;
                self.node(by)?;
                let found = element(&of);
                Ok(if *optional { Known::Dyn } else { found })
            }
            Expr::Call { on, name, args } => self.call(on.as_deref(), name, args, n.at),
            Expr::Unary(op, of) => self.unary(*op, of, n.at),
            Expr::Binary(op, a, b) => self.binary(*op, a, b, n.at),
            Expr::Choice(c, a, b) => {
                let condition = self.node(c)?;
                self.must_be_bool(&condition, "_?_:_", n.at)?;
                let (a, b) = (self.node(a)?, self.node(b)?);
                Ok(if a == b { a } else { Known::Dyn })
            }
            Expr::List(items) => {
                let mut ty: Option<Known<'a>> = None;
                for (item, _) in items {
                    let found = self.node(item)?;
                    ty = Some(match ty {
                        None => found,
                        Some(t) if t == found => t,
                        Some(_) => Known::Dyn,
                    });
                }
                Ok(Known::List(Box::new(ty.unwrap_or(Known::Dyn))))
            }
            Expr::Map(entries) => {
                let mut texts = true;
                for (k, v, _) in entries {
                    texts &= self.node(k)? == Known::Str;
                    self.node(v)?;
                }
                // Of keys that are no texts nothing is known here.
                Ok(if texts { Known::Map(Box::new(Known::Dyn)) } else { Known::Dyn })
            }
            Expr::Object { name, fields } => {
                let root = name.split('.').next().unwrap_or_default();
                if !self.declared.objects.contains(&root) {
                    return self
                        .fail(n.at, format!("undeclared reference to '{name}' (in container '')"));
                }
                for (_, v, _) in fields {
                    self.node(v)?;
                }
                Ok(Known::Dyn)
            }
            Expr::Each(e) => self.each(e, n.at),
            Expr::Bind { how, name, value, body } => {
                let value = self.node(value)?;
                let value = if *how == Bind::Plain { value } else { Known::Dyn };
                self.local.push((name.clone(), value));
                let body = self.node(body);
                self.local.pop();
                Ok(if *how == Bind::Plain { body? } else { body.map(|_| Known::Dyn)? })
            }
        }
    }

    fn name(&self, name: &str, at: usize) -> Found<'a> {
        let local = self.local.iter().rev().find(|(n, _)| n == name);
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, ty)) = local.or_else(|| self.declared.names.iter().find(|(n, _)| n == name))
        {
            return Ok(match ty {
                Known::Schema(s) => Known::of(s),
                ty => ty.clone(),
            });
        }
        if TYPES.contains(&name) || TYPE_SPACES.contains(&name) {
            return Ok(Known::Dyn);
        }
        self.fail(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn field(&self, of: &Known<'a>, name: &str, at: usize) -> Found<'a> {
        match of {
            Known::Schema(schema) | Known::Resource(schema) => {
                let plain = unescape(name);
                let own = |n: &str| schema.get("properties").and_then(|p| p.get(n));
                if let (Known::Resource(_), "metadata") = (of, name) {
                    return Ok(Known::of(metadata()));
                }
                if let Some(s) = own(name).or_else(|| own(&plain)) {
                    return Ok(Known::of(s));
                }
                if let Some(s) = schema.get("additionalProperties") {
                    return Ok(if s.is_object() { Known::of(s) } else { Known::Dyn });
                }
                if let (Known::Resource(_), "apiVersion" | "kind") = (of, name) {
                    return Ok(Known::Str);
                }
                // What a schema keeps without describing, expressions cannot name.
                self.fail(at, format!("undefined field '{name}'"))
            }
            Known::Map(t) => Ok((**t).clone()),
            ty if ty.is_plain() || matches!(ty, Known::List(_)) => {
                self.fail(at, format!("type '{}' does not support field selection", ty.name()))
            }
            _ => Ok(Known::Dyn),
        }
    }

    fn must_be_bool(&self, ty: &Known<'a>, op: &str, at: usize) -> Result<(), CompileError> {
        if matches!(ty, Known::Bool | Known::Dyn) {
            return Ok(());
        }
        self.fail(at, format!("found no matching overload for '{op}' applied to '({})'", ty.name()))
    }

    fn unary(&mut self, op: Unary, of: &Node, at: usize) -> Found<'a> {
        let ty = self.node(of)?;
        match op {
            Unary::Not => {
                self.must_be_bool(&ty, "!_", at)?;
                Ok(Known::Bool)
            }
            Unary::Minus if matches!(ty, Known::Int | Known::Double | Known::Dyn) => Ok(ty),
            Unary::Minus => self.fail(
                at,
                format!("found no matching overload for '-_' applied to '({})'", ty.name()),
            ),
        }
    }

    fn binary(&mut self, op: Binary, a: &Node, b: &Node, at: usize) -> Found<'a> {
        let (a, b) = (self.node(a)?, self.node(b)?);
        let none = || {
            let why = format!(
                "found no matching overload for '{}' applied to '({}, {})'",
                op.symbol(),
                a.name(),
                b.name()
            );
            CompileError::new(self.source, at, why)
        };
        let plain = a.is_plain() && b.is_plain();
        let number = |t: &Known<'_>| matches!(t, Known::Int | Known::Uint | Known::Double);
        let time = |t: &Known<'_>| matches!(t, Known::Duration | Known::Timestamp);
        match op {
            Binary::And | Binary::Or => {
                let fits = |t: &Known<'_>| matches!(t, Known::Bool | Known::Dyn);
                if fits(&a) && fits(&b) { Ok(Known::Bool) } else { Err(none()) }
            }
            Binary::Equal | Binary::Unequal => {
                if plain && a != b && !(number(&a) && number(&b)) {
                    Err(none())
                } else {
                    Ok(Known::Bool)
                }
            }
            Binary::In => match b {
                Known::List(_)
                | Known::Map(_)
                | Known::Schema(_)
                | Known::Resource(_)
                | Known::Dyn => Ok(Known::Bool),
                _ => Err(none()),
            },
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                if plain && a != b && !(number(&a) && number(&b)) {
                    Err(none())
                } else {
                    Ok(Known::Bool)
                }
            }
            _ if !plain => Ok(if a == b { a } else { Known::Dyn }),
            Binary::Add if a == b && !matches!(a, Known::Bool | Known::Timestamp) => Ok(a),
            Binary::Add | Binary::Subtract if time(&a) && time(&b) => Ok(Known::Dyn),
            _ if a == b && number(&a) && !(op == Binary::Modulo && a == Known::Double) => Ok(a),
            _ => Err(none()),
        }
    }

    fn each(&mut self, e: &super::ast::Each, at: usize) -> Found<'a> {
        let over = self.node(&e.over)?;
        if over.is_plain() {
            let why = format!(
                "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                over.name()
            );
            return self.fail(at, why);
        }
        let is_map = match &over {
            Known::Map(_) => true,
            Known::Schema(s) => s.get("additionalProperties").is_some(),
            _ => false,
        };
        let depth = self.local.len();
        let item = element(&over);
        match e.names.as_slice() {
            [one] => self.local.push((one.clone(), if is_map { Known::Str } else { item.clone() })),
            [a, b] => {
                let first = match (&over, is_map) {
                    (_, true) => Known::Str,
                    (Known::List(_), _) => Known::Int,
                    _ => Known::Dyn,
                };
                self.local.push((a.clone(), first));
                self.local.push((b.clone(), item.clone()));
            }
            _ => {}
        }
        if let Some(filter) = &e.filter {
            let ty = self.node(filter)?;
            self.must_be_bool(&ty, "_?_:_", filter.at)?;
        }
        let body = self.node(&e.body)?;
        self.local.truncate(depth);
        Ok(match e.kind {
            EachKind::All | EachKind::Exists | EachKind::ExistsOne => {
                self.must_be_bool(&body, "_&&_", e.body.at)?;
                Known::Bool
            }
            EachKind::Filter => {
                self.must_be_bool(&body, "_?_:_", e.body.at)?;
                Known::List(Box::new(if is_map { Known::Str } else { item }))
            }
            EachKind::Map | EachKind::TransformList => Known::List(Box::new(body)),
            EachKind::TransformMap => Known::Map(Box::new(body)),
            EachKind::TransformMapEntry => match body {
                Known::Map(_) | Known::Dyn | Known::Schema(_) => body,
                _ => return self.fail(e.body.at, "transformMapEntry makes entries of maps"),
            },
            EachKind::SortBy => over,
        })
    }

    fn call(&mut self, on: Option<&Node>, name: &str, args: &[Node], at: usize) -> Found<'a> {
        let space = on.and_then(|n| namespace(n, name));
        let mut types = Vec::new();
        if let (Some(n), None) = (on, space) {
            types.push(self.node(n)?);
        }
        for a in args {
            types.push(self.node(a)?);
        }
        if space.is_none() && !FUNCTIONS.contains(&name) {
            return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        let texts = ["contains", "startsWith", "endsWith", "matches"];
        if texts.contains(&name) && types.iter().any(|t| t.is_plain() && *t != Known::Str) {
            let given: Vec<String> = types.iter().map(Known::name).collect();
            let shown = match given.split_first() {
                Some((first, rest)) => format!("{first}.({})", rest.join(", ")),
                None => String::new(),
            };
            return self
                .fail(at, format!("found no matching overload for '{name}' applied to '{shown}'"));
        }
        Ok(match (name, types.first()) {
            ("size" | "int" | "indexOf" | "lastIndexOf" | "getFullYear", _) => Known::Int,
            (
                "string" | "lowerAscii" | "upperAscii" | "trim" | "substring" | "replace" | "join"
                | "format" | "charAt",
                _,
            ) if space.is_none() => Known::Str,
            ("split" | "findAll", _) => Known::List(Box::new(Known::Str)),
            (
                "contains" | "startsWith" | "endsWith" | "matches" | "isSorted" | "isURL"
                | "isQuantity" | "isIP" | "isCIDR" | "hasValue" | "allowed" | "isSemver" | "bool",
                _,
            ) => Known::Bool,
            ("duration", _) => Known::Duration,
            ("timestamp", _) => Known::Timestamp,
            ("double", _) => Known::Double,
            ("uint", _) => Known::Uint,
            _ => Known::Dyn,
        })
    }
}

fn element<'a>(of: &Known<'a>) -> Known<'a> {
    match of {
        Known::List(t) | Known::Map(t) => (**t).clone(),
        Known::Schema(s) => match s.get("additionalProperties") {
            Some(a) if a.is_object() => Known::of(a),
            _ => Known::Dyn,
        },
        _ => Known::Dyn,
    }
}

fn literal<'a>(v: &Val<'_>) -> Known<'a> {
    match v {
        Val::Null => Known::Null,
        Val::Bool(_) => Known::Bool,
        Val::Int(_) => Known::Int,
        Val::Uint(_) => Known::Uint,
        Val::Double(_) => Known::Double,
        Val::Str(_) => Known::Str,
        Val::Bytes(_) => Known::Bytes,
        _ => Known::Dyn,
    }
}
