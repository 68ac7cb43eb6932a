//! Shapes that changed between API versions, converted at the door: requests up, answers down.
//!
//! The engine speaks the shapes of 1.51. Each function here takes one of those objects and the
//! version that a client speaks, and changes only what that client would notice.

use serde::Serialize;
use serde_json::{Map as Object, Value, json};
use wharf_engine::events::{Event, Kind};
use wharf_spec::docker;

use crate::fault::Fault;
use crate::version::{ApiVersion, v};

/// An object as it is, or with changed keys.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Shape<T> {
    /// As the engine made it.
    Same(T),
    /// Changed for one version.
    Changed(Value),
}

/// `GET /info`.
pub(crate) fn info(mut info: docker::Info, version: ApiVersion) -> Shape<docker::Info> {
    if version < v(44) {
        info.runtimes.values_mut().for_each(|r| r.status = None);
    }
    if version < v(49) {
        info.firewall_backend = None;
    }
    if version >= v(50) {
        return Shape::Same(info);
    }
    changed(info, |o| {
        o.insert("BridgeNfIptables".into(), false.into());
        o.insert("BridgeNfIp6tables".into(), false.into());
        if version < v(49) {
            for key in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
                let id = o.get(key).map(|c| c["ID"].clone());
                merge(o, key, json!({ "Expected": id }));
            }
        }
        if version < v(47) {
            merge(
                o,
                "RegistryConfig",
                json!({
                    "AllowNondistributableArtifactsCIDRs": null,
                    "AllowNondistributableArtifactsHostnames": null,
                }),
            );
        }
    })
}

/// Whether a version knows of an event at all.
pub(crate) fn has_event(event: &Event, version: ApiVersion) -> bool {
    version >= v(46) || event.kind != Kind::Image || event.action != "create"
}

/// One line of `GET /events`.
pub(crate) fn event(event: &Event, version: ApiVersion) -> docker::Event {
    let mut out = docker::Event {
        kind: event.kind.as_str().into(),
        action: event.action.clone(),
        actor: docker::Actor { id: event.id.clone(), attributes: event.attributes.clone() },
        scope: "local".into(),
        time: event.nanos.div_euclid(1_000_000_000),
        time_nano: event.nanos,
        ..docker::Event::default()
    };
    // The names from before 1.22; CLIs up to 25 stop working without them.
    if version < v(52) && matches!(event.kind, Kind::Container | Kind::Image) {
        out.status.clone_from(&event.action);
        out.id.clone_from(&event.id);
        if event.kind == Kind::Container {
            out.from = event.attributes.get("image").cloned().unwrap_or_default();
        }
    }
    out
}

/// `GET /system/df`. Clients since 1.52 get sums by kind, and the lists only with `verbose` or
/// in the old place.
pub(crate) fn disk_usage(
    usage: docker::DiskUsage,
    version: ApiVersion,
    verbose: bool,
) -> Shape<docker::DiskUsage> {
    if version >= v(44) && version < v(52) {
        return Shape::Same(usage);
    }
    let sums = (version >= v(52)).then(|| sums(&usage, verbose));
    changed(usage, |o| {
        if version < v(44)
            && let Some(Value::Array(images)) = o.get_mut("Images")
        {
            images.iter_mut().for_each(add_virtual_size);
        }
        let Some(sums) = sums else { return };
        // A client that asks for the new form does not get the old one as well.
        if verbose {
            o.clear();
        }
        o.retain(|_, list| !list.is_null());
        o.extend(sums);
    })
}

/// `GET /containers/json`.
pub(crate) fn container_list(
    mut list: Vec<docker::ContainerSummary>,
    version: ApiVersion,
) -> Vec<docker::ContainerSummary> {
    for row in &mut list {
        if version < v(46) {
            row.host_config.annotations = None;
        }
        if version < v(48) {
            row.image_manifest_descriptor = None;
        }
    }
    list
}

/// `GET /containers/{id}/json`.
pub(crate) fn container_inspect(
    mut inspect: docker::ContainerInspect,
    version: ApiVersion,
) -> Shape<docker::ContainerInspect> {
    if version < v(45) {
        add_old_aliases(&mut inspect);
    }
    if version < v(48) {
        inspect.image_manifest_descriptor = None;
    }
    if version < v(52) {
        return Shape::Same(inspect);
    }
    inspect.config.mac_address.clear();
    changed(inspect, |o| {
        if let Some(Value::Object(settings)) = o.get_mut("NetworkSettings") {
            let kept = ["SandboxID", "SandboxKey", "Ports", "Networks"];
            settings.retain(|key, _| kept.contains(&key.as_str()));
        }
    })
}

/// `POST /containers/create`: what the client meant by the rules of its version, and warnings.
pub(crate) fn create(
    mut request: docker::CreateRequest,
    version: ApiVersion,
) -> Result<(docker::CreateRequest, Vec<String>), Fault> {
    default_network(&mut request);
    before_their_time(&mut request, version);
    mounts(&mut request, version)?;
    endpoints(&mut request, version)?;
    let mut warnings = Vec::new();
    warnings.extend(volume_driver(&request, version));
    warnings.extend(mac_address(&mut request, version)?);
    warnings.extend(interface_sysctls(&mut request, version)?);
    warnings.extend(port_bindings(&mut request, version));
    // 0, -1 and any negative value mean unlimited.
    let pids = &mut request.host_config.resources.pids_limit;
    *pids = pids.filter(|n| *n > 0);
    Ok((request, warnings))
}

/// `POST /containers/{id}/update`.
pub(crate) fn update(
    mut request: docker::UpdateRequest,
    version: ApiVersion,
) -> docker::UpdateRequest {
    let pids = &mut request.resources.pids_limit;
    *pids = pids.filter(|_| version >= v(40)).map(|n| n.max(0));
    request
}

/// `GET /images/json`.
pub(crate) fn image_list(
    mut list: Vec<docker::ImageSummary>,
    version: ApiVersion,
) -> Shape<Vec<docker::ImageSummary>> {
    for row in &mut list {
        if version < v(43) && row.repo_tags.is_empty() && row.repo_digests.is_empty() {
            row.repo_tags.push("<none>:<none>".into());
            row.repo_digests.push("<none>@<none>".into());
        }
        if version < v(48) {
            row.descriptor = None;
        }
        if version < v(51) {
            row.containers = -1;
        }
    }
    if version >= v(44) {
        return Shape::Same(list);
    }
    let mut value = serde_json::to_value(&list).unwrap_or_default();
    value.as_array_mut().into_iter().flatten().for_each(add_virtual_size);
    Shape::Changed(value)
}

/// `GET /images/{name}/json`.
pub(crate) fn image_inspect(
    mut inspect: docker::ImageInspect,
    version: ApiVersion,
) -> Shape<docker::ImageInspect> {
    if version < v(48) {
        inspect.descriptor = None;
    }
    if version < v(44) && inspect.created.is_empty() {
        inspect.created = docker::ZERO_TIME.into();
    }
    if version >= v(45) && version < v(50) {
        return Shape::Same(inspect);
    }
    changed(inspect, |o| {
        if version < v(44) {
            let size = o.get("Size").cloned().unwrap_or_default();
            o.insert("VirtualSize".into(), size);
        }
        if version < v(45) {
            o.insert("Container".into(), "".into());
            let config = serde_json::to_value(docker::ContainerConfig::default());
            o.insert("ContainerConfig".into(), config.unwrap_or_default());
        }
        if version >= v(50)
            && let Some(Value::Object(config)) = o.get_mut("Config")
        {
            image_config(config, version);
        }
        if version >= v(52) {
            for key in ["Parent", "Comment", "DockerVersion", "Author"] {
                remove_if(o, key, |value| value == "");
            }
        }
    })
}

/// Keys of a container's config that say nothing about an image left with 1.50; since 1.52 empty
/// values are left out.
fn image_config(config: &mut Object<String, Value>, version: ApiVersion) {
    const OF_CONTAINERS: [&str; 9] = [
        "Hostname",
        "Domainname",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Image",
    ];
    config.retain(|key, _| !OF_CONTAINERS.contains(&key.as_str()));
    if version >= v(52) {
        config.retain(|_, value| !value.is_null() && value != "");
    }
}

/// An empty network mode and `default` mean the bridge.
fn default_network(request: &mut docker::CreateRequest) {
    let mode = &mut request.host_config.network_mode;
    if !matches!(mode.as_str(), "" | "default") {
        return;
    }
    *mode = "bridge".into();
    if let Some(endpoints) = &mut request.networking_config.endpoints_config
        && let Some(endpoint) = endpoints.remove("default")
    {
        endpoints.insert("bridge".into(), endpoint);
    }
}

/// Fields that a version did not have are not read from its clients.
fn before_their_time(request: &mut docker::CreateRequest, version: ApiVersion) {
    let host = &mut request.host_config;
    if version < v(40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".into();
    }
    if version < v(42) {
        host.console_size = [0, 0];
    }
    if version < v(43) {
        host.annotations = None;
    }
    if version < v(44)
        && let Some(health) = &mut request.config.healthcheck
    {
        health.start_interval = 0;
    }
}

fn mounts(request: &mut docker::CreateRequest, version: ApiVersion) -> Result<(), Fault> {
    for mount in request.host_config.mounts.iter_mut().flatten() {
        if version < v(42) {
            old_mount(mount);
        }
        check_options(mount)?;
        if version < v(40)
            && let Some(bind) = &mut mount.bind_options
        {
            bind.non_recursive = false;
        }
        if version < v(44) {
            only_top_read_only(mount)?;
        }
        let subpath = mount.volume_options.as_ref().is_some_and(|o| !o.subpath.is_empty());
        if version < v(45) && subpath {
            return Err(Fault::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
        }
        if version < v(48) && mount.kind == "image" {
            return Err(Fault::invalid("Mount type \"Image\" needs API v1.48 or newer"));
        }
    }
    Ok(())
}

/// Options of another mount type were not refused before 1.42, and mount points not created.
fn old_mount(mount: &mut docker::Mount) {
    if mount.kind != "volume" {
        mount.volume_options = None;
    }
    if mount.kind != "tmpfs" {
        mount.tmpfs_options = None;
    }
    if mount.kind != "bind" {
        mount.bind_options = None;
    }
    if let Some(bind) = &mut mount.bind_options {
        bind.create_mountpoint = false;
    }
}

fn check_options(mount: &docker::Mount) -> Result<(), Fault> {
    let wrong = [
        ("VolumeOptions", "volume", mount.volume_options.is_some()),
        ("BindOptions", "bind", mount.bind_options.is_some()),
        ("TmpfsOptions", "tmpfs", mount.tmpfs_options.is_some()),
    ];
    match wrong.iter().find(|(_, kind, given)| *given && mount.kind != *kind) {
        Some((options, _, _)) => Err(Fault::invalid(format!(
            "{options} must not be specified on mount type {:?}",
            mount.kind
        ))),
        None => Ok(()),
    }
}

/// Read-only mounts did not cover what is mounted below them before 1.44.
fn only_top_read_only(mount: &mut docker::Mount) -> Result<(), Fault> {
    if mount.kind != "bind" {
        return Ok(());
    }
    let bind = mount.bind_options.get_or_insert_default();
    if bind.read_only_force_recursive {
        return Err(Fault::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
    }
    bind.read_only_non_recursive = mount.read_only;
    Ok(())
}

fn endpoints(request: &mut docker::CreateRequest, version: ApiVersion) -> Result<(), Fault> {
    let Some(endpoints) = &mut request.networking_config.endpoints_config else { return Ok(()) };
    if version < v(44) && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(Fault::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    if version < v(48) {
        endpoints.values_mut().flatten().for_each(|e| e.gw_priority = 0);
    }
    Ok(())
}

fn volume_driver(request: &docker::CreateRequest, version: ApiVersion) -> Option<String> {
    if request.host_config.volume_driver.is_empty() || version < v(48) {
        return None;
    }
    let undecided = request.host_config.mounts.iter().flatten().any(|m| {
        let driver = m.volume_options.as_ref().and_then(|o| o.driver_config.as_ref());
        m.kind == "volume" && driver.is_none_or(|d| d.name.is_empty())
    });
    undecided.then(|| "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead".into())
}

/// The address for the whole container moves to the endpoint of its main network.
fn mac_address(
    request: &mut docker::CreateRequest,
    version: ApiVersion,
) -> Result<Option<String>, Fault> {
    let wanted = std::mem::take(&mut request.config.mac_address);
    if wanted.is_empty() {
        if version < v(44) {
            // It was not read from endpoints until then.
            let endpoints = request.networking_config.endpoints_config.iter_mut();
            endpoints.flat_map(|e| e.values_mut()).flatten().for_each(|e| e.mac_address.clear());
        }
        return Ok(None);
    }
    if version >= v(52) {
        return Err(Fault::invalid(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
        ));
    }
    if is_private(&request.host_config.network_mode) {
        let endpoint = main_endpoint(request, version)?;
        if version >= v(44) && !endpoint.mac_address.is_empty() && endpoint.mac_address != wanted {
            return Err(Fault::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
            ));
        }
        endpoint.mac_address = wanted;
    } else if version < v(44) {
        return Err(Fault::invalid("conflicting options: mac-address and the network mode"));
    }
    Ok((version >= v(44)).then(|| {
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.".into()
    }))
}

/// Names and values of sysctls of one interface move to the endpoint: the interface does not exist
/// yet when the others are set.
fn interface_sysctls(
    request: &mut docker::CreateRequest,
    version: ApiVersion,
) -> Result<Option<String>, Fault> {
    const OPTION: &str = "com.docker.network.endpoint.sysctls";
    let of_interface = |key: &str| {
        let parts: Vec<&str> = key.splitn(5, '.').collect();
        matches!(parts.as_slice(), ["net", _, _, name, _] if name.starts_with("eth"))
    };
    let Some(sysctls) = &mut request.host_config.sysctls else { return Ok(None) };
    let keys: Vec<String> = sysctls.keys().filter(|k| of_interface(k)).cloned().collect();
    if keys.is_empty() || !is_private(&request.host_config.network_mode) {
        return Ok(None);
    }
    if version > v(47) {
        return Err(Fault::invalid(format!(
            "interface specific sysctl setting {:?} must be supplied using driver option '{OPTION}'",
            keys[0]
        )));
    }
    let mut moved = Vec::new();
    for key in &keys {
        let parts: Vec<&str> = key.splitn(5, '.').collect();
        if parts[3] != "eth0" {
            return Err(Fault::invalid(format!(
                "unable to determine network endpoint for sysctl {key}, use driver option '{OPTION}' to set per-interface sysctls"
            )));
        }
        let value = sysctls.remove(key).unwrap_or_default();
        moved.push(format!("net.{}.{}.IFNAME.{}={value}", parts[1], parts[2], parts[4]));
    }
    let moved = moved.join(",");
    let options = main_endpoint(request, version)?.driver_opts.get_or_insert_default();
    let all = match options.get(OPTION) {
        Some(given) => format!("{moved},{given}"),
        None => moved.clone(),
    };
    options.insert(OPTION.into(), all.clone());
    Ok(Some(format!("Migrated sysctl {:?} to DriverOpts{{{OPTION:?}:{all:?}}}.", keys.join(","))))
}

/// An exposed port without bindings means any host port.
fn port_bindings(request: &mut docker::CreateRequest, version: ApiVersion) -> Option<String> {
    let mut empty = Vec::new();
    for (port, bindings) in request.host_config.port_bindings.iter_mut().flatten() {
        if bindings.as_ref().is_none_or(Vec::is_empty) {
            *bindings = Some(vec![docker::PortBinding::default()]);
            empty.push(port.clone());
        }
    }
    (version >= v(52) && !empty.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Such bindings will be discarded in a future version.",
            empty.join(", ")
        )
    })
}

/// Whether a network mode gives the container interfaces of its own.
fn is_private(mode: &str) -> bool {
    !matches!(mode, "host" | "none") && !mode.starts_with("container:")
}

/// The endpoint on the network that the mode names.
fn main_endpoint(
    request: &mut docker::CreateRequest,
    version: ApiVersion,
) -> Result<&mut docker::EndpointSettings, Fault> {
    let mode = request.host_config.network_mode.clone();
    let endpoints = request.networking_config.endpoints_config.get_or_insert_default();
    let key = match endpoints.keys().next() {
        None => mode,
        // There was one at most, whatever its key.
        Some(only) if version < v(44) => only.clone(),
        Some(_) if endpoints.contains_key(&mode) => mode,
        Some(_) => {
            return Err(Fault::invalid(
                "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks",
            ));
        }
    };
    Ok(endpoints.entry(key).or_default().get_or_insert_default())
}

/// Before 1.45, aliases on user-defined networks repeated the short id and the host name.
fn add_old_aliases(inspect: &mut docker::ContainerInspect) {
    let short: String = inspect.id.chars().take(12).collect();
    let host = inspect.config.hostname.clone();
    for (name, endpoint) in &mut inspect.network_settings.networks {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.aliases.get_or_insert_default();
        for alias in [&short, &host] {
            if !alias.is_empty() && !aliases.contains(alias) {
                aliases.push(alias.clone());
            }
        }
    }
}

/// The sums of 1.52, by kind.
fn sums(usage: &docker::DiskUsage, verbose: bool) -> Object<String, Value> {
    let mut all = Object::new();
    let mut add = |key: &str, sum: Option<Sum>| {
        all.extend(sum.map(|sum| (key.to_owned(), sum.encode(verbose))));
    };
    add("ImageUsage", usage.images.as_ref().map(|list| Sum::images(list, usage.layers_size)));
    add("ContainerUsage", usage.containers.as_ref().map(|list| Sum::containers(list)));
    add("VolumeUsage", usage.volumes.as_ref().map(|list| Sum::volumes(list)));
    let cached = |entry: &Value| {
        let used = entry["InUse"] == true || entry["Shared"] == true;
        (used, entry["Size"].as_i64().unwrap_or(0))
    };
    add("BuildCacheUsage", usage.build_cache.as_ref().map(|list| Sum::of(list, cached)));
    all
}

struct Sum {
    active: usize,
    total: usize,
    size: i64,
    reclaimable: i64,
    items: Value,
}

impl Sum {
    /// `measure` tells of each whether it is in use, and its bytes.
    fn of<T: Serialize>(list: &[T], measure: impl Fn(&T) -> (bool, i64)) -> Sum {
        let measured: Vec<(bool, i64)> = list.iter().map(measure).collect();
        Sum {
            active: measured.iter().filter(|(used, _)| *used).count(),
            total: list.len(),
            size: measured.iter().map(|(_, size)| size).sum(),
            reclaimable: measured.iter().filter(|(used, _)| !used).map(|(_, size)| size).sum(),
            items: serde_json::to_value(list).unwrap_or_default(),
        }
    }

    fn images(list: &[docker::ImageSummary], layers: i64) -> Sum {
        let used = |i: &docker::ImageSummary| i.containers > 0;
        let own = |i: &docker::ImageSummary| i.size - i.shared_size.max(0);
        let kept: i64 = list.iter().filter(|i| used(i)).map(|i| i.size).sum();
        let mut sum = Sum::of(list, |i| (used(i), own(i)));
        sum.size = layers;
        sum.reclaimable = (layers - kept).max(0);
        sum
    }

    fn containers(list: &[docker::ContainerSummary]) -> Sum {
        let running = |state: &str| matches!(state, "running" | "paused" | "restarting");
        Sum::of(list, |c| (running(&c.state), c.size_rw.unwrap_or(0)))
    }

    fn volumes(list: &[docker::Volume]) -> Sum {
        let unknown = docker::VolumeUsage { ref_count: -1, size: -1 };
        Sum::of(list, |volume| {
            let usage = volume.usage_data.as_ref().unwrap_or(&unknown);
            (usage.ref_count > 0, usage.size.max(0))
        })
    }

    fn encode(self, verbose: bool) -> Value {
        let mut value = json!({
            "ActiveCount": self.active,
            "TotalCount": self.total,
            "TotalSize": self.size,
            "Reclaimable": self.reclaimable,
        });
        if verbose {
            value["Items"] = self.items;
        }
        value
    }
}

fn add_virtual_size(image: &mut Value) {
    image["VirtualSize"] = image["Size"].clone();
}

fn changed<T: Serialize>(value: T, change: impl FnOnce(&mut Object<String, Value>)) -> Shape<T> {
    match serde_json::to_value(&value) {
        Ok(Value::Object(mut object)) => {
            change(&mut object);
            Shape::Changed(Value::Object(object))
        }
        _ => Shape::Same(value),
    }
}

fn merge(object: &mut Object<String, Value>, key: &str, more: Value) {
    if let (Some(Value::Object(into)), Value::Object(more)) = (object.get_mut(key), more) {
        into.extend(more);
    }
}

fn remove_if(object: &mut Object<String, Value>, key: &str, drop: impl Fn(&Value) -> bool) {
    if object.get(key).is_some_and(drop) {
        object.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<T: Serialize>(shape: &Shape<T>) -> Value {
        serde_json::to_value(shape).unwrap()
    }

    #[track_caller]
    fn created(body: Value, minor: u16) -> (docker::CreateRequest, Vec<String>) {
        create(serde_json::from_value(body).unwrap(), v(minor)).unwrap()
    }

    #[track_caller]
    fn refused(body: Value, minor: u16, expected: &str) {
        let e = create(serde_json::from_value(body).unwrap(), v(minor)).unwrap_err();
        assert_eq!((e.status().as_u16(), e.message()), (400, expected));
    }

    #[test]
    fn the_default_network_is_the_bridge() {
        let body =
            json!({"NetworkingConfig": {"EndpointsConfig": {"default": {"IPAddress": "x"}}}});
        let (request, _) = created(body, 53);
        assert_eq!(request.host_config.network_mode, "bridge");
        assert!(request.networking_config.endpoints_config.unwrap().contains_key("bridge"));
    }

    #[test]
    fn old_clients_do_not_reach_new_fields() {
        let body = || {
            json!({
                "Healthcheck": {"StartInterval": 5},
                "HostConfig": {"Annotations": {"a": "b"}, "ConsoleSize": [1, 2], "PidsLimit": -1,
                    "Mounts": [{"Type": "bind", "ReadOnly": true, "VolumeOptions": {}}]},
            })
        };
        let (old, _) = created(body(), 39);
        assert_eq!(old.config.healthcheck.unwrap().start_interval, 0);
        assert_eq!((old.host_config.annotations, old.host_config.console_size), (None, [0, 0]));
        assert_eq!(old.host_config.ipc_mode, "shareable");
        let mount = &old.host_config.mounts.unwrap()[0];
        assert!(mount.volume_options.is_none());
        assert!(mount.bind_options.as_ref().unwrap().read_only_non_recursive);
        assert_eq!(old.host_config.resources.pids_limit, None);
        refused(body(), 42, "VolumeOptions must not be specified on mount type \"bind\"");
    }

    #[test]
    fn fields_from_the_future_are_refused_by_name() {
        let mounts = |m: Value| json!({"HostConfig": {"Mounts": [m]}});
        refused(
            mounts(json!({"Type": "volume", "VolumeOptions": {"Subpath": "x"}})),
            44,
            "VolumeOptions.Subpath needs API v1.45 or newer",
        );
        refused(
            mounts(json!({"Type": "image"})),
            47,
            "Mount type \"Image\" needs API v1.48 or newer",
        );
        refused(
            mounts(json!({"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": true}})),
            43,
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        );
        refused(
            json!({"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}),
            43,
            "Container cannot be created with multiple network endpoints: a, b",
        );
    }

    #[test]
    fn a_mac_address_moves_to_the_endpoint() {
        let body = || json!({"MacAddress": "02:00:00:00:00:01"});
        for (minor, warned) in [(43, 0), (44, 1), (51, 1)] {
            let (request, warnings) = created(body(), minor);
            let endpoints = request.networking_config.endpoints_config.unwrap();
            assert_eq!(endpoints["bridge"].as_ref().unwrap().mac_address, "02:00:00:00:00:01");
            assert_eq!((warnings.len(), request.config.mac_address), (warned, String::new()));
        }
        refused(
            body(),
            52,
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
        );
        refused(
            json!({"MacAddress": "x", "HostConfig": {"NetworkMode": "host"}}),
            43,
            "conflicting options: mac-address and the network mode",
        );
    }

    #[test]
    fn sysctls_of_an_interface_move_to_its_endpoint() {
        let body = |name: &str| {
            json!({"HostConfig": {"Sysctls": {
            format!("net.ipv4.conf.{name}.forwarding"): "1", "net.ipv4.ip_forward": "1"}}})
        };
        let (request, warnings) = created(body("eth0"), 47);
        assert_eq!(request.host_config.sysctls.unwrap().len(), 1);
        let endpoint =
            request.networking_config.endpoints_config.unwrap()["bridge"].clone().unwrap();
        assert_eq!(
            endpoint.driver_opts.unwrap()["com.docker.network.endpoint.sysctls"],
            "net.ipv4.conf.IFNAME.forwarding=1"
        );
        assert_eq!(warnings.len(), 1);
        refused(
            body("eth0"),
            48,
            "interface specific sysctl setting \"net.ipv4.conf.eth0.forwarding\" must be supplied using driver option 'com.docker.network.endpoint.sysctls'",
        );
    }

    #[test]
    fn ports_without_bindings_get_one() {
        let body = || json!({"HostConfig": {"PortBindings": {"80/tcp": [], "81/tcp": null}}});
        let (request, warnings) = created(body(), 51);
        let ports = request.host_config.port_bindings.unwrap();
        assert!(ports.values().all(|b| b.as_ref().unwrap().len() == 1) && warnings.is_empty());
        assert!(created(body(), 52).1[0].contains("80/tcp, 81/tcp"));
    }

    #[test]
    fn events_carry_their_old_names_until_1_51() {
        let event_of = |kind, minor| {
            let happened = Event {
                kind,
                action: "start".into(),
                id: "abc".into(),
                attributes: [("image".to_owned(), "nginx".to_owned())].into(),
                nanos: 1_500_000_000,
            };
            serde_json::to_value(event(&happened, v(minor))).unwrap()
        };
        let old = event_of(Kind::Container, 51);
        assert_eq!(
            (&old["status"], &old["id"], &old["from"]),
            (&json!("start"), &json!("abc"), &json!("nginx"))
        );
        assert_eq!((&old["time"], &old["timeNano"]), (&json!(1), &json!(1_500_000_000)));
        assert!(event_of(Kind::Container, 52).get("status").is_none());
        assert!(event_of(Kind::Network, 51).get("status").is_none());
    }

    #[test]
    fn inspect_loses_flat_addresses_with_1_52() {
        let mut inspect = docker::ContainerInspect::default();
        inspect.network_settings.ip_address = "172.17.0.2".into();
        let old = value(&container_inspect(inspect.clone(), v(51)));
        assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
        let new = value(&container_inspect(inspect, v(52)));
        let keys: Vec<_> = new["NetworkSettings"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["SandboxID", "SandboxKey", "Ports", "Networks"]);
    }

    #[test]
    fn images_look_their_age() {
        let list = vec![docker::ImageSummary { size: 5, containers: 2, ..Default::default() }];
        let old = value(&image_list(list.clone(), v(42)));
        assert_eq!(
            (&old[0]["RepoTags"][0], &old[0]["VirtualSize"], &old[0]["Containers"]),
            (&json!("<none>:<none>"), &json!(5), &json!(-1))
        );
        let new = value(&image_list(list, v(51)));
        assert_eq!((&new[0]["RepoTags"], &new[0]["Containers"]), (&json!([]), &json!(2)));
        assert!(new[0].get("VirtualSize").is_none());

        let inspect = docker::ImageInspect {
            config: Some(docker::ContainerConfig::default()),
            ..Default::default()
        };
        let at = |minor| value(&image_inspect(inspect.clone(), v(minor)));
        assert!(at(44).get("ContainerConfig").is_some() && at(45).get("ContainerConfig").is_none());
        assert!(
            at(49)["Config"].get("Hostname").is_some()
                && at(50)["Config"].get("Hostname").is_none()
        );
        assert!(at(51).get("Author").is_some() && at(52).get("Author").is_none());
    }

    #[test]
    fn info_regains_what_was_dropped() {
        let at = |minor| {
            let info = docker::Info {
                runc_commit: docker::Commit { id: "x".into() },
                firewall_backend: Some(docker::FirewallInfo::default()),
                ..Default::default()
            };
            value(&info_of(info, minor))
        };
        fn info_of(info: docker::Info, minor: u16) -> Shape<docker::Info> {
            super::info(info, v(minor))
        }
        assert_eq!(at(48)["RuncCommit"]["Expected"], "x");
        assert_eq!(at(49)["BridgeNfIptables"], false);
        assert!(at(48).get("FirewallBackend").is_none() && at(49).get("FirewallBackend").is_some());
        assert!(at(50).get("BridgeNfIptables").is_none());
    }

    #[test]
    fn disk_use_is_summed_since_1_52() {
        let usage = docker::DiskUsage {
            layers_size: 100,
            images: Some(vec![docker::ImageSummary {
                size: 60,
                containers: 1,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let old = value(&disk_usage(usage.clone(), v(51), true));
        assert!(old.get("ImageUsage").is_none() && old["Images"].is_array());
        let both = value(&disk_usage(usage.clone(), v(52), false));
        assert!(both["Images"].is_array() && both.get("Volumes").is_none());
        assert_eq!(
            both["ImageUsage"],
            json!({"ActiveCount": 1, "TotalCount": 1, "TotalSize": 100, "Reclaimable": 40})
        );
        let new = value(&disk_usage(usage, v(52), true));
        assert!(new.get("Images").is_none() && new["ImageUsage"]["Items"].is_array());
    }

    #[test]
    fn unlimited_pids_have_one_spelling() {
        let update_of = |n| docker::UpdateRequest {
            resources: docker::Resources { pids_limit: Some(n), ..Default::default() },
            ..Default::default()
        };
        assert_eq!(update(update_of(-1), v(53)).resources.pids_limit, Some(0));
        assert_eq!(update(update_of(7), v(53)).resources.pids_limit, Some(7));
        assert_eq!(update(update_of(7), v(39)).resources.pids_limit, None);
    }
}
