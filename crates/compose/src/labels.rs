//! The labels by which Compose knows its own, the same in every tool that speaks Compose.

/// The project that something belongs to.
pub const PROJECT: &str = "com.docker.compose.project";
/// The service that a container runs.
pub const SERVICE: &str = "com.docker.compose.service";
/// The hash of what a thing was made from.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// Which of a service's containers this one is, from 1.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// The key of a volume.
pub const VOLUME: &str = "com.docker.compose.volume";
/// The key of a network.
pub const NETWORK: &str = "com.docker.compose.network";
/// The project's directory.
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
/// The Compose files, joined by commas.
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
/// The env files that were given by flag, joined by commas.
pub const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";
/// `True` for the containers of `run`.
pub const ONEOFF: &str = "com.docker.compose.oneoff";
/// What tells one container of `run` from another.
pub const SLUG: &str = "com.docker.compose.slug";
/// The id of the image that a container was made from.
pub const IMAGE: &str = "com.docker.compose.image";
/// What a service depends on, as `name:condition:restart`, joined by commas.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The version of Compose.
pub const VERSION: &str = "com.docker.compose.version";
/// On a container that takes another's place: that one's name.
pub const REPLACE: &str = "com.docker.compose.replace";

/// The version of Compose whose behaviour this is.
pub const COMPOSE_VERSION: &str = "2.40.3";
