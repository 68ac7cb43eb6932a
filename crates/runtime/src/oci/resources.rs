//! `update`: other limits for a container that is there.

use std::io::Read as _;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::args::{Args, unknown};
use super::state::{Container, Status};
use super::{Global, OciError, Outcome, file};

/// Flags with the place of their number in the resources.
const NUMBERS: [(&str, &str); 12] = [
    ("blkio-weight", "/blockIO/weight"),
    ("cpu-period", "/cpu/period"),
    ("cpu-quota", "/cpu/quota"),
    ("cpu-burst", "/cpu/burst"),
    ("cpu-share", "/cpu/shares"),
    ("cpu-rt-period", "/cpu/realtimePeriod"),
    ("cpu-rt-runtime", "/cpu/realtimeRuntime"),
    ("cpu-idle", "/cpu/idle"),
    ("memory", "/memory/limit"),
    ("memory-reservation", "/memory/reservation"),
    ("memory-swap", "/memory/swap"),
    ("pids-limit", "/pids/limit"),
];

pub(super) fn update(global: &Global, args: &mut Args) -> Outcome {
    let mut resources = json!({});
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "resources" | "r" => resources = read(&args.value(&flag)?)?,
            "cpuset-cpus" => set(&mut resources, "/cpu/cpus", args.value(&flag)?.into()),
            "cpuset-mems" => set(&mut resources, "/cpu/mems", args.value(&flag)?.into()),
            name => match NUMBERS.iter().find(|(flag, _)| *flag == name) {
                Some((_, place)) => {
                    let number = size(&args.value(&flag)?)
                        .ok_or_else(|| OciError::Usage(format!("invalid value for {name}")))?;
                    set(&mut resources, place, number.into());
                }
                None => return Err(unknown("update", name)),
            },
        }
    }
    let id = args.id("update")?;
    args.done("update")?;
    let container = Container::lock(global, &id)?;
    if container.status()? == Status::Stopped {
        return Err(OciError::State("cannot update a stopped container".into()));
    }
    let resources: LinuxResources = serde_json::from_value(resources)
        .map_err(|source| OciError::Json { path: "resources".into(), source })?;
    container.plan()?.cgroup.apply(&resources)?;
    Ok(0)
}

fn read(path: &str) -> Result<Value, OciError> {
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(file("read", "standard input"))?;
    } else {
        text = std::fs::read_to_string(path).map_err(file("read", path))?;
    }
    serde_json::from_str(&text).map_err(|source| OciError::Json { path: path.into(), source })
}

fn set(resources: &mut Value, place: &str, value: Value) {
    let mut at = resources;
    for part in place.split('/').skip(1) {
        at = &mut at[part];
    }
    *at = value;
}

/// A number with an optional unit: `512m`, `1g`.
fn size(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_end_matches('b');
    let (number, factor) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 1 << 10),
        b'm' => (&bare[..bare.len() - 1], 1 << 20),
        b'g' => (&bare[..bare.len() - 1], 1 << 30),
        _ => (bare, 1),
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_places() {
        assert_eq!(size("512m"), Some(512 << 20));
        assert_eq!(
            (size("-1"), size("1GB"), size("x"), size("")),
            (Some(-1), Some(1 << 30), None, None)
        );
        let mut v = json!({"cpu": {"shares": 2}});
        set(&mut v, "/cpu/quota", 5.into());
        assert_eq!(v, json!({"cpu": {"shares": 2, "quota": 5}}));
    }
}
