//! Go's types behind the engine's JSON, as far as templates show them.

use serde_json::Value;
use wharf_template::inner;

/// Fields that the engine leaves out when they are empty, although docker's types have them.
pub const OPTIONAL: &[&str] = &[
    "ArgsEscaped",
    "ConfigFrom",
    "ExposedPorts",
    "Health",
    "Healthcheck",
    "ImageManifestDescriptor",
    "Init",
    "MacAddress",
    "Mounts",
    "NetworkDisabled",
    "OnBuild",
    "Options",
    "Shell",
    "SizeRootFs",
    "SizeRw",
    "Status",
    "StopSignal",
    "StopTimeout",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "UsageData",
    "Variant",
];

/// Fields that are lists: Go prints an absent list as an empty one.
const LISTS: &[&str] = &[
    "Aliases",
    "Args",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Layers",
    "Links",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Fields that are maps.
const MAPS: &[&str] = &[
    "Annotations",
    "Containers",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Status",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Fields that are structures, or lists of them, with their own fields in Go's order.
const STRUCTURES: &[(&str, &[&str])] = &[
    ("GraphDriver", &["Data", "Name"]),
    ("LogConfig", &["Type", "Config"]),
    ("Mounts", &["Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation"]),
    ("RestartPolicy", &["Name", "MaximumRetryCount"]),
    ("RootFS", &["Type", "Layers"]),
    (
        "State",
        &[
            "Status",
            "Running",
            "Paused",
            "Restarting",
            "OOMKilled",
            "Dead",
            "Pid",
            "ExitCode",
            "Error",
            "StartedAt",
            "FinishedAt",
            "Health",
        ],
    ),
];

/// How the field `name` of something inspected prints, if not as any JSON value.
pub fn print(name: &str, value: &Value) -> Option<String> {
    let fields = || STRUCTURES.iter().find(|(n, _)| *n == name).map(|(_, fields)| *fields);
    match value {
        Value::Null if LISTS.contains(&name) => Some("[]".to_owned()),
        Value::Null if MAPS.contains(&name) => Some("map[]".to_owned()),
        Value::Null if name == "StopSignal" || name == "MacAddress" => Some(String::new()),
        Value::Null => Some("<nil>".to_owned()),
        Value::Object(_) => fields().map(|fields| structure(value, fields)),
        Value::Array(list) => {
            let fields = fields()?;
            let items: Vec<String> = list.iter().map(|item| structure(item, fields)).collect();
            Some(format!("[{}]", items.join(" ")))
        }
        _ => None,
    }
}

fn structure(value: &Value, fields: &[&str]) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|name| match (value.get(name), *name) {
            // A string that JSON leaves out is empty; the only pointer here is Health.
            (None, "Health") => "<nil>".to_owned(),
            (None, _) => String::new(),
            (Some(value), name) => print(name, value).unwrap_or_else(|| inner(Some(value))),
        })
        .collect();
    format!("{{{}}}", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(name: &str, value: Value, expected: Option<&str>) {
        assert_eq!(print(name, &value).as_deref(), expected);
    }

    #[test]
    fn absent_values_print_by_their_type() {
        check("CapAdd", Value::Null, Some("[]"));
        check("Labels", Value::Null, Some("map[]"));
        check("Health", Value::Null, Some("<nil>"));
        check("Name", json!("x"), None);
    }

    #[test]
    fn structures_print_their_fields_in_order() {
        check(
            "RestartPolicy",
            json!({"MaximumRetryCount": 3, "Name": "always"}),
            Some("{always 3}"),
        );
        let mount = json!({"Type": "bind", "Source": "/a", "Destination": "/b", "Mode": "",
            "RW": true, "Propagation": "rprivate"});
        check("Mounts", json!([mount]), Some("[{bind  /a /b   true rprivate}]"));
    }
}
