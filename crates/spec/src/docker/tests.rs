use super::*;

fn round(json: &str) -> serde_json::Value {
    serde_json::to_value(serde_json::from_str::<CreateRequest>(json).unwrap()).unwrap()
}

#[test]
fn null_and_absent_are_the_zero_value() {
    let a = round("{}");
    let b =
        round(r#"{"Env":null,"Hostname":null,"HostConfig":null,"ExposedPorts":null,"Tty":null}"#);
    assert_eq!(a, b);
    assert_eq!(a["Env"], serde_json::Value::Null);
    assert_eq!(a["HostConfig"]["Memory"], 0);
    assert_eq!(a["HostConfig"]["MaskedPaths"], serde_json::Value::Null);
    assert!(a.get("Healthcheck").is_none());
}

#[test]
fn null_map_values_keep_their_keys() {
    let v = round(
        r#"{"ExposedPorts":{"80/tcp":null},"Volumes":{"/d":{}},
            "HostConfig":{"PortBindings":{"80/tcp":null,"81/tcp":[{"HostPort":"9"}]}},
            "NetworkingConfig":{"EndpointsConfig":{"n":null}}}"#,
    );
    assert_eq!(v["ExposedPorts"]["80/tcp"], serde_json::json!({}));
    assert_eq!(v["HostConfig"]["PortBindings"]["81/tcp"][0]["HostIp"], "");
    assert!(v["NetworkingConfig"]["EndpointsConfig"].get("n").is_some());
}

#[test]
fn resources_lie_flat_in_the_host_config() {
    let r: CreateRequest =
        serde_json::from_str(r#"{"Cmd":"true","HostConfig":{"Memory":7,"PidsLimit":3}}"#).unwrap();
    assert_eq!((r.host_config.resources.memory, r.host_config.resources.pids_limit), (7, Some(3)));
    assert_eq!(r.config.cmd.unwrap().0, ["true"]);
}

#[test]
fn times_print_as_go_prints_them() {
    assert_eq!(rfc3339(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
    assert_eq!(rfc3339_secs(1_700_000_000_120_000_000), "2023-11-14T22:13:20Z");
}

#[test]
fn unknown_keys_are_ignored_and_wrong_types_are_not() {
    serde_json::from_str::<CreateRequest>(r#"{"Nope":1,"HostConfig":{"Nope":2}}"#).unwrap();
    serde_json::from_str::<CreateRequest>(r#"{"Tty":"yes"}"#).unwrap_err();
}

#[test]
fn keys_are_known_in_any_case() {
    let r: CreateRequest = serde_json::from_str(
        r#"{"image":"x","CMD":["true"],"hostconfig":{"memory":7,"portbindings":{"80/tcp":[{"hostport":"9"}]}},
            "networkingConfig":{"endpointsconfig":{"Net":{"ipamconfig":{"ipv4address":"10.0.0.2"}}}},
            "labels":{"Case":"Kept"}}"#,
    )
    .unwrap();
    assert_eq!((r.config.image.as_str(), r.host_config.resources.memory), ("x", 7));
    let ports = &r.host_config.port_bindings.unwrap()["80/tcp"];
    assert_eq!(ports.as_ref().unwrap()[0].host_port, "9");
    let networks = r.networking_config.endpoints_config.unwrap();
    let settings = networks["Net"].as_ref().unwrap().ipam_config.as_ref().unwrap();
    assert_eq!(settings.ipv4_address, "10.0.0.2");
    assert_eq!(r.config.labels.unwrap()["Case"], "Kept");
}

#[test]
fn of_a_key_that_comes_twice_the_last_counts() {
    let r: CreateRequest = serde_json::from_str(r#"{"Image":"a","image":"b"}"#).unwrap();
    assert_eq!(r.config.image, "b");
}
