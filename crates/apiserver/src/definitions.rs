//! Definitions of custom resources: from what the store holds to kinds that are served.

mod conversion;
mod ending;
mod names;

pub use conversion::Conversion;
pub use ending::finish;
pub(crate) use ending::mark;
pub(crate) use names::judge_bundle;

use crate::api::{Api, Call, fault, is_deleting, meta};
use crate::bootstrap::as_server;
use crate::kinds::{Hub, Kind};
use crate::stored;
use crate::write::Change;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range, Revision};
use wharf_kube::custom::Structural;
use wharf_kube::jsonpath::Path;
use wharf_kube::names::intern;
use wharf_kube::resources::{GroupVersion, Resource, Subresource};
use wharf_kube::status::{Fault, Problem};

/// The keys of definitions.
pub const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";
/// What keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// How often it is looked whether the last objects of a definition that goes are gone.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What a definition says about one version.
#[derive(Debug)]
pub struct Custom {
    /// The name of the definition.
    pub definition: String,
    /// Which definition it is, and the how manyth state of it.
    pub stamp: String,
    /// `group/version` of what is stored.
    pub storage: String,
    /// The kind of lists.
    pub list_kind: String,
    /// What objects look like.
    pub schema: Structural,
    /// What the stored version looks like, where that is another: its defaults are filled in before a conversion.
    pub stored: Option<Structural>,
    /// How versions become each other.
    pub conversion: Conversion,
    /// Columns of tables beside the name.
    pub columns: Vec<Column>,
    /// Fields that lists can be selected by.
    pub selectable: Vec<(String, Path)>,
    /// Where the number of replicas is.
    pub scale: Option<Scale>,
    /// What clients of an old version are told.
    pub deprecation: Option<String>,
    /// Whether the definition is going, and nothing new is made.
    pub ending: bool,
    /// Whether this version is the one of several by which objects are gone through.
    pub leads: bool,
}

/// A column of a table.
#[derive(Debug)]
pub struct Column {
    /// Its definition, as tables carry it.
    pub header: Value,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: String,
    /// Where its value is.
    pub path: Path,
}

/// Where the parts of a `Scale` are.
#[derive(Debug)]
pub struct Scale {
    /// The wanted number.
    pub wanted: Path,
    /// The actual number.
    pub actual: Path,
    /// The selector, as text.
    pub selector: Option<Path>,
}

impl Scale {
    /// Judges the numbers of an object that scaling reads; of a status that is written, only the actual one.
    pub fn judge(&self, object: &Value, status: bool) -> Vec<Problem> {
        let judge = |path: &Path| {
            let n = path.find(object).first()?.as_i64()?;
            let why = match i32::try_from(n) {
                Ok(0..) => return None,
                Err(_) if n > 0 => "should be less than or equal to 2147483647",
                _ => "should be a non-negative integer",
            };
            Some(Problem::invalid(format!(".{}", path.fields()?.join(".")), &json!(n), why))
        };
        let wanted = (!status).then_some(&self.wanted);
        wanted.into_iter().chain([&self.actual]).filter_map(judge).collect()
    }
}

/// What was read of the definitions when they were last looked at.
#[derive(Debug, Default)]
pub struct Known {
    all: BTreeMap<String, Definition>,
}

/// One definition and the kinds that it makes.
#[derive(Debug)]
struct Definition {
    seen: Revision,
    group: String,
    accepted: Value,
    kinds: Vec<Arc<Kind>>,
}

/// Brings the served kinds up to date with the store, and the status of each definition with both.
/// Whoever returns from here finds that what was in the store before is served.
pub async fn refresh(api: &Api) -> Result<(), Fault> {
    let mut known = api.kinds.defining.lock().await;
    // A status that is written is a change to look at; names that become free let others in.
    for _ in 0..16 {
        if !look(api, &mut known).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Keeps definitions, kinds and objects in step until the process ends.
pub async fn run(api: Api) {
    let mut wake = crate::loops::bell(&api, vec![PREFIX.to_owned()]);
    loop {
        let outcome = async {
            refresh(&api).await?;
            finish(&api).await
        };
        let again = match outcome.await {
            Ok(left) => left,
            Err(f) => {
                tracing::warn!(error = %f, "definitions of custom resources are not up to date");
                true
            }
        };
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if again => (),
        }
    }
}

/// Looks at what changed. Says whether a status was written.
async fn look(api: &Api, known: &mut Known) -> Result<bool, Fault> {
    let range = Range::new(KeyRange::prefix(PREFIX));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let mut changed = Vec::new();
    let mut present = Vec::new();
    for kv in &reply.kvs {
        let name = String::from_utf8_lossy(kv.key()).trim_start_matches(PREFIX).to_owned();
        if known.all.get(&name).is_none_or(|d| d.seen != kv.mod_revision()) {
            changed.push((name.clone(), kv.mod_revision(), stored::decode(kv)));
        }
        present.push(name);
    }
    let before = known.all.len();
    known.all.retain(|name, _| present.contains(name));
    let mut moved = known.all.len() != before;
    let freed = moved;
    let mut written = false;
    // The oldest first: who came first keeps a name.
    changed.sort_by_key(|(_, _, crd)| meta(crd, "creationTimestamp").to_owned());
    for (name, seen, crd) in changed {
        let taken = names::taken(
            known
                .all
                .iter()
                .filter(|(n, _)| **n != name)
                .map(|(_, d)| (d.group.as_str(), &d.accepted)),
            group(&crd),
        );
        let status = names::judge(&crd, &taken, &api.now());
        let serve = names::is_established(&status);
        let kinds = if serve { kinds(&crd, &status) } else { Vec::new() };
        let accepted = status["acceptedNames"].clone();
        known.all.insert(
            name.clone(),
            Definition { seen, group: group(&crd).to_owned(), accepted, kinds },
        );
        moved = true;
        if status != crd["status"] {
            // What is said to be established is served already.
            serve_all(api, known);
            written |= write_status(api, &name, &crd, status).await?;
        }
    }
    if moved {
        serve_all(api, known);
    }
    if freed {
        // Names that became free: those who wanted them look again.
        known.all.values_mut().filter(|d| d.kinds.is_empty()).for_each(|d| d.seen = Revision(0));
    }
    Ok(written || freed && known.all.values().any(|d| d.kinds.is_empty()))
}

fn group(crd: &Value) -> &str {
    crd.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default()
}

fn serve_all(api: &Api, known: &Known) {
    let mut order: Vec<Arc<Kind>> =
        known.all.values().flat_map(|d| d.kinds.iter().cloned()).collect();
    order.sort_by(|a, b| {
        let key = |k: &Kind| {
            (
                k.resource.gv.group.clone(),
                std::cmp::Reverse(precedence(&k.resource.gv.version)),
                k.resource.plural,
            )
        };
        key(a).cmp(&key(b))
    });
    api.kinds.define(order);
}

/// Versions in the order of preference: stable before beta before alpha, then the higher number,
/// then whatever else by name.
pub fn precedence(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = || (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other() };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let Ok(major) = rest[..digits].parse::<u64>() else { return other() };
    let (stage, minor) = match &rest[digits..] {
        "" => (3, "0"),
        t if t.starts_with("beta") => (2, &t[4..]),
        t if t.starts_with("alpha") => (1, &t[5..]),
        _ => return other(),
    };
    match minor.parse() {
        Ok(minor) => (stage, major, minor, std::cmp::Reverse(String::new())),
        Err(_) => other(),
    }
}

async fn write_status(api: &Api, name: &str, crd: &Value, status: Value) -> Result<bool, Fault> {
    let kind = definition_kind(api)?;
    let mut next = crd.clone();
    next["status"] = status;
    let outcome = as_server(api, &kind, None, |mut call: Call<'_>| {
        call.name = Some(name);
        call.subresource = Some("status");
        async move { api.change(&call, &Change::Replace(next)).await.map(drop) }
    })
    .await;
    match outcome {
        // Somebody changed or removed it: the next look sees that.
        Err(f) if matches!(f.code, 404 | 409) => Ok(true),
        Err(f) => Err(f),
        Ok(()) => Ok(true),
    }
}

/// The kind of definitions.
pub fn definition_kind(api: &Api) -> Result<Arc<Kind>, Fault> {
    let gv = GroupVersion::parse("apiextensions.k8s.io/v1");
    api.kinds.find(&gv, "customresourcedefinitions").ok_or_else(Fault::no_route)
}

/// Whether a kind is that of definitions.
pub fn is_definition(kind: &Kind) -> bool {
    (kind.group(), kind.resource.plural) == ("apiextensions.k8s.io", "customresourcedefinitions")
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts(v: &Value, key: &str) -> Vec<&'static str> {
    let list = v.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(intern).collect()
}

/// The kinds that a definition makes: one for each version that is served.
fn kinds(crd: &Value, status: &Value) -> Vec<Arc<Kind>> {
    let versions = crd["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
    versions
        .iter()
        .filter(|v| v["served"] == json!(true))
        .map(|v| Arc::new(kind(crd, v, status)))
        .collect()
}

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const BELOW: [&str; 3] = ["get", "patch", "update"];

fn kind(crd: &Value, version: &Value, status: &Value) -> Kind {
    let spec = &crd["spec"];
    let names = &status["acceptedNames"];
    let gv =
        GroupVersion { group: group(crd).to_owned(), version: text(version, "name").to_owned() };
    let api_version = gv.to_string();
    let kind = intern(text(names, "kind"));
    // What is known of every custom resource by its type is its metadata.
    let ty = crate::kinds::known("meta.PartialObjectMetadata");
    let mut subresources = Vec::new();
    let below = |name: &'static str, gv: &GroupVersion, kind: &'static str, ty| Subresource {
        name,
        gv: gv.clone(),
        kind,
        ty,
        verbs: BELOW.to_vec(),
    };
    if version.pointer("/subresources/status").is_some_and(|s| !s.is_null()) {
        subresources.push(below("status", &gv, kind, ty));
    }
    let scale = version.pointer("/subresources/scale").and_then(scale);
    if scale.is_some() {
        let scale = crate::kinds::known("autoscaling1.Scale");
        subresources.push(below("scale", &GroupVersion::parse("autoscaling/v1"), "Scale", scale));
    }
    let resource = Resource {
        gv: gv.clone(),
        plural: intern(text(names, "plural")),
        singular: text(names, "singular").to_owned(),
        kind,
        ty,
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: VERBS.to_vec(),
        short: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        subresources,
    };
    let custom = Some(custom(crd, version, names, &gv, scale));
    Kind { resource, api_version, hub: Hub::Custom, custom }
}

fn custom(
    crd: &Value,
    version: &Value,
    names: &Value,
    gv: &GroupVersion,
    scale: Option<Scale>,
) -> Custom {
    let spec = &crd["spec"];
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let storage =
        versions.iter().find(|v| v["storage"] == json!(true)).map_or("", |v| text(v, "name"));
    let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({}));
    let deprecation =
        (version["deprecated"] == json!(true)).then(|| deprecation(version, names, gv, versions));
    let list =
        |key: &str| version.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Custom {
        definition: meta(crd, "name").to_owned(),
        stamp: format!("{} {} {gv}", meta(crd, "uid"), crd["metadata"]["generation"]),
        storage: format!("{}/{storage}", gv.group),
        list_kind: text(names, "listKind").to_owned(),
        schema: Structural::new(schema),
        stored: versions
            .iter()
            .find(|v| v["storage"] == json!(true) && v["name"] != version["name"])
            .and_then(|v| v.pointer("/schema/openAPIV3Schema"))
            .map(|s| Structural::new(s.clone())),
        conversion: Conversion::of(&spec["conversion"]),
        columns: columns(list("additionalPrinterColumns")),
        selectable: list("selectableFields")
            .iter()
            .filter_map(|f| {
                let path = text(f, "jsonPath");
                Some((path.trim_start_matches('.').to_owned(), Path::parse(path).ok()?))
            })
            .collect(),
        scale,
        deprecation,
        ending: is_deleting(crd),
        leads: versions
            .iter()
            .find(|v| v["served"] == json!(true))
            .is_none_or(|v| v["name"] == version["name"]),
    }
}

/// What clients of an old version are told, and which version is better.
fn deprecation(version: &Value, names: &Value, gv: &GroupVersion, all: &[Value]) -> String {
    let own = text(version, "deprecationWarning");
    if !own.is_empty() {
        return own.to_owned();
    }
    let kind = text(names, "kind");
    let better = all
        .iter()
        .filter(|v| v["served"] == json!(true) && v["deprecated"] != json!(true))
        .map(|v| text(v, "name"))
        .filter(|v| precedence(v) > precedence(&gv.version))
        .max_by_key(|v| precedence(v));
    match better {
        Some(v) => format!("{gv} {kind} is deprecated; use {}/{v} {kind}", gv.group),
        None => format!("{gv} {kind} is deprecated"),
    }
}

fn scale(v: &Value) -> Option<Scale> {
    Some(Scale {
        wanted: Path::parse(text(v, "specReplicasPath")).ok()?,
        actual: Path::parse(text(v, "statusReplicasPath")).ok()?,
        selector: Path::parse(text(v, "labelSelectorPath")).ok(),
    })
}

fn columns(given: &[Value]) -> Vec<Column> {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "When the object was made, in the time of the server."});
    let given = if given.is_empty() { std::slice::from_ref(&age) } else { given };
    let column = |c: &Value| {
        let header = json!({"name": text(c, "name"), "type": text(c, "type"), "format": text(c, "format"),
            "description": if text(c, "description").is_empty() {
                format!("Custom resource definition column (in JSONPath format): {}", text(c, "jsonPath"))
            } else { text(c, "description").to_owned() },
            "priority": c["priority"].as_i64().unwrap_or(0)});
        Some(Column {
            header,
            ty: text(c, "type").to_owned(),
            path: Path::parse(text(c, "jsonPath")).ok()?,
        })
    };
    given.iter().filter_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_clients_expect() {
        let mut all = vec![
            "v1alpha1",
            "foo1",
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v3beta1",
            "foo10",
            "v12alpha1",
        ];
        all.sort_by_key(|v| std::cmp::Reverse(precedence(v)));
        assert_eq!(
            all,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]
        );
    }
}
