//! Definitions of custom resources: which are sound, and what they mean where they say nothing.

use super::structural::each;
use super::{check, is_set, object_at, pattern, rules, text};
use crate::names;
use crate::status::Problem;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Fills in a definition's `spec`: the singular, the kind of lists, and how versions are converted.
pub fn complete(spec: &mut Map<String, Value>) {
    if let Some(Value::Object(n)) = spec.get_mut("names") {
        let kind = n.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let absent = |n: &Map<String, Value>, key: &str| {
            n.get(key).and_then(Value::as_str).unwrap_or_default().is_empty()
        };
        if !kind.is_empty() && absent(n, "singular") {
            n.insert("singular".to_owned(), kind.to_lowercase().into());
        }
        if !kind.is_empty() && absent(n, "listKind") {
            n.insert("listKind".to_owned(), format!("{kind}List").into());
        }
    }
    let conversion = spec.entry("conversion").or_insert(Value::Null);
    if conversion.is_null() {
        *conversion = json!({"strategy": "None"});
    }
    if let Some(Value::Object(service)) = conversion.pointer_mut("/webhook/clientConfig/service") {
        service.entry("port").or_insert_with(|| json!(443));
    }
}

/// Judges a definition; `old` is what it replaces.
pub fn check(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let names = &spec["names"];
    let wanted = format!("{}.{}", text(names, "plural"), text(spec, "group"));
    if new["metadata"]["name"] != json!(wanted) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        out.push(Problem::invalid("metadata.name", &new["metadata"]["name"], why));
    }
    group_and_scope(spec, out);
    versions(spec, old.map(|o| &o["spec"]), out);
    self::names(names, out);
    conversion(&spec["conversion"], out);
    if spec["preserveUnknownFields"] == json!(true) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        out.push(Problem::invalid("spec.preserveUnknownFields", &json!(true), why));
    }
    approval(new, old, out);
    if let Some(old) = old {
        unchanged(new, old, out);
    }
}

/// The annotation by which somebody vouches for a definition in a group of Kubernetes' own.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a definition in a group of Kubernetes' own is approved: a condition's status, reason and message. Nothing
/// of other groups.
pub fn approved(definition: &Value) -> Option<(bool, &'static str, String)> {
    let group = text(&definition["spec"], "group");
    let protected = |own: &str| group == own || group.ends_with(&format!(".{own}"));
    if !protected("k8s.io") && !protected("kubernetes.io") {
        return None;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let mark = text(&definition["metadata"]["annotations"], APPROVED);
    Some(if mark.is_empty() {
        let why = format!("protected groups must have approval annotation {APPROVED:?}, {see}");
        (false, "MissingAnnotation", why)
    } else if mark.starts_with("unapproved") {
        (false, "UnapprovedAnnotation", format!("not approved: {mark:?}"))
    } else if mark.split_once("://").is_some_and(|(s, rest)| !s.is_empty() && !rest.is_empty()) {
        (true, "ApprovedAnnotation", format!("approved in {mark}"))
    } else {
        let why = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
        );
        (false, "InvalidAnnotation", why)
    })
}

fn approval(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let Some((_, reason, why)) = approved(new) else { return };
    if old.and_then(approved).is_some_and(|(_, before, _)| before == reason) {
        return;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    match reason {
        "MissingAnnotation" => out.push(Problem::required(field, why)),
        "InvalidAnnotation" => {
            out.push(Problem::invalid(field, &new["metadata"]["annotations"][APPROVED], why));
        }
        _ => {}
    }
}

fn group_and_scope(spec: &Value, out: &mut Vec<Problem>) {
    let group = text(spec, "group");
    if group.is_empty() {
        out.push(Problem::required("spec.group", ""));
    } else if let Some(why) = names::subdomain(group) {
        out.push(Problem::invalid("spec.group", &spec["group"], why));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        out.push(Problem::invalid("spec.group", &spec["group"], why));
    }
    match text(spec, "scope") {
        "" => out.push(Problem::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        _ => {
            let allowed = ["Cluster", "Namespaced"];
            out.push(Problem::unsupported("spec.scope", &spec["scope"], &allowed));
        }
    }
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn versions(spec: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let all = list(spec, "versions");
    let mut seen = BTreeSet::new();
    let unique = all.iter().all(|v| seen.insert(text(v, "name")));
    let schema = |v: &Value| v.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let alike = all.windows(2).all(|w| schema(&w[0]) == schema(&w[1]));
    for (i, v) in all.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        if let Some(why) = names::label_1035(text(v, "name")) {
            out.push(Problem::invalid(format!("{at}.name"), &v["name"], why));
        }
        match v.pointer("/schema/openAPIV3Schema") {
            None | Some(Value::Null) => {
                let field = format!("{at}.schema.openAPIV3Schema");
                out.push(Problem::required(field, "schemas are required"));
            }
            Some(s) if alike && i == 0 => {
                root(s, "spec.validation.openAPIV3Schema", is_unchanged(v, old), out);
            }
            Some(_) if alike => {}
            Some(s) => {
                let at = format!("{at}.schema.openAPIV3Schema");
                root(s, &at, is_unchanged(v, old), out);
            }
        }
        extras(v, &at, out);
    }
    if !unique {
        let why = "must contain unique version names";
        out.push(Problem::invalid("spec.versions", &spec["versions"], why));
    }
    if all.iter().filter(|v| v["storage"] == json!(true)).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        out.push(Problem::invalid("spec.versions", &spec["versions"], why));
    }
}

/// Whether a version has the schema that it had.
fn is_unchanged(version: &Value, old: Option<&Value>) -> bool {
    let before = old.map_or(&[][..], |o| list(o, "versions"));
    let schema = |v: &Value| v.pointer("/schema/openAPIV3Schema").cloned();
    before.iter().any(|v| v["name"] == version["name"] && schema(v) == schema(version))
}

/// Columns, subresources and selectable fields of a version.
fn extras(v: &Value, at: &str, out: &mut Vec<Problem>) {
    for (i, c) in list(v, "additionalPrinterColumns").iter().enumerate() {
        let at = format!("{at}.additionalPrinterColumns[{i}]");
        if text(c, "name").is_empty() {
            out.push(Problem::required(format!("{at}.name"), ""));
        }
        let types = ["boolean", "date", "integer", "number", "string"];
        match text(c, "type") {
            "" => out.push(Problem::required(
                format!("{at}.type"),
                "must be one of boolean,date,integer,number,string",
            )),
            t if types.contains(&t) => {}
            _ => {
                let why = "must be one of boolean,date,integer,number,string";
                out.push(Problem::invalid(format!("{at}.type"), &c["type"], why));
            }
        }
        let path = text(c, "jsonPath");
        if path.is_empty() {
            out.push(Problem::required(format!("{at}.jsonPath"), ""));
        } else if let Err(why) = crate::jsonpath::Path::parse(path) {
            out.push(Problem::invalid(format!("{at}.jsonPath"), &c["jsonPath"], why.to_string()));
        }
    }
    if let Some(scale) = v.pointer("/subresources/scale").filter(|s| s.is_object()) {
        let at = format!("{at}.subresources.scale");
        for (key, below, needed) in [
            ("specReplicasPath", ".spec.", true),
            ("statusReplicasPath", ".status.", true),
            ("labelSelectorPath", "", false),
        ] {
            let path = text(scale, key);
            if path.is_empty() && needed {
                out.push(Problem::required(format!("{at}.{key}"), ""));
            } else if !path.is_empty()
                && (!path.starts_with(below)
                    || below.is_empty()
                        && !path.starts_with(".spec.")
                        && !path.starts_with(".status."))
            {
                let why = match below {
                    "" => "should be a json path under either .spec or .status".to_owned(),
                    b => format!("should be a json path under {}", b.trim_end_matches('.')),
                };
                out.push(Problem::invalid(format!("{at}.{key}"), &scale[key], why));
            }
        }
    }
    selectable(v, at, out);
}

/// Fields that lists can be selected by: at most eight, of scalar types.
fn selectable(v: &Value, at: &str, out: &mut Vec<Problem>) {
    let fields = list(v, "selectableFields");
    if fields.len() > 8 {
        let rule = crate::status::Rule::TooMany(fields.len(), 8);
        out.push(Problem { field: format!("{at}.selectableFields"), rule });
    }
    let mut seen = BTreeSet::new();
    for (i, f) in fields.iter().enumerate() {
        let path = text(f, "jsonPath");
        let at = format!("{at}.selectableFields[{i}].jsonPath");
        if path.is_empty() {
            out.push(Problem::required(at, ""));
            continue;
        }
        if !seen.insert(path) {
            out.push(Problem::duplicate(at.clone(), &f["jsonPath"]));
        }
        let schema = v.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        let found = path
            .strip_prefix('.')
            .map(|p| p.split('.'))
            .and_then(|mut names| names.try_fold(schema, |s, name| s.get("properties")?.get(name)));
        let ok = found.is_some_and(|s| matches!(text(s, "type"), "string" | "boolean" | "integer"));
        if path.starts_with(".metadata.") || !ok {
            let why = if found.is_none() {
                "is an invalid path: does not refer to a valid field"
            } else {
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            };
            out.push(Problem::invalid(at, &f["jsonPath"], why));
        }
    }
}

fn names(n: &Value, out: &mut Vec<Problem>) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = text(n, key);
        let at = format!("spec.names.{key}");
        if value.is_empty() {
            out.push(Problem::required(at, ""));
        } else if let Some(why) = names::label_1035(&value.to_lowercase()) {
            let mixed = if key.ends_with("ind") || key == "listKind" {
                "may have mixed case, but should otherwise match: "
            } else {
                ""
            };
            out.push(Problem::invalid(at, &n[key], format!("{mixed}{why}")));
        } else if matches!(key, "plural" | "singular") && names::label_1035(value).is_some() {
            out.push(Problem::invalid(at, &n[key], names::LABEL_1035));
        }
    }
    if !text(n, "kind").is_empty() && n["kind"] == n["listKind"] {
        let why = "kind and listKind may not be the same";
        out.push(Problem::invalid("spec.names.listKind", &n["listKind"], why));
    }
    for key in ["shortNames", "categories"] {
        for (i, name) in list(n, key).iter().enumerate() {
            if let Some(why) = names::label_1035(name.as_str().unwrap_or_default()) {
                out.push(Problem::invalid(format!("spec.names.{key}[{i}]"), name, why));
            }
        }
    }
}

fn conversion(c: &Value, out: &mut Vec<Problem>) {
    match text(c, "strategy") {
        "None" => {
            if c["webhook"].is_object() {
                let why = "should not be set when strategy is not set to Webhook";
                out.push(Problem::forbidden("spec.conversion.webhookClientConfig", why));
            }
        }
        "Webhook" => {
            // The reference server names fields as its internal version has them.
            let at = "spec.conversion";
            let config = &c["webhook"]["clientConfig"];
            if !config.is_object() {
                let why = "required when strategy is set to Webhook";
                out.push(Problem::required(format!("{at}.webhookClientConfig"), why));
                return;
            }
            crate::validate::client_config(config, &format!("{at}.webhookClientConfig"), out);
            let versions = list(&c["webhook"], "conversionReviewVersions");
            if versions.is_empty() {
                out.push(Problem::required(format!("{at}.conversionReviewVersions"), ""));
            } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                let why = "must include at least one of v1, v1beta1";
                let v = &c["webhook"]["conversionReviewVersions"];
                out.push(Problem::invalid(format!("{at}.conversionReviewVersions"), v, why));
            }
        }
        "" => out.push(Problem::required("spec.conversion.strategy", "")),
        _ => {
            let allowed = ["None", "Webhook"];
            out.push(Problem::unsupported("spec.conversion.strategy", &c["strategy"], &allowed));
        }
    }
}

/// What stored objects depend on.
fn unchanged(new: &Value, old: &Value, out: &mut Vec<Problem>) {
    let established = list(&old["status"], "conditions")
        .iter()
        .any(|c| c["type"] == "Established" && c["status"] == "True");
    let mut fixed = vec!["/spec/group", "/spec/names/plural"];
    if established {
        fixed.extend(["/spec/scope", "/spec/names/kind"]);
    }
    for path in fixed {
        if new.pointer(path) != old.pointer(path) {
            let field = path.trim_start_matches('/').replace('/', ".");
            let v = new.pointer(path).unwrap_or(&Value::Null);
            out.push(Problem::invalid(field, v, "field is immutable"));
        }
    }
    for (i, v) in list(&new["status"], "storedVersions").iter().enumerate() {
        if !list(&new["spec"], "versions").iter().any(|s| s["name"] == *v) {
            let why = if new["status"]["storedVersions"] == old["status"]["storedVersions"] {
                "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions"
                    .replace("v1", v.as_str().unwrap_or_default())
            } else {
                "must appear in spec.versions".to_owned()
            };
            out.push(Problem::invalid(format!("status.storedVersions[{i}]"), v, why));
        }
    }
}

/// Depth that a schema may have: deeper ones cost more than they say.
const DEEPEST: usize = 64;

fn root(s: &Value, at: &str, unchanged: bool, out: &mut Vec<Problem>) {
    match text(s, "type") {
        "" => out.push(Problem::required(format!("{at}.type"), "must not be empty at the root")),
        "object" => {}
        _ => out.push(Problem::invalid(
            format!("{at}.type"),
            &s["type"],
            "must be object at the root",
        )),
    }
    if is_set(s, "nullable") {
        let why = "nullable cannot be true at the root";
        out.push(Problem::forbidden(format!("{at}.nullable"), why));
    }
    if let Some(m) = object_at(s, "properties").and_then(|p| p.get("metadata")) {
        for key in m.as_object().into_iter().flatten().map(|(k, _)| k.as_str()) {
            if !matches!(key, "type" | "description" | "properties") {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                out.push(Problem::forbidden(format!("{at}.properties[metadata]"), why));
                break;
            }
        }
    }
    let place = rules::Place { depth: 0, followed: true, common: false, count: Some(1) };
    let mut bill = rules::Bill::new(unchanged);
    schema(s, at, place, &mut bill, out);
    bill.settle(at, out);
    patterns(s, at, out);
}

fn patterns(s: &Value, at: &str, out: &mut Vec<Problem>) {
    each(s, &mut |node| {
        let p = text(node, "pattern");
        if !p.is_empty()
            && let Err(e) = pattern(p)
        {
            let why = format!("must be a valid regular expression, but isn't: {e}");
            out.push(Problem::invalid(format!("{at}.pattern"), &node["pattern"], why));
        }
    });
}

/// A schema on the spine of the structure: it has a type, and says what the parts are.
fn schema(
    s: &Value,
    at: &str,
    place: rules::Place,
    bill: &mut rules::Bill,
    out: &mut Vec<Problem>,
) {
    let depth = place.depth;
    if depth > DEEPEST {
        out.push(Problem::forbidden(at, format!("schemas may be {DEEPEST} levels deep at most")));
        return;
    }
    forbidden(s, at, out);
    lists(s, at, out);
    rules::check(s, at, place, bill, out);
    let whole = depth == 0 || is_set(s, "x-kubernetes-embedded-resource");
    let one = rules::Place {
        depth: depth + 1,
        followed: place.followed && text(s, "x-kubernetes-map-type") != "atomic",
        ..place
    };
    let many = one.inside(s);
    if is_set(s, "x-kubernetes-int-or-string") && !text(s, "type").is_empty() {
        let why = "must be empty if x-kubernetes-int-or-string is true";
        out.push(Problem::forbidden(format!("{at}.type"), why));
    }
    if let Some(default) = s.get("default").filter(|d| !d.is_null()) {
        default_value(s, default, place.common && !whole, &format!("{at}.default"), out);
    }
    for (name, part) in object_at(s, "properties").into_iter().flatten() {
        let at = format!("{at}.properties[{name}]");
        typed(part, &at, "object fields", out);
        let own = whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        let common = own || one.common && !whole;
        schema(part, &at, rules::Place { common, ..one }, bill, out);
    }
    if let Some(part @ Value::Object(_)) = s.get("additionalProperties") {
        let at = format!("{at}.additionalProperties");
        typed(part, &at, "object fields", out);
        schema(part, &at, many, bill, out);
    }
    match s.get("items") {
        Some(part @ Value::Object(_)) => {
            let at = format!("{at}.items");
            typed(part, &at, "array items", out);
            let is_map = text(s, "x-kubernetes-list-type") == "map";
            let followed = place.followed && is_map;
            schema(part, &at, rules::Place { followed, ..many }, bill, out);
        }
        Some(Value::Array(_)) => {
            let why = "items must be a schema object and not an array";
            out.push(Problem::forbidden(format!("{at}.items"), why));
        }
        None | Some(_) if text(s, "type") == "array" => {
            out.push(Problem::required(format!("{at}.items"), "must be specified"));
        }
        _ => {}
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in list(s, key).iter().enumerate() {
            // The two ways in which a number or a string may say so once more.
            let may = match (key, i) {
                _ if !is_set(s, "x-kubernetes-int-or-string") => May::Nothing,
                ("anyOf", _) if is_either(s) => May::Type,
                ("allOf", 0) if is_either(part) => May::AnyOf,
                _ => May::Nothing,
            };
            nested(part, &format!("{at}.{key}[{i}]"), may, depth + 1, out);
        }
    }
    if let Some(part) = s.get("not").filter(|n| n.is_object()) {
        nested(part, &format!("{at}.not"), May::Nothing, depth + 1, out);
    }
}

/// What a schema that only restricts values may say of types.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Nothing,
    Type,
    /// Its alternatives may have types.
    AnyOf,
}

/// Whether the alternatives of a schema are a number and a string, in this order, and no more.
fn is_either(s: &Value) -> bool {
    list(s, "anyOf") == [json!({"type": "integer"}), json!({"type": "string"})]
}

/// A default has no fields that its schema does not know (but in metadata, where they are dropped), and is a value that the schema allows.
fn default_value(s: &Value, default: &Value, common: bool, at: &str, out: &mut Vec<Problem>) {
    if !common && !super::structural::is_pruned(s, default) {
        out.push(Problem::invalid(at, default, "must not have unknown fields"));
    }
    for p in check::default_fits(s, default, "") {
        let below = if p.field == "<nil>" { String::new() } else { format!(".{}", p.field) };
        out.push(Problem { field: format!("{at}{below}"), ..p });
    }
}

fn typed(s: &Value, at: &str, what: &str, out: &mut Vec<Problem>) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let free = is_set(s, "x-kubernetes-int-or-string")
        || is_set(s, "x-kubernetes-preserve-unknown-fields");
    match text(s, "type") {
        "" if free => {}
        "" => {
            let why = format!("must not be empty for specified {what}");
            out.push(Problem::required(format!("{at}.type"), why));
        }
        t if TYPES.contains(&t) => {}
        _ => out.push(Problem::unsupported(format!("{at}.type"), &s["type"], &TYPES)),
    }
}

fn forbidden(s: &Value, at: &str, out: &mut Vec<Problem>) {
    if is_set(s, "uniqueItems") {
        let why =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        out.push(Problem::forbidden(format!("{at}.uniqueItems"), why));
    }
    if s.get("additionalProperties").is_some_and(|a| a.is_object() || *a == json!(false))
        && object_at(s, "properties").is_some_and(|p| !p.is_empty())
    {
        let why = "additionalProperties and properties are mutual exclusive";
        out.push(Problem::forbidden(format!("{at}.additionalProperties"), why));
    }
    if s.get("additionalProperties") == Some(&json!(false)) {
        let why = "additionalProperties cannot be set to false";
        out.push(Problem::forbidden(format!("{at}.additionalProperties"), why));
    }
    for (key, what) in [
        ("$ref", "$ref is not supported"),
        ("patternProperties", "patternProperties is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("additionalItems", "additionalItems is not supported"),
        ("id", "id is not supported"),
    ] {
        if s.get(key).is_some_and(|v| !v.is_null()) {
            out.push(Problem::forbidden(format!("{at}.{key}"), what));
        }
    }
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if is_set(s, "x-kubernetes-int-or-string") && is_set(s, key) {
            let why = "must be false if x-kubernetes-int-or-string is true";
            out.push(Problem::invalid(format!("{at}.{key}"), &json!(true), why));
        }
    }
    if is_set(s, "x-kubernetes-embedded-resource") {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match text(s, "type") {
            "object" => {}
            "" => out.push(Problem::required(format!("{at}.type"), why)),
            _ => out.push(Problem::invalid(format!("{at}.type"), &s["type"], why)),
        }
    }
    if is_set(s, "x-kubernetes-embedded-resource")
        && object_at(s, "properties").is_none_or(Map::is_empty)
        && !is_set(s, "x-kubernetes-preserve-unknown-fields")
    {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        out.push(Problem::required(format!("{at}.properties"), why));
    }
}

fn lists(s: &Value, at: &str, out: &mut Vec<Problem>) {
    let kind = text(s, "x-kubernetes-list-type");
    let array = text(s, "type") == "array";
    if !kind.is_empty() && !array {
        let why = format!("must be array if x-kubernetes-list-type is {kind}");
        out.push(Problem::invalid(format!("{at}.type"), &s["type"], why));
    }
    let keys = list(s, "x-kubernetes-list-map-keys");
    let keys_at = format!("{at}.x-kubernetes-list-map-keys");
    match kind {
        "" | "atomic" | "set" | "map" => {}
        _ => {
            let allowed = ["atomic", "map", "set"];
            let v = &s["x-kubernetes-list-type"];
            out.push(Problem::unsupported(format!("{at}.x-kubernetes-list-type"), v, &allowed));
        }
    }
    if kind != "map" {
        if !keys.is_empty() {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            out.push(Problem::invalid(format!("{at}.x-kubernetes-list-type"), &json!(kind), why));
        }
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        out.push(Problem::required(keys_at, why));
        return;
    }
    let items = &s["items"];
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let Some(property) = object_at(items, "properties").and_then(|p| p.get(name)) else {
            let why = "entries must all be names of item properties";
            out.push(Problem::invalid(format!("{keys_at}[{i}]"), key, why));
            continue;
        };
        if matches!(text(property, "type"), "object" | "array") {
            let field = format!("{at}.items.properties[{name}].type");
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            out.push(Problem::invalid(field, &property["type"], why));
        }
        let required = list(items, "required").contains(key);
        if !required && property.get("default").is_none_or(Value::is_null) {
            let field = format!("{at}.items.properties[{name}].default");
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            out.push(Problem::required(field, why));
        }
    }
}

/// A schema that only restricts values: it must not say what the structure is.
fn nested(s: &Value, at: &str, may: May, depth: usize, out: &mut Vec<Problem>) {
    if depth > DEEPEST {
        out.push(Problem::forbidden(at, format!("schemas may be {DEEPEST} levels deep at most")));
        return;
    }
    let structural = "must be empty to be structural";
    for key in ["type", "title", "description", "format"] {
        let excused = may == May::Type && key == "type";
        if !excused && key != "format" && !text(s, key).is_empty() {
            out.push(Problem::forbidden(format!("{at}.{key}"), structural));
        }
    }
    for key in ["default"] {
        if s.get(key).is_some_and(|v| !v.is_null()) {
            let why = "must be undefined to be structural";
            out.push(Problem::forbidden(format!("{at}.{key}"), why));
        }
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-int-or-string",
        "x-kubernetes-embedded-resource",
    ] {
        if is_set(s, key) {
            out.push(Problem::forbidden(format!("{at}.{key}"), "must be false to be structural"));
        }
    }
    if s.get("additionalProperties").is_some_and(|v| !v.is_null()) {
        let why = "must be undefined to be structural";
        out.push(Problem::forbidden(format!("{at}.additionalProperties"), why));
    }
    for (name, part) in object_at(s, "properties").into_iter().flatten() {
        nested(part, &format!("{at}.properties[{name}]"), May::Nothing, depth + 1, out);
    }
    match s.get("items") {
        Some(part @ Value::Object(_)) => {
            nested(part, &format!("{at}.items"), May::Nothing, depth + 1, out);
        }
        Some(Value::Array(_)) => {
            let why = "items must be a schema object and not an array";
            out.push(Problem::forbidden(format!("{at}.items"), why));
        }
        _ => {}
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let may = if (may, key) == (May::AnyOf, "anyOf") { May::Type } else { May::Nothing };
        for (i, part) in list(s, key).iter().enumerate() {
            nested(part, &format!("{at}.{key}[{i}]"), may, depth + 1, out);
        }
    }
    if let Some(part) = s.get("not").filter(|n| n.is_object()) {
        nested(part, &format!("{at}.not"), May::Nothing, depth + 1, out);
    }
}
