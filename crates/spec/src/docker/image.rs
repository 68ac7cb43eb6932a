//! Images as the Engine API shows them.

use super::{ContainerConfig, GraphDriver, Map};

go_struct! {
    /// One row of `GET /images/json`. `created` is unix seconds; `containers` is -1 when not counted.
    ImageSummary {
        containers: i64 = "Containers";
        created: i64 = "Created";
        id: String = "Id";
        labels: Option<Map<String>> = "Labels";
        parent_id: String = "ParentId";
        descriptor: Option<serde_json::Value> = "Descriptor", omitempty;
        manifests: Option<Vec<serde_json::Value>> = "Manifests", omitempty;
        repo_digests: Vec<String> = "RepoDigests";
        repo_tags: Vec<String> = "RepoTags";
        shared_size: i64 = "SharedSize";
        size: i64 = "Size";
    }
}

go_struct! {
    /// `GET /images/{name}/json`.
    ImageInspect {
        id: String = "Id";
        repo_tags: Vec<String> = "RepoTags";
        repo_digests: Vec<String> = "RepoDigests";
        parent: String = "Parent";
        comment: String = "Comment";
        created: String = "Created", omitempty;
        docker_version: String = "DockerVersion";
        author: String = "Author";
        config: Option<ContainerConfig> = "Config";
        architecture: String = "Architecture";
        variant: String = "Variant", omitempty;
        os: String = "Os";
        os_version: String = "OsVersion", omitempty;
        size: i64 = "Size";
        graph_driver: GraphDriver = "GraphDriver";
        root_fs: RootFs = "RootFS";
        metadata: ImageMetadata = "Metadata";
        descriptor: Option<serde_json::Value> = "Descriptor", omitempty;
        manifests: Option<Vec<serde_json::Value>> = "Manifests", omitempty;
    }
}

go_struct! { RootFs {
    kind: String = "Type";
    layers: Option<Vec<String>> = "Layers", omitempty;
} }

go_struct! { ImageMetadata {
    last_tag_time: String = "LastTagTime", omitempty;
} }

go_struct! {
    /// One line of `docker history`; `created` is unix seconds.
    HistoryItem {
        comment: String = "Comment";
        created: i64 = "Created";
        created_by: String = "CreatedBy";
        id: String = "Id";
        size: i64 = "Size";
        tags: Option<Vec<String>> = "Tags";
    }
}

go_struct! { ImageDelete {
    deleted: String = "Deleted", omitempty;
    untagged: String = "Untagged", omitempty;
} }

go_struct! { ImagesPruneReport {
    images_deleted: Option<Vec<ImageDelete>> = "ImagesDeleted";
    space_reclaimed: u64 = "SpaceReclaimed";
} }

go_struct! {
    /// Credentials as `X-Registry-Auth` and `~/.docker/config.json` carry them.
    AuthConfig {
        username: String = "username", omitempty;
        password: String = "password", omitempty;
        auth: String = "auth", omitempty;
        email: String = "email", omitempty;
        server_address: String = "serveraddress", omitempty;
        identity_token: String = "identitytoken", omitempty;
        registry_token: String = "registrytoken", omitempty;
    }
}

go_struct! {
    /// A repository that a search has found. Docker Hub's index speaks the same.
    SearchResult {
        star_count: i64 = "star_count";
        is_official: bool = "is_official";
        name: String = "name";
        is_automated: bool = "is_automated";
        description: String = "description";
    }
}

go_struct! { AuthResponse {
    status: String = "Status";
    identity_token: String = "IdentityToken", omitempty;
} }

go_struct! {
    /// One line of a pull, push, load or import stream.
    ProgressLine {
        stream: String = "stream", omitempty;
        status: String = "status", omitempty;
        progress_detail: Option<ProgressDetail> = "progressDetail", omitempty;
        progress: String = "progress", omitempty;
        id: String = "id", omitempty;
        error_detail: Option<ErrorDetail> = "errorDetail", omitempty;
        error: String = "error", omitempty;
        aux: Option<serde_json::Value> = "aux", omitempty;
    }
}

go_struct! { ProgressDetail {
    current: i64 = "current", omitempty;
    total: i64 = "total", omitempty;
    hide_counts: bool = "hidecounts", omitempty;
} }

go_struct! { ErrorDetail {
    code: i64 = "code", omitempty;
    message: String = "message";
} }
