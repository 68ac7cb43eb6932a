//! From the flags of `run` and `create` to the body of the create request.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Outcome;
use crate::app::Call;
use crate::cmdline::parse::Given;
use crate::failure::Failure;
use crate::parse::capabilities;
use crate::parse::{self, device, files, gpus, item, mount, network, ports, size, ulimit, volume};

/// What the engine is asked to make.
pub struct Container {
    /// `Config`.
    pub config: Value,
    /// `HostConfig`.
    pub host: Value,
    networks: Value,
}

impl Container {
    /// A switch of `Config`.
    pub fn flag(&self, name: &str) -> bool {
        self.config[name].as_bool().unwrap_or(false)
    }

    /// The image.
    pub fn image(&self) -> &str {
        self.config["Image"].as_str().unwrap_or_default()
    }

    /// The request's body.
    pub fn body(&self) -> Value {
        let mut body = self.config.clone();
        body["HostConfig"] = self.host.clone();
        body["NetworkingConfig"] = json!({"EndpointsConfig": self.networks});
        body
    }
}

/// Reads all flags, with docker's messages where they contradict each other.
pub fn container(call: &Call) -> Result<Container, Failure> {
    let given = &call.given;
    refuse_unsupported(given)?;
    let ports = ports::parse(given.all("publish"), given.all("expose"))?;
    let (binds, anonymous) = volumes(given)?;
    let attachments = attachments(given)?;
    let mode = attachments.first().map_or("default", |a| a.target.as_str()).to_owned();
    let networks = endpoints(attachments)?;
    let mut config = config(call, &ports, anonymous)?;
    if let Some(mac) = networks[&mode]["MacAddress"].as_str().filter(|m| !m.is_empty()) {
        config["MacAddress"] = mac.into();
    }
    let host = host_config(given, ports.bindings, binds, &mode)?;
    Ok(Container { config, host, networks })
}

fn refuse_unsupported(given: &Given) -> Outcome {
    if given.on("use-api-socket") {
        return Err("--use-api-socket is not supported: mount the socket with -v and pass credentials yourself".into());
    }
    if given.last("disable-content-trust") == Some("false") {
        return Err(
            "--disable-content-trust=false is not supported: Notary signatures are not implemented"
                .into(),
        );
    }
    for windows in ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"] {
        if given.changed(windows) {
            return Err(Failure::new(format!(
                "\"--{windows}\" is only supported on a Docker daemon running on windows, but the Docker daemon is running on linux"
            )));
        }
    }
    let mac = given.text("mac-address");
    if !mac.is_empty() && !network::is_mac(mac) {
        return Err(Failure::new(format!("{mac} is not a valid mac address")));
    }
    let swappiness = given.int_or("memory-swappiness", -1);
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(Failure::new(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        )));
    }
    if given.on("rm") && !matches!(given.text("restart"), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    Ok(())
}

fn volumes(given: &Given) -> Result<(Vec<String>, Map<String, Value>), Failure> {
    let (mut binds, mut anonymous) = (Vec::new(), Map::new());
    for text in given.all("volume") {
        match volume::parse(text)? {
            volume::Volume::Bind(bind) => binds.push(bind),
            volume::Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
        }
    }
    Ok((binds, anonymous))
}

fn config(
    call: &Call,
    ports: &ports::Ports,
    anonymous: Map<String, Value>,
) -> Result<Value, Failure> {
    let given = &call.given;
    let attached = given.all("attach");
    let attaches = |name: &str| attached.iter().any(|a| a == name);
    let stdin = given.on("interactive");
    let env = environment(call)?;
    let labels = files::read(given.all("label-file"), given.all("label"), |_| None)?;
    let entrypoint = match given.last("entrypoint") {
        None => Value::Null,
        Some(program) => json!([program]),
    };
    let command = given.args.get(1..).filter(|c| !c.is_empty());
    let attach_stdin = attaches("stdin") || stdin;
    let mut config = json!({
        "Hostname": given.text("hostname"),
        "Domainname": given.text("domainname"),
        "User": given.text("user"),
        "AttachStdin": attach_stdin,
        "AttachStdout": attached.is_empty() || attaches("stdout"),
        "AttachStderr": attached.is_empty() || attaches("stderr"),
        "ExposedPorts": ports.exposed,
        "Tty": given.on("tty"),
        "OpenStdin": stdin,
        // The container's input ends when the one who attached goes away.
        "StdinOnce": stdin && attach_stdin,
        "Env": env,
        "Cmd": command,
        "Image": given.args[0],
        "Volumes": anonymous,
        "WorkingDir": given.text("workdir"),
        "Entrypoint": entrypoint,
        "Labels": parse::pairs(&labels),
    });
    let health = health(given)?;
    let optional = [
        ("Healthcheck", health),
        ("StopSignal", given.last("stop-signal").map(Value::from)),
        ("StopTimeout", given.last("stop-timeout").map(|_| given.int_or("stop-timeout", 0).into())),
        ("MacAddress", given.last("mac-address").map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            config[name] = value;
        }
    }
    Ok(config)
}

/// The variables of the proxy configuration, then of the files, then of the flags.
fn environment(call: &Call) -> Result<Vec<String>, Failure> {
    let given = &call.given;
    let lookup: files::Lookup = |name| std::env::var(name).ok();
    let own = files::read(given.all("env-file"), given.all("env"), lookup)?;
    let mut env = Vec::new();
    for (name, value) in proxies(call)? {
        let set = |e: &String| *e == name || e.starts_with(&format!("{name}="));
        if !own.iter().any(set) {
            env.push(format!("{name}={}", value.unwrap_or_default()));
        }
    }
    env.extend(own);
    Ok(env)
}

/// The variables of the proxies that the configuration names for the call's engine.
pub fn proxies(call: &Call) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let proxies = &call.session.config().json["proxies"];
    let host = call.client()?.host();
    let proxies = match &proxies[&host] {
        Value::Null => &proxies["default"],
        specific => specific,
    };
    let mut env = BTreeMap::new();
    for (key, name) in [
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ] {
        let Some(value) = proxies[key].as_str().filter(|v| !v.is_empty()) else { continue };
        for name in [name.to_owned(), name.to_lowercase()] {
            env.insert(name, Some(value.to_owned()));
        }
    }
    Ok(env)
}

fn health(given: &Given) -> Result<Option<Value>, Failure> {
    let numbers = [
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-retries", "Retries"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ];
    let number = |flag: &str| match flag {
        "health-retries" => given.int_or(flag, 0),
        flag => given.nanos(flag),
    };
    let command = given.text("health-cmd");
    let any = !command.is_empty() || numbers.iter().any(|(flag, _)| number(flag) != 0);
    if given.on("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    if !any {
        return Ok(None);
    }
    let mut health = Map::new();
    if !command.is_empty() {
        health.insert("Test".into(), json!(["CMD-SHELL", command]));
    }
    for (flag, name) in numbers {
        match number(flag) {
            0 => (),
            n if n < 0 => return Err(Failure::new(format!("--{flag} cannot be negative"))),
            n => drop(health.insert(name.into(), n.into())),
        }
    }
    Ok(Some(health.into()))
}

/// The attachments, the first with the addresses and names of the plain flags.
fn attachments(given: &Given) -> Result<Vec<network::Attachment>, Failure> {
    let mut list = Vec::new();
    for text in given.all("network") {
        list.push(network::parse(text)?);
    }
    if list.is_empty() {
        list.push(network::Attachment { target: "default".into(), ..Default::default() });
    }
    let first = &mut list[0];
    let both =
        |what: &str| Err(Failure::new(format!("conflicting options: cannot specify both {what}")));
    let aliases = given.all("network-alias");
    let (ip, ip6, mac) = (given.text("ip"), given.text("ip6"), given.text("mac-address"));
    let local = given.all("link-local-ip");
    match () {
        () if !aliases.is_empty() && !first.aliases.is_empty() => {
            return both("--network-alias and per-network alias");
        }
        () if !ip.is_empty() && !first.ip.is_empty() => {
            return both("--ip and per-network IPv4 address");
        }
        () if !ip6.is_empty() && !first.ip6.is_empty() => {
            return both("--ip6 and per-network IPv6 address");
        }
        () if !mac.is_empty() && !first.mac.is_empty() => {
            return both("--mac-address and per-network MAC address");
        }
        () if !local.is_empty() && !first.link_local.is_empty() => {
            return both("--link-local-ip and per-network link-local IP addresses");
        }
        () => (),
    }
    first.aliases.extend_from_slice(aliases);
    first.link_local.extend_from_slice(local);
    if first.is_user_defined() {
        first.links.extend_from_slice(given.all("link"));
    }
    for (slot, value) in [(&mut first.ip, ip), (&mut first.ip6, ip6), (&mut first.mac, mac)] {
        if !value.is_empty() {
            value.clone_into(slot);
        }
    }
    Ok(list)
}

fn endpoints(attachments: Vec<network::Attachment>) -> Result<Value, Failure> {
    let mut out = Map::new();
    let user = attachments.iter().filter(|a| a.is_user_defined()).count();
    let only = attachments.len() == 1;
    for attachment in &attachments {
        let endpoint = attachment.endpoint()?;
        if out.contains_key(&attachment.target) {
            return Err(Failure::new(format!(
                "network {} is specified multiple times",
                parse::quote(&attachment.target)
            )));
        }
        // A single network without options needs no endpoint; the mode says it all.
        if only && attachment.is_plain() && attachment.target != "default" {
            continue;
        }
        out.insert(attachment.target.clone(), endpoint);
    }
    if user > 0 && user < attachments.len() {
        return Err("conflicting options: cannot attach both user-defined and non-user-defined network-modes".into());
    }
    Ok(out.into())
}

fn host_config(
    given: &Given,
    bindings: Map<String, Value>,
    binds: Vec<String>,
    mode: &str,
) -> Result<Value, Failure> {
    check_modes(given)?;
    let (options, unconfined) = security(given)?;
    let log_driver = given.text("log-driver");
    if log_driver == "none" && given.changed("log-opt") {
        return Err("invalid logging opts for driver none".into());
    }
    let storage = given.all("storage-opt");
    if storage.iter().any(|o| !o.contains('=')) {
        return Err("invalid storage option".into());
    }
    let list = |name: &str| match given.all(name) {
        [] => Value::Null,
        list => list.into(),
    };
    let (cap_add, cap_drop) = capabilities::effective(given.all("cap-add"), given.all("cap-drop"));
    let or_null = |list: Vec<String>| if list.is_empty() { Value::Null } else { list.into() };
    let (cap_add, cap_drop) = (or_null(cap_add), or_null(cap_drop));
    let tmpfs: Map<String, Value> = given
        .all("tmpfs")
        .iter()
        .map(|t| t.split_once(':').unwrap_or((t, "")))
        .map(|(path, options)| (path.to_owned(), options.into()))
        .collect();
    let size = wharf_sys::terminal::size(std::io::stdout()).unwrap_or((0, 0));
    let mut host = json!({
        "Binds": if binds.is_empty() { Value::Null } else { binds.into() },
        "ContainerIDFile": given.text("cidfile"),
        "LogConfig": {"Type": log_driver, "Config": parse::pairs(given.all("log-opt"))},
        "NetworkMode": mode,
        "PortBindings": bindings,
        "RestartPolicy": restart_policy(given.last("restart").unwrap_or("no"))?,
        "AutoRemove": given.on("rm"),
        "VolumeDriver": given.text("volume-driver"),
        "VolumesFrom": list("volumes-from"),
        "ConsoleSize": [size.0, size.1],
        "CapAdd": cap_add,
        "CapDrop": cap_drop,
        "CgroupnsMode": given.text("cgroupns"),
        "Dns": given.all("dns"),
        "DnsOptions": given.all("dns-option"),
        "DnsSearch": given.all("dns-search"),
        "ExtraHosts": list("add-host"),
        "GroupAdd": list("group-add"),
        "IpcMode": given.text("ipc"),
        "Cgroup": "",
        "Links": list("link"),
        "OomScoreAdj": given.int_or("oom-score-adj", 0),
        "PidMode": given.text("pid"),
        "Privileged": given.on("privileged"),
        "PublishAllPorts": given.on("publish-all"),
        "ReadonlyRootfs": given.on("read-only"),
        "SecurityOpt": if options.is_empty() { Value::Null } else { options.into() },
        "UTSMode": given.text("uts"),
        "UsernsMode": given.text("userns"),
        "ShmSize": given.bytes("shm-size"),
        "Isolation": given.text("isolation"),
    });
    resources(given, &mut host)?;
    let pairs = |name: &str| parse::pairs(given.all(name));
    let optional = [
        ("Tmpfs", !tmpfs.is_empty(), Value::from(tmpfs)),
        ("StorageOpt", !storage.is_empty(), pairs("storage-opt").into()),
        ("Sysctls", given.changed("sysctl"), pairs("sysctl").into()),
        ("Annotations", given.changed("annotation"), pairs("annotation").into()),
        ("Runtime", given.changed("runtime"), given.text("runtime").into()),
        ("Init", given.changed("init"), given.on("init").into()),
        ("Mounts", given.changed("mount"), mounts(given)?),
        ("MaskedPaths", true, if unconfined { json!([]) } else { Value::Null }),
        ("ReadonlyPaths", true, if unconfined { json!([]) } else { Value::Null }),
    ];
    for (name, wanted, value) in optional {
        if wanted {
            host[name] = value;
        }
    }
    Ok(host)
}

fn check_modes(given: &Given) -> Outcome {
    let container =
        |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let pid = given.text("pid");
    if !matches!(pid, "" | "host") && !container(pid) {
        return Err("--pid: invalid PID mode".into());
    }
    if !matches!(given.text("uts"), "" | "host") {
        return Err("--uts: invalid UTS mode".into());
    }
    if !matches!(given.text("userns"), "" | "host") {
        return Err("--userns: invalid USER mode".into());
    }
    if !matches!(given.text("cgroupns"), "" | "host" | "private") {
        return Err("--cgroupns: invalid CGROUP mode".into());
    }
    Ok(())
}

/// `name[:count]` as the API takes it.
pub fn restart_policy(text: &str) -> Result<Value, Failure> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() && text.contains(':') {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    let count: i64 = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            Failure::from("invalid restart policy format: maximum retry count must be an integer")
        })?,
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// Security options with profiles read in, and whether system paths are unconfined.
fn security(given: &Given) -> Result<(Vec<String>, bool), Failure> {
    let mut options = Vec::new();
    let mut unconfined = false;
    for option in given.all("security-opt") {
        if option == "systempaths=unconfined" {
            unconfined = true;
            continue;
        }
        let plain = option == "no-new-privileges";
        let pair = option.split_once('=').or_else(|| option.split_once(':').filter(|_| !plain));
        let (key, value) = pair.unwrap_or((option, ""));
        if value.is_empty() && key != "no-new-privileges" {
            return Err(Failure::new(format!("Invalid --security-opt: {}", parse::quote(option))));
        }
        match (key, value) {
            ("seccomp", "unconfined" | "builtin") => options.push(option.clone()),
            ("seccomp", file) => options.push(format!("seccomp={}", seccomp_profile(file)?)),
            _ => options.push(option.clone()),
        }
    }
    Ok((options, unconfined))
}

/// A seccomp profile as the engine takes it.
pub fn seccomp_profile(file: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        let why = crate::failure::os_text(&e);
        Failure::new(format!("opening seccomp profile ({file}) failed: open {file}: {why}"))
    })?;
    let profile: Value = serde_json::from_str(&text).map_err(|e| {
        Failure::new(format!("compacting json for seccomp profile ({file}) failed: {e}"))
    })?;
    Ok(profile.to_string())
}

fn mounts(given: &Given) -> Result<Value, Failure> {
    let all: Result<Vec<Value>, String> =
        given.all("mount").iter().map(|m| mount::parse(m)).collect();
    Ok(all?.into())
}

fn resources(given: &Given, host: &mut Value) -> Outcome {
    let rates = |name: &str, bytes: bool| -> Result<Value, Failure> {
        let mut list = Vec::new();
        for text in given.all(name) {
            let (path, rate) = if bytes { item::byte_rate(text)? } else { item::op_rate(text)? };
            list.push(json!({"Path": path, "Rate": rate}));
        }
        Ok(list.into())
    };
    let mut weights = Vec::new();
    for text in given.all("blkio-weight-device") {
        let (path, weight) = item::weight(text)?;
        weights.push(json!({"Path": path, "Weight": weight}));
    }
    let ulimits: Result<Vec<Value>, String> =
        given.all("ulimit").iter().map(|u| ulimit::parse(u)).collect();
    let (devices, requests) = devices(given)?;
    let rules = given.all("device-cgroup-rule");
    let values = json!({
        "CpuShares": given.int_or("cpu-shares", 0),
        "Memory": given.bytes("memory"),
        "NanoCpus": given.last("cpus").map_or(Ok(0), size::cpus)?,
        "CgroupParent": given.text("cgroup-parent"),
        "BlkioWeight": given.int_or("blkio-weight", 0),
        "BlkioWeightDevice": weights,
        "BlkioDeviceReadBps": rates("device-read-bps", true)?,
        "BlkioDeviceWriteBps": rates("device-write-bps", true)?,
        "BlkioDeviceReadIOps": rates("device-read-iops", false)?,
        "BlkioDeviceWriteIOps": rates("device-write-iops", false)?,
        "CpuPeriod": given.int_or("cpu-period", 0),
        "CpuQuota": given.int_or("cpu-quota", 0),
        "CpuRealtimePeriod": given.int_or("cpu-rt-period", 0),
        "CpuRealtimeRuntime": given.int_or("cpu-rt-runtime", 0),
        "CpusetCpus": given.text("cpuset-cpus"),
        "CpusetMems": given.text("cpuset-mems"),
        "Devices": devices,
        "DeviceCgroupRules": if rules.is_empty() { Value::Null } else { rules.into() },
        "DeviceRequests": requests,
        "MemoryReservation": given.bytes("memory-reservation"),
        "MemorySwap": given.bytes("memory-swap"),
        "MemorySwappiness": given.int_or("memory-swappiness", -1),
        "OomKillDisable": given.on("oom-kill-disable"),
        "PidsLimit": given.int_or("pids-limit", 0),
        "Ulimits": ulimits?,
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    });
    if let (Value::Object(host), Value::Object(values)) = (host, values) {
        host.extend(values);
        if given.changed("kernel-memory") {
            host.insert("KernelMemory".into(), given.bytes("kernel-memory").into());
        }
    }
    Ok(())
}

fn devices(given: &Given) -> Result<(Value, Value), Failure> {
    let (mut mapped, mut cdi) = (Vec::new(), Vec::new());
    for text in given.all("device") {
        match device::is_cdi(text) {
            true => cdi.push(text.as_str()),
            false => mapped.push(device::parse(text)?),
        }
    }
    let requests: Result<Vec<Value>, String> =
        given.all("gpus").iter().map(|g| gpus::parse(g)).collect();
    let mut requests = requests?;
    if !cdi.is_empty() {
        requests.push(json!({
            "Driver": "cdi", "Count": 0, "DeviceIDs": cdi, "Capabilities": null, "Options": null,
        }));
    }
    let requests = if requests.is_empty() { Value::Null } else { requests.into() };
    Ok((mapped.into(), requests))
}
