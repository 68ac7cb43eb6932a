//! How a value divides into fields that can have owners: built-in tables and custom schemas alike.

use crate::schema::{Field, ListKind, Schema, Ty, Type, TypeId};
use serde_json::{Map, Value};

/// A place in a type.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// A built-in type.
    Type(TypeId),
    /// A field of a built-in type.
    Field(&'a Field),
    /// What a list or map of a built-in type holds.
    Item(&'a Ty),
    /// A structural schema of a custom resource.
    Custom(&'a Value),
    /// The same for a whole object: its metadata is every object's.
    Resource(&'a Value),
    /// Nothing is known: maps divide, lists do not.
    Deduced,
    /// It has no parts.
    Leaf,
}

/// What a place divides into.
#[derive(Debug)]
pub enum Form<'a> {
    /// Nothing: it has one owner.
    Leaf,
    /// Named parts.
    Object(Object<'a>),
    /// Elements told apart by the values of some of their fields.
    Keyed(Vec<&'a str>, Shape<'a>),
    /// Elements told apart by themselves.
    Set,
}

/// Named parts.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// The fields of a built-in type.
    Struct(&'a Type),
    /// A map whose values all have one shape.
    Map(Shape<'a>),
    /// The properties of a custom schema.
    Properties(&'a Value),
    /// The same for a whole object.
    Resource(&'a Value),
}

impl<'a> Shape<'a> {
    /// What this place divides into.
    pub fn form(self) -> Form<'a> {
        match self {
            Shape::Type(id) => Form::Object(Object::Struct(Schema::builtin().ty(id))),
            Shape::Leaf => Form::Leaf,
            Shape::Deduced => Form::Object(Object::Map(Shape::Deduced)),
            Shape::Item(ty) => builtin(ty, None, false),
            Shape::Field(f) => builtin(&f.ty, f.list.as_ref(), f.atomic),
            Shape::Custom(schema) => custom(schema),
            Shape::Resource(schema) => Form::Object(Object::Resource(schema)),
        }
    }

    /// The default of a key, for elements that omit it.
    pub fn key_default(self, key: &str) -> Option<Value> {
        match self.form() {
            Form::Object(Object::Struct(t)) => {
                t.field(key)?.default.and_then(|d| serde_json::from_str(d).ok())
            }
            Form::Object(Object::Properties(s)) => {
                s.get("properties")?.get(key)?.get("default").cloned()
            }
            _ => None,
        }
    }
}

impl<'a> Object<'a> {
    /// The shape of the part with this name.
    pub fn child(self, name: &str) -> Shape<'a> {
        match self {
            Object::Struct(t) => t.field(name).map_or(Shape::Leaf, Shape::Field),
            Object::Map(item) => item,
            Object::Resource(_) if name == "metadata" => {
                Schema::builtin().id("meta.ObjectMeta").map_or(Shape::Deduced, Shape::Type)
            }
            Object::Resource(_) if matches!(name, "kind" | "apiVersion") => Shape::Leaf,
            Object::Properties(s) | Object::Resource(s) => {
                match s.get("properties").and_then(|p| p.get(name)) {
                    Some(schema) => Shape::Custom(schema),
                    None => match s.get("additionalProperties") {
                        Some(schema @ Value::Object(_)) => Shape::Custom(schema),
                        _ => Shape::Deduced,
                    },
                }
            }
        }
    }

    /// Whether the part is a declared field, as opposed to an entry of a map.
    pub fn declares(self, name: &str) -> bool {
        match self {
            Object::Struct(t) => {
                t.field(name).is_some() || (t.kind && matches!(name, "kind" | "apiVersion"))
            }
            Object::Map(_) => false,
            Object::Resource(_) if matches!(name, "kind" | "apiVersion" | "metadata") => true,
            Object::Properties(s) | Object::Resource(s) => {
                s.get("properties").is_some_and(|p| p.get(name).is_some())
            }
        }
    }
}

fn builtin<'a>(ty: &'a Ty, list: Option<&'a ListKind>, atomic: bool) -> Form<'a> {
    match ty {
        _ if atomic => Form::Leaf,
        Ty::Struct(id) => {
            let t = Schema::builtin().ty(*id);
            if t.atomic { Form::Leaf } else { Form::Object(Object::Struct(t)) }
        }
        Ty::Map(item) => Form::Object(Object::Map(Shape::Item(item))),
        Ty::List(item) => match list {
            Some(ListKind::Set) => Form::Set,
            Some(ListKind::Map(keys)) => Form::Keyed(keys.clone(), Shape::Item(item)),
            Some(ListKind::Atomic) | None => Form::Leaf,
        },
        _ => Form::Leaf,
    }
}

fn custom(schema: &Value) -> Form<'_> {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "array" => match text("x-kubernetes-list-type") {
            "set" => Form::Set,
            "map" => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                let item = schema.get("items").map_or(Shape::Deduced, Shape::Custom);
                Form::Keyed(keys.filter_map(Value::as_str).collect(), item)
            }
            _ => Form::Leaf,
        },
        "object" if text("x-kubernetes-map-type") == "atomic" => Form::Leaf,
        "object" if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) => {
            Form::Object(Object::Resource(schema))
        }
        "object" => Form::Object(Object::Properties(schema)),
        "" if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) => {
            Form::Object(Object::Map(Shape::Deduced))
        }
        _ => Form::Leaf,
    }
}

/// The values of an element's keys, or nothing where one is missing.
pub fn key_of(keys: &[&str], item: Shape<'_>, element: &Value) -> Option<Map<String, Value>> {
    let object = element.as_object()?;
    let mut out = Map::new();
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    for key in sorted {
        let value = match object.get(key) {
            Some(v) if !v.is_null() => v.clone(),
            _ => item.key_default(key)?,
        };
        out.insert(key.to_owned(), value);
    }
    Some(out)
}
