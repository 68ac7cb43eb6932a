//! Image references: what parses prints as something that parses to the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_spec::reference::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let familiar = reference.familiar();
    let again = Reference::parse(&familiar).expect("a familiar name parses");
    assert_eq!(reference, again, "{text:?} prints as {familiar:?}");
});
