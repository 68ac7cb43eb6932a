//! The expression language: compiling, and evaluating within its budget.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::cel::{Declared, Program, Scope, json};

fuzz_target!(|text: &str| {
    let declared = Declared::new().dynamic("self");
    let Ok((program, _)) = Program::compile(text, &declared) else { return };
    let object = serde_json::json!({"a": 1, "b": "text", "c": [1, 2, 3], "d": {"e": null}});
    let mut scope = Scope::default();
    scope.set("self", json(&object, None));
    // Small, so that what takes long is found.
    let mut budget = 100_000;
    _ = program.eval(&scope, &mut budget);
});
