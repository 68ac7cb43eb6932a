//! JSON patches, merge patches and strategic merge patches of a pod.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::{json, patch, schema::Schema};

fuzz_target!(|data: &[u8]| {
    let Ok(parsed) = json::parse(data) else { return };
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}});
    _ = patch::json(&pod, &parsed.value);
    _ = patch::merge(&pod, &parsed.value);
    if let Some(id) = Schema::builtin().id("core.Pod") {
        _ = patch::strategic(&pod, &parsed.value, id);
    }
});
