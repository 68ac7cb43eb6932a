//! A few fields of a JSON text, read without making a tree of the rest, or the rest without one of them.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::fmt;

/// What stands at each of these JSON pointers; no name in them is escaped, and every step is the key of an object.
/// Reading stops where the last of them is found, so that a text is not judged as a whole.
pub fn fields(text: &[u8], pointers: &[&str]) -> Vec<Option<Value>> {
    let (values, left) = (vec![None; pointers.len()], pointers.len());
    let found = Found { values: RefCell::new(values), left: Cell::new(left) };
    let wanted = pointers.iter().enumerate();
    let wanted = wanted.map(|(n, p)| (n, p.strip_prefix('/').unwrap_or(p))).collect();
    let mut reader = serde_json::Deserializer::from_slice(text);
    // An error means that all is found, or that there is no more to find: what has been found stands either way.
    Level { found: &found, wanted }.deserialize(&mut reader).ok();
    found.values.into_inner()
}

/// The tree of a text without the field that these keys lead to, in maps and lists that are no larger than they need be.
/// Null where the text is no JSON.
pub fn without(text: &[u8], path: &[&str]) -> Value {
    Tree { without: path }
        .deserialize(&mut serde_json::Deserializer::from_slice(text))
        .unwrap_or_default()
}

struct Tree<'a> {
    without: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields: Vec<(String, Value)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let below = match self.without {
                [first, rest @ ..] if *first == key => rest,
                _ => {
                    fields.push((key, map.next_value_seed(Tree { without: &[] })?));
                    continue;
                }
            };
            if below.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                fields.push((key, map.next_value_seed(Tree { without: below })?));
            }
        }
        let mut out = Map::with_capacity(fields.len());
        out.extend(fields);
        Ok(Value::Object(out))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = list.next_element_seed(Tree { without: &[] })? {
            out.push(v);
        }
        out.shrink_to_fit();
        Ok(Value::Array(out))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

struct Found {
    values: RefCell<Vec<Option<Value>>>,
    left: Cell<usize>,
}

/// Which results something leads to, each with the path that is left.
type Wanted<'p> = Vec<(usize, &'p str)>;

/// A value somewhere in which there are wanted fields.
struct Level<'a, 'p> {
    found: &'a Found,
    wanted: Wanted<'p>,
}

impl Level<'_, '_> {
    /// Takes the value that some of these paths end at, or go on in.
    fn take(&self, value: &Value, wanted: &Wanted<'_>) {
        let mut values = self.found.values.borrow_mut();
        for (n, path) in wanted {
            let here =
                if path.is_empty() { Some(value) } else { value.pointer(&format!("/{path}")) };
            values[*n] = here.cloned();
            self.found.left.set(self.found.left.get() - 1);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(below) = map.next_key_seed(Step(&self.wanted))? {
            if below.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else if below.iter().any(|(_, path)| path.is_empty()) {
                self.take(&map.next_value()?, &below);
            } else {
                map.next_value_seed(Level { found: self.found, wanted: below })?;
            }
            if self.found.left.get() == 0 {
                return Err(A::Error::custom("all is found"));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key, which is a step on some of these paths.
struct Step<'a, 'p>(&'a Wanted<'p>);

impl<'de, 'p> DeserializeSeed<'de> for Step<'_, 'p> {
    type Value = Wanted<'p>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Wanted<'p>, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Step<'_, 'p> {
    type Value = Wanted<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Wanted<'p>, E> {
        let below = |(n, path): &(usize, &'p str)| {
            let rest = path.strip_prefix(key)?;
            let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
            Some((*n, rest))
        };
        Ok(self.0.iter().filter_map(below).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_out_is_all_that_is_missing() {
        let whole = json!({"kind": "Pod", "metadata": {"name": "n", "managedFields": [{"a": {}}], "labels": {"managedFields": "l"}},
            "managedFields": 1, "spec": {"metadata": {"managedFields": 2}, "list": [1, -2, 3.5, true, null, "s", {}, []]}});
        let mut expected = whole.clone();
        expected["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        let text = whole.to_string();
        assert_eq!(without(text.as_bytes(), &["metadata", "managedFields"]), expected);
        assert_eq!(
            without(text.as_bytes(), &["metadata", "managedFields"]).to_string(),
            expected.to_string()
        );
        assert_eq!(without(text.as_bytes(), &[]), whole);
        assert_eq!(without(b"{\"a\":", &["a"]), Value::Null);
    }

    #[test]
    fn fields_are_those_of_the_tree() {
        let object = json!({"kind": "Pod", "a": [1, {"b": 2}], "metadata": {"name": "n", "nam": "other",
            "labels": {"a/b": "c", "q": "\"spec\":{"}}, "spec": {"nodeName": "x", "list": [{"nodeName": "y"}],
            "n": 1.5, "m": -1, "u": null}, "status": "none", "end": true});
        let text = object.to_string();
        let pointers = [
            "/metadata/labels",
            "/metadata/labels/q",
            "/metadata/name",
            "/spec/nodeName",
            "/spec/none",
            "/spec/n",
            "/spec/m",
            "/spec/u",
            "/spec/list/nodeName",
            "/status/phase",
            "/kind",
            "/end",
            "/spec/nodeName",
        ];
        let expected: Vec<Option<Value>> =
            pointers.iter().map(|p| object.pointer(p).cloned()).collect();
        assert_eq!(fields(text.as_bytes(), &pointers), expected);
        for p in pointers {
            assert_eq!(fields(text.as_bytes(), &[p]), [object.pointer(p).cloned()], "{p}");
        }
        assert_eq!(fields(b"{\"a\":1,", &["/a", "/b"]), [Some(json!(1)), None]);
        assert_eq!(fields(b"", &["/a"]), [None]);
        assert_eq!(fields(b"{\"a\":1}", &[]), []);
    }
}
