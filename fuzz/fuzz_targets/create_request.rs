//! Bodies of the Engine API.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_spec::docker;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<docker::CreateRequest>(bytes) {
        let printed = serde_json::to_vec(&request).expect("a request prints");
        let again: docker::CreateRequest = serde_json::from_slice(&printed).expect("reads back");
        assert_eq!(request, again);
    }
    _ = serde_json::from_slice::<docker::ExecCreateRequest>(bytes);
    _ = serde_json::from_slice::<docker::UpdateRequest>(bytes);
    _ = serde_json::from_slice::<docker::NetworkCreateRequest>(bytes);
    _ = serde_json::from_slice::<docker::VolumeCreateRequest>(bytes);
});
