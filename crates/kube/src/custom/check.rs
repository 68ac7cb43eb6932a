//! Judges a value by its structural schema, in the words of the reference server.

use super::structural::member;
use super::{Structural, formats, is_set, text, typed_metadata};
use crate::names;
use crate::shape::{Shape, key_of};
use crate::status::{Problem, Rule};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Problems of one object; nobody reads more, and each costs memory.
const MOST: usize = 100;

/// Judges a whole object.
pub(super) fn object(s: &Structural, v: &Value, old: Option<&Value>) -> Vec<Problem> {
    let mut check = Check { s, out: Vec::new() };
    check.value(&s.schema, v, old, "", true);
    let mut out = check.out;
    // Lists that had doubles before may have others now.
    if let Some(old) = old.filter(|_| out.iter().any(is_double)) {
        let mut before = Check { s, out: Vec::new() };
        before.value(&s.schema, old, None, "", true);
        if before.out.iter().any(is_double) {
            out.retain(|p| !is_double(p));
        }
    }
    out.truncate(MOST);
    out
}

fn is_double(p: &Problem) -> bool {
    matches!(p.rule, Rule::Duplicate(_))
}

/// Judges the `status` of an object alone. Sentences name its fields from there on, as the reference server has them.
pub(super) fn status(s: &Structural, v: &Value, old: &Value) -> Vec<Problem> {
    let (Some(schema), Some(v)) = (member(&s.schema, "status"), v.get("status")) else {
        return Vec::new();
    };
    let mut check = Check { s, out: Vec::new() };
    check.value(schema, v, old.get("status"), "", false);
    check.out.truncate(MOST);
    let below = |p: Problem| {
        let field = match p.field.as_str() {
            "<nil>" => "status".to_owned(),
            below => format!("status.{below}"),
        };
        Problem { field, ..p }
    };
    check.out.into_iter().map(below).collect()
}

struct Check<'a> {
    s: &'a Structural,
    out: Vec<Problem>,
}

/// What the reference server calls the type of a value.
fn type_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fits(wanted: &str, v: &Value) -> bool {
    match (wanted, v) {
        ("number", Value::Number(_)) => true,
        // A float without a fraction is an integer in JSON.
        ("integer", Value::Number(n)) => n.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => type_of(v) == wanted,
    }
}

impl Check<'_> {
    fn invalid(&mut self, path: &str, v: &Value, why: &str) {
        let field = field(path);
        self.out.push(Problem::invalid(field, v, format!("{path} in body {why}")));
    }

    fn value(&mut self, schema: &Value, v: &Value, old: Option<&Value>, path: &str, root: bool) {
        if old == Some(v) || self.out.len() > MOST {
            if root {
                self.identity(schema, v);
            }
            return;
        }
        if v.is_null() && is_set(schema, "nullable") {
            return;
        }
        if !self.type_fits(schema, v, path) {
            return;
        }
        let embedded = is_set(schema, "x-kubernetes-embedded-resource");
        if embedded {
            self.embedded(v, path);
        }
        self.limits(schema, v, path);
        self.combined(schema, v, path);
        match v {
            Value::Object(m) => self.members(schema, m, old, path, root || embedded),
            Value::Array(list) => self.elements(schema, list, old, path),
            _ => {}
        }
    }

    /// What a whole object is, is that of the request: it is judged even where nothing changed.
    fn identity(&mut self, schema: &Value, v: &Value) {
        for name in ["apiVersion", "kind"] {
            if let (Some(s), Some(v)) = (member(schema, name), v.get(name)) {
                self.value(s, v, None, name, false);
            }
        }
    }

    fn type_fits(&mut self, schema: &Value, v: &Value, path: &str) -> bool {
        let wanted = text(schema, "type");
        if is_set(schema, "x-kubernetes-int-or-string") {
            let ok = fits("integer", v) || v.is_string();
            if !ok {
                let found = type_of(v);
                self.invalid(
                    path,
                    &json!(found),
                    &format!("must be of type integer,string: {found:?}"),
                );
            }
            return ok;
        }
        if wanted.is_empty() || fits(wanted, v) {
            return true;
        }
        let found = type_of(v);
        self.invalid(path, &json!(found), &format!("must be of type {wanted}: {found:?}"));
        false
    }

    fn limits(&mut self, schema: &Value, v: &Value, path: &str) {
        match v {
            Value::String(s) => self.string(schema, v, s, path),
            Value::Number(n) => self.number(schema, v, n.as_f64().unwrap_or(0.0), path),
            Value::Array(list) => {
                self.count(schema, list.len(), path, ("minItems", "maxItems", "items"))
            }
            Value::Object(m) => {
                self.count(schema, m.len(), path, ("minProperties", "maxProperties", "properties"));
            }
            _ => {}
        }
        if let Some(Value::Array(allowed)) = schema.get("enum")
            && !allowed.iter().any(|a| same(a, v))
        {
            let texts: Vec<String> = allowed
                .iter()
                .map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            self.out.push(Problem::unsupported(field(path), v, &texts));
        }
    }

    fn string(&mut self, schema: &Value, v: &Value, s: &str, path: &str) {
        let length = s.chars().count();
        let number = |key: &str| {
            schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
        };
        if let Some(most) = number("maxLength").filter(|m| length > *m) {
            self.out.push(Problem { field: field(path), rule: Rule::TooLong(most) });
        }
        if let Some(least) = number("minLength").filter(|m| length < *m) {
            self.invalid(path, v, &format!("should be at least {least} chars long"));
        }
        let pattern = text(schema, "pattern");
        if !pattern.is_empty() && self.s.patterns.get(pattern).is_some_and(|p| !p.is_match(s)) {
            self.invalid(path, v, &format!("should match '{pattern}'"));
        }
        let format = text(schema, "format");
        if !format.is_empty() && !formats::matches(format, s) {
            self.invalid(path, v, &format!("must be of type {format}: {s:?}"));
        }
    }

    fn number(&mut self, schema: &Value, v: &Value, n: f64, path: &str) {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let print = |key: &str| schema.get(key).map(ToString::to_string).unwrap_or_default();
        if let Some(max) = bound("maximum") {
            let strict = is_set(schema, "exclusiveMaximum");
            if n > max || strict && n >= max {
                let or = if strict { "" } else { " or equal to" };
                self.invalid(path, v, &format!("should be less than{or} {}", print("maximum")));
            }
        }
        if let Some(min) = bound("minimum") {
            let strict = is_set(schema, "exclusiveMinimum");
            if n < min || strict && n <= min {
                let or = if strict { "" } else { " or equal to" };
                self.invalid(path, v, &format!("should be greater than{or} {}", print("minimum")));
            }
        }
        if let Some(step) = bound("multipleOf").filter(|s| *s > 0.0)
            && (n / step).fract() != 0.0
        {
            self.invalid(path, v, &format!("should be a multiple of {}", print("multipleOf")));
        }
        let in_range = match text(schema, "format") {
            "int32" => v.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            "int64" => v.as_i64().is_some() || n.abs() < 9.3e18,
            _ => true,
        };
        if !in_range {
            let format = text(schema, "format");
            self.invalid(path, v, &format!("must be of type {format}: {:?}", type_of(v)));
        }
    }

    fn count(&mut self, schema: &Value, n: usize, path: &str, keys: (&str, &str, &str)) {
        let number = |key: &str| {
            schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
        };
        if let Some(most) = number(keys.1).filter(|m| n > *m) {
            self.out.push(Problem { field: field(path), rule: Rule::TooMany(n, most) });
        }
        if let Some(least) = number(keys.0).filter(|m| n < *m) {
            self.invalid(path, &json!(n), &format!("should have at least {least} {}", keys.2));
        }
    }

    /// `allOf`, `anyOf`, `oneOf`, `not`.
    fn combined(&mut self, schema: &Value, v: &Value, path: &str) {
        let list =
            |key: &str| schema.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let broken = |check: &Self, s: &Value| {
            let mut probe = Check { s: check.s, out: Vec::new() };
            probe.value(s, v, None, path, false);
            probe.out
        };
        let mut failures = Vec::new();
        for s in list("allOf") {
            let out = broken(self, s);
            if !out.is_empty() {
                failures.push("must validate all the schemas (allOf)".to_owned());
                self.out.extend(out);
            }
        }
        let any = list("anyOf");
        if !any.is_empty() {
            let all: Vec<Vec<Problem>> = any.iter().map(|s| broken(self, s)).collect();
            if all.iter().all(|p| !p.is_empty()) {
                failures.push("must validate at least one schema (anyOf)".to_owned());
                // The one that came nearest says what is missing.
                self.out.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        let one = list("oneOf");
        if !one.is_empty() {
            let all: Vec<Vec<Problem>> = one.iter().map(|s| broken(self, s)).collect();
            let valid = all.iter().filter(|p| p.is_empty()).count();
            if valid != 1 {
                let found = if valid == 0 {
                    "none valid".to_owned()
                } else {
                    format!("{valid} valid alternatives")
                };
                failures
                    .push(format!("must validate one and only one schema (oneOf). Found {found}"));
                if valid == 0 {
                    self.out.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
            }
        }
        if let Some(s) = schema.get("not").filter(|s| s.is_object())
            && broken(self, s).is_empty()
        {
            failures.push("must not validate the schema (not)".to_owned());
        }
        for why in failures {
            self.out.push(Problem::invalid(field(path), &json!(""), format!("{path:?} {why}")));
        }
    }

    fn members(
        &mut self,
        schema: &Value,
        m: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        root: bool,
    ) {
        let dot = if path.is_empty() { "" } else { "." };
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = name.as_str().filter(|n| !m.contains_key(*n)) {
                self.out.push(Problem::required(format!("{path}{dot}{name}"), ""));
            }
        }
        let before = old.and_then(Value::as_object);
        for (name, v) in m {
            let at = format!("{path}{dot}{name}");
            if let Some(s) = member(schema, name) {
                // What a whole object is, is that of the request: it is judged each time.
                let fresh = root && matches!(name.as_str(), "apiVersion" | "kind");
                let before = before.and_then(|o| o.get(name)).filter(|_| !fresh);
                // Of metadata, a schema may restrict the name only; the rest is the API's.
                self.value(s, v, before, &at, false);
            }
        }
    }

    fn elements(&mut self, schema: &Value, list: &[Value], old: Option<&Value>, path: &str) {
        let Some(items) = schema.get("items") else { return };
        let keys: Vec<&str> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let kind = text(schema, "x-kubernetes-list-type");
        let key = |v: &Value| key_of(&keys, Shape::Custom(items), v);
        let before = old.and_then(Value::as_array);
        let mut seen: BTreeSet<String> = BTreeSet::new();
        for (i, v) in list.iter().enumerate() {
            let at = format!("{path}[{i}]");
            let counterpart = match (kind, before) {
                ("map", Some(before)) => {
                    key(v).and_then(|k| before.iter().find(|o| key(o).as_ref() == Some(&k)))
                }
                _ => None,
            };
            self.value(items, v, counterpart, &at, false);
            let id = match kind {
                "set" => Some(v.clone()),
                "map" => key(v).map(Value::Object),
                _ => None,
            };
            if let Some(id) = id
                && !seen.insert(id.to_string())
            {
                self.out.push(Problem::duplicate(field(&at), &id));
            }
        }
    }

    /// An object inside an object must say what it is.
    fn embedded(&mut self, v: &Value, path: &str) {
        for name in ["apiVersion", "kind"] {
            let at = format!("{path}.{name}");
            let why = match v.get(name) {
                None => {
                    self.out.push(Problem::required(at, ""));
                    continue;
                }
                Some(Value::String(s)) if s.is_empty() => Some("must not be empty".to_owned()),
                Some(Value::String(s)) if name == "kind" => names::label_1035(&s.to_lowercase())
                    .map(|why| format!("may have mixed case, but should otherwise match: {why}")),
                Some(Value::String(s)) if s.matches('/').count() > 1 => {
                    Some(format!("unexpected GroupVersion string: {s}"))
                }
                Some(Value::String(_)) => None,
                Some(_) => Some("must be a string".to_owned()),
            };
            if let Some(why) = why {
                self.out.push(Problem::invalid(at, &v[name], why));
            }
        }
        if let Some(m) = v.get("metadata") {
            self.embedded_metadata(m, path);
        }
    }

    /// Metadata inside an object is judged like that of objects, but for its name, which may be missing.
    fn embedded_metadata(&mut self, m: &Value, path: &str) {
        let mut m = match typed_metadata(m.clone(), &mut Vec::new()) {
            Ok(m) => m,
            Err(e) => {
                let at = format!("{path}.metadata");
                self.out.push(Problem::invalid(at, m, e.to_string()));
                return;
            }
        };
        if text(&m, "name").is_empty() {
            m["name"] = json!("fakename");
        }
        let namespaced = !text(&m, "namespace").is_empty();
        let found =
            crate::validate::metadata(&json!({"metadata": m}), namespaced, names::path_segment);
        self.out.extend(
            found.into_iter().map(|p| Problem { field: format!("{path}.{}", p.field), ..p }),
        );
    }
}

/// The root has no path, which Go prints so.
fn field(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Whether a default is one that its schema allows.
pub(super) fn default_fits(schema: &Value, v: &Value, path: &str) -> Vec<Problem> {
    let s = Structural::new(schema.clone());
    let mut check = Check { s: &s, out: Vec::new() };
    check.value(&s.schema, v, None, path, false);
    check.out
}
