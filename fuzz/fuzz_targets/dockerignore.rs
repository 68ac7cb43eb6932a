//! A `.dockerignore` and a path that it is asked about.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_spec::dockerfile::ignore::{Ignore, clean};

fuzz_target!(|input: (&str, &str)| {
    let (rules, path) = input;
    let path = clean(path);
    assert!(!path.split('/').any(|part| part == ".."));
    if let Ok(ignore) = Ignore::parse(rules) {
        assert_eq!(ignore.ignores(&path), ignore.rule(&path).is_some());
        ignore.may_include_below(&path);
    }
});
