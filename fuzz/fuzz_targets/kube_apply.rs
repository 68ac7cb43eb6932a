//! Server-side apply of whatever is sent, twice: the second time must change nothing.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::managed::{Writer, apply};
use wharf_kube::{json, schema::Schema, shape::Shape, typed};

fuzz_target!(|data: &[u8]| {
    let Some(id) = Schema::builtin().id("core.Pod") else { return };
    let Ok(parsed) = json::parse(data) else { return };
    let Ok(config) = typed::normalize(id, parsed.value, &mut Vec::new()) else { return };
    let writer = Writer { manager: "m", api_version: "v1", subresource: "", now: "2024-01-01T00:00:00Z" };
    let shape = Shape::Type(id);
    let Ok(once) = apply(&typed::zero(id), &config, shape, &writer, false, |_| ()) else { return };
    let twice = apply(&once, &config, shape, &writer, false, |_| ());
    assert!(twice.is_ok(), "nobody conflicts with themselves");
});
