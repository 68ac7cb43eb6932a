//! From any JSON to the one form that the API keeps: known fields in their order, zero values dropped
//! or printed as the kind's declaration says, quantities and times in canonical spelling.

use crate::quantity::Quantity;
use crate::schema::{Field, Schema, Ty, TypeId};
use crate::time;
use base64::Engine as _;
use serde_json::{Map, Value};

/// A value of the wrong type. The texts are those of the reference server, because clients print them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// A value of another JSON type than the field's.
    #[error(
        "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"
    )]
    Field {
        /// What was found.
        found: String,
        /// The type that has the field.
        owner: &'static str,
        /// Names of fields from the root.
        path: String,
        /// What the field holds.
        expected: String,
    },
    /// The document itself is of another type.
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    Root {
        /// What was found.
        found: String,
        /// What was wanted.
        expected: String,
    },
    /// A string that does not spell what the field holds.
    #[error("{0}")]
    Text(String),
}

/// Brings `value` into the form of `ty`. Paths of unknown fields are added to `unknown`.
pub fn normalize(ty: TypeId, value: Value, unknown: &mut Vec<String>) -> Result<Value, TypedError> {
    let schema = Schema::builtin();
    let mut walk = Walk { schema, path: Vec::new(), owner: None, unknown };
    walk.value(&Ty::Struct(ty), value)
}

/// What a type prints when nothing is set.
pub fn zero(ty: TypeId) -> Value {
    normalize(ty, Value::Object(Map::new()), &mut Vec::new()).unwrap_or_default()
}

enum Segment {
    Field(&'static str),
    Key(String),
    Index(usize),
}

struct Walk<'a> {
    schema: &'static Schema,
    path: Vec<Segment>,
    owner: Option<&'static str>,
    unknown: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn value(&mut self, ty: &Ty, v: Value) -> Result<Value, TypedError> {
        match ty {
            Ty::Struct(id) => self.structure(*id, v),
            Ty::List(item) => self.list(ty, item, v),
            Ty::Map(item) => self.map(ty, item, v),
            Ty::SchemaOrBool | Ty::SchemaOrList | Ty::SchemaOrStrings => self.either(ty, v),
            Ty::Raw | Ty::Json | Ty::Fields => Ok(v),
            _ => self.scalar(ty, v),
        }
    }

    fn structure(&mut self, id: TypeId, v: Value) -> Result<Value, TypedError> {
        let t = self.schema.ty(id);
        let mut given = match v {
            Value::Object(m) => m,
            Value::Null => Map::new(),
            other => return Err(self.mismatch(&other, &Ty::Struct(id))),
        };
        let mut out = Map::new();
        if t.kind {
            for name in ["kind", "apiVersion"] {
                match given.swap_remove(name) {
                    Some(Value::String(s)) if !s.is_empty() => {
                        out.insert(name.to_owned(), Value::String(s));
                    }
                    Some(Value::String(_) | Value::Null) | None => (),
                    Some(other) => return Err(self.mismatch(&other, &Ty::Str)),
                }
            }
        }
        let outer = self.owner.replace(t.short());
        for f in &t.fields {
            self.path.push(Segment::Field(f.name));
            let value = self.field(f, given.swap_remove(f.name).unwrap_or(Value::Null));
            self.path.pop();
            if let Some(value) = value? {
                out.insert(f.name.to_owned(), value);
            }
        }
        self.owner = outer;
        let mut rest: Vec<String> = given.into_iter().map(|(k, _)| k).collect();
        rest.sort_unstable();
        for key in rest {
            let path = self.full_path();
            let dot = if path.is_empty() { "" } else { "." };
            self.unknown.push(format!("{path}{dot}{key}"));
        }
        Ok(Value::Object(out))
    }

    /// The field's value, or nothing where it is not printed.
    fn field(&mut self, f: &Field, v: Value) -> Result<Option<Value>, TypedError> {
        if v.is_null() && (f.pointer || !matches!(f.ty, Ty::Struct(_))) {
            return Ok(f.always.then(|| if f.pointer { Value::Null } else { zero_of(&f.ty) }));
        }
        let v = self.value(&f.ty, v)?;
        let dropped = !f.pointer && !f.always && is_zero(&v);
        Ok((!dropped).then_some(v))
    }

    fn list(&mut self, ty: &Ty, item: &Ty, v: Value) -> Result<Value, TypedError> {
        let Value::Array(items) = v else {
            return if v.is_null() { Ok(v) } else { Err(self.mismatch(&v, ty)) };
        };
        let mut out = Vec::with_capacity(items.len());
        for (i, v) in items.into_iter().enumerate() {
            self.path.push(Segment::Index(i));
            let v = if v.is_null() { self.absent(item) } else { self.value(item, v) };
            self.path.pop();
            out.push(v?);
        }
        Ok(Value::Array(out))
    }

    fn map(&mut self, ty: &Ty, item: &Ty, v: Value) -> Result<Value, TypedError> {
        let Value::Object(entries) = v else {
            return if v.is_null() { Ok(v) } else { Err(self.mismatch(&v, ty)) };
        };
        let mut entries: Vec<(String, Value)> = entries.into_iter().collect();
        // Maps are printed in the order of their keys.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = Map::new();
        for (k, v) in entries {
            self.path.push(Segment::Key(k.clone()));
            let v = if v.is_null() { self.absent(item) } else { self.value(item, v) };
            self.path.pop();
            out.insert(k, v?);
        }
        Ok(Value::Object(out))
    }

    /// What `null` means inside a list or map.
    fn absent(&mut self, ty: &Ty) -> Result<Value, TypedError> {
        match ty {
            Ty::Struct(id) => self.structure(*id, Value::Null),
            _ => Ok(zero_of(ty)),
        }
    }

    fn either(&mut self, ty: &Ty, v: Value) -> Result<Value, TypedError> {
        let Some(schema) = self.schema.id("apiextensions.JSONSchemaProps") else { return Ok(v) };
        match (ty, v) {
            (Ty::SchemaOrBool, v @ Value::Bool(_)) => Ok(v),
            (Ty::SchemaOrStrings, v @ Value::Array(_)) => self.list(ty, &Ty::Str, v),
            (Ty::SchemaOrList, v @ Value::Array(_)) => self.list(ty, &Ty::Struct(schema), v),
            (_, v) => self.structure(schema, v),
        }
    }

    fn scalar(&mut self, ty: &Ty, v: Value) -> Result<Value, TypedError> {
        match (ty, &v) {
            (_, Value::Null) => Ok(zero_of(ty)),
            (Ty::Str | Ty::Enum(_), Value::String(_)) | (Ty::Bool, Value::Bool(_)) => Ok(v),
            (Ty::I32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(v)
            }
            (Ty::I64, Value::Number(n)) if n.is_i64() => Ok(v),
            (Ty::F64, Value::Number(_)) => Ok(v),
            (Ty::Bytes, Value::String(s)) => bytes(s),
            (Ty::Quantity, Value::String(s)) => quantity(s),
            (Ty::Quantity, Value::Number(n)) => quantity(&n.to_string()),
            (Ty::Time | Ty::MicroTime, Value::String(s)) => instant(ty, s),
            (Ty::Duration, Value::String(s)) => match time::parse_duration(s) {
                Some(n) => Ok(Value::String(time::format_duration(n))),
                None => Err(TypedError::Text(format!("time: invalid duration {s:?}"))),
            },
            (Ty::IntOrString, Value::String(_)) => Ok(v),
            (Ty::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(v)
            }
            _ => Err(self.mismatch(&v, ty)),
        }
    }

    fn mismatch(&self, v: &Value, ty: &Ty) -> TypedError {
        let found = match v {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(ty, Ty::I32 | Ty::I64 | Ty::IntOrString) => {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let expected = self.go_type(ty);
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|s| if let Segment::Field(name) = s { Some(*name) } else { None })
            .collect();
        match self.owner {
            Some(owner) if !names.is_empty() => {
                TypedError::Field { found, owner, path: names.join("."), expected }
            }
            _ => TypedError::Root { found, expected },
        }
    }

    fn go_type(&self, ty: &Ty) -> String {
        match ty {
            Ty::Str | Ty::Enum(_) => "string".to_owned(),
            Ty::Bool => "bool".to_owned(),
            Ty::I32 | Ty::IntOrString => "int32".to_owned(),
            Ty::I64 => "int64".to_owned(),
            Ty::F64 => "float64".to_owned(),
            Ty::Bytes => "[]uint8".to_owned(),
            Ty::Quantity => "resource.Quantity".to_owned(),
            Ty::Time => "v1.Time".to_owned(),
            Ty::MicroTime => "v1.MicroTime".to_owned(),
            Ty::Duration => "v1.Duration".to_owned(),
            Ty::Struct(id) => {
                let t = self.schema.ty(*id);
                let version = t.openapi.rsplit('.').nth(1).unwrap_or("v1");
                format!("{version}.{}", t.short())
            }
            Ty::List(item) => format!("[]{}", self.go_type(item)),
            Ty::Map(item) => format!("map[string]{}", self.go_type(item)),
            _ => "v1.JSON".to_owned(),
        }
    }

    fn full_path(&self) -> String {
        let mut out = String::new();
        for s in &self.path {
            match s {
                Segment::Index(i) => out.push_str(&format!("[{i}]")),
                Segment::Field(_) | Segment::Key(_) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(match s {
                        Segment::Field(name) => name,
                        Segment::Key(key) => key,
                        Segment::Index(_) => "",
                    });
                }
            }
        }
        out
    }
}

fn bytes(s: &str) -> Result<Value, TypedError> {
    let engine = base64::engine::general_purpose::STANDARD;
    // Go skips line breaks inside base64.
    let clean: String = s.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match engine.decode(&clean) {
        Ok(_) => Ok(Value::String(clean)),
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => clean.len(),
            };
            Err(TypedError::Text(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn quantity(s: &str) -> Result<Value, TypedError> {
    match Quantity::parse(s.trim_matches('"')) {
        Ok(q) => Ok(Value::String(q.to_string())),
        Err(e) => Err(TypedError::Text(e.to_string())),
    }
}

fn instant(ty: &Ty, s: &str) -> Result<Value, TypedError> {
    let micros = time::parse_micros(s).ok_or_else(|| TypedError::Text(time::parse_error(s)))?;
    Ok(Value::String(match ty {
        Ty::MicroTime => time::format_micros(micros),
        _ => time::format_seconds(micros.div_euclid(1_000_000)),
    }))
}

/// What a field of this type prints when it is not set but always printed.
fn zero_of(ty: &Ty) -> Value {
    match ty {
        Ty::Str | Ty::Enum(_) => Value::String(String::new()),
        Ty::Bool => Value::Bool(false),
        Ty::I32 | Ty::I64 | Ty::F64 | Ty::IntOrString => Value::Number(0.into()),
        Ty::Quantity => Value::String("0".to_owned()),
        Ty::Duration => Value::String("0s".to_owned()),
        _ => Value::Null,
    }
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(ty: &str, v: Value) -> (Result<Value, TypedError>, Vec<String>) {
        let mut unknown = Vec::new();
        (normalize(Schema::builtin().id(ty).unwrap(), v, &mut unknown), unknown)
    }

    #[test]
    fn fields_come_in_their_order_and_zero_values_go() {
        let (v, unknown) = run(
            "core.ConfigMap",
            json!({"data": {"b": "2", "a": "1"}, "metadata": {"name": "x", "creationTimestamp": null, "labels": {}}, "kind": "ConfigMap", "apiVersion": "v1"}),
        );
        let text = serde_json::to_string(&v.unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"a":"1","b":"2"}}"#
        );
        assert!(unknown.is_empty());
    }

    #[test]
    fn structs_are_always_printed_and_pointers_keep_zero() {
        let (v, _) = run("apps.DeploymentSpec", json!({"replicas": 0, "paused": false}));
        assert_eq!(
            v.unwrap(),
            json!({"replicas": 0, "selector": null, "template": {"metadata": {}, "spec": {"containers": null}}, "strategy": {}})
        );
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let (_, unknown) = run(
            "core.Pod",
            json!({"spec": {"containers": [{"name": "c", "foo": 1}], "bar": 2}, "zip": 1}),
        );
        assert_eq!(unknown, ["spec.containers[0].foo", "spec.bar", "zip"]);
    }

    #[test]
    fn wrong_types_are_told_in_the_servers_words() {
        let (e, _) = run("apps.Deployment", json!({"spec": {"replicas": "3"}}));
        assert_eq!(
            e.unwrap_err().to_string(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let (e, _) = run("core.ConfigMap", json!([]));
        assert_eq!(
            e.unwrap_err().to_string(),
            "json: cannot unmarshal array into Go value of type v1.ConfigMap"
        );
    }

    #[test]
    fn quantities_get_their_canonical_form() {
        let (v, _) =
            run("core.ResourceRequirements", json!({"limits": {"cpu": "1000m", "memory": 1024}}));
        assert_eq!(v.unwrap(), json!({"limits": {"cpu": "1", "memory": "1024"}}));
    }

    #[test]
    fn normal_form_is_a_fixed_point_for_every_type() {
        for (id, t) in Schema::builtin().types() {
            let once = zero(id);
            let twice = normalize(id, once.clone(), &mut Vec::new()).unwrap();
            assert_eq!(once, twice, "{}", t.name);
        }
    }
}
