//! OCI runtime specs: any JSON either compiles to a plan or is refused with a message.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use wharf_runtime::{HostFacts, Plan, PlanContext, Root};

static HOST: LazyLock<HostFacts> = LazyLock::new(|| HostFacts::probe().expect("a Linux host"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(bytes) else { return };
    let root = Root::Dir("/nonexistent".into());
    let context = PlanContext::new("fuzz", Path::new("/nonexistent"), root, &HOST);
    _ = Plan::compile(&spec, &context);
});
