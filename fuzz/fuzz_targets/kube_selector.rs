//! Label and field selectors.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::selector::{Fields, Labels};

fuzz_target!(|text: &str| {
    if let Ok(labels) = Labels::parse(text) {
        _ = labels.matches(None);
        // What is printed says the same.
        assert!(Labels::parse(&labels.to_string()).is_ok());
    }
    if let Ok(fields) = Fields::parse(text) {
        _ = fields.matches(|_| String::new());
    }
});
