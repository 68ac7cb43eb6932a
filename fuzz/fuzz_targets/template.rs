//! `--format` templates: any text either fails with a message or prints, without running away.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use wharf_template::Template;

static DATA: LazyLock<serde_json::Value> = LazyLock::new(|| {
    serde_json::json!({"Name": "x", "N": 3, "F": 1.5, "B": true, "Nil": null,
        "List": [1, "two", {"Deep": [null]}], "Map": {"a": 1, "b": {"c": "d"}}})
});

fuzz_target!(|text: &str| {
    if let Ok(template) = Template::parse(text) {
        _ = template.execute(&DATA);
    }
});
