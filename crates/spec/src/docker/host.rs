//! What a container may use of its host: limits, mounts, ports, privileges.

use super::Map;

go_struct! {
    /// The part of a container that belongs to its host.
    HostConfig {
        binds: Option<Vec<String>> = "Binds";
        container_id_file: String = "ContainerIDFile";
        log_config: LogConfig = "LogConfig";
        network_mode: String = "NetworkMode";
        port_bindings: Option<Map<Option<Vec<PortBinding>>>> = "PortBindings";
        restart_policy: RestartPolicy = "RestartPolicy";
        auto_remove: bool = "AutoRemove";
        volume_driver: String = "VolumeDriver";
        volumes_from: Option<Vec<String>> = "VolumesFrom";
        console_size: [u32; 2] = "ConsoleSize";
        annotations: Option<Map<String>> = "Annotations", omitempty;
        cap_add: Option<Vec<String>> = "CapAdd";
        cap_drop: Option<Vec<String>> = "CapDrop";
        cgroupns_mode: String = "CgroupnsMode";
        dns: Option<Vec<String>> = "Dns";
        dns_options: Option<Vec<String>> = "DnsOptions";
        dns_search: Option<Vec<String>> = "DnsSearch";
        extra_hosts: Option<Vec<String>> = "ExtraHosts";
        group_add: Option<Vec<String>> = "GroupAdd";
        ipc_mode: String = "IpcMode";
        cgroup: String = "Cgroup";
        links: Option<Vec<String>> = "Links";
        oom_score_adj: i64 = "OomScoreAdj";
        pid_mode: String = "PidMode";
        privileged: bool = "Privileged";
        publish_all_ports: bool = "PublishAllPorts";
        readonly_rootfs: bool = "ReadonlyRootfs";
        security_opt: Option<Vec<String>> = "SecurityOpt";
        storage_opt: Option<Map<String>> = "StorageOpt", omitempty;
        tmpfs: Option<Map<String>> = "Tmpfs", omitempty;
        uts_mode: String = "UTSMode";
        userns_mode: String = "UsernsMode";
        shm_size: i64 = "ShmSize";
        sysctls: Option<Map<String>> = "Sysctls", omitempty;
        runtime: String = "Runtime", omitempty;
        isolation: String = "Isolation";
        resources: Resources = flatten;
        mounts: Option<Vec<Mount>> = "Mounts", omitempty;
        masked_paths: Option<Vec<String>> = "MaskedPaths";
        readonly_paths: Option<Vec<String>> = "ReadonlyPaths";
        init: Option<bool> = "Init", omitempty;
    }
}

go_struct! {
    /// Limits and weights. Memory in bytes, quotas and periods in microseconds, zero means unset.
    Resources {
        cpu_shares: i64 = "CpuShares";
        memory: i64 = "Memory";
        nano_cpus: i64 = "NanoCpus";
        cgroup_parent: String = "CgroupParent";
        blkio_weight: u16 = "BlkioWeight";
        blkio_weight_device: Option<Vec<WeightDevice>> = "BlkioWeightDevice";
        blkio_device_read_bps: Option<Vec<ThrottleDevice>> = "BlkioDeviceReadBps";
        blkio_device_write_bps: Option<Vec<ThrottleDevice>> = "BlkioDeviceWriteBps";
        blkio_device_read_iops: Option<Vec<ThrottleDevice>> = "BlkioDeviceReadIOps";
        blkio_device_write_iops: Option<Vec<ThrottleDevice>> = "BlkioDeviceWriteIOps";
        cpu_period: i64 = "CpuPeriod";
        cpu_quota: i64 = "CpuQuota";
        cpu_realtime_period: i64 = "CpuRealtimePeriod";
        cpu_realtime_runtime: i64 = "CpuRealtimeRuntime";
        cpuset_cpus: String = "CpusetCpus";
        cpuset_mems: String = "CpusetMems";
        devices: Option<Vec<DeviceMapping>> = "Devices";
        device_cgroup_rules: Option<Vec<String>> = "DeviceCgroupRules";
        device_requests: Option<Vec<DeviceRequest>> = "DeviceRequests";
        kernel_memory: i64 = "KernelMemory", omitempty;
        kernel_memory_tcp: i64 = "KernelMemoryTCP", omitempty;
        memory_reservation: i64 = "MemoryReservation";
        memory_swap: i64 = "MemorySwap";
        memory_swappiness: Option<i64> = "MemorySwappiness";
        oom_kill_disable: Option<bool> = "OomKillDisable";
        pids_limit: Option<i64> = "PidsLimit";
        ulimits: Option<Vec<Ulimit>> = "Ulimits";
        cpu_count: i64 = "CpuCount";
        cpu_percent: i64 = "CpuPercent";
        io_maximum_iops: u64 = "IOMaximumIOps";
        io_maximum_bandwidth: u64 = "IOMaximumBandwidth";
    }
}

go_struct! { LogConfig {
    kind: String = "Type";
    config: Option<Map<String>> = "Config";
} }

go_struct! { RestartPolicy {
    name: String = "Name";
    maximum_retry_count: i64 = "MaximumRetryCount";
} }

go_struct! { PortBinding {
    host_ip: String = "HostIp";
    host_port: String = "HostPort";
} }

go_struct! { WeightDevice {
    path: String = "Path";
    weight: u16 = "Weight";
} }

go_struct! { ThrottleDevice {
    path: String = "Path";
    rate: u64 = "Rate";
} }

go_struct! { DeviceMapping {
    path_on_host: String = "PathOnHost";
    path_in_container: String = "PathInContainer";
    cgroup_permissions: String = "CgroupPermissions";
} }

go_struct! { DeviceRequest {
    driver: String = "Driver";
    count: i64 = "Count";
    device_ids: Option<Vec<String>> = "DeviceIDs";
    capabilities: Option<Vec<Vec<String>>> = "Capabilities";
    options: Option<Map<String>> = "Options";
} }

go_struct! { Ulimit {
    name: String = "Name";
    hard: i64 = "Hard";
    soft: i64 = "Soft";
} }

go_struct! {
    /// `--mount`: `kind` is bind, volume, tmpfs, image, cluster or npipe.
    Mount {
        kind: String = "Type", omitempty;
        source: String = "Source", omitempty;
        target: String = "Target", omitempty;
        read_only: bool = "ReadOnly", omitempty;
        consistency: String = "Consistency", omitempty;
        bind_options: Option<BindOptions> = "BindOptions", omitempty;
        volume_options: Option<VolumeOptions> = "VolumeOptions", omitempty;
        image_options: Option<ImageOptions> = "ImageOptions", omitempty;
        tmpfs_options: Option<TmpfsOptions> = "TmpfsOptions", omitempty;
    }
}

go_struct! { BindOptions {
    propagation: String = "Propagation", omitempty;
    non_recursive: bool = "NonRecursive", omitempty;
    create_mountpoint: bool = "CreateMountpoint", omitempty;
    read_only_non_recursive: bool = "ReadOnlyNonRecursive", omitempty;
    read_only_force_recursive: bool = "ReadOnlyForceRecursive", omitempty;
} }

go_struct! { VolumeOptions {
    no_copy: bool = "NoCopy", omitempty;
    labels: Option<Map<String>> = "Labels", omitempty;
    subpath: String = "Subpath", omitempty;
    driver_config: Option<DriverConfig> = "DriverConfig", omitempty;
} }

go_struct! { DriverConfig {
    name: String = "Name", omitempty;
    options: Option<Map<String>> = "Options", omitempty;
} }

go_struct! { ImageOptions {
    subpath: String = "Subpath", omitempty;
} }

go_struct! {
    /// Size in bytes; mode as POSIX permission bits.
    TmpfsOptions {
        size_bytes: i64 = "SizeBytes", omitempty;
        mode: u32 = "Mode", omitempty;
        options: Option<Vec<Vec<String>>> = "Options", omitempty;
    }
}
