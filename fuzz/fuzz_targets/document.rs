//! Manifests, indexes and configs from a registry.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_spec::image::{Document, ImageConfig};

fuzz_target!(|bytes: &[u8]| {
    _ = Document::parse(bytes, "application/vnd.oci.image.manifest.v1+json");
    _ = Document::parse(bytes, "");
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        _ = config.rootfs.chain_ids();
        _ = config.created_at();
        let printed = serde_json::to_vec(&config).expect("a config prints");
        let again: ImageConfig = serde_json::from_slice(&printed).expect("and reads back");
        assert_eq!(serde_json::to_vec(&again).expect("prints"), printed);
    }
});
