//! Request bodies: from bytes in any notation to an object in normal form, with what was wrong with it.

use crate::api::Call;
use crate::definitions::Custom;
use crate::kinds::Kind;
use crate::media::Notation;
use crate::request::FieldValidation;
use serde_json::{Map, Value};
use wharf_kube::schema::TypeId;
use wharf_kube::status::{Fault, Problem};
use wharf_kube::typed::{TypedError, normalize};
use wharf_kube::{json, proto};

/// A type that a body may have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `apps/v1`.
    pub api_version: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// Its type.
    pub ty: TypeId,
    /// What its definition says, where it is a custom resource.
    pub custom: Option<&'a Custom>,
}

impl<'a> Expected<'a> {
    /// An object of a kind itself.
    pub fn of(kind: &'a Kind) -> Expected<'a> {
        let custom = kind.custom.as_ref();
        Expected { api_version: &kind.api_version, kind: kind.name(), ty: kind.ty(), custom }
    }

    /// `applied` keeps what only a configuration that is applied can say.
    fn normalize(
        &self,
        v: Value,
        applied: bool,
        unknown: &mut Vec<String>,
    ) -> Result<Value, TypedError> {
        match self.custom {
            Some(c) if applied => c.schema.decode_applied(v, unknown),
            Some(c) => c.schema.decode(v, unknown),
            None => normalize(self.ty, v, unknown),
        }
    }

    fn cannot(&self, why: impl std::fmt::Display) -> Fault {
        let version = self.api_version.rsplit('/').next().unwrap_or_default();
        Fault::bad_request(format!(
            "{} in version {version:?} cannot be handled as a {}: {why}",
            self.kind, self.kind
        ))
    }
}

/// A body as a tree, before it is known to be of any type.
#[derive(Debug)]
pub struct Tree {
    /// The document.
    pub value: Value,
    /// Paths of duplicate keys.
    pub duplicates: Vec<String>,
}

/// Reads JSON or YAML.
pub fn tree(bytes: &[u8], notation: Notation) -> Result<Tree, Fault> {
    match notation {
        Notation::Yaml => wharf_kube::yaml::parse(bytes)
            .map(|p| Tree { value: p.value, duplicates: p.duplicates })
            .map_err(|e| Fault::bad_request(format!("error converting YAML to JSON: {e}"))),
        Notation::Json | Notation::Protobuf => {
            json::parse(bytes).map(|p| Tree { value: p.value, duplicates: p.duplicates }).map_err(
                |e| Fault::bad_request(format!("couldn't get version/kind; json parse error: {e}")),
            )
        }
    }
}

/// Reads a body of type `expected`.
pub fn decode(
    call: &Call<'_>,
    bytes: &[u8],
    notation: Notation,
    expected: Expected<'_>,
) -> Result<Value, Fault> {
    if notation == Notation::Protobuf {
        if expected.custom.is_some() {
            return Err(Fault::media_type("application/json, application/yaml"));
        }
        return protobuf(bytes, expected);
    }
    let tree = tree(bytes, notation)?;
    object(call, tree, expected)
}

/// Makes a tree an object of type `expected`, minding unknown and duplicate fields as the call says.
pub fn object(call: &Call<'_>, tree: Tree, expected: Expected<'_>) -> Result<Value, Fault> {
    let (v, unknown) = typed(tree.value, expected, false)?;
    report(call, &unknown, &tree.duplicates, expected)?;
    Ok(v)
}

/// Makes a tree an object of type `expected`; gives the paths of its unknown fields beside it.
fn typed(
    tree: Value,
    expected: Expected<'_>,
    applied: bool,
) -> Result<(Value, Vec<String>), Fault> {
    let Value::Object(mut m) = tree else {
        return Err(Fault::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }",
        ));
    };
    check_kind(&mut m, expected)?;
    let mut unknown = Vec::new();
    let v = expected
        .normalize(Value::Object(m), applied, &mut unknown)
        .map_err(|e| expected.cannot(e))?;
    Ok((v, unknown))
}

fn report(
    call: &Call<'_>,
    unknown: &[String],
    duplicates: &[String],
    expected: Expected<'_>,
) -> Result<(), Fault> {
    let mut problems: Vec<String> =
        unknown.iter().map(|p| format!("unknown field {p:?}")).collect();
    problems.extend(duplicates.iter().map(|p| format!("duplicate field {p:?}")));
    if problems.is_empty() {
        return Ok(());
    }
    match call.query.field_validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            problems.into_iter().for_each(|p| call.warn(p));
            Ok(())
        }
        FieldValidation::Strict => {
            Err(expected.cannot(format!("strict decoding error: {}", problems.join(", "))))
        }
    }
}

/// Fills in kind and version where they are missing, and refuses others.
fn check_kind(m: &mut Map<String, Value>, expected: Expected<'_>) -> Result<(), Fault> {
    let text = |m: &Map<String, Value>, key: &str| {
        m.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (version, kind) = (text(m, "apiVersion"), text(m, "kind"));
    if !version.is_empty() && version != expected.api_version {
        return Err(Fault::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            expected.api_version
        )));
    }
    if !kind.is_empty() && kind != expected.kind && expected.custom.is_some() {
        let p = Problem::invalid("kind", &m["kind"], format!("must be {}", expected.kind));
        let group = expected.api_version.split('/').next().unwrap_or_default();
        let name = m.get("metadata").map_or("", |v| v["name"].as_str().unwrap_or_default());
        return Err(Fault::invalid(group, &kind, name, &[p]));
    }
    if !kind.is_empty() && kind != expected.kind {
        let short = expected.api_version.rsplit('/').next().unwrap_or_default();
        return Err(Fault::bad_request(format!(
            "{kind} in version {short:?} cannot be handled as a {}: converting (v1.{kind}) to ({}.{}): unknown conversion",
            expected.kind,
            expected
                .api_version
                .split('/')
                .next()
                .filter(|g| !g.starts_with('v'))
                .unwrap_or("core"),
            expected.kind
        )));
    }
    m.insert("kind".to_owned(), expected.kind.into());
    m.insert("apiVersion".to_owned(), expected.api_version.into());
    Ok(())
}

fn protobuf(bytes: &[u8], expected: Expected<'_>) -> Result<Value, Fault> {
    let envelope = proto::open(bytes).map_err(Fault::bad_request_from)?;
    let mut head = Map::new();
    head.insert("apiVersion".to_owned(), envelope.api_version.clone().into());
    head.insert("kind".to_owned(), envelope.kind.clone().into());
    check_kind(&mut head, expected)?;
    let v = proto::decode(expected.ty, envelope.raw).map_err(|e| expected.cannot(e))?;
    if let Value::Object(m) = v {
        head.extend(m);
    }
    normalize(expected.ty, Value::Object(head), &mut Vec::new()).map_err(|e| expected.cannot(e))
}

/// An applied configuration: the fields that it names and no others, in canonical spelling.
pub fn applied(call: &Call<'_>, tree: Tree) -> Result<Value, Fault> {
    let expected = Expected::of(call.kind);
    let given = tree.value.clone();
    let mut version = given.clone();
    let Value::Object(m) = &mut version else {
        return Err(Fault::bad_request("error decoding YAML: the configuration is no object"));
    };
    for key in ["apiVersion", "kind"] {
        if m.get(key).and_then(Value::as_str).unwrap_or_default().is_empty() {
            let key = if key == "kind" { "Kind" } else { key };
            return Err(Fault::bad_request(format!("Object '{key}' is missing in '{given}'")));
        }
    }
    let version = given["apiVersion"].as_str().unwrap_or_default();
    if version != expected.api_version {
        return Err(Fault::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            expected.api_version
        )));
    }
    let nulls = expected.custom.is_some();
    let (normal, unknown) = typed(tree.value, expected, true)?;
    if !unknown.is_empty() {
        return Err(undeclared(&given, &unknown));
    }
    report(call, &[], &tree.duplicates, expected)?;
    Ok(only(&normal, &given, nulls))
}

/// A field that no schema knows can have no owner: applying it is refused, however fields are to be validated, as an
/// error without a reason of its own, which is how the reference server passes on what its merging library says.
fn undeclared(given: &Value, unknown: &[String]) -> Fault {
    let of = |k: &str| given[k].as_str().unwrap_or_default().to_owned();
    let meta = |k: &str| given["metadata"][k].as_str().unwrap_or_default();
    // The core group has no name, and a slash behind it.
    let version = of("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    let place = format!("{}/{}", meta("namespace"), meta("name"));
    let errors: Vec<String> =
        unknown.iter().map(|p| format!(".{p}: field not declared in schema")).collect();
    let errors = match &errors[..] {
        [one] => one.clone(),
        all => format!("errors:\n  {}", all.join("\n  ")),
    };
    Fault::unknown(format!(
        "failed to create typed patch object ({place}; {slash}{version}, Kind={}): {errors}",
        of("kind")
    ))
}

/// The part of `normal` that `given` names: zero values that normal form adds are not applied. A null is a value of a
/// custom resource, whose schema may allow it, and means nothing elsewhere.
fn only(normal: &Value, given: &Value, nulls: bool) -> Value {
    match (normal, given) {
        (Value::Object(n), Value::Object(g)) => Value::Object(
            n.iter()
                .filter_map(|(k, v)| {
                    let g = g.get(k).filter(|g| nulls || !g.is_null())?;
                    Some((k.clone(), only(v, g, nulls)))
                })
                .collect(),
        ),
        (Value::Array(n), Value::Array(g)) if n.len() == g.len() => {
            Value::Array(n.iter().zip(g).map(|(n, g)| only(n, g, nulls)).collect())
        }
        _ => normal.clone(),
    }
}
