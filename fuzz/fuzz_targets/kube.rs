//! What the API server reads: bodies in three notations, patches, selectors. Nothing panics, and normal form
//! is a fixed point.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_kube::schema::{Schema, TypeId};
use wharf_kube::selector::{Fields, Labels};
use wharf_kube::{defaults, json, patch, proto, typed, validate, yaml};

fn pick(byte: u8) -> (&'static str, &'static str, TypeId) {
    let kinds = [
        ("", "Pod", "core.Pod"),
        ("", "Service", "core.Service"),
        ("apps", "Deployment", "apps.Deployment"),
        ("batch", "Job", "batch.Job"),
        ("", "ConfigMap", "core.ConfigMap"),
    ];
    let (group, kind, ty) = kinds[usize::from(byte) % kinds.len()];
    (group, kind, Schema::builtin().id(ty).unwrap())
}

fuzz_target!(|bytes: &[u8]| {
    let [how, which, rest @ ..] = bytes else { return };
    let (group, kind, ty) = pick(*which);
    let value = match how % 6 {
        0 => json::parse(rest).ok().map(|p| p.value),
        1 => yaml::parse(rest).ok().map(|p| p.value),
        2 => proto::decode(ty, rest).ok(),
        3 => {
            let mut parts = rest.splitn(2, |b| *b == 0);
            let mut next = || parts.next().and_then(|p| json::parse(p).ok()).map(|p| p.value);
            let (Some(old), Some(change)) = (next(), next()) else { return };
            _ = patch::json(&old, &change);
            let merged = patch::merge(&old, &change);
            patch::strategic(&merged, &change, ty).ok()
        }
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            _ = Labels::parse(text).map(|l| l.matches(None));
            _ = Fields::parse(text);
            return;
        }
    };
    let Some(value) = value else { return };
    let Ok(mut object) = typed::normalize(ty, value, &mut Vec::new()) else { return };
    defaults::apply(ty, &mut object);
    let Ok(once) = typed::normalize(ty, object, &mut Vec::new()) else { return };
    let twice = typed::normalize(ty, once.clone(), &mut Vec::new()).unwrap();
    assert_eq!(once, twice);
    _ = validate::object(group, kind, &once, None);
    _ = proto::encode(ty, &once);
});
