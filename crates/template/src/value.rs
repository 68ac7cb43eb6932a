//! A value on its way through a template: borrowed from the data, made by a function, or absent.

use serde_json::Value;

/// What kind of Go value a JSON object stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A structure: asking for a field that it lacks is a mistake.
    Struct,
    /// A map: asking for a key that it lacks gives no value.
    Map,
}

#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    /// Go's invalid value: printed as `<no value>`.
    Absent,
    /// Part of the data.
    Ref(&'a Value, Shape),
    /// Made on the way.
    Own(Value),
}

impl Val<'_> {
    /// The JSON value, if there is one.
    pub(crate) fn json(&self) -> Option<&Value> {
        match self {
            Self::Absent => None,
            Self::Ref(value, _) => Some(value),
            Self::Own(value) => Some(value),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Ref(_, shape) => *shape,
            _ => Shape::Map,
        }
    }

    /// Go's truth: not the zero value of its type.
    pub(crate) fn is_true(&self) -> bool {
        match self.json() {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(Value::Number(n)) => n.as_f64() != Some(0.0),
            Some(Value::String(s)) => !s.is_empty(),
            Some(Value::Array(a)) => !a.is_empty(),
            Some(Value::Object(o)) => !o.is_empty() || self.shape() == Shape::Struct,
        }
    }

    /// The type as Go's messages name it.
    pub(crate) fn type_name(&self) -> &'static str {
        self.json().map_or("<nil>", type_name)
    }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Keys in Go's printing order.
pub(crate) fn sorted(object: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}
