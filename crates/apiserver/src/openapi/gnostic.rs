//! OpenAPI v2 in protobuf, in gnostic's messages: what kubectl and client-go read it as.
//!
//! The messages are data: the fields of the JSON document with their numbers (`OpenAPIv2.proto` of google/gnostic-models).

use serde_json::Value;
use wharf_kube::proto::{put_bytes, put_tag, put_varint};

/// The fields of an object, by their names in JSON. Names that begin with `x-` go to `extensions`.
struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    extensions: u32,
}

/// How a field is written.
enum Shape {
    Text,
    Texts,
    Flag,
    Int,
    Double,
    /// Any value, as YAML.
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// An object whose keys are names of such messages.
    Named(&'static Message),
    /// A message that JSON has in another form.
    Own(fn(&Value, &mut Vec<u8>)),
}

use Shape::{Any, Anys, Double, Flag, Int, Many, Named, One, Own, Text, Texts};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 8, Own(paths)),
        ("definitions", 9, Named(&SCHEMA)),
        ("security", 12, Own(requirement)),
        ("securityDefinitions", 13, Own(security)),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7 };

static PATH: Message = Message {
    fields: &[
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Own(parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Own(parameter)),
        ("responses", 9, Own(responses)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

static IN_PATH: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Own(schema_item))], extensions: 5 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Int),
        ("minLength", 12, Int),
        ("pattern", 13, Text),
        ("maxItems", 14, Int),
        ("minItems", 15, Int),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Int),
        ("minProperties", 18, Int),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, Own(additional)),
        ("type", 22, Own(types)),
        ("items", 23, Own(schema_item)),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(&SCHEMA)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

/// The bytes of a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn message(m: &Message, v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, shape) in m.fields {
        if let Some(v) = v.get(*name) {
            field(*number, shape, v, &mut out);
        }
    }
    for (name, v) in v.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            let mut named = Vec::new();
            put_bytes(1, name.as_bytes(), &mut named);
            put_bytes(2, &any(v), &mut named);
            put_bytes(m.extensions, &named, &mut out);
        }
    }
    out
}

fn field(number: u32, shape: &Shape, v: &Value, out: &mut Vec<u8>) {
    let items = || v.as_array().into_iter().flatten();
    match shape {
        Text => put_bytes(number, v.as_str().unwrap_or_default().as_bytes(), out),
        Texts => items().for_each(|v| field(number, &Text, v, out)),
        Flag => {
            put_tag(number, 0, out);
            put_varint(u64::from(v == true), out);
        }
        Int => {
            put_tag(number, 0, out);
            put_varint(v.as_u64().unwrap_or_default(), out);
        }
        Double => {
            put_tag(number, 1, out);
            out.extend(v.as_f64().unwrap_or_default().to_le_bytes());
        }
        Any => put_bytes(number, &any(v), out),
        Anys => items().for_each(|v| put_bytes(number, &any(v), out)),
        One(m) => put_bytes(number, &message(m, v), out),
        Many(m) => items().for_each(|v| put_bytes(number, &message(m, v), out)),
        Named(m) => {
            let mut all = Vec::new();
            named(1, v, |v| message(m, v), &mut all);
            put_bytes(number, &all, out);
        }
        Own(write) if v.is_array() && number != 22 => {
            for v in items() {
                let mut inner = Vec::new();
                write(v, &mut inner);
                put_bytes(number, &inner, out);
            }
        }
        Own(write) => {
            let mut inner = Vec::new();
            write(v, &mut inner);
            put_bytes(number, &inner, out);
        }
    }
}

/// Each entry of an object as a message of its name and its value.
fn named(number: u32, v: &Value, value: impl Fn(&Value) -> Vec<u8>, out: &mut Vec<u8>) {
    for (name, v) in v.as_object().into_iter().flatten() {
        let mut entry = Vec::new();
        put_bytes(1, name.as_bytes(), &mut entry);
        put_bytes(2, &value(v), &mut entry);
        put_bytes(number, &entry, out);
    }
}

fn any(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(2, wharf_kube::yaml::write(v).as_bytes(), &mut out);
    out
}

fn paths(v: &Value, out: &mut Vec<u8>) {
    named(2, v, |v| message(&PATH, v), out);
}

fn requirement(v: &Value, out: &mut Vec<u8>) {
    // Its scopes are empty for what is no OAuth.
    named(1, v, |_| Vec::new(), out);
}

fn security(v: &Value, out: &mut Vec<u8>) {
    let key = |v: &Value| {
        let mut out = Vec::new();
        put_bytes(2, &message(&API_KEY, v), &mut out);
        out
    };
    named(1, v, key, out);
}

/// A parameter is one of the body or one of several others, each a message around the next.
fn parameter(v: &Value, out: &mut Vec<u8>) {
    let mut either = Vec::new();
    if v["in"] == "body" {
        put_bytes(1, &message(&BODY, v), &mut either);
    } else {
        let mut other = Vec::new();
        if v["in"] == "path" {
            put_bytes(4, &message(&IN_PATH, v), &mut other);
        } else {
            put_bytes(3, &message(&QUERY, v), &mut other);
        }
        put_bytes(2, &other, &mut either);
    }
    put_bytes(1, &either, out);
}

fn responses(v: &Value, out: &mut Vec<u8>) {
    let response = |v: &Value| {
        let mut out = Vec::new();
        put_bytes(1, &message(&RESPONSE, v), &mut out);
        out
    };
    named(1, v, response, out);
}

/// One schema in a message of its own: of a list's items, of an answer.
fn schema_item(v: &Value, out: &mut Vec<u8>) {
    put_bytes(1, &message(&SCHEMA, v), out);
}

fn additional(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Bool(_) => field(2, &Flag, v, out),
        v => schema_item(v, out),
    }
}

fn types(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Array(_) => field(1, &Texts, v, out),
        v => field(1, &Text, v, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The content of the first field of this number.
    fn at(bytes: &[u8], number: u64) -> Option<Vec<u8>> {
        let mut rest = bytes;
        let varint = |rest: &mut &[u8]| {
            let (mut n, mut shift) = (0_u64, 0);
            loop {
                let (b, more) = rest.split_first().unwrap();
                *rest = more;
                n |= u64::from(b & 0x7f) << shift;
                shift += 7;
                if b & 0x80 == 0 {
                    return n;
                }
            }
        };
        while !rest.is_empty() {
            let tag = varint(&mut rest);
            let content = match tag & 7 {
                0 => vec![u8::try_from(varint(&mut rest)).unwrap()],
                1 => rest.split_off(..8).unwrap().to_vec(),
                _ => {
                    let n = usize::try_from(varint(&mut rest)).unwrap();
                    rest.split_off(..n).unwrap().to_vec()
                }
            };
            if tag >> 3 == number {
                return Some(content);
            }
        }
        None
    }

    #[track_caller]
    fn check(document: &Value, path: &[u64], expected: &str) {
        let mut bytes = encode(document);
        for number in path {
            bytes = at(&bytes, *number).unwrap_or_else(|| panic!("no {number} of {path:?}"));
        }
        assert_eq!(String::from_utf8_lossy(&bytes), expected, "{path:?}");
    }

    #[test]
    fn documents_are_written_in_gnostics_messages() {
        let d = json!({"swagger": "2.0", "info": {"title": "T", "version": "v"},
            "definitions": {"a": {"type": "object", "x-kind": [{"kind": "A"}], "required": ["b"],
                "properties": {"b": {"type": "array", "items": {"$ref": "#/definitions/c"}}},
                "additionalProperties": {"type": "string"}, "maximum": 1.5, "maxItems": 3}},
            "paths": {"/p": {"parameters": [{"in": "path", "name": "n", "type": "string", "required": true}],
                "get": {"operationId": "read", "x-action": "get",
                    "parameters": [{"in": "body", "name": "body", "schema": {"$ref": "r"}}, {"in": "query", "name": "q"}],
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "s"}}}}}},
            "security": [{"BearerToken": []}],
            "securityDefinitions": {"BearerToken": {"type": "apiKey", "in": "header"}}});
        check(&d, &[1], "2.0");
        check(&d, &[2, 1], "T");
        check(&d, &[9, 1, 1], "a");
        check(&d, &[9, 1, 2, 22, 1], "object");
        check(&d, &[9, 1, 2, 31, 2, 2], "- kind: A\n");
        check(&d, &[9, 1, 2, 19], "b");
        check(&d, &[9, 1, 2, 25, 1, 2, 23, 1, 1], "#/definitions/c");
        check(&d, &[9, 1, 2, 21, 1, 22, 1], "string");
        check(&d, &[9, 1, 2, 14], "\u{3}");
        check(&d, &[8, 2, 1], "/p");
        check(&d, &[8, 2, 2, 9, 1, 2, 4, 4], "n");
        check(&d, &[8, 2, 2, 2, 5], "read");
        check(&d, &[8, 2, 2, 2, 8, 1, 1, 5, 1], "r");
        check(&d, &[8, 2, 2, 2, 9, 1, 2, 1, 2, 1, 1], "s");
        check(&d, &[12, 1, 1], "BearerToken");
        check(&d, &[13, 1, 2, 2, 3], "header");
    }
}
