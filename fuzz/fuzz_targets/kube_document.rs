//! YAML and JSON bodies, read as a pod and by a custom schema.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::{custom::Structural, json, schema::Schema, typed, yaml};

fuzz_target!(|data: &[u8]| {
    let yaml = yaml::parse(data).map(|p| p.value);
    let json = json::parse(data).map(|p| p.value);
    let schema = serde_json::json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string", "default": "x"}, "b": {"type": "array", "items": {"type": "integer"}}}}}});
    let structural = Structural::new(schema);
    for v in [yaml.ok(), json.ok()].into_iter().flatten() {
        if let Some(id) = Schema::builtin().id("core.Pod") {
            _ = typed::normalize(id, v.clone(), &mut Vec::new());
        }
        if let Ok(mut o) = structural.decode(v, &mut Vec::new()) {
            structural.complete(&mut o);
            _ = structural.validate(&o, None);
        }
    }
});
