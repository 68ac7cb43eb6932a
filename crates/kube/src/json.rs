//! JSON as API servers read it: the last of two equal keys wins, and their path is remembered.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// A document and the paths of its duplicate keys.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The document.
    pub value: Value,
    /// Paths such as `spec.ports[0].name`, in the order of the text.
    pub duplicates: Vec<String>,
}

/// Reads one JSON document. Nesting is bounded by serde_json (128 levels).
pub fn parse(bytes: &[u8]) -> Result<Parsed, serde_json::Error> {
    let state = State::default();
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Node(&state).deserialize(&mut de)?;
    de.end()?;
    Ok(Parsed { value, duplicates: state.duplicates.into_inner() })
}

#[derive(Default)]
struct State {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
}

struct Node<'a>(&'a State);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        let length = self.0.path.borrow().len();
        loop {
            self.0.path.borrow_mut().push_str(&format!("[{}]", out.len()));
            let next = seq.next_element_seed(Node(self.0))?;
            self.0.path.borrow_mut().truncate(length);
            match next {
                Some(v) => out.push(v),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let length = self.0.path.borrow().len();
        while let Some(key) = map.next_key::<String>()? {
            {
                let mut path = self.0.path.borrow_mut();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(&key);
                if out.contains_key(&key) {
                    self.0.duplicates.borrow_mut().push(path.clone());
                }
            }
            let value = map.next_value_seed(Node(self.0))?;
            self.0.path.borrow_mut().truncate(length);
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named_and_the_last_wins() {
        let p = parse(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(p.value, json!({"a": 3, "b": [{"c": 2}]}));
        assert_eq!(p.duplicates, ["b[0].c", "a"]);
    }

    #[test]
    fn what_follows_a_document_is_an_error() {
        assert!(parse(b"{} x").is_err());
        assert!(parse(&b"[".repeat(4000)).is_err());
    }
}
