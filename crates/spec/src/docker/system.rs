//! The engine and its host.

use super::{ContainerSummary, ImageSummary, Map, Volume};

go_struct! { Version {
    platform: VersionPlatform = "Platform";
    components: Vec<Component> = "Components";
    version: String = "Version";
    api_version: String = "ApiVersion";
    min_api_version: String = "MinAPIVersion";
    git_commit: String = "GitCommit";
    go_version: String = "GoVersion";
    os: String = "Os";
    arch: String = "Arch";
    kernel_version: String = "KernelVersion";
    build_time: String = "BuildTime", omitempty;
    experimental: bool = "Experimental", omitempty;
} }

go_struct! { VersionPlatform {
    name: String = "Name";
} }

go_struct! { Component {
    name: String = "Name";
    version: String = "Version";
    details: Map<String> = "Details";
} }

go_struct! { Info {
    id: String = "ID";
    containers: i64 = "Containers";
    containers_running: i64 = "ContainersRunning";
    containers_paused: i64 = "ContainersPaused";
    containers_stopped: i64 = "ContainersStopped";
    images: i64 = "Images";
    driver: String = "Driver";
    driver_status: Vec<[String; 2]> = "DriverStatus";
    system_status: Option<Vec<[String; 2]>> = "SystemStatus", omitempty;
    plugins: PluginsInfo = "Plugins";
    memory_limit: bool = "MemoryLimit";
    swap_limit: bool = "SwapLimit";
    cpu_cfs_period: bool = "CpuCfsPeriod";
    cpu_cfs_quota: bool = "CpuCfsQuota";
    cpu_shares: bool = "CPUShares";
    cpu_set: bool = "CPUSet";
    pids_limit: bool = "PidsLimit";
    ipv4_forwarding: bool = "IPv4Forwarding";
    debug: bool = "Debug";
    n_fd: i64 = "NFd";
    oom_kill_disable: bool = "OomKillDisable";
    n_goroutines: i64 = "NGoroutines";
    system_time: String = "SystemTime";
    logging_driver: String = "LoggingDriver";
    cgroup_driver: String = "CgroupDriver";
    cgroup_version: String = "CgroupVersion", omitempty;
    n_events_listener: i64 = "NEventsListener";
    kernel_version: String = "KernelVersion";
    operating_system: String = "OperatingSystem";
    os_version: String = "OSVersion";
    os_type: String = "OSType";
    architecture: String = "Architecture";
    index_server_address: String = "IndexServerAddress";
    registry_config: RegistryConfig = "RegistryConfig";
    n_cpu: i64 = "NCPU";
    mem_total: i64 = "MemTotal";
    generic_resources: Option<Vec<serde_json::Value>> = "GenericResources";
    docker_root_dir: String = "DockerRootDir";
    http_proxy: String = "HttpProxy";
    https_proxy: String = "HttpsProxy";
    no_proxy: String = "NoProxy";
    name: String = "Name";
    labels: Vec<String> = "Labels";
    experimental_build: bool = "ExperimentalBuild";
    server_version: String = "ServerVersion";
    runtimes: Map<RuntimeInfo> = "Runtimes";
    default_runtime: String = "DefaultRuntime";
    swarm: SwarmInfo = "Swarm";
    live_restore_enabled: bool = "LiveRestoreEnabled";
    isolation: String = "Isolation";
    init_binary: String = "InitBinary";
    containerd_commit: Commit = "ContainerdCommit";
    runc_commit: Commit = "RuncCommit";
    init_commit: Commit = "InitCommit";
    security_options: Vec<String> = "SecurityOptions";
    product_license: String = "ProductLicense", omitempty;
    default_address_pools: Option<Vec<AddressPool>> = "DefaultAddressPools", omitempty;
    firewall_backend: Option<FirewallInfo> = "FirewallBackend", omitempty;
    cdi_spec_dirs: Vec<String> = "CDISpecDirs";
    warnings: Option<Vec<String>> = "Warnings";
} }

go_struct! { PluginsInfo {
    volume: Vec<String> = "Volume";
    network: Vec<String> = "Network";
    authorization: Option<Vec<String>> = "Authorization";
    log: Vec<String> = "Log";
} }

go_struct! { RegistryConfig {
    allow_nondistributable_artifacts_cidrs: Option<Vec<String>> = "AllowNondistributableArtifactsCIDRs", omitempty;
    allow_nondistributable_artifacts_hostnames: Option<Vec<String>> = "AllowNondistributableArtifactsHostnames", omitempty;
    insecure_registry_cidrs: Vec<String> = "InsecureRegistryCIDRs";
    index_configs: Map<IndexConfig> = "IndexConfigs";
    mirrors: Option<Vec<String>> = "Mirrors";
} }

go_struct! { IndexConfig {
    name: String = "Name";
    mirrors: Vec<String> = "Mirrors";
    secure: bool = "Secure";
    official: bool = "Official";
} }

go_struct! { RuntimeInfo {
    path: String = "path", omitempty;
    status: Option<Map<String>> = "status", omitempty;
} }

go_struct! { SwarmInfo {
    node_id: String = "NodeID";
    node_addr: String = "NodeAddr";
    local_node_state: String = "LocalNodeState";
    control_available: bool = "ControlAvailable";
    error: String = "Error";
    remote_managers: Option<Vec<serde_json::Value>> = "RemoteManagers";
} }

go_struct! { Commit {
    id: String = "ID";
} }

go_struct! { AddressPool {
    base: String = "Base";
    size: i64 = "Size";
} }

go_struct! { FirewallInfo {
    driver: String = "Driver";
    info: Option<Vec<[String; 2]>> = "Info", omitempty;
} }

go_struct! {
    /// `GET /system/df` in its shape up to 1.51. Sizes in bytes.
    DiskUsage {
        layers_size: i64 = "LayersSize", omitempty;
        images: Option<Vec<ImageSummary>> = "Images";
        containers: Option<Vec<ContainerSummary>> = "Containers";
        volumes: Option<Vec<Volume>> = "Volumes";
        build_cache: Option<Vec<serde_json::Value>> = "BuildCache";
    }
}

go_struct! { ErrorResponse {
    message: String = "message";
} }
