//! `managedFields`: tracking who wrote what on every write, and server-side apply with its conflicts.

use crate::fields::{FieldSet, compare, merge};
use crate::shape::Shape;
use crate::status::{Cause, Fault};
use serde_json::{Map, Value, json};

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The version that the request speaks.
    pub api_version: &'a str,
    /// The subresource, or nothing.
    pub subresource: &'a str,
    /// Now, as the API spells it.
    pub now: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: FieldSet,
}

/// Fields of `metadata` that the server writes: nobody owns them.
const OWNERLESS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// More than so many updaters are merged into one entry.
const UPDATERS: usize = 10;

/// Records a create, update or patch: `new` is about to replace `old`. Entries that the client sends
/// in `new` replace the recorded ones, as `kubectl` does to hand ownership over.
pub fn update(old: &Value, new: &mut Value, shape: Shape<'_>, writer: &Writer<'_>) {
    let mut entries = starting_entries(old, new, writer);
    strip(new);
    let c = compare(&without(old), new, shape);
    let taken = clean(c.modified.clone().union(&c.added));
    for e in &mut entries {
        e.fields = e.fields.minus(&taken).minus(&c.removed);
    }
    if !taken.is_empty() {
        take(&mut entries, taken, writer);
    }
    entries.retain(|e| !e.fields.is_empty());
    cap(&mut entries, writer);
    write(new, entries);
}

/// Applies `config` to `live`. `reset` removes what this path may not own.
pub fn apply(
    live: &Value,
    config: &Value,
    shape: Shape<'_>,
    writer: &Writer<'_>,
    force: bool,
    reset: impl Fn(&mut FieldSet),
) -> Result<Value, Fault> {
    let mut entries = read(live);
    let mut base = without(live);
    strip(&mut base);
    if entries.is_empty() && live.pointer("/metadata/uid").is_some() {
        adopt(&mut entries, &base, shape, writer);
    }
    let mut config = config.clone();
    strip(&mut config);
    let mut set = clean(FieldSet::of(&config, shape));
    reset(&mut set);
    let own = |e: &&mut Entry| is_own(e, writer, true);
    let last = entries.iter_mut().find(own).map(|e| e.fields.clone()).unwrap_or_default();
    entries.retain(|e| !is_own(e, writer, true));
    let mut next = merge(&base, &config, shape);
    prune(&mut next, &entries, &set, &last, shape);
    let c = compare(&base, &next, shape);
    let changed = clean(c.modified.clone().union(&c.added));
    resolve(&mut entries, &changed, force)?;
    for e in &mut entries {
        e.fields = e.fields.minus(&c.removed);
    }
    let same = set == last && c == crate::fields::Comparison::default();
    let time = if same { previous_time(live, writer) } else { None };
    entries.push(Entry {
        manager: writer.manager.to_owned(),
        applied: true,
        api_version: writer.api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: Some(time.unwrap_or_else(|| writer.now.to_owned())),
        fields: set,
    });
    entries.retain(|e| !e.fields.is_empty());
    write(&mut next, entries);
    Ok(next)
}

/// Whether an object's record of owners is one that can be read.
pub fn is_valid(entry: &Value) -> bool {
    parse(entry).is_some()
}

fn is_own(e: &Entry, writer: &Writer<'_>, applied: bool) -> bool {
    e.manager == writer.manager && e.applied == applied && e.subresource == writer.subresource
}

fn previous_time(live: &Value, writer: &Writer<'_>) -> Option<String> {
    read(live).into_iter().find(|e| is_own(e, writer, true)).and_then(|e| e.time)
}

/// Removes what the manager applied before, applies no longer, and nobody else owns.
fn prune(next: &mut Value, others: &[Entry], set: &FieldSet, last: &FieldSet, shape: Shape<'_>) {
    if last.is_empty() {
        return;
    }
    let owned = others.iter().fold(set.clone(), |all, e| all.union(&e.fields));
    let gone = last.with_named_parents(shape).minus(&owned.with_named_parents(shape));
    gone.remove_from(next, shape);
}

/// Finds who else owns what is about to change; takes it from them by force.
fn resolve(entries: &mut [Entry], changed: &FieldSet, force: bool) -> Result<(), Fault> {
    let mut conflicts = Vec::new();
    for e in entries.iter_mut() {
        let both = e.fields.intersection(changed);
        if both.is_empty() {
            continue;
        }
        if force {
            e.fields = e.fields.minus(&both);
        } else {
            conflicts.push((e.clone(), both));
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(conflict(&conflicts)) }
}

fn conflict(conflicts: &[(Entry, FieldSet)]) -> Fault {
    let (mut causes, mut groups) = (Vec::new(), Vec::new());
    for (e, fields) in conflicts {
        let sub = if e.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource {:?}", e.subresource)
        };
        let using = if e.applied { String::new() } else { format!(" using {}", e.api_version) };
        let who = format!("conflict with {:?}{sub}{using}", e.manager);
        let paths: Vec<String> = fields
            .paths()
            .iter()
            .map(|p| p.iter().map(ToString::to_string).collect::<String>())
            .collect();
        for field in &paths {
            let reason = "FieldManagerConflict".to_owned();
            causes.push(Cause { reason, message: who.clone(), field: field.clone() });
        }
        groups.push((who, paths));
    }
    let count = causes.len();
    let body = match &groups[..] {
        [(who, paths)] if paths.len() == 1 => format!("{who}: {}", paths[0]),
        groups => groups
            .iter()
            .map(|(who, paths)| {
                let who = who.replacen(
                    "conflict with",
                    if paths.len() == 1 && groups.len() > 1 {
                        "conflict with"
                    } else {
                        "conflicts with"
                    },
                    1,
                );
                format!("{who}:\n- {}", paths.join("\n- "))
            })
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let s = if count == 1 { "" } else { "s" };
    Fault::apply_conflict(format!("Apply failed with {count} conflict{s}: {body}"), causes)
}

/// An object without any record was written before anybody counted: one entry owns it all.
fn adopt(entries: &mut Vec<Entry>, base: &Value, shape: Shape<'_>, writer: &Writer<'_>) {
    let fields = clean(FieldSet::of(base, shape));
    if !fields.is_empty() {
        entries.push(Entry {
            manager: "before-first-apply".to_owned(),
            applied: false,
            api_version: writer.api_version.to_owned(),
            subresource: String::new(),
            time: Some(writer.now.to_owned()),
            fields,
        });
    }
}

fn take(entries: &mut Vec<Entry>, taken: FieldSet, writer: &Writer<'_>) {
    let own = |e: &&mut Entry| is_own(e, writer, false) && e.api_version == writer.api_version;
    if let Some(e) = entries.iter_mut().find(own) {
        e.fields = std::mem::take(&mut e.fields).union(&taken);
        e.time = Some(writer.now.to_owned());
    } else {
        entries.push(Entry {
            manager: writer.manager.to_owned(),
            applied: false,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            fields: taken,
        });
    }
}

/// Bounds the number of updaters: the oldest are merged.
fn cap(entries: &mut Vec<Entry>, writer: &Writer<'_>) {
    let count = entries.iter().filter(|e| !e.applied).count();
    if count <= UPDATERS {
        return;
    }
    let (mut updaters, rest): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|e| !e.applied);
    updaters.sort_by(|a, b| a.time.cmp(&b.time));
    let old: Vec<Entry> = updaters.drain(..=count - UPDATERS).collect();
    let mut ancient = Entry {
        manager: "ancient-changes".to_owned(),
        applied: false,
        api_version: writer.api_version.to_owned(),
        subresource: String::new(),
        time: old.last().and_then(|e| e.time.clone()),
        fields: FieldSet::default(),
    };
    for e in old {
        ancient.fields = ancient.fields.union(&e.fields);
    }
    *entries = rest;
    entries.push(ancient);
    entries.extend(updaters);
}

fn starting_entries(old: &Value, new: &Value, writer: &Writer<'_>) -> Vec<Entry> {
    let live = read(old);
    if !writer.subresource.is_empty() {
        return live;
    }
    let given = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    match given.map(Vec::as_slice) {
        // One empty entry is how a client asks to forget everything.
        Some([Value::Object(m)]) if m.is_empty() => Vec::new(),
        Some(list) if !list.is_empty() => {
            let parsed: Option<Vec<Entry>> = list.iter().map(parse).collect();
            parsed.unwrap_or(live)
        }
        _ => live,
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(parse).collect()
}

fn parse(v: &Value) -> Option<Entry> {
    let text = |key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let applied = match text("operation").as_str() {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
        return None;
    }
    Some(Entry {
        manager: text("manager"),
        applied,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: v.get("time").and_then(Value::as_str).map(str::to_owned),
        fields: FieldSet::decode(v.get("fieldsV1").unwrap_or(&json!({}))).ok()?,
    })
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.sort_by(|a, b| {
        (!a.applied, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            !b.applied,
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    let list: Vec<Value> = entries.iter().map(to_value).collect();
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if let Some(m) = metadata.as_object_mut() {
        m.shift_remove("managedFields");
        if !list.is_empty() {
            m.insert("managedFields".to_owned(), Value::Array(list));
        }
    }
}

fn to_value(e: &Entry) -> Value {
    let mut out = Map::new();
    out.insert("manager".into(), e.manager.clone().into());
    out.insert("operation".into(), if e.applied { "Apply" } else { "Update" }.into());
    out.insert("apiVersion".into(), e.api_version.clone().into());
    if let Some(time) = &e.time {
        out.insert("time".into(), time.clone().into());
    }
    out.insert("fieldsType".into(), "FieldsV1".into());
    out.insert("fieldsV1".into(), e.fields.encode());
    if !e.subresource.is_empty() {
        out.insert("subresource".into(), e.subresource.clone().into());
    }
    Value::Object(out)
}

fn clean(mut set: FieldSet) -> FieldSet {
    OWNERLESS.iter().for_each(|path| set.cut(path));
    set
}

fn strip(object: &mut Value) {
    if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        m.shift_remove("managedFields");
    }
}

fn without(object: &Value) -> Value {
    let mut out = object.clone();
    strip(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    fn shape() -> Shape<'static> {
        Shape::Type(Schema::builtin().id("core.ConfigMap").unwrap())
    }

    fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
        Writer { manager, api_version: "v1", subresource: "", now }
    }

    fn created() -> Value {
        let mut v = json!({"metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}, "data": {"k": "v"}});
        update(&json!({"metadata": {}}), &mut v, shape(), &writer("test", "T1"));
        v
    }

    fn run(live: &Value, config: Value, manager: &str, force: bool) -> Result<Value, Fault> {
        apply(live, &config, shape(), &writer(manager, "T2"), force, |_| ())
    }

    #[test]
    fn a_create_is_recorded() {
        assert_eq!(
            created()["metadata"]["managedFields"],
            json!([{"manager": "test", "operation": "Update", "apiVersion": "v1", "time": "T1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:k": {}},
                    "f:metadata": {"f:labels": {".": {}, "f:x": {}}}}}])
        );
    }

    #[test]
    fn applying_over_anothers_field_conflicts() {
        let f = run(&created(), json!({"data": {"k": "w"}}), "other", false).unwrap_err();
        assert_eq!(
            f.message,
            "Apply failed with 1 conflict: conflict with \"test\" using v1: .data.k"
        );
        assert_eq!(f.details.unwrap().causes[0].field, ".data.k");
    }

    #[test]
    fn force_takes_the_field_over() {
        let v = run(&created(), json!({"data": {"k": "w"}}), "other", true).unwrap();
        assert_eq!(v["data"], json!({"k": "w"}));
        let entries = v["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(entries[0]["manager"], "other");
        assert_eq!(entries[0]["fieldsV1"], json!({"f:data": {"f:k": {}}}));
        assert_eq!(
            entries[1]["fieldsV1"],
            json!({"f:data": {}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}})
        );
    }

    #[test]
    fn what_is_no_longer_applied_and_not_shared_goes() {
        let v = run(&created(), json!({"data": {"a": "1", "b": "2"}}), "m", false).unwrap();
        let v = run(&v, json!({"data": {"b": "2"}}), "m", false).unwrap();
        assert_eq!(v["data"], json!({"k": "v", "b": "2"}));
        let v = run(&v, json!({}), "m", false).unwrap();
        assert_eq!(v["data"], json!({"k": "v"}));
        assert_eq!(v["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let v = run(&created(), json!({"data": {"a": "1"}}), "m", false).unwrap();
        let w = apply(&v, &json!({"data": {"a": "1"}}), shape(), &writer("m", "T3"), false, |_| ());
        assert_eq!(w.unwrap(), v);
    }

    #[test]
    fn two_appliers_of_one_value_share_it() {
        let v = run(&created(), json!({"data": {"a": "1"}}), "m", false).unwrap();
        let v = run(&v, json!({"data": {"a": "1"}}), "n", false).unwrap();
        let v = run(&v, json!({}), "m", false).unwrap();
        assert_eq!(v["data"], json!({"k": "v", "a": "1"}));
    }

    #[test]
    fn many_updaters_are_merged() {
        let mut v = created();
        for i in 0..15 {
            let mut next = v.clone();
            next["data"][format!("k{i}")] = json!("x");
            let (manager, now) = (format!("m{i}"), format!("T2{i:02}"));
            update(&v, &mut next, shape(), &writer(&manager, &now));
            v = next;
        }
        let entries = v["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(entries.len(), 10);
        assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"));
    }
}
