//! Protobuf as client-go speaks it: the schema tables drive both directions, no code is generated.

use crate::schema::{Field, Schema, Ty, Type, TypeId};
use crate::time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

/// The bytes before every protobuf object: `k8s` and zero.
pub const MAGIC: &[u8] = b"k8s\0";

/// Bytes that are no message of the type they are read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The envelope's first bytes are missing.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    /// A message ends inside a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A number is longer than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A value is coded differently from what its field says.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    Wire {
        /// The field.
        field: &'static str,
        /// The wire type.
        wire: u8,
    },
    /// Text that is not UTF-8, or raw JSON that is none.
    #[error("proto: field {0} holds malformed text")]
    Text(&'static str),
    /// Messages within messages beyond all need.
    #[error("proto: nesting is too deep")]
    Deep,
}

/// What the envelope says and holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
}

/// Opens an envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?;
    let mut out = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut r = Reader { rest: body };
    while let Some((number, wire)) = r.tag()? {
        match (number, wire) {
            (1, 2) => {
                let mut meta = Reader { rest: r.bytes()? };
                while let Some((n, w)) = meta.tag()? {
                    match (n, w) {
                        (1, 2) => out.api_version = text(meta.bytes()?, "apiVersion")?,
                        (2, 2) => out.kind = text(meta.bytes()?, "kind")?,
                        _ => meta.skip(w)?,
                    }
                }
            }
            (2, 2) => out.raw = r.bytes()?,
            _ => r.skip(wire)?,
        }
    }
    Ok(out)
}

/// Reads a message of type `ty`.
pub fn decode(ty: TypeId, bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut out = Map::new();
    structure(Schema::builtin().ty(ty), bytes, &mut out, 0)?;
    Ok(Value::Object(out))
}

/// Writes a value of type `ty`, which must be in normal form, as a bare message.
pub fn encode(ty: TypeId, v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Object(m) = v {
        put_structure(Schema::builtin().ty(ty), m, &mut out);
    }
    out
}

/// Writes an envelope around a message.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(1, api_version.as_bytes(), &mut meta);
    put_bytes(2, kind.as_bytes(), &mut meta);
    let mut out = MAGIC.to_vec();
    put_bytes(1, &meta, &mut out);
    put_bytes(2, raw, &mut out);
    // The reference server writes these two although they are empty.
    put_bytes(3, b"", &mut out);
    put_bytes(4, b"", &mut out);
    out
}

/// Writes a list from its metadata and its items' messages.
pub fn encode_list<'a>(metadata: &Value, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(ty) = Schema::builtin().id("meta.ListMeta") {
        put_bytes(1, &encode(ty, metadata), &mut out);
    }
    for item in items {
        put_bytes(2, item, &mut out);
    }
    out
}

/// One frame of a watch: its length in four bytes, then a `WatchEvent` around a sealed object.
pub fn watch_frame(event: &str, sealed: &[u8]) -> Vec<u8> {
    let (mut raw, mut body) = (Vec::new(), Vec::new());
    put_bytes(1, sealed, &mut raw);
    put_bytes(1, event.as_bytes(), &mut body);
    put_bytes(2, &raw, &mut body);
    let mut out = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    out.extend(body);
    out
}

/// Beyond the deepest type of the tables; JSON schemas nest freely.
const DEPTH: usize = 100;

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut out: u64 = 0;
        for shift in (0..70).step_by(7) {
            let (&b, rest) = self.rest.split_first().ok_or(ProtoError::Truncated)?;
            self.rest = rest;
            if shift == 63 && b > 1 {
                return Err(ProtoError::Overflow);
            }
            out |= u64::from(b & 0x7f) << shift.min(63);
            if b & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(ProtoError::Overflow)
    }

    fn tag(&mut self) -> Result<Option<(u32, u8)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let v = self.varint()?;
        let number = u32::try_from(v >> 3).map_err(|_| ProtoError::Overflow)?;
        Ok(Some((number, (v & 7) as u8)))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], ProtoError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(ProtoError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn bytes(&mut self) -> Result<&'a [u8], ProtoError> {
        let n = usize::try_from(self.varint()?).map_err(|_| ProtoError::Truncated)?;
        self.take(n)
    }

    fn skip(&mut self, wire: u8) -> Result<(), ProtoError> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.bytes().map(drop),
            5 => self.take(4).map(drop),
            wire => Err(ProtoError::Wire { field: "unknown", wire }),
        }
    }
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, ProtoError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtoError::Text(field))
}

fn structure(
    t: &Type,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > DEPTH {
        return Err(ProtoError::Deep);
    }
    let mut r = Reader { rest: bytes };
    while let Some((number, wire)) = r.tag()? {
        if let Some(f) = t.own().find(|f| f.number == number && number != 0) {
            read_field(f, &mut r, wire, out, depth)?;
        } else if let (Some((_, id)), 2) = (t.embedded.iter().find(|e| e.0 == number), wire) {
            structure(Schema::builtin().ty(*id), r.bytes()?, out, depth + 1)?;
        } else {
            r.skip(wire)?;
        }
    }
    Ok(())
}

fn read_field(
    f: &Field,
    r: &mut Reader<'_>,
    wire: u8,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    match &f.ty {
        Ty::List(item) => {
            let slot = out.entry(f.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else { return Ok(()) };
            let packed = wire == 2 && matches!(**item, Ty::I32 | Ty::I64 | Ty::Bool);
            if packed {
                let mut inner = Reader { rest: r.bytes()? };
                while !inner.rest.is_empty() {
                    items.push(read(item, &mut inner, 0, f.name, depth)?);
                }
            } else {
                items.push(read(item, r, wire, f.name, depth)?);
            }
        }
        Ty::Map(item) => {
            if wire != 2 {
                return Err(ProtoError::Wire { field: f.name, wire });
            }
            let (mut key, mut value) = (String::new(), None);
            let mut entry = Reader { rest: r.bytes()? };
            while let Some((n, w)) = entry.tag()? {
                match n {
                    1 if w == 2 => key = text(entry.bytes()?, f.name)?,
                    2 => value = Some(read(item, &mut entry, w, f.name, depth)?),
                    _ => entry.skip(w)?,
                }
            }
            let slot = out.entry(f.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = slot {
                entries.insert(key, value.unwrap_or_default());
            }
        }
        ty => {
            let v = read(ty, r, wire, f.name, depth)?;
            // A message that comes in pieces is the union of them.
            match (out.get_mut(f.name), v) {
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, v) => {
                    out.insert(f.name.to_owned(), v);
                }
            }
        }
    }
    Ok(())
}

fn read(
    ty: &Ty,
    r: &mut Reader<'_>,
    wire: u8,
    field: &'static str,
    depth: usize,
) -> Result<Value, ProtoError> {
    #[allow(
        clippy::cast_possible_wrap,
        clippy::cast_possible_truncation,
        reason = "protobuf writes negative numbers as their 64-bit complement"
    )]
    let number = |v: u64| if *ty == Ty::I32 { json!(v as i32) } else { json!(v as i64) };
    match (ty, wire) {
        (Ty::I32 | Ty::I64, 0) => r.varint().map(number),
        (Ty::Bool, 0) => Ok(Value::Bool(r.varint()? != 0)),
        (Ty::F64, 1) => {
            let b: [u8; 8] = r.take(8)?.try_into().map_err(|_| ProtoError::Truncated)?;
            Ok(json!(f64::from_le_bytes(b)))
        }
        (Ty::I32 | Ty::I64 | Ty::Bool | Ty::F64, wire) => Err(ProtoError::Wire { field, wire }),
        (ty, 2) => message(ty, r.bytes()?, field, depth),
        (_, wire) => Err(ProtoError::Wire { field, wire }),
    }
}

fn message(ty: &Ty, b: &[u8], field: &'static str, depth: usize) -> Result<Value, ProtoError> {
    match ty {
        Ty::Str | Ty::Enum(_) => Ok(Value::String(text(b, field)?)),
        Ty::Bytes => Ok(Value::String(BASE64.encode(b))),
        Ty::Struct(id) => {
            let mut out = Map::new();
            structure(Schema::builtin().ty(*id), b, &mut out, depth + 1)?;
            Ok(Value::Object(out))
        }
        Ty::Quantity => {
            let s = small(b, field)?.text;
            Ok(Value::String(if s.is_empty() { "0".to_owned() } else { s }))
        }
        Ty::Time | Ty::MicroTime => {
            if b.is_empty() {
                return Ok(Value::Null);
            }
            let s = small(b, field)?;
            Ok(Value::String(match ty {
                Ty::Time => time::format_seconds(s.first),
                _ => time::format_micros(s.first.saturating_mul(1_000_000) + s.second / 1000),
            }))
        }
        Ty::Duration => Ok(Value::String(time::format_duration(small(b, field)?.first))),
        Ty::IntOrString => {
            let s = small(b, field)?;
            Ok(if s.first == 1 { Value::String(s.third) } else { json!(s.second) })
        }
        Ty::Raw | Ty::Json | Ty::Fields => raw(b, field),
        Ty::SchemaOrBool | Ty::SchemaOrList | Ty::SchemaOrStrings => either(ty, b, depth),
        // A map's value that is a list has a message of its own.
        Ty::List(item) => {
            let mut out = Vec::new();
            let mut r = Reader { rest: b };
            while let Some((n, w)) = r.tag()? {
                if n == 1 {
                    out.push(read(item, &mut r, w, field, depth)?);
                } else {
                    r.skip(w)?;
                }
            }
            Ok(Value::Array(out))
        }
        _ => Err(ProtoError::Wire { field, wire: 2 }),
    }
}

/// The small messages have a number or a text under 1, a number under 2, a text under 3.
#[derive(Default)]
struct Small {
    first: i64,
    text: String,
    second: i64,
    third: String,
}

fn small(b: &[u8], field: &'static str) -> Result<Small, ProtoError> {
    let mut out = Small::default();
    let mut r = Reader { rest: b };
    while let Some((n, w)) = r.tag()? {
        match (n, w) {
            (1, 0) => out.first = r.varint()?.cast_signed(),
            (1, 2) => out.text = text(r.bytes()?, field)?,
            (2, 0) => out.second = r.varint()?.cast_signed(),
            (3, 2) => out.third = text(r.bytes()?, field)?,
            _ => r.skip(w)?,
        }
    }
    Ok(out)
}

fn raw(b: &[u8], field: &'static str) -> Result<Value, ProtoError> {
    let mut r = Reader { rest: b };
    let mut bytes: &[u8] = b"";
    while let Some((n, w)) = r.tag()? {
        match (n, w) {
            (1, 2) => bytes = r.bytes()?,
            _ => r.skip(w)?,
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if bytes.starts_with(MAGIC) {
        let e = open(bytes)?;
        let ty = crate::resources::builtin()
            .iter()
            .find(|r| r.kind == e.kind && r.gv.to_string() == e.api_version)
            .ok_or(ProtoError::Text(field))?
            .ty;
        let Value::Object(mut m) = decode(ty, e.raw)? else { return Ok(Value::Null) };
        m.insert("kind".to_owned(), Value::String(e.kind));
        m.insert("apiVersion".to_owned(), Value::String(e.api_version));
        return Ok(Value::Object(m));
    }
    serde_json::from_slice(bytes).map_err(|_| ProtoError::Text(field))
}

fn either(ty: &Ty, b: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let Some(id) = Schema::builtin().id("apiextensions.JSONSchemaProps") else {
        return Ok(Value::Null);
    };
    let (mut flag, mut schema, mut many) = (false, None, Vec::new());
    let mut r = Reader { rest: b };
    while let Some((n, w)) = r.tag()? {
        match (ty, n, w) {
            (Ty::SchemaOrBool, 1, 0) => flag = r.varint()? != 0,
            (Ty::SchemaOrBool, 2, 2) | (Ty::SchemaOrList | Ty::SchemaOrStrings, 1, 2) => {
                schema = Some(message(&Ty::Struct(id), r.bytes()?, "schema", depth + 1)?);
            }
            (Ty::SchemaOrList, 2, 2) => {
                many.push(message(&Ty::Struct(id), r.bytes()?, "jSONSchemas", depth + 1)?);
            }
            (Ty::SchemaOrStrings, 2, 2) => {
                many.push(Value::String(text(r.bytes()?, "property")?));
            }
            _ => r.skip(w)?,
        }
    }
    Ok(match (schema, ty) {
        (Some(s), _) => s,
        (None, Ty::SchemaOrBool) => Value::Bool(flag),
        (None, _) => Value::Array(many),
    })
}

/// Writes a variable-length number.
pub fn put_varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push((v & 0x7f) as u8 | 0x80);
        v >>= 7;
    }
    out.push((v & 0x7f) as u8);
}

/// Writes what stands before a field: its number and its wire type.
pub fn put_tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire), out);
}

/// Writes a field of bytes, which is also what texts and messages are.
pub fn put_bytes(number: u32, b: &[u8], out: &mut Vec<u8>) {
    put_tag(number, 2, out);
    put_varint(b.len() as u64, out);
    out.extend_from_slice(b);
}

fn put_structure(t: &Type, m: &Map<String, Value>, out: &mut Vec<u8>) {
    for f in t.own().filter(|f| f.number != 0) {
        let Some(v) = m.get(f.name).filter(|v| !v.is_null()) else { continue };
        match (&f.ty, v) {
            (Ty::List(item), Value::Array(items)) => {
                items.iter().for_each(|v| put(item, f.number, v, out));
            }
            (Ty::Map(item), Value::Object(entries)) => {
                for (k, v) in entries {
                    let mut entry = Vec::new();
                    put_bytes(1, k.as_bytes(), &mut entry);
                    put(item, 2, v, &mut entry);
                    put_bytes(f.number, &entry, out);
                }
            }
            (ty, v) => put(ty, f.number, v, out),
        }
    }
    for (number, id) in &t.embedded {
        let inner_type = Schema::builtin().ty(*id);
        if inner_type.fields.iter().any(|f| m.contains_key(f.name)) {
            let mut inner = Vec::new();
            put_structure(inner_type, m, &mut inner);
            put_bytes(*number, &inner, out);
        }
    }
}

fn put(ty: &Ty, number: u32, v: &Value, out: &mut Vec<u8>) {
    match (ty, v) {
        (Ty::I32 | Ty::I64, Value::Number(n)) => {
            put_tag(number, 0, out);
            put_varint(n.as_i64().unwrap_or_default().cast_unsigned(), out);
        }
        (Ty::Bool, Value::Bool(b)) => {
            put_tag(number, 0, out);
            out.push(u8::from(*b));
        }
        (Ty::F64, Value::Number(n)) => {
            put_tag(number, 1, out);
            out.extend(n.as_f64().unwrap_or_default().to_le_bytes());
        }
        _ => {
            let mut body = Vec::new();
            put_message(ty, v, &mut body);
            put_bytes(number, &body, out);
        }
    }
}

fn put_message(ty: &Ty, v: &Value, out: &mut Vec<u8>) {
    let mut integer = |number: u32, n: i64| {
        put_tag(number, 0, out);
        put_varint(n.cast_unsigned(), out);
    };
    match (ty, v) {
        (Ty::Str | Ty::Enum(_), Value::String(s)) => out.extend_from_slice(s.as_bytes()),
        (Ty::Bytes, Value::String(s)) => out.extend(BASE64.decode(s).unwrap_or_default()),
        (Ty::Struct(id), Value::Object(m)) => put_structure(Schema::builtin().ty(*id), m, out),
        (Ty::Quantity, Value::String(s)) => put_bytes(1, s.as_bytes(), out),
        (Ty::Time | Ty::MicroTime, Value::String(s)) => {
            let micros = time::parse_micros(s).unwrap_or_default();
            integer(1, micros.div_euclid(1_000_000));
            integer(2, micros.rem_euclid(1_000_000) * 1000);
        }
        (Ty::Duration, Value::String(s)) => integer(1, time::parse_duration(s).unwrap_or_default()),
        (Ty::IntOrString, Value::Number(n)) => {
            integer(1, 0);
            integer(2, n.as_i64().unwrap_or_default());
        }
        (Ty::IntOrString, Value::String(s)) => {
            integer(1, 1);
            put_bytes(3, s.as_bytes(), out);
        }
        (Ty::Raw | Ty::Json | Ty::Fields, v) if !v.is_null() => {
            put_bytes(1, v.to_string().as_bytes(), out);
        }
        (Ty::SchemaOrBool, Value::Bool(b)) => integer(1, i64::from(*b)),
        (Ty::SchemaOrBool, v) => {
            integer(1, 1);
            put_schema(2, v, out);
        }
        (Ty::SchemaOrList, Value::Array(items)) => items.iter().for_each(|v| put_schema(2, v, out)),
        (Ty::SchemaOrStrings, Value::Array(items)) => {
            for s in items.iter().filter_map(Value::as_str) {
                put_bytes(2, s.as_bytes(), out);
            }
        }
        (Ty::SchemaOrList | Ty::SchemaOrStrings, v) => put_schema(1, v, out),
        (Ty::List(item), Value::Array(items)) => items.iter().for_each(|v| put(item, 1, v, out)),
        _ => (),
    }
}

fn put_schema(number: u32, v: &Value, out: &mut Vec<u8>) {
    if let Some(id) = Schema::builtin().id("apiextensions.JSONSchemaProps") {
        put(&Ty::Struct(id), number, v, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::normalize;

    #[track_caller]
    fn round_trip(ty: &str, v: Value) {
        let id = Schema::builtin().id(ty).unwrap();
        let v = normalize(id, v, &mut Vec::new()).unwrap();
        let bytes = encode(id, &v);
        let back = normalize(id, decode(id, &bytes).unwrap(), &mut Vec::new()).unwrap();
        assert_eq!(back, v);
        // No prefix of a message may be anything worse than an error.
        for cut in 0..bytes.len() {
            drop(decode(id, &bytes[..cut]));
        }
    }

    #[test]
    fn objects_survive_both_directions() {
        round_trip(
            "core.Pod",
            json!({"metadata": {"name": "p", "creationTimestamp": "2026-11-23T00:08:05Z", "labels": {"a": "b"},
                "managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}], "deletionGracePeriodSeconds": 0},
              "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "containers": [{"name": "c",
                "resources": {"limits": {"cpu": "100m"}}, "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": "http"}, "initialDelaySeconds": -1}}], "hostNetwork": true}}),
        );
        round_trip("core.Secret", json!({"data": {"a": "AAEC/w=="}, "immutable": false}));
        round_trip(
            "coordination.Lease",
            json!({"spec": {"renewTime": "2026-11-23T00:08:05.123456Z", "leaseDurationSeconds": 40}}),
        );
        round_trip(
            "apiextensions.CustomResourceDefinition",
            json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "maximum": 1.5, "default": {"a": [1]}, "additionalProperties": true,
                "properties": {"x": {"items": {"type": "string"}, "x-kubernetes-int-or-string": true}}}}}]}}),
        );
        round_trip("authentication.UserInfo", json!({"extra": {"k": ["a", "b"]}}));
        round_trip(
            "admissionregistration.NamedRuleWithOperations",
            json!({"apiGroups": ["*"], "operations": ["CREATE"]}),
        );
    }

    #[test]
    fn envelopes_open_as_they_were_sealed() {
        let sealed = seal("apps/v1", "Deployment", b"xyz");
        let e = open(&sealed).unwrap();
        assert_eq!(
            (e.api_version.as_str(), e.kind.as_str(), e.raw),
            ("apps/v1", "Deployment", &b"xyz"[..])
        );
        assert_eq!(open(b"{}"), Err(ProtoError::Magic));
        assert_eq!(open(b"k8s\0\x12\xff"), Err(ProtoError::Truncated));
    }

    #[test]
    fn bytes_of_the_reference_encoding_are_read() {
        // ConfigMap{metadata: {name: "a"}, data: {"k": "v"}} as gogo-protobuf writes it, empty texts and all.
        let id = Schema::builtin().id("core.ConfigMap").unwrap();
        let v = decode(
            id,
            b"\x0a\x0d\x0a\x01a\x12\x00\x1a\x00\x38\x00\x42\x00\x12\x06\x0a\x01k\x12\x01v",
        );
        assert_eq!(v, Err(ProtoError::Truncated));
        let v = decode(
            id,
            b"\x0a\x0b\x0a\x01a\x12\x00\x1a\x00\x38\x00\x42\x00\x12\x06\x0a\x01k\x12\x01v",
        )
        .unwrap();
        let v = normalize(id, v, &mut Vec::new()).unwrap();
        assert_eq!(v, json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    }
}
