//! What the engine tells about containers.

use super::{ContainerConfig, EndpointSettings, HostConfig, Map, PortBinding};

go_struct! {
    /// `GET /containers/{id}/json`.
    ContainerInspect {
        id: String = "Id";
        created: String = "Created";
        path: String = "Path";
        args: Vec<String> = "Args";
        state: ContainerState = "State";
        image: String = "Image";
        resolv_conf_path: String = "ResolvConfPath";
        hostname_path: String = "HostnamePath";
        hosts_path: String = "HostsPath";
        log_path: String = "LogPath";
        name: String = "Name";
        restart_count: i64 = "RestartCount";
        driver: String = "Driver";
        platform: String = "Platform";
        mount_label: String = "MountLabel";
        process_label: String = "ProcessLabel";
        app_armor_profile: String = "AppArmorProfile";
        exec_ids: Option<Vec<String>> = "ExecIDs";
        host_config: HostConfig = "HostConfig";
        graph_driver: GraphDriver = "GraphDriver";
        size_rw: Option<i64> = "SizeRw", omitempty;
        size_root_fs: Option<i64> = "SizeRootFs", omitempty;
        mounts: Vec<MountPoint> = "Mounts";
        config: ContainerConfig = "Config";
        network_settings: NetworkSettings = "NetworkSettings";
        image_manifest_descriptor: Option<serde_json::Value> = "ImageManifestDescriptor", omitempty;
    }
}

go_struct! {
    /// `status` is created, running, paused, restarting, removing, exited or dead.
    ContainerState {
        status: String = "Status";
        running: bool = "Running";
        paused: bool = "Paused";
        restarting: bool = "Restarting";
        oom_killed: bool = "OOMKilled";
        dead: bool = "Dead";
        pid: i64 = "Pid";
        exit_code: i64 = "ExitCode";
        error: String = "Error";
        started_at: String = "StartedAt";
        finished_at: String = "FinishedAt";
        health: Option<Health> = "Health", omitempty;
    }
}

go_struct! { Health {
    status: String = "Status";
    failing_streak: i64 = "FailingStreak";
    log: Option<Vec<HealthResult>> = "Log";
} }

go_struct! { HealthResult {
    start: String = "Start";
    end: String = "End";
    exit_code: i64 = "ExitCode";
    output: String = "Output";
} }

go_struct! { GraphDriver {
    data: Option<Map<String>> = "Data";
    name: String = "Name";
} }

go_struct! { MountPoint {
    kind: String = "Type", omitempty;
    name: String = "Name", omitempty;
    source: String = "Source";
    destination: String = "Destination";
    driver: String = "Driver", omitempty;
    mode: String = "Mode";
    rw: bool = "RW";
    propagation: String = "Propagation";
} }

go_struct! {
    /// The flat address fields are those of the default bridge; they left the API with 1.52.
    NetworkSettings {
        bridge: String = "Bridge";
        sandbox_id: String = "SandboxID";
        sandbox_key: String = "SandboxKey";
        ports: Map<Option<Vec<PortBinding>>> = "Ports";
        hairpin_mode: bool = "HairpinMode";
        link_local_ipv6_address: String = "LinkLocalIPv6Address";
        link_local_ipv6_prefix_len: i64 = "LinkLocalIPv6PrefixLen";
        secondary_ip_addresses: Option<Vec<serde_json::Value>> = "SecondaryIPAddresses";
        secondary_ipv6_addresses: Option<Vec<serde_json::Value>> = "SecondaryIPv6Addresses";
        endpoint_id: String = "EndpointID";
        gateway: String = "Gateway";
        global_ipv6_address: String = "GlobalIPv6Address";
        global_ipv6_prefix_len: i64 = "GlobalIPv6PrefixLen";
        ip_address: String = "IPAddress";
        ip_prefix_len: i64 = "IPPrefixLen";
        ipv6_gateway: String = "IPv6Gateway";
        mac_address: String = "MacAddress";
        networks: Map<EndpointSettings> = "Networks";
    }
}

go_struct! {
    /// One row of `GET /containers/json`. `created` is unix seconds.
    ContainerSummary {
        id: String = "Id";
        names: Vec<String> = "Names";
        image: String = "Image";
        image_id: String = "ImageID";
        image_manifest_descriptor: Option<serde_json::Value> = "ImageManifestDescriptor", omitempty;
        command: String = "Command";
        created: i64 = "Created";
        ports: Vec<Port> = "Ports";
        size_rw: Option<i64> = "SizeRw", omitempty;
        size_root_fs: Option<i64> = "SizeRootFs", omitempty;
        labels: Map<String> = "Labels";
        state: String = "State";
        status: String = "Status";
        host_config: SummaryHostConfig = "HostConfig";
        network_settings: SummaryNetworkSettings = "NetworkSettings";
        mounts: Vec<MountPoint> = "Mounts";
    }
}

go_struct! { SummaryHostConfig {
    network_mode: String = "NetworkMode", omitempty;
    annotations: Option<Map<String>> = "Annotations", omitempty;
} }

go_struct! { SummaryNetworkSettings {
    networks: Map<EndpointSettings> = "Networks";
} }

go_struct! { Port {
    ip: String = "IP", omitempty;
    private_port: u16 = "PrivatePort";
    public_port: u16 = "PublicPort", omitempty;
    kind: String = "Type";
} }

go_struct! { ContainersPruneReport {
    containers_deleted: Option<Vec<String>> = "ContainersDeleted";
    space_reclaimed: u64 = "SpaceReclaimed";
} }
