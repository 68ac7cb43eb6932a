//! Protobuf bodies of a pod, in their envelope and bare.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::{proto, schema::Schema};

fuzz_target!(|data: &[u8]| {
    let Some(id) = Schema::builtin().id("core.Pod") else { return };
    if let Ok(envelope) = proto::open(data) {
        _ = proto::decode(id, envelope.raw);
    }
    if let Ok(v) = proto::decode(id, data) {
        _ = proto::encode(id, &v);
    }
});
