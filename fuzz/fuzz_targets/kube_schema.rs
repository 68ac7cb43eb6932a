//! Definitions of custom resources: checked, and if sound, compiled.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::custom::{Structural, check_definition};
use wharf_kube::{json, schema::Schema, typed};

fuzz_target!(|data: &[u8]| {
    let Some(id) = Schema::builtin().id("apiextensions.CustomResourceDefinition") else { return };
    let Ok(parsed) = json::parse(data) else { return };
    let Ok(crd) = typed::normalize(id, parsed.value, &mut Vec::new()) else { return };
    let mut problems = Vec::new();
    check_definition(&crd, None, &mut problems);
    if let (true, Some(schema)) = (problems.is_empty(), crd.pointer("/spec/versions/0/schema/openAPIV3Schema")) {
        _ = Structural::new(schema.clone()).validate(&serde_json::json!({}), None);
    }
});
