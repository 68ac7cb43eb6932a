//! A Dockerfile, from whoever wrote it: read whole, its words expanded, its triggers read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_spec::dockerfile::expand::Lexer;
use wharf_spec::dockerfile::instruction::Kind;
use wharf_spec::dockerfile::{Dockerfile, line_at};

fuzz_target!(|text: &str| {
    let lexer = Lexer::new('\\');
    let values = |name: &str| (name.len() % 2 == 0).then(|| name.repeat(2));
    drop(lexer.words(text, &values));
    let file = match Dockerfile::parse(text) {
        Ok(file) => file,
        Err(e) => {
            // An error points into the text.
            assert!(e.at.line >= 1 && e.last_line >= e.at.line);
            line_at(text, e.at);
            return;
        }
    };
    assert!(!file.stages.is_empty());
    for instruction in file.stages.iter().flat_map(|s| &s.instructions) {
        assert!(instruction.span.start.line >= 1);
        if let Kind::Onbuild(trigger) = &instruction.kind {
            // Whatever is stored in an image can be read by the build that uses it.
            Dockerfile::parse_trigger(trigger).ok();
        }
    }
});
