//! Custom resources: what their structural schemas make of objects, and what is wrong with either.

mod check;
mod definition;
mod formats;
mod rules;
mod structural;

pub use definition::{approved, check as check_definition, complete as complete_definition};

use crate::fields::FieldSet;
use crate::schema::{Schema, TypeId};
use crate::shape::Shape;
use crate::status::Problem;
use crate::typed::{self, TypedError};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// A schema with all that is computed once: its patterns and rules.
#[derive(Debug)]
pub struct Structural {
    schema: Value,
    patterns: HashMap<String, Regex>,
    rules: rules::Rules,
    /// Whether there are objects inside its objects.
    embeds: bool,
}

/// Bytes that a compiled pattern may take, so that a definition cannot fill the memory.
const PATTERN: usize = 1 << 20;

/// Whether a text has a format that schemas know. Every text has an unknown one.
pub fn has_format(format: &str, text: &str) -> bool {
    formats::matches(format, text)
}

/// Compiles a pattern of a schema. Go's syntax is RE2's, as is that of the library here.
fn pattern(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(PATTERN).build()
}

impl Structural {
    /// Takes a schema that [`check_definition`] accepted.
    pub fn new(schema: Value) -> Structural {
        let (mut patterns, mut embeds) = (HashMap::new(), false);
        structural::each(&schema, &mut |node| {
            embeds |= is_set(node, structural::EMBEDDED);
            if let Some(text) = node.get("pattern").and_then(Value::as_str)
                && let Ok(compiled) = pattern(text)
            {
                patterns.insert(text.to_owned(), compiled);
            }
        });
        let rules = rules::Rules::new(&schema);
        Structural { schema, patterns, rules, embeds }
    }

    /// The schema.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// How its objects divide into fields.
    pub fn shape(&self) -> Shape<'_> {
        Shape::Resource(&self.schema)
    }

    /// Brings what a client sent into the form that is kept: fields that the schema does not know are
    /// dropped and named in `unknown`, as is null where the schema has none, metadata is read as metadata, keys are
    /// sorted.
    pub fn decode(&self, object: Value, unknown: &mut Vec<String>) -> Result<Value, TypedError> {
        let mut object = self.decode_applied(object, unknown)?;
        structural::drop_nulls(&self.schema, &mut object);
        Ok(object)
    }

    /// The same of what a client applies: null is a value like others, for validation to judge.
    pub fn decode_applied(
        &self,
        object: Value,
        unknown: &mut Vec<String>,
    ) -> Result<Value, TypedError> {
        let mut object = object;
        structural::prune(&self.schema, &mut object, unknown);
        structural::metadata(&self.schema, &mut object, "", true, unknown)?;
        unknown.sort();
        Ok(sorted(object))
    }

    /// Fills in the defaults of the schema.
    pub fn complete(&self, object: &mut Value) {
        self.fill(object);
        *object = sorted(std::mem::take(object));
    }

    /// Brings what was stored into the form that is served now: the schema may have changed meanwhile.
    pub fn read(&self, object: Value) -> Value {
        let mut object = self.trimmed(object);
        self.fill(&mut object);
        sorted(object)
    }

    fn fill(&self, object: &mut Value) {
        structural::defaults(&self.schema, object);
        if self.embeds {
            // A default may have metadata that is none; what clients sent was looked at.
            structural::trim_metadata(&self.schema, object);
        }
    }

    /// Brings what came out of a conversion into the form of this version. Its defaults are those of the version that
    /// it was read in.
    pub fn converted(&self, object: Value) -> Value {
        let mut object = self.trimmed(object);
        if self.embeds {
            structural::trim_metadata(&self.schema, &mut object);
        }
        sorted(object)
    }

    fn trimmed(&self, mut object: Value) -> Value {
        structural::prune(&self.schema, &mut object, &mut Vec::new());
        structural::drop_nulls(&self.schema, &mut object);
        object
    }

    /// Judges an object; `old` is what it replaces. What an update leaves as it was is not judged
    /// again: the schema may have become stricter since.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Problem> {
        let mut out = check::object(self, object, old);
        // Rules may rely on what the schema says; nobody evaluates them on what it refuses.
        if out.is_empty() && !self.rules.is_empty() {
            out = rules::object(self, object, old);
        }
        out
    }

    /// Judges what is written to `status`: the rest of the object stays as it is. Messages name fields from `status` on.
    pub fn validate_status(&self, object: &Value, old: &Value) -> Vec<Problem> {
        let mut out = check::status(self, object, old);
        if out.is_empty() && !self.rules.is_empty() {
            out = rules::object(self, object, Some(old));
        }
        out
    }
}

/// The type of every object's metadata.
fn metadata_type() -> Option<TypeId> {
    Schema::builtin().id("meta.ObjectMeta")
}

/// Reads metadata as its type says, then sorts it as custom resources are printed.
fn typed_metadata(v: Value, unknown: &mut Vec<String>) -> Result<Value, TypedError> {
    match metadata_type() {
        Some(ty) => typed::normalize(ty, v, unknown).map(sorted),
        None => Ok(v),
    }
}

/// Puts all keys in order, as the API prints what it has no types for. The sets of managed fields keep theirs.
pub fn sorted(v: Value) -> Value {
    match v {
        Value::Object(m) => {
            let mut entries: Vec<(String, Value)> = m.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let keep = |k: &str, v: Value| if k == "fieldsV1" { canonical(v) } else { sorted(v) };
            Value::Object(
                entries
                    .into_iter()
                    .map(|(k, v)| {
                        let v = keep(&k, v);
                        (k, v)
                    })
                    .collect(),
            )
        }
        Value::Array(a) => Value::Array(a.into_iter().map(sorted).collect()),
        v => v,
    }
}

fn canonical(v: Value) -> Value {
    FieldSet::decode(&v).map(|set| set.encode()).unwrap_or(v)
}

/// An object of which nothing is set.
pub fn zero() -> Value {
    json!({"metadata": {}})
}

fn object_at<'a>(v: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    v.get(key).and_then(Value::as_object)
}

fn is_set(schema: &Value, flag: &str) -> bool {
    schema.get(flag) == Some(&Value::Bool(true))
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Structural {
        Structural::new(json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
                "replicas": {"type": "integer", "format": "int32", "minimum": 1, "default": 3},
                "port": {"x-kubernetes-int-or-string": true},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "note": {"type": "string", "nullable": true},
                "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "number"}}}},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}}))
    }

    fn problems(spec: Value) -> Vec<String> {
        let o = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "spec": spec});
        schema().validate(&o, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_fields_are_pruned_and_named() {
        let mut unknown = Vec::new();
        let v = schema()
            .decode(
                json!({"kind": "K", "apiVersion": "g/v1", "metadata": {"name": "x", "foo": 1},
                    "spec": {"x": 1, "free": {"any": {"thing": 1}}, "items": [{"name": "a", "w": 1}]}, "extra": 1}),
                &mut unknown,
            )
            .unwrap();
        assert_eq!(
            v,
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"},
                "spec": {"free": {"any": {"thing": 1}}, "items": [{"name": "a"}]}})
        );
        assert_eq!(unknown, ["extra", "metadata.foo", "spec.items[0].w", "spec.x"]);
    }

    #[test]
    fn defaults_fill_what_is_missing_or_null() {
        let mut v = json!({"spec": {"replicas": null, "note": null, "name": null}});
        v = schema().decode(v, &mut Vec::new()).unwrap();
        schema().complete(&mut v);
        assert_eq!(v, json!({"spec": {"note": null, "replicas": 3}}));
    }

    #[test]
    fn values_are_judged_in_the_servers_words() {
        assert_eq!(problems(json!({})), ["spec.name: Required value"]);
        assert_eq!(
            problems(json!({"name": 1})),
            [
                "spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\""
            ]
        );
        assert_eq!(
            problems(json!({"name": "A"})),
            ["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"]
        );
        assert_eq!(
            problems(json!({"name": "abcdefghi"})),
            ["spec.name: Too long: may not be more than 8 bytes"]
        );
        assert_eq!(
            problems(json!({"name": "a", "replicas": 0})),
            [
                "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"
            ]
        );
        assert_eq!(
            problems(json!({"name": "a", "mode": "c"})),
            ["spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""]
        );
        assert_eq!(problems(json!({"name": "a", "port": "http"})), [""; 0]);
        assert_eq!(
            problems(json!({"name": "a", "tags": ["x", "x"]})),
            ["spec.tags[1]: Duplicate value: \"x\""]
        );
        assert_eq!(
            problems(json!({"name": "a", "items": [{"name": "x"}, {"name": "x"}]})),
            ["spec.items[1]: Duplicate value: {\"name\":\"x\"}"]
        );
        assert_eq!(
            problems(json!({"name": "a", "labels": {"k": 1}})),
            [
                "spec.labels.k: Invalid value: \"integer\": spec.labels.k in body must be of type string: \"integer\""
            ]
        );
    }

    #[test]
    fn null_that_is_applied_is_judged_like_other_values() {
        let mut v = json!({"spec": {"name": "a", "mode": null, "note": null, "replicas": null}});
        v = schema().decode_applied(v, &mut Vec::new()).unwrap();
        schema().complete(&mut v);
        assert_eq!(
            schema().validate(&v, None).iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.mode: Invalid value: \"null\": spec.mode in body must be of type string: \"null\""
            ]
        );
    }

    #[test]
    fn null_in_lists_and_maps_takes_the_default() {
        let s = Structural::new(json!({"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "string", "default": "x"}},
            "map": {"type": "object", "additionalProperties": {"type": "string", "default": "y"}},
            "bare": {"type": "object", "additionalProperties": {"type": "string"}}}}));
        let v = json!({"list": [null, "a"], "map": {"k": null}, "bare": {"k": null}});
        let mut v = s.decode(v, &mut Vec::new()).unwrap();
        s.complete(&mut v);
        assert_eq!(v, json!({"bare": {}, "list": ["x", "a"], "map": {"k": "y"}}));
    }

    #[test]
    fn a_status_is_named_from_its_root() {
        let with = |phase: Value| json!({"spec": {"name": "BAD"}, "status": {"phase": phase}});
        let problems = schema().validate_status(&with(json!(1)), &with(json!("a")));
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "status.phase: Invalid value: \"integer\": phase in body must be of type string: \"integer\""
            ]
        );
        assert_eq!(schema().validate_status(&with(json!("b")), &with(json!("a"))), []);
    }

    #[test]
    fn defaults_of_embedded_objects_have_no_unknown_metadata() {
        let meta = json!({"name": "Bar", "unknown": "x"});
        let field = |v: &str| json!({"type": "string", "default": v});
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true});
        let (mut whole, mut parts) = (embedded.clone(), embedded);
        whole["default"] = json!({"apiVersion": "v1", "kind": "Foo", "metadata": meta});
        parts["default"] = json!({"apiVersion": "v1", "kind": "Foo", "metadata": {}});
        parts["properties"] = json!({"metadata": {"type": "object",
            "properties": {"name": field("Bar"), "unknown": field("x")}}});
        let s = Structural::new(
            json!({"type": "object", "properties": {"parts": parts, "whole": whole}}),
        );
        let mut v = json!({});
        s.complete(&mut v);
        let expected = json!({"apiVersion": "v1", "kind": "Foo", "metadata": {"name": "Bar"}});
        assert_eq!(v, json!({"parts": expected, "whole": expected}));
        assert_eq!(s.read(json!({})), v);
    }

    #[test]
    fn embedded_objects_are_judged_on_every_level() {
        let inner = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
        let mut outer = inner.clone();
        outer["properties"] = json!({"inner": inner});
        let s = Structural::new(json!({"type": "object", "properties": {"outer": outer}}));
        let bad = |inner: Value| {
            let mut v = json!({"apiVersion": "foo/v1", "kind": "%", "metadata": {"name": ".."}});
            v["inner"] = inner;
            v
        };
        let v = s.decode(json!({"outer": bad(bad(json!({})))}), &mut Vec::new()).unwrap();
        let found: Vec<String> = s.validate(&v, None).into_iter().map(|p| p.field).collect();
        assert_eq!(
            found,
            ["outer.kind", "outer.metadata.name", "outer.inner.kind", "outer.inner.metadata.name"]
        );
    }

    #[test]
    fn rules_are_evaluated_with_their_messages() {
        let s = Structural::new(json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "messageExpression": "'min is %d'.format([self.min])"},
                {"rule": "self.min == oldSelf.min", "message": "min is fixed", "fieldPath": ".min", "reason": "FieldValueForbidden"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}}}}));
        let spec = |min: i64, max: i64| json!({"spec": {"min": min, "max": max}});
        let run = |new: &Value, old: Option<&Value>| -> Vec<String> {
            s.validate(new, old).iter().map(ToString::to_string).collect()
        };
        assert_eq!(run(&spec(1, 2), None), [""; 0]);
        assert_eq!(run(&spec(3, 2), None), ["spec: Invalid value: \"object\": min is 3"]);
        assert_eq!(run(&spec(1, 3), Some(&spec(2, 3))), ["spec.min: Forbidden: min is fixed"]);
        assert_eq!(run(&spec(3, 2), Some(&spec(3, 2))), [""; 0]);
        let bare = json!({"spec": {"min": 1}});
        assert_eq!(
            run(&bare, None),
            [
                "spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"
            ]
        );
    }

    #[test]
    fn rules_that_may_cost_too_much_are_refused() {
        let crd = |bound: &str, rule: &str| {
            let list = format!(
                r#"{{"type": "array"{bound}, "items": {{"type": "string", "maxLength": 16}}}}"#
            );
            let list: Value = serde_json::from_str(&list).unwrap();
            json!({"metadata": {"name": "as.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
                "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}, "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"a": list}, "x-kubernetes-validations": [{"rule": rule}]}}}]}})
        };
        let run = |bound: &str, rule: &str| {
            let mut out = Vec::new();
            check_definition(&crd(bound, rule), None, &mut out);
            out.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let pairs = "self.a.all(x, self.a.all(y, x == y))";
        assert_eq!(run("", "self.a.all(x, x != '')"), [""; 0]);
        assert_eq!(run(r#", "maxItems": 100"#, pairs), [""; 0]);
        let refused = run("", pairs);
        assert!(
            refused[0].contains("estimated rule cost exceeds budget by factor of more than 100x"),
            "{refused:?}"
        );
        // All rules of a schema have a budget together, which the dearest are named to have spent.
        assert!(refused[1].ends_with("contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"));
        let schema = "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        assert!(refused[2].starts_with(schema), "{refused:?}");
        assert!(
            run(r#", "maxItems": 1300"#, pairs)[0].contains("exceeds budget by factor of 2.0x"),
            "{:?}",
            run(r#", "maxItems": 1300"#, pairs)
        );
    }

    #[test]
    fn lists_that_had_doubles_may_keep_some() {
        let tags = |list: Value| json!({"spec": {"name": "a", "tags": list}});
        let run = |new: Value, old: Value| schema().validate(&tags(new), Some(&tags(old))).len();
        assert_eq!(run(json!(["x", "x"]), json!(["x"])), 1);
        assert_eq!(run(json!(["x", "x", "y"]), json!(["x", "x"])), 0);
    }

    #[test]
    fn what_an_object_is_is_judged_each_time() {
        let s = Structural::new(json!({"type": "object", "properties": {
            "apiVersion": {"type": "string", "pattern": "^g/v1$"}}}));
        let v = json!({"apiVersion": "g/v2", "kind": "K"});
        assert_eq!(s.validate(&v, Some(&v.clone()))[0].field, "apiVersion");
        let w = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "x"}});
        assert_eq!(s.validate(&w, Some(&v))[0].field, "apiVersion");
    }

    #[test]
    fn defaults_have_no_fields_that_nobody_knows() {
        let crd = |part: Value| {
            json!({"metadata": {"name": "as.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
                "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}, "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"part": part}}}}]}})
        };
        let run = |part: Value| {
            let mut out = Vec::new();
            check_definition(&crd(part), None, &mut out);
            out.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut part = json!({"type": "object", "default": {"a": "x", "b": 1}, "properties": {"a": {"type": "string"}}});
        assert_eq!(
            run(part.clone()),
            [
                "spec.validation.openAPIV3Schema.properties[part].default: Invalid value: {\"a\":\"x\",\"b\":1}: must not have unknown fields"
            ]
        );
        part["x-kubernetes-preserve-unknown-fields"] = json!(true);
        assert_eq!(run(part), [""; 0]);
        let metadata = json!({"type": "object", "default": {"name": "Bar", "unknown": "x"}});
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"metadata": metadata}});
        assert_eq!(run(embedded), [""; 0]);
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        let free = |more: Value| {
            let mut s = json!({"x-kubernetes-int-or-string": true});
            s.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            run(s)
        };
        assert_eq!(free(json!({"anyOf": either, "allOf": [{"pattern": "abc"}]})), [""; 0]);
        assert_eq!(free(json!({"allOf": [{"anyOf": either}, {"pattern": "abc"}]})), [""; 0]);
        let more = json!([{"type": "integer"}, {"type": "string", "pattern": "abc"}]);
        let at = "spec.validation.openAPIV3Schema.properties[part]";
        let why = "type: Forbidden: must be empty to be structural";
        assert_eq!(
            free(json!({"anyOf": more})),
            [format!("{at}.anyOf[0].{why}"), format!("{at}.anyOf[1].{why}")]
        );
        let both = "Invalid value: true: must be false if x-kubernetes-int-or-string is true";
        assert_eq!(
            free(json!({"x-kubernetes-preserve-unknown-fields": true})),
            [format!("{at}.x-kubernetes-preserve-unknown-fields: {both}")]
        );
        let list = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-embedded-resource": true});
        let why =
            "Invalid value: \"array\": must be object if x-kubernetes-embedded-resource is true";
        assert_eq!(run(list)[0], format!("{at}.type: {why}"));
        let not = json!({"type": "array", "items": {"type": "string"}, "not": {"items": [{"type": "string"}]}});
        assert_eq!(
            run(not),
            [format!("{at}.not.items: Forbidden: items must be a schema object and not an array")]
        );
        assert_eq!(
            run(json!({"type": "object", "additionalProperties": false})),
            [format!(
                "{at}.additionalProperties: Forbidden: additionalProperties cannot be set to false"
            )]
        );
    }

    #[test]
    fn what_an_update_leaves_alone_is_not_judged_again() {
        let old = json!({"spec": {"name": "TOO-LOUD", "replicas": 1}});
        let new = json!({"spec": {"name": "TOO-LOUD", "replicas": 2}});
        assert!(schema().validate(&new, Some(&old)).is_empty());
        assert_eq!(schema().validate(&new, None).len(), 1);
    }
}
