//! A project's parts as types, in the order in which stock Compose writes them.
//!
//! Order and emptiness are part of the hash of a service: a field that moves makes every container
//! look changed.
#![allow(missing_docs, reason = "fields carry the names and meaning of the Compose specification")]

use std::collections::BTreeMap;

use super::fault::Result;
use super::node::{Node, Value};
use super::out::{Form, Out};
use super::value::*;

type Map<T> = BTreeMap<String, T>;

/// Declares a mapping: `field: Type = "yaml name";`, with `/ "json name"` where JSON differs `, keep` where
/// JSON prints even nothing and `, always` where both do.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($field:ident : $ty:ty = $yaml:literal $(/ $json:literal)? $(, $keep:ident)? ;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(pub $field: $ty,)*
            /// `x-` attributes.
            pub extensions: Extensions,
        }

        impl Field for $name {
            fn read(node: &Node) -> Result<Self> {
                Ok(Self {
                    $($field: node.get($yaml).map_or_else(|| Ok(Default::default()), super::value::read)?,)*
                    extensions: Extensions::read(node),
                })
            }

            fn is_zero(&self) -> bool {
                $(self.$field.is_zero() &&)* self.extensions.0.is_empty()
            }

            fn is_empty(&self) -> bool {
                false
            }

            fn write(&self, form: Form) -> Out {
                let mut out = Vec::new();
                $(
                    let kept = false $(|| record!(@ $keep form))?;
                    let skip = !kept && match form {
                        Form::Yaml => self.$field.is_zero(),
                        Form::Json => self.$field.is_empty(),
                    };
                    if !skip {
                        let _name = $yaml;
                        $(let _name = if form == Form::Json { $json } else { _name };)?
                        out.push((_name.to_owned(), self.$field.write(form)));
                    }
                )*
                if form == Form::Yaml {
                    out.extend(self.extensions.write(form));
                }
                Out::Map(out)
            }
        }
    };
    (@ keep $form:ident) => { $form == Form::Json };
    (@ always $form:ident) => { true };
}

record! {
    /// One service.
    Service {
        profiles: Vec<String> = "profiles";
        annotations: Labels = "annotations";
        attach: Option<bool> = "attach";
        build: Option<Build> = "build";
        develop: Option<Develop> = "develop";
        blkio_config: Option<Blkio> = "blkio_config";
        cap_add: Vec<String> = "cap_add";
        cap_drop: Vec<String> = "cap_drop";
        cgroup_parent: String = "cgroup_parent";
        cgroup: String = "cgroup";
        cpu_count: i64 = "cpu_count";
        cpu_percent: f32 = "cpu_percent";
        cpu_period: i64 = "cpu_period";
        cpu_quota: i64 = "cpu_quota";
        cpu_rt_period: i64 = "cpu_rt_period";
        cpu_rt_runtime: i64 = "cpu_rt_runtime";
        cpus: f32 = "cpus";
        cpuset: String = "cpuset";
        cpu_shares: i64 = "cpu_shares";
        command: Command = "command", keep;
        configs: Vec<FileRef> = "configs";
        container_name: String = "container_name";
        credential_spec: Option<CredentialSpec> = "credential_spec";
        depends_on: Map<Dependency> = "depends_on";
        deploy: Option<Deploy> = "deploy";
        device_cgroup_rules: Vec<String> = "device_cgroup_rules";
        devices: Vec<DeviceMapping> = "devices";
        dns: Texts = "dns";
        dns_opt: Vec<String> = "dns_opt";
        dns_search: Texts = "dns_search";
        dockerfile: String = "dockerfile";
        domainname: String = "domainname";
        entrypoint: Command = "entrypoint", keep;
        provider: Option<Provider> = "provider";
        environment: Pairs = "environment";
        env_file: Vec<EnvFile> = "env_file";
        expose: Texts = "expose";
        extends: Option<Extends> = "extends";
        external_links: Vec<String> = "external_links";
        extra_hosts: Hosts = "extra_hosts";
        group_add: Vec<String> = "group_add";
        gpus: Vec<DeviceRequest> = "gpus";
        hostname: String = "hostname";
        healthcheck: Option<HealthCheck> = "healthcheck";
        image: String = "image";
        init: Option<bool> = "init";
        ipc: String = "ipc";
        isolation: String = "isolation";
        labels: Labels = "labels";
        label_file: Vec<String> = "label_file";
        links: Vec<String> = "links";
        logging: Option<Logging> = "logging";
        log_driver: String = "log_driver";
        log_opt: Map<String> = "log_opt";
        mem_limit: Bytes = "mem_limit";
        mem_reservation: Bytes = "mem_reservation";
        memswap_limit: Bytes = "memswap_limit";
        mem_swappiness: Bytes = "mem_swappiness";
        mac_address: String = "mac_address";
        models: Map<Option<ServiceModel>> = "models";
        net: String = "net";
        network_mode: String = "network_mode";
        networks: Map<Option<Endpoint>> = "networks";
        oom_kill_disable: bool = "oom_kill_disable";
        oom_score_adj: i64 = "oom_score_adj";
        pid: String = "pid";
        pids_limit: i64 = "pids_limit";
        platform: String = "platform";
        ports: Vec<Port> = "ports";
        privileged: bool = "privileged";
        pull_policy: String = "pull_policy";
        read_only: bool = "read_only";
        restart: String = "restart";
        runtime: String = "runtime";
        scale: Option<i64> = "scale";
        secrets: Vec<FileRef> = "secrets";
        security_opt: Vec<String> = "security_opt";
        shm_size: Bytes = "shm_size";
        stdin_open: bool = "stdin_open";
        stop_grace_period: Option<Duration> = "stop_grace_period";
        stop_signal: String = "stop_signal";
        storage_opt: Map<String> = "storage_opt";
        sysctls: Labels = "sysctls";
        tmpfs: Texts = "tmpfs";
        tty: bool = "tty";
        ulimits: Map<Ulimit> = "ulimits";
        use_api_socket: bool = "use_api_socket";
        user: String = "user";
        userns_mode: String = "userns_mode";
        uts: String = "uts";
        volume_driver: String = "volume_driver";
        volumes: Vec<Mount> = "volumes";
        volumes_from: Vec<String> = "volumes_from";
        working_dir: String = "working_dir";
        post_start: Vec<Hook> = "post_start";
        pre_stop: Vec<Hook> = "pre_stop";
    }
}

record! { Provider {
    kind: String = "type";
    options: MultiOptions = "options";
} }

record! { Build {
    context: String = "context";
    dockerfile: String = "dockerfile";
    dockerfile_inline: String = "dockerfile_inline";
    entitlements: Vec<String> = "entitlements";
    args: Pairs = "args";
    provenance: String = "provenance";
    sbom: String = "sbom";
    ssh: SshKeys = "ssh";
    labels: Labels = "labels";
    cache_from: Texts = "cache_from";
    cache_to: Texts = "cache_to";
    no_cache: bool = "no_cache";
    additional_contexts: Labels = "additional_contexts";
    pull: bool = "pull";
    extra_hosts: Hosts = "extra_hosts";
    isolation: String = "isolation";
    network: String = "network";
    target: String = "target";
    secrets: Vec<FileRef> = "secrets";
    shm_size: Bytes = "shm_size";
    tags: Texts = "tags";
    ulimits: Map<Ulimit> = "ulimits";
    platforms: Texts = "platforms";
    privileged: bool = "privileged";
} }

record! { Develop {
    watch: Vec<Trigger> = "watch";
} }

record! { Trigger {
    path: String = "path", always;
    action: String = "action", always;
    target: String = "target";
    exec: Hook = "exec";
    include: Texts = "include";
    ignore: Texts = "ignore";
    initial_sync: bool = "initial_sync";
} }

record! { Hook {
    command: Command = "command", keep;
    user: String = "user";
    privileged: bool = "privileged";
    working_dir: String = "working_dir";
    environment: Pairs = "environment";
} }

record! { Blkio {
    weight: i64 = "weight";
    weight_device: Vec<WeightDevice> = "weight_device";
    device_read_bps: Vec<ThrottleDevice> = "device_read_bps";
    device_read_iops: Vec<ThrottleDevice> = "device_read_iops";
    device_write_bps: Vec<ThrottleDevice> = "device_write_bps";
    device_write_iops: Vec<ThrottleDevice> = "device_write_iops";
} }

record! { WeightDevice {
    path: String = "path" / "Path", always;
    weight: i64 = "weight" / "Weight", always;
} }

record! { ThrottleDevice {
    path: String = "path" / "Path", always;
    rate: Bytes = "rate" / "Rate", always;
} }

record! { FileRef {
    source: String = "source";
    target: String = "target";
    uid: String = "uid";
    gid: String = "gid";
    mode: Option<Mode> = "mode";
} }

record! { CredentialSpec {
    config: String = "config";
    file: String = "file";
    registry: String = "registry";
} }

record! { Dependency {
    condition: String = "condition";
    restart: bool = "restart";
    required: bool = "required", always;
} }

record! { Deploy {
    mode: String = "mode";
    replicas: Option<i64> = "replicas";
    labels: Labels = "labels";
    update_config: Option<UpdateConfig> = "update_config";
    rollback_config: Option<UpdateConfig> = "rollback_config";
    resources: Resources = "resources";
    restart_policy: Option<RestartPolicy> = "restart_policy";
    placement: Placement = "placement";
    endpoint_mode: String = "endpoint_mode";
} }

record! { UpdateConfig {
    parallelism: Option<i64> = "parallelism";
    delay: Duration = "delay";
    failure_action: String = "failure_action";
    monitor: Duration = "monitor";
    max_failure_ratio: f32 = "max_failure_ratio";
    order: String = "order";
} }

record! { Resources {
    limits: Option<Resource> = "limits";
    reservations: Option<Resource> = "reservations";
} }

record! { Resource {
    cpus: f32 = "cpus";
    memory: Bytes = "memory";
    pids: i64 = "pids";
    devices: Vec<DeviceRequest> = "devices";
    generic_resources: Vec<GenericResource> = "generic_resources";
} }

record! { GenericResource {
    discrete_resource_spec: Option<DiscreteResource> = "discrete_resource_spec";
} }

record! { DiscreteResource {
    kind: String = "kind", always;
    value: i64 = "value", always;
} }

record! { RestartPolicy {
    condition: String = "condition";
    delay: Option<Duration> = "delay";
    max_attempts: Option<i64> = "max_attempts";
    window: Option<Duration> = "window";
} }

record! { Placement {
    constraints: Vec<String> = "constraints";
    preferences: Vec<Preference> = "preferences";
    max_replicas: i64 = "max_replicas_per_node";
} }

record! { Preference {
    spread: String = "spread";
} }

record! { DeviceMapping {
    source: String = "source";
    target: String = "target";
    permissions: String = "permissions";
} }

record! { DeviceRequest {
    capabilities: Vec<String> = "capabilities";
    driver: String = "driver";
    count: Count = "count";
    device_ids: Vec<String> = "device_ids";
    options: Labels = "options";
} }

record! { Extends {
    file: String = "file";
    service: String = "service";
} }

record! { HealthCheck {
    test: Test = "test";
    timeout: Option<Duration> = "timeout";
    interval: Option<Duration> = "interval";
    retries: Option<i64> = "retries";
    start_period: Option<Duration> = "start_period";
    start_interval: Option<Duration> = "start_interval";
    disable: bool = "disable";
} }

record! { Logging {
    driver: String = "driver";
    options: Labels = "options";
} }

record! { ServiceModel {
    endpoint_var: String = "endpoint_var";
    model_var: String = "model_var";
} }

record! {
    /// A service's place in a network.
    Endpoint {
        aliases: Vec<String> = "aliases";
        driver_opts: Labels = "driver_opts";
        gw_priority: i64 = "gw_priority";
        interface_name: String = "interface_name";
        ipv4_address: String = "ipv4_address";
        ipv6_address: String = "ipv6_address";
        link_local_ips: Vec<String> = "link_local_ips";
        mac_address: String = "mac_address";
        priority: i64 = "priority";
    }
}

record! {
    /// A published port; `published` may be a range.
    Port {
        name: String = "name";
        mode: String = "mode";
        host_ip: String = "host_ip";
        target: i64 = "target";
        published: String = "published";
        protocol: String = "protocol";
        app_protocol: String = "app_protocol";
    }
}

record! {
    /// Something mounted into a container.
    Mount {
        kind: String = "type";
        source: String = "source";
        target: String = "target";
        read_only: bool = "read_only";
        consistency: String = "consistency";
        bind: Option<MountBind> = "bind";
        volume: Option<MountVolume> = "volume";
        tmpfs: Option<MountTmpfs> = "tmpfs";
        image: Option<MountImage> = "image";
    }
}

record! { MountBind {
    selinux: String = "selinux";
    propagation: String = "propagation";
    create_host_path: bool = "create_host_path";
    recursive: String = "recursive";
} }

record! { MountVolume {
    labels: Labels = "labels";
    nocopy: bool = "nocopy";
    subpath: String = "subpath";
} }

record! { MountTmpfs {
    size: Bytes = "size";
    mode: i64 = "mode";
} }

record! { MountImage {
    subpath: String = "subpath";
} }

record! {
    /// A network of the project.
    Network {
        name: String = "name";
        driver: String = "driver";
        driver_opts: Labels = "driver_opts";
        ipam: Ipam = "ipam";
        external: bool = "external";
        internal: bool = "internal";
        attachable: bool = "attachable";
        labels: Labels = "labels";
        enable_ipv4: Option<bool> = "enable_ipv4";
        enable_ipv6: Option<bool> = "enable_ipv6";
    }
}

record! { Ipam {
    driver: String = "driver";
    config: Vec<Pool> = "config";
} }

record! { Pool {
    subnet: String = "subnet";
    gateway: String = "gateway";
    ip_range: String = "ip_range";
    aux_addresses: Labels = "aux_addresses";
} }

record! {
    /// A volume of the project.
    Volume {
        name: String = "name";
        driver: String = "driver";
        driver_opts: Labels = "driver_opts";
        external: bool = "external";
        labels: Labels = "labels";
    }
}

record! {
    /// A secret or a config of the project.
    FileObject {
        name: String = "name";
        file: String = "file";
        environment: String = "environment";
        content: String = "content";
        external: bool = "external";
        labels: Labels = "labels";
        driver: String = "driver";
        driver_opts: Map<String> = "driver_opts";
        template_driver: String = "template_driver";
    }
}

record! { Model {
    name: String = "name";
    model: String = "model";
    context_size: i64 = "context_size";
    runtime_flags: Vec<String> = "runtime_flags";
} }

/// A file of variables for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFile {
    pub path: String,
    pub required: bool,
    pub format: String,
}

impl Field for EnvFile {
    fn read(node: &Node) -> Result<Self> {
        Ok(Self {
            path: node.get("path").map_or(Ok(String::new()), String::read)?,
            required: node.get("required").map_or(Ok(true), bool::read)?,
            format: node.get("format").map_or(Ok(String::new()), String::read)?,
        })
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, form: Form) -> Out {
        if self.required {
            return Out::Text(self.path.clone());
        }
        let mut out = vec![
            ("path".to_owned(), Out::Text(self.path.clone())),
            ("required".to_owned(), Out::Bool(false)),
        ];
        if form == Form::Json && !self.format.is_empty() {
            out.push(("format".to_owned(), Out::Text(self.format.clone())));
        }
        Out::Map(out)
    }
}

/// A loaded project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Project {
    pub name: String,
    /// The directory that relative paths start from.
    pub dir: String,
    /// The services that are enabled.
    pub services: Map<Service>,
    /// Those that no active profile asks for, or that were not selected.
    pub disabled: Map<Service>,
    /// Services whose `env_file` or `label_file` could not be read, and why.
    pub unreadable: Map<String>,
    pub networks: Map<Network>,
    pub volumes: Map<Volume>,
    pub secrets: Map<FileObject>,
    pub configs: Map<FileObject>,
    pub models: Map<Model>,
    pub extensions: Extensions,
    /// The Compose files.
    pub files: Vec<String>,
    /// The variables that were used.
    pub environment: Map<String>,
    /// The active profiles.
    pub profiles: Vec<String>,
    /// Whether a file of the format of 2015 was read, in which links set variables.
    pub legacy: bool,
}

impl Service {
    /// How many containers it should have.
    pub fn replicas(&self) -> i64 {
        let deployed = self.deploy.as_ref().and_then(|d| d.replicas);
        self.scale.or(deployed).unwrap_or(1)
    }

    /// Sets how many containers it should have.
    pub fn set_replicas(&mut self, count: i64) {
        self.scale = Some(count);
        if let Some(deploy) = &mut self.deploy {
            deploy.replicas = Some(count);
        }
    }

    /// The networks, the one with the highest priority first.
    pub fn networks_by_priority(&self) -> Vec<&str> {
        let priority =
            |name: &str| self.networks.get(name).and_then(Option::as_ref).map_or(0, |n| n.priority);
        let mut names: Vec<&str> = self.networks.keys().map(String::as_str).collect();
        names.sort_by_key(|name| std::cmp::Reverse(priority(name)));
        names
    }

    /// The image that containers run: its own, or the one that is built for it.
    pub fn image_or_default(&self, project: &str, name: &str) -> String {
        match self.image.as_str() {
            "" => format!("{project}-{name}"),
            image => image.to_owned(),
        }
    }

    /// The hash by which a change is noticed. What does not matter to a container is left out.
    pub fn hash(&self) -> String {
        let mut service = self.clone();
        service.build = None;
        service.pull_policy.clear();
        service.scale = None;
        if let Some(deploy) = &mut service.deploy {
            deploy.replicas = None;
        }
        service.depends_on.clear();
        service.profiles.clear();
        digest(&service.write(Form::Json))
    }
}

impl Network {
    /// The hash by which a change is noticed.
    pub fn hash(&self) -> String {
        digest(&self.write(Form::Json))
    }
}

impl Volume {
    /// The hash by which a change is noticed.
    pub fn hash(&self) -> String {
        let mut volume = self.clone();
        if volume.driver.is_empty() {
            "local".clone_into(&mut volume.driver);
        }
        digest(&volume.write(Form::Json))
    }
}

fn digest(out: &Out) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(out.compact().as_bytes()))
}

impl Project {
    /// The project as `config` prints it.
    pub fn written(&self, form: Form) -> Out {
        let section = |section: &Map<FileObject>, hide: fn(&FileObject) -> bool| {
            let mut section = section.clone();
            section.values_mut().filter(|o| hide(o)).for_each(|o| o.content.clear());
            section.write(form)
        };
        let mut parts = vec![
            ("name", Out::Text(self.name.clone())),
            ("services", self.services.write(form)),
            ("networks", self.networks.write(form)),
            ("volumes", self.volumes.write(form)),
            // The content of a secret is nobody's business; that of a config is in its variable.
            ("secrets", section(&self.secrets, |_| true)),
            ("configs", section(&self.configs, |o| !o.environment.is_empty())),
        ];
        if form == Form::Yaml {
            parts.push(("models", self.models.write(form)));
        }
        let kept = |(name, out): &(&str, Out)| {
            matches!(*name, "services") || !matches!(out, Out::Map(m) if m.is_empty())
        };
        let mut out: Vec<(String, Out)> =
            parts.into_iter().filter(kept).map(|(k, v)| (k.to_owned(), v)).collect();
        if self.name.is_empty() {
            out.remove(0);
        }
        out.extend(self.extensions.write(form));
        match form {
            Form::Json => Out::sorted(out, form),
            Form::Yaml => Out::Map(out),
        }
    }
}

/// Reads the typed project from a canonical tree.
pub(super) fn project(tree: &Node) -> Result<Project> {
    fn section<T: Field>(tree: &Node, name: &str) -> Result<T> {
        tree.get(name).map_or_else(|| Ok(T::default()), super::value::read)
    }
    let mut secrets: Map<FileObject> = section(tree, "secrets")?;
    for (name, secret) in &mut secrets {
        let node = tree.get("secrets").and_then(|s| s.get(name)?.get(super::load::CONTENT));
        if let Some(Value::Text(content)) = node.map(|n| &n.value) {
            secret.content.clone_from(content);
        }
    }
    Ok(Project {
        services: section(tree, "services")?,
        networks: section(tree, "networks")?,
        volumes: section(tree, "volumes")?,
        secrets,
        configs: section(tree, "configs")?,
        models: section(tree, "models")?,
        extensions: Extensions::read(tree),
        ..Project::default()
    })
}
