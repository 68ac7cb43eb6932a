//! The `filters` parameter in both of its forms.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_engine::filters::Filters;

fuzz_target!(|text: &str| {
    if let Ok(filters) = Filters::parse(text) {
        _ = filters.check(&["label", "name", "until"]);
    }
});
