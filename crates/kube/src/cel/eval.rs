//! Evaluation, step by step, each paid for.

use super::ast::{Binary, Bind, Each, EachKind, Expr, Node, Unary};
use super::value::Val;
use super::{EvalError, library, lists, strings, times};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Answers what an expression asks of the authorizer.
pub trait Authority: Sync {
    /// Whether the check's action is allowed, and why.
    fn allows(&self, check: &Check) -> (bool, String);
}

/// What an expression asks the authorizer: built up call by call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// A path, where the question is about one.
    pub path: Option<String>,
    /// The group, for a question about a resource.
    pub group: String,
    /// The resource; nothing yet.
    pub resource: Option<String>,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// The verb.
    pub verb: String,
    /// Another account than the request's: namespace and name.
    pub account: Option<(String, String)>,
}

/// What names mean.
#[derive(Clone, Default)]
pub struct Scope<'a> {
    names: BTreeMap<&'a str, Val<'a>>,
    authority: Option<&'a dyn Authority>,
}

impl<'a> Scope<'a> {
    /// Gives a name a value.
    pub fn set(&mut self, name: &'a str, v: Val<'a>) {
        self.names.insert(name, v);
    }

    /// Lets expressions ask this authorizer.
    pub fn ask(&mut self, authority: &'a dyn Authority) {
        self.authority = Some(authority);
        self.set("authorizer", Val::Check(Arc::default()));
    }
}

/// Evaluates one expression.
pub(super) struct Machine<'s, 'a> {
    scope: &'s Scope<'a>,
    local: Vec<(&'a str, Val<'a>)>,
    left: u64,
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

fn overload<'a>() -> Outcome<'a> {
    Err(EvalError::Overload)
}

fn other<T>(why: &str) -> Result<T, EvalError> {
    Err(EvalError::Other(why.to_owned()))
}

impl<'a> Machine<'_, 'a> {
    pub(super) fn new<'s>(scope: &'s Scope<'a>, left: u64) -> Machine<'s, 'a> {
        Machine { scope, local: Vec::new(), left }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn authority(&self) -> Option<&'a dyn Authority> {
        self.scope.authority
    }

    /// Pays for so much work.
    pub(super) fn pay(&mut self, units: usize) -> Result<(), EvalError> {
        match self.left.checked_sub(u64::try_from(units).unwrap_or(u64::MAX)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::Cost)
            }
        }
    }

    /// Pays for looking through a text: a tenth of a unit for each byte.
    pub(super) fn pay_text(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.pay(bytes / 10 + 1)
    }

    pub(super) fn run(&mut self, node: &'a Node) -> Outcome<'a> {
        self.pay(1)?;
        match &node.expr {
            Expr::Literal(v) => Ok(v.clone()),
            Expr::Name(name) => self.name(name),
            Expr::Field { of, name, optional } => self.field(of, name, *optional),
            Expr::Has { of, name } => {
                let v = self.run(of)?;
                Ok(Val::Bool(v.field(name)?.is_some()))
            }
            Expr::Index { of, by, optional } => self.index(of, by, *optional),
            Expr::Call { on, name, args } => self.call(on.as_deref(), name, args),
            Expr::Unary(op, of) => self.unary(*op, of),
            Expr::Binary(Binary::And, a, b) => self.logic(a, b, false),
            Expr::Binary(Binary::Or, a, b) => self.logic(a, b, true),
            Expr::Binary(op, a, b) => {
                let (a, b) = (self.run(a)?, self.run(b)?);
                self.binary(*op, &a, &b)
            }
            Expr::Choice(condition, yes, no) => {
                if self.run(condition)?.truth()? {
                    self.run(yes)
                } else {
                    self.run(no)
                }
            }
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Object { name, fields } => self.object(name, fields),
            Expr::Each(each) => self.each(each),
            Expr::Bind { how, name, value, body } => self.bind(*how, name, value, body),
        }
    }

    fn name(&self, name: &str) -> Outcome<'a> {
        let local = self.local.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v);
        let name = name.strip_prefix('.').unwrap_or(name);
        match local.or_else(|| self.scope.names.get(name)) {
            Some(v) => Ok(v.clone()),
            None => match type_of_name(name) {
                Some(ty) => Ok(Val::Type(ty)),
                None => Err(EvalError::Other(format!("no such attribute(s): {name}"))),
            },
        }
    }

    fn field(&mut self, of: &'a Node, name: &'a str, optional: bool) -> Outcome<'a> {
        if let Some(ty) = qualified_type(of, name) {
            return Ok(Val::Type(ty));
        }
        let authorizer = matches!(&of.expr, Expr::Name(n) if n == "authorizer");
        if authorizer && name == "requestResource" {
            return self.name("authorizer.requestResource");
        }
        let v = self.run(of)?;
        // What comes after an optional step stays optional.
        let optional = optional || matches!(v, Val::Optional(_));
        match (v.field(name)?, optional) {
            (found, true) => Ok(Val::Optional(found.map(Arc::new))),
            (Some(v), false) => Ok(v),
            (None, false) => Err(EvalError::Key(name.to_owned())),
        }
    }

    fn index(&mut self, of: &'a Node, by: &'a Node, optional: bool) -> Outcome<'a> {
        let (v, by) = (self.run(of)?, self.run(by)?);
        let optional = optional || matches!(v, Val::Optional(_));
        if let Val::Map(m) = &v {
            self.pay(m.len())?;
        }
        match (v.index(&by)?, optional) {
            (found, true) => Ok(Val::Optional(found.map(Arc::new))),
            (Some(v), false) => Ok(v),
            (None, false) => match v {
                Val::JsonList(..) | Val::List(_) => {
                    Err(EvalError::Other(format!("index out of bounds: {}", by.as_int()?)))
                }
                _ => Err(EvalError::Key(strings::print(&by)?)),
            },
        }
    }

    fn unary(&mut self, op: Unary, of: &'a Node) -> Outcome<'a> {
        let v = self.run(of)?;
        match (op, v) {
            (Unary::Not, Val::Bool(b)) => Ok(Val::Bool(!b)),
            (Unary::Minus, Val::Int(n)) => {
                n.checked_neg().map_or_else(|| other("integer overflow"), |n| Ok(Val::Int(n)))
            }
            (Unary::Minus, Val::Double(n)) => Ok(Val::Double(-n)),
            _ => overload(),
        }
    }

    /// `&&` and `||`: the side that decides does so even where the other fails.
    fn logic(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> Outcome<'a> {
        let first = self.run(a).and_then(|v| v.truth());
        match first {
            Ok(v) if v == decides => return Ok(Val::Bool(decides)),
            Err(EvalError::Cost) => return Err(EvalError::Cost),
            _ => {}
        }
        let second = self.run(b).and_then(|v| v.truth());
        match (first, second) {
            (_, Ok(v)) if v == decides => Ok(Val::Bool(decides)),
            (_, Err(EvalError::Cost)) => Err(EvalError::Cost),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Ok(Val::Bool(!decides)),
        }
    }

    /// What a comparison of two values costs.
    fn weigh(&mut self, v: &Val<'a>) -> Result<(), EvalError> {
        let units = match v {
            Val::Str(s) => s.len() / 10,
            Val::Bytes(b) => b.len() / 10,
            v => v.size().unwrap_or(0),
        };
        self.pay(units)
    }

    fn binary(&mut self, op: Binary, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
        self.weigh(a)?;
        self.weigh(b)?;
        let order =
            |wanted: fn(Ordering) -> bool| a.compare(b).map(|o| Val::Bool(o.is_some_and(wanted)));
        match op {
            Binary::Equal => Ok(Val::Bool(a.equals(b))),
            Binary::Unequal => Ok(Val::Bool(!a.equals(b))),
            Binary::Less => order(Ordering::is_lt),
            Binary::LessEqual => order(Ordering::is_le),
            Binary::Greater => order(Ordering::is_gt),
            Binary::GreaterEqual => order(Ordering::is_ge),
            Binary::In => self.contains(b, a),
            Binary::Add => self.add(a, b),
            _ => arithmetic(op, a, b),
        }
    }

    fn contains(&mut self, all: &Val<'a>, one: &Val<'a>) -> Outcome<'a> {
        if let Some(list) = all.elements() {
            self.pay(list.len())?;
            return Ok(Val::Bool(list.iter().any(|v| v.equals(one))));
        }
        match all {
            Val::JsonMap(..) | Val::Map(_) => Ok(Val::Bool(all.index(one)?.is_some())),
            _ => overload(),
        }
    }

    fn add(&mut self, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
        match (a, b) {
            (Val::Str(a), Val::Str(b)) => {
                self.pay_text(a.len() + b.len())?;
                Ok(Val::text(format!("{a}{b}")))
            }
            (Val::Bytes(a), Val::Bytes(b)) => {
                self.pay_text(a.len() + b.len())?;
                Ok(Val::Bytes(a.iter().chain(b.iter()).copied().collect()))
            }
            (Val::Duration(_) | Val::Timestamp(_), _) | (_, Val::Timestamp(_)) => times::add(a, b),
            _ => match (a.elements(), b.elements()) {
                (Some(mut list), Some(more)) => {
                    self.pay(list.len() + more.len())?;
                    list.extend(more);
                    Ok(Val::list(list))
                }
                _ => arithmetic(Binary::Add, a, b),
            },
        }
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Outcome<'a> {
        let mut out = Vec::with_capacity(items.len());
        for (node, optional) in items {
            match (self.run(node)?, optional) {
                (Val::Optional(v), true) => out.extend(v.map(|v| (*v).clone())),
                (_, true) => return overload(),
                (v, false) => out.push(v),
            }
        }
        Ok(Val::list(out))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        let mut out: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.run(key)?;
            if !matches!(key, Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Str(_)) {
                return other(&format!("unsupported key type: {}", key.type_name()));
            }
            if out.iter().any(|(k, _)| k.equals(&key)) {
                return other(&format!("Failed with repeated key: {}", strings::print(&key)?));
            }
            match (self.run(value)?, optional) {
                (Val::Optional(v), true) => out.extend(v.map(|v| (key, (*v).clone()))),
                (_, true) => return overload(),
                (v, false) => out.push((key, v)),
            }
        }
        Ok(Val::Map(Arc::new(out)))
    }

    fn object(&mut self, name: &'a str, fields: &'a [(String, Node, bool)]) -> Outcome<'a> {
        let mut out = Vec::with_capacity(fields.len());
        for (field, node, optional) in fields {
            let plain = super::value::unescape(field).into_owned();
            match (self.run(node)?, optional) {
                (Val::Optional(v), true) => out.extend(v.map(|v| (plain, (*v).clone()))),
                (_, true) => return overload(),
                (v, false) => out.push((plain, v)),
            }
        }
        Ok(Val::Object(Arc::from(name), Arc::new(out)))
    }

    fn bind(&mut self, how: Bind, name: &'a str, value: &'a Node, body: &'a Node) -> Outcome<'a> {
        let v = self.run(value)?;
        let v = match (how, v) {
            (Bind::Plain, v) => v,
            (_, Val::Optional(Some(v))) => (*v).clone(),
            (_, Val::Optional(None)) => return Ok(Val::Optional(None)),
            _ => return overload(),
        };
        self.local.push((name, v));
        let out = self.run(body);
        self.local.pop();
        match how {
            Bind::Optional => Ok(Val::Optional(Some(Arc::new(out?)))),
            _ => out,
        }
    }

    /// The pairs that a macro goes over: element, or index and element, or key and value.
    fn pairs(&mut self, each: &'a Each) -> Result<Vec<(Val<'a>, Val<'a>)>, EvalError> {
        let over = self.run(&each.over)?;
        let pairs: Vec<(Val<'a>, Val<'a>)> = if let Some(list) = over.elements() {
            let index = |i: usize| Val::Int(i64::try_from(i).unwrap_or(i64::MAX));
            list.into_iter().enumerate().map(|(i, v)| (index(i), v)).collect()
        } else if let Some(entries) = over.entries() {
            // With one variable, a map is gone through by its keys.
            let one = each.names.len() == 1;
            entries.into_iter().map(|(k, v)| if one { (Val::Null, k) } else { (k, v) }).collect()
        } else {
            return Err(EvalError::Overload);
        };
        self.pay(pairs.len())?;
        Ok(pairs)
    }

    fn with(&mut self, each: &'a Each, pair: &(Val<'a>, Val<'a>), body: &'a Node) -> Outcome<'a> {
        let depth = self.local.len();
        match each.names.as_slice() {
            [one] => self.local.push((one.as_str(), pair.1.clone())),
            [a, b] => {
                self.local.push((a.as_str(), pair.0.clone()));
                self.local.push((b.as_str(), pair.1.clone()));
            }
            _ => {}
        }
        let out = self.run(body);
        self.local.truncate(depth);
        out
    }

    fn each(&mut self, each: &'a Each) -> Outcome<'a> {
        let pairs = self.pairs(each)?;
        match each.kind {
            EachKind::All => self.quantified(each, &pairs, false),
            EachKind::Exists => self.quantified(each, &pairs, true),
            EachKind::ExistsOne => {
                let mut count = 0;
                for p in &pairs {
                    count += i32::from(self.with(each, p, &each.body)?.truth()?);
                }
                Ok(Val::Bool(count == 1))
            }
            EachKind::Filter => {
                let mut out = Vec::new();
                for p in &pairs {
                    if self.with(each, p, &each.body)?.truth()? {
                        out.push(p.1.clone());
                    }
                }
                Ok(Val::list(out))
            }
            EachKind::Map | EachKind::TransformList => {
                let mut out = Vec::new();
                for p in &pairs {
                    if self.passes(each, p)? {
                        out.push(self.with(each, p, &each.body)?);
                    }
                }
                Ok(Val::list(out))
            }
            EachKind::TransformMap => {
                let mut out = Vec::new();
                for p in &pairs {
                    if self.passes(each, p)? {
                        out.push((p.0.clone(), self.with(each, p, &each.body)?));
                    }
                }
                Ok(Val::Map(Arc::new(out)))
            }
            EachKind::TransformMapEntry => {
                let mut out: Vec<(Val<'a>, Val<'a>)> = Vec::new();
                for p in &pairs {
                    if !self.passes(each, p)? {
                        continue;
                    }
                    let made = self.with(each, p, &each.body)?.entries();
                    for (key, value) in made.ok_or(EvalError::Overload)? {
                        self.pay(out.len() / 10)?;
                        if out.iter().any(|(k, _)| k.equals(&key)) {
                            let key = strings::print(&key)?;
                            return other(&format!("insert failed: key {key} already exists"));
                        }
                        out.push((key, value));
                    }
                }
                Ok(Val::Map(Arc::new(out)))
            }
            EachKind::SortBy => {
                let mut keyed = Vec::new();
                for p in &pairs {
                    keyed.push((self.with(each, p, &each.body)?, p.1.clone()));
                }
                self.pay(keyed.len() * 4)?;
                lists::sort_by_key(keyed)
            }
        }
    }

    fn passes(&mut self, each: &'a Each, pair: &(Val<'a>, Val<'a>)) -> Result<bool, EvalError> {
        match &each.filter {
            Some(filter) => self.with(each, pair, filter)?.truth(),
            None => Ok(true),
        }
    }

    /// `all` and `exists`: an error counts only where no element decides.
    fn quantified(
        &mut self,
        each: &'a Each,
        pairs: &[(Val<'a>, Val<'a>)],
        decides: bool,
    ) -> Outcome<'a> {
        let mut failed = None;
        for p in pairs {
            match self.with(each, p, &each.body).and_then(|v| v.truth()) {
                Ok(v) if v == decides => return Ok(Val::Bool(decides)),
                Ok(_) => {}
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) => Err(e),
            None => Ok(Val::Bool(!decides)),
        }
    }

    fn call(&mut self, on: Option<&'a Node>, name: &'a str, nodes: &'a [Node]) -> Outcome<'a> {
        // `optional.of`, `lists.range`, `sets.contains`: the part before the dot is no value.
        let space = on.and_then(|n| namespace(n, name));
        let mut args = Vec::with_capacity(nodes.len() + 1);
        if let (Some(node), None) = (on, space) {
            args.push(self.run(node)?);
        }
        for node in nodes {
            args.push(self.run(node)?);
        }
        for a in &args {
            self.weigh(a)?;
        }
        let full = match space {
            Some(space) => format!("{space}.{name}"),
            None => name.to_owned(),
        };
        let method = on.is_some() && space.is_none();
        for library in [strings::call, lists::call, times::call, library::call] {
            if let Some(out) = library(self, &full, method, &args) {
                return out;
            }
        }
        overload()
    }
}

/// The namespace that a part is, where a function of that namespace has this name.
pub(super) fn namespace(node: &Node, function: &str) -> Option<&'static str> {
    let Expr::Name(n) = &node.expr else { return None };
    let spaces: &[(&'static str, &[&str])] = &[
        ("optional", &["of", "none", "ofNonZeroValue", "unwrap"]),
        ("lists", &["range"]),
        ("sets", &["contains", "equivalent", "intersects"]),
        ("strings", &["quote"]),
        ("ip", &["isCanonical"]),
        (
            "format",
            &[
                "named",
                "dns1123Label",
                "dns1123Subdomain",
                "dns1035Label",
                "qualifiedName",
                "dns1123LabelPrefix",
                "dns1123SubdomainPrefix",
                "dns1035LabelPrefix",
                "labelValue",
                "uri",
                "uuid",
                "byte",
                "date",
                "datetime",
            ],
        ),
        ("jsonpatch", &["escapeKey"]),
        ("math", &["greatest", "least", "abs", "ceil", "floor", "round", "sign", "trunc"]),
    ];
    spaces.iter().find(|(s, f)| s == n && f.contains(&function)).map(|(s, _)| *s)
}

fn type_of_name(name: &str) -> Option<&'static str> {
    super::functions::TYPES.iter().copied().find(|t| *t == name)
}

fn qualified_type(of: &Node, name: &str) -> Option<&'static str> {
    if let Expr::Field { of, name: middle, optional: false } = &of.expr
        && matches!(&of.expr, Expr::Name(n) if n == "google")
        && middle == "protobuf"
    {
        return match name {
            "Timestamp" => Some("google.protobuf.Timestamp"),
            "Duration" => Some("google.protobuf.Duration"),
            _ => None,
        };
    }
    let Expr::Name(space) = &of.expr else { return None };
    match (space.as_str(), name) {
        ("net", "IP") => Some("net.IP"),
        ("net", "CIDR") => Some("net.CIDR"),
        ("kubernetes", "Quantity") => Some("kubernetes.Quantity"),
        ("kubernetes", "URL") => Some("kubernetes.URL"),
        _ => None,
    }
}

fn arithmetic<'a>(op: Binary, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    let overflow = |what: &str| EvalError::Other(format!("{what} overflow"));
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => {
            let out = match op {
                Binary::Add => a.checked_add(*b),
                Binary::Subtract => a.checked_sub(*b),
                Binary::Multiply => a.checked_mul(*b),
                Binary::Divide if *b == 0 => return other("division by zero"),
                Binary::Modulo if *b == 0 => return other("modulus by zero"),
                Binary::Divide => a.checked_div(*b),
                Binary::Modulo => a.checked_rem(*b),
                _ => return overload(),
            };
            out.map(Val::Int).ok_or_else(|| overflow("integer"))
        }
        (Val::Uint(a), Val::Uint(b)) => {
            let out = match op {
                Binary::Add => a.checked_add(*b),
                Binary::Subtract => a.checked_sub(*b),
                Binary::Multiply => a.checked_mul(*b),
                Binary::Divide if *b == 0 => return other("division by zero"),
                Binary::Modulo if *b == 0 => return other("modulus by zero"),
                Binary::Divide => a.checked_div(*b),
                Binary::Modulo => a.checked_rem(*b),
                _ => return overload(),
            };
            out.map(Val::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match op {
            Binary::Add => a + b,
            Binary::Subtract => a - b,
            Binary::Multiply => a * b,
            Binary::Divide => a / b,
            _ => return overload(),
        })),
        _ if op == Binary::Subtract => times::subtract(a, b),
        _ => overload(),
    }
}
