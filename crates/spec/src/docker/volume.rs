//! Volumes.

use super::Map;

go_struct! { Volume {
    created_at: String = "CreatedAt", omitempty;
    driver: String = "Driver";
    labels: Option<Map<String>> = "Labels";
    mountpoint: String = "Mountpoint";
    name: String = "Name";
    options: Option<Map<String>> = "Options";
    scope: String = "Scope";
    status: Option<Map<serde_json::Value>> = "Status", omitempty;
    usage_data: Option<VolumeUsage> = "UsageData", omitempty;
} }

go_struct! {
    /// `size` in bytes, -1 when unknown.
    VolumeUsage {
        ref_count: i64 = "RefCount";
        size: i64 = "Size";
    }
}

go_struct! { VolumeCreateRequest {
    name: String = "Name";
    driver: String = "Driver";
    driver_opts: Option<Map<String>> = "DriverOpts";
    labels: Option<Map<String>> = "Labels";
    cluster_volume_spec: Option<serde_json::Value> = "ClusterVolumeSpec", omitempty;
} }

go_struct! { VolumeList {
    volumes: Vec<Volume> = "Volumes";
    warnings: Option<Vec<String>> = "Warnings";
} }

go_struct! { VolumesPruneReport {
    volumes_deleted: Option<Vec<String>> = "VolumesDeleted";
    space_reclaimed: u64 = "SpaceReclaimed";
} }
