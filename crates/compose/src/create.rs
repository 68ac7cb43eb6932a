//! A service as the request that makes its container.

use std::collections::BTreeMap;

use wharf_spec::compose::model::{DeviceRequest, Endpoint, Resource, Service};
use wharf_spec::compose::{Project, model};
use wharf_spec::docker::{
    self, ContainerConfig, CreateRequest, Empty, EndpointIpamConfig, EndpointSettings,
    HealthConfig, HostConfig, LogConfig, NetworkingConfig, PortBinding, Resources, RestartPolicy,
    StrList,
};

use crate::labels;
use crate::mounts::{self, Inherited};
use crate::plan::PlanError;

/// What a request needs to know besides the service.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The id of the image.
    pub image: String,
    /// `container:alias` of every link.
    pub links: Vec<String>,
    /// Variables that come before the service's own: proxies, and those of old links.
    pub environment: BTreeMap<String, Option<String>>,
    /// Labels on top.
    pub labels: BTreeMap<String, String>,
    /// For `run`: not numbered, removed at its end, attached.
    pub oneoff: Option<OneOff>,
    /// Security profiles by their file name.
    pub profiles: BTreeMap<String, String>,
}

/// How a container of `run` differs.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneOff {
    /// Whether it goes when it ends.
    pub remove: bool,
    /// Whether its input is connected.
    pub stdin: bool,
    /// Whether it is found under the service's aliases.
    pub aliases: bool,
}

/// The request for container `number` of a service. References to other services must have been
/// replaced by those to containers.
pub fn request(
    project: &Project,
    name: &str,
    service: &Service,
    number: i64,
    context: &Context,
    inherited: Inherited<'_>,
) -> Result<CreateRequest, PlanError> {
    let (binds, mounts) = mounts::of(project, service, inherited)?;
    let (security, unconfined) = security(service, &context.profiles)?;
    let (mode, networking) = network(project, name, service, number, context);
    let oneoff = context.oneoff.unwrap_or_default();
    let mut environment = context.environment.clone();
    environment.extend(service.environment.0.clone());
    let config = ContainerConfig {
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        user: service.user.clone(),
        attach_stdin: oneoff.stdin,
        attach_stdout: true,
        attach_stderr: true,
        exposed_ports: exposed(service),
        tty: service.tty,
        open_stdin: service.stdin_open,
        stdin_once: oneoff.stdin && service.stdin_open,
        env: Some(variables(environment)),
        cmd: service.command.0.clone().map(StrList),
        entrypoint: service.entrypoint.0.clone().map(StrList),
        healthcheck: health(service),
        image: service.image_or_default(&project.name, name),
        working_dir: service.working_dir.clone(),
        labels: Some(labels(project, name, service, number, context)),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service.stop_grace_period.map(|d| d.0 / 1_000_000_000),
        network_disabled: service.network_mode == "disabled",
        ..ContainerConfig::default()
    };
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let host = HostConfig {
        binds: Some(binds),
        mounts: Some(mounts).filter(|m| !m.is_empty()),
        log_config: log(service),
        network_mode: mode,
        port_bindings: Some(bindings(service)),
        restart_policy: restart(service),
        auto_remove: oneoff.remove,
        volume_driver: service.volume_driver.clone(),
        volumes_from: some(&service.volumes_from),
        annotations: (!service.annotations.is_empty()).then(|| service.annotations.0.clone()),
        cap_add: some(&service.cap_add),
        cap_drop: some(&service.cap_drop),
        cgroupns_mode: service.cgroup.clone(),
        dns: some(&service.dns.0),
        dns_options: some(&service.dns_opt),
        dns_search: some(&service.dns_search.0),
        extra_hosts: Some(service.extra_hosts.lines(":")),
        group_add: some(&service.group_add),
        ipc_mode: service.ipc.clone(),
        links: Some(context.links.clone()).filter(|l| !l.is_empty()),
        oom_score_adj: service.oom_score_adj,
        pid_mode: service.pid.clone(),
        privileged: service.privileged,
        readonly_rootfs: service.read_only,
        security_opt: Some(security).filter(|s| !s.is_empty()),
        storage_opt: (!service.storage_opt.is_empty()).then(|| service.storage_opt.clone()),
        tmpfs: Some(tmpfs(service)).filter(|t| !t.is_empty()),
        uts_mode: service.uts.clone(),
        userns_mode: service.userns_mode.clone(),
        shm_size: service.shm_size.0,
        sysctls: (!service.sysctls.is_empty()).then(|| service.sysctls.0.clone()),
        runtime: service.runtime.clone(),
        isolation: service.isolation.clone(),
        resources: resources(service),
        masked_paths: unconfined.then(Vec::new),
        readonly_paths: unconfined.then(Vec::new),
        init: service.init,
        ..HostConfig::default()
    };
    Ok(CreateRequest { config, host_config: host, networking_config: networking })
}

/// `KEY=value` texts; a variable without a value stays a bare name, which the engine drops.
fn variables(environment: BTreeMap<String, Option<String>>) -> Vec<String> {
    environment
        .into_iter()
        .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}={value}")))
        .collect()
}

/// The labels that every tool that speaks Compose puts on a service's containers.
pub fn own_labels(project: &Project, name: &str) -> BTreeMap<String, String> {
    let pairs = [
        (labels::PROJECT, project.name.clone()),
        (labels::SERVICE, name.to_owned()),
        (labels::VERSION, labels::COMPOSE_VERSION.to_owned()),
        (labels::WORKING_DIR, project.dir.clone()),
        (labels::CONFIG_FILES, project.files.join(",")),
        (labels::ONEOFF, "False".to_owned()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn labels(
    project: &Project,
    name: &str,
    service: &Service,
    number: i64,
    context: &Context,
) -> BTreeMap<String, String> {
    let mut all = service.labels.0.clone();
    all.extend(own_labels(project, name));
    if !context.image.is_empty() {
        all.insert(labels::IMAGE.to_owned(), context.image.clone());
    }
    all.extend(context.labels.clone());
    all.insert(labels::CONFIG_HASH.to_owned(), service.hash());
    if number > 0 {
        all.insert(labels::NUMBER.to_owned(), number.to_string());
    }
    let depends = service.depends_on.iter();
    let depends = depends.map(|(on, how)| format!("{on}:{}:{}", how.condition, how.restart));
    all.insert(labels::DEPENDS_ON.to_owned(), depends.collect::<Vec<_>>().join(","));
    all
}

/// The name of a service's container.
pub fn container_name(project: &Project, name: &str, service: &Service, number: i64) -> String {
    match service.container_name.as_str() {
        "" => format!("{}{}{name}{}{number}", project.name, separator(project), separator(project)),
        own => own.to_owned(),
    }
}

/// `-`, or `_` as the Compose of 2015 had it when compatibility is asked for.
pub fn separator(project: &Project) -> &'static str {
    let asked = project.environment.get("COMPOSE_COMPATIBILITY").map(String::as_str);
    match asked {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => "_",
        _ => "-",
    }
}

fn exposed(service: &Service) -> BTreeMap<String, Empty> {
    let published = service.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol));
    service.expose.iter().cloned().chain(published).map(|port| (port, Empty {})).collect()
}

fn bindings(service: &Service) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut all: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for port in &service.ports {
        let binding =
            PortBinding { host_ip: port.host_ip.clone(), host_port: port.published.clone() };
        let key = format!("{}/{}", port.target, port.protocol);
        all.entry(key).or_default().get_or_insert_default().push(binding);
    }
    all
}

fn health(service: &Service) -> Option<HealthConfig> {
    let check = service.healthcheck.as_ref()?;
    let nanos = |d: Option<wharf_spec::compose::value::Duration>| d.map_or(0, |d| d.0);
    let test = match check.disable {
        true => vec!["NONE".to_owned()],
        false => check.test.0.clone(),
    };
    Some(HealthConfig {
        test: Some(test).filter(|t| !t.is_empty()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: check.retries.unwrap_or(0),
    })
}

fn log(service: &Service) -> LogConfig {
    service.logging.as_ref().map_or_else(LogConfig::default, |logging| LogConfig {
        kind: logging.driver.clone(),
        config: Some(logging.options.0.clone()),
    })
}

fn tmpfs(service: &Service) -> BTreeMap<String, String> {
    let pair = |t: &String| {
        let (path, options) = t.split_once(':').unwrap_or((t, ""));
        (path.to_owned(), options.to_owned())
    };
    service.tmpfs.iter().map(pair).collect()
}

fn restart(service: &Service) -> RestartPolicy {
    let mode = |condition: &str| match condition {
        "none" | "no" => "no".to_owned(),
        "any" | "always" => "always".to_owned(),
        other => other.to_owned(),
    };
    if let Some(policy) = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref()) {
        let count = policy.max_attempts.unwrap_or(0);
        return RestartPolicy { name: mode(&policy.condition), maximum_retry_count: count };
    }
    let (name, count) = service.restart.split_once(':').unwrap_or((&service.restart, ""));
    RestartPolicy { name: mode(name), maximum_retry_count: count.parse().unwrap_or(0) }
}

/// Options for the engine, and whether the system's paths are left open.
fn security(
    service: &Service,
    profiles: &BTreeMap<String, String>,
) -> Result<(Vec<String>, bool), PlanError> {
    let mut options = Vec::new();
    let mut unconfined = false;
    for option in &service.security_opt {
        if option == "systempaths=unconfined" {
            unconfined = true;
            continue;
        }
        let pair = option.split_once('=').or_else(|| option.split_once(':'));
        match pair {
            None if option != "no-new-privileges" => {
                return Err(PlanError::Unsupported(format!("invalid security-opt: {option:?}")));
            }
            Some(("seccomp", file)) if !matches!(file, "unconfined" | "builtin") => {
                let profile = profiles.get(file).ok_or_else(|| {
                    PlanError::Unsupported(format!("seccomp profile {file} was not read"))
                })?;
                options.push(format!("seccomp={profile}"));
            }
            _ => options.push(option.clone()),
        }
    }
    Ok((options, unconfined))
}

fn network(
    project: &Project,
    name: &str,
    service: &Service,
    number: i64,
    context: &Context,
) -> (String, NetworkingConfig) {
    if !service.network_mode.is_empty() {
        return (service.network_mode.clone(), NetworkingConfig::default());
    }
    let keys = service.networks_by_priority();
    let Some(primary) = keys.first() else {
        return ("none".to_owned(), NetworkingConfig::default());
    };
    let real = |key: &str| project.networks.get(key).map_or(key, |n| n.name.as_str()).to_owned();
    let mut endpoints = BTreeMap::new();
    for key in &keys {
        let own = service.networks.get(*key).and_then(Option::as_ref);
        let mut endpoint = endpoint(project, name, service, number, own, context);
        if key == primary && endpoint.mac_address.is_empty() {
            endpoint.mac_address.clone_from(&service.mac_address);
        }
        endpoints.insert(real(key), Some(endpoint));
    }
    (real(primary), NetworkingConfig { endpoints_config: Some(endpoints) })
}

const IF_NAME: &str = "com.docker.network.endpoint.ifname";

fn endpoint(
    project: &Project,
    name: &str,
    service: &Service,
    number: i64,
    own: Option<&Endpoint>,
    context: &Context,
) -> EndpointSettings {
    let mut aliases = vec![container_name(project, name, service, number.max(1))];
    if context.oneoff.is_none_or(|o| o.aliases) {
        aliases.push(name.to_owned());
        aliases.extend(own.into_iter().flat_map(|n| n.aliases.clone()));
    }
    if context.oneoff.is_some() {
        aliases.remove(0);
    }
    let own = own.cloned().unwrap_or_default();
    let mut options = own.driver_opts.0;
    if !own.interface_name.is_empty() {
        options.insert(IF_NAME.to_owned(), own.interface_name);
    }
    let addressed = !own.ipv4_address.is_empty()
        || !own.ipv6_address.is_empty()
        || !own.link_local_ips.is_empty();
    EndpointSettings {
        aliases: Some(aliases),
        links: Some(context.links.clone()).filter(|l| !l.is_empty()),
        ipam_config: addressed.then(|| EndpointIpamConfig {
            ipv4_address: own.ipv4_address,
            ipv6_address: own.ipv6_address,
            link_local_ips: Some(own.link_local_ips).filter(|l| !l.is_empty()),
        }),
        mac_address: own.mac_address,
        driver_opts: Some(options).filter(|o| !o.is_empty()),
        gw_priority: own.gw_priority,
        ..EndpointSettings::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "numbers of CPUs times a billion")]
fn resources(service: &Service) -> Resources {
    let nano = |cpus: f32| (f64::from(cpus) * 1e9).round() as i64;
    let mut out = Resources {
        cgroup_parent: service.cgroup_parent.clone(),
        memory: service.mem_limit.0,
        memory_swap: service.memswap_limit.0,
        memory_swappiness: Some(service.mem_swappiness.0).filter(|n| *n != 0),
        memory_reservation: service.mem_reservation.0,
        oom_kill_disable: Some(service.oom_kill_disable),
        cpu_count: service.cpu_count,
        cpu_period: service.cpu_period,
        cpu_quota: service.cpu_quota,
        cpu_realtime_period: service.cpu_rt_period,
        cpu_realtime_runtime: service.cpu_rt_runtime,
        cpu_shares: service.cpu_shares,
        nano_cpus: nano(service.cpus),
        cpuset_cpus: service.cpuset.clone(),
        device_cgroup_rules: Some(service.device_cgroup_rules.clone()).filter(|r| !r.is_empty()),
        pids_limit: Some(service.pids_limit).filter(|n| *n != 0),
        ulimits: Some(ulimits(service)).filter(|u| !u.is_empty()),
        ..Resources::default()
    };
    blkio(service, &mut out);
    let mut requests: Vec<docker::DeviceRequest> = Vec::new();
    if let Some(deploy) = &service.deploy {
        let Resource { cpus, memory, pids, .. } =
            deploy.resources.limits.clone().unwrap_or_default();
        if memory.0 != 0 {
            out.memory = memory.0;
        }
        if cpus != 0.0 {
            out.nano_cpus = nano(cpus);
        }
        if pids > 0 {
            out.pids_limit = Some(pids);
        }
        if let Some(reserved) = &deploy.resources.reservations {
            if reserved.memory.0 != 0 {
                out.memory_reservation = reserved.memory.0;
            }
            requests.extend(reserved.devices.iter().map(|d| device_request(d, &[])));
        }
    }
    let (cdi, mapped): (Vec<_>, Vec<_>) =
        service.devices.iter().partition(|d| d.source == d.target && is_cdi(&d.source));
    let mapping = |d: &&model::DeviceMapping| docker::DeviceMapping {
        path_on_host: d.source.clone(),
        path_in_container: if d.target.is_empty() { d.source.clone() } else { d.target.clone() },
        cgroup_permissions: if d.permissions.is_empty() {
            "rwm".into()
        } else {
            d.permissions.clone()
        },
    };
    out.devices = Some(mapped.iter().map(mapping).collect());
    if !cdi.is_empty() {
        requests.push(docker::DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(cdi.iter().map(|d| d.source.clone()).collect()),
            ..docker::DeviceRequest::default()
        });
    }
    requests.extend(service.gpus.iter().map(|g| device_request(g, &["gpu"])));
    out.device_requests = Some(requests).filter(|r| !r.is_empty());
    out
}

/// `vendor/class=name`, a device of the Container Device Interface.
fn is_cdi(source: &str) -> bool {
    let named = source.split_once('=').filter(|(_, name)| !name.is_empty());
    named.is_some_and(|(kind, _)| !kind.starts_with('/') && kind.contains('/'))
}

fn device_request(device: &DeviceRequest, more: &[&str]) -> docker::DeviceRequest {
    let mut capabilities = device.capabilities.clone();
    capabilities.extend(more.iter().map(|c| (*c).to_owned()));
    docker::DeviceRequest {
        driver: device.driver.clone(),
        count: device.count.0,
        device_ids: Some(device.device_ids.clone()).filter(|d| !d.is_empty()),
        capabilities: Some(vec![capabilities]),
        options: Some(device.options.0.clone()).filter(|o| !o.is_empty()),
    }
}

fn ulimits(service: &Service) -> Vec<docker::Ulimit> {
    let or = |n: i64, single: i64| if n == 0 { single } else { n };
    service
        .ulimits
        .iter()
        .map(|(name, u)| docker::Ulimit {
            name: name.clone(),
            hard: or(u.hard, u.single),
            soft: or(u.soft, u.single),
        })
        .collect()
}

fn blkio(service: &Service, out: &mut Resources) {
    let Some(blkio) = &service.blkio_config else { return };
    let weight = |n: i64| u16::try_from(n).unwrap_or(0);
    let rates = |list: &[model::ThrottleDevice]| {
        let rate = |d: &model::ThrottleDevice| docker::ThrottleDevice {
            path: d.path.clone(),
            rate: u64::try_from(d.rate.0).unwrap_or(0),
        };
        Some(list.iter().map(rate).collect::<Vec<_>>()).filter(|l| !l.is_empty())
    };
    out.blkio_weight = weight(blkio.weight);
    let weights = blkio.weight_device.iter();
    let weights = weights
        .map(|d| docker::WeightDevice { path: d.path.clone(), weight: weight(d.weight) })
        .collect::<Vec<_>>();
    out.blkio_weight_device = Some(weights).filter(|w| !w.is_empty());
    out.blkio_device_read_bps = rates(&blkio.device_read_bps);
    out.blkio_device_read_iops = rates(&blkio.device_read_iops);
    out.blkio_device_write_bps = rates(&blkio.device_write_bps);
    out.blkio_device_write_iops = rates(&blkio.device_write_iops);
}
