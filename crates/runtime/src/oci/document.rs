//! `config.json` and `process.json`, read as runc reads them: of some mistakes it only warns.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Global, OciError, file};

/// A bundle's configuration.
pub(super) fn spec(global: &Global, bundle: &Path) -> Result<Spec, OciError> {
    read(&bundle.join("config.json"), |spec| {
        if let Some(process) = spec.get_mut("process") {
            forgive(global, process);
        }
    })
}

/// A process by itself, as `exec --process` names it; without a user it is root's.
pub(super) fn process(global: &Global, path: &Path) -> Result<Process, OciError> {
    read(path, |process| {
        if let Some(fields) = process.as_object_mut() {
            fields.entry("user").or_insert_with(|| json!({"uid": 0, "gid": 0}));
        }
        forgive(global, process);
    })
}

fn read<T: DeserializeOwned>(path: &Path, mend: impl FnOnce(&mut Value)) -> Result<T, OciError> {
    let wrong = |source| OciError::Json { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(file("open", path))?;
    // As it stands errors have a line and a column.
    serde_json::from_slice(&bytes).or_else(|error| {
        let mut document: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
        mend(&mut document);
        serde_json::from_value(document).map_err(|_| wrong(error))
    })
}

/// Takes out capabilities that nobody knows, with a warning.
fn forgive(global: &Global, process: &mut Value) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    let mut unknown = Vec::new();
    for names in sets.values_mut().filter_map(Value::as_array_mut) {
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known && !unknown.contains(name) {
                unknown.push(name.clone());
            }
            known
        });
    }
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.iter().filter_map(Value::as_str).collect();
        let names = names.join(" ");
        global.warn(&format!("ignoring unknown or unavailable capabilities: [{names}]"));
    }
}

/// Warns of capabilities that cannot be ambient: the kernel asks that they are permitted and inheritable.
pub(super) fn warn_of_ambient(global: &Global, process: &Process) {
    let Some(caps) = process.capabilities() else { return };
    for cap in caps.ambient().iter().flatten() {
        let has = |set: &Option<oci_spec::runtime::Capabilities>| {
            set.as_ref().is_some_and(|set| set.contains(cap))
        };
        if !(has(caps.permitted()) && has(caps.inheritable())) {
            let name = serde_json::to_value(cap).unwrap_or_default();
            let name = name.as_str().unwrap_or_default();
            let why = "operation not permitted";
            global.warn(&format!("can't raise ambient capability {name}: {why}"));
        }
    }
}
