//! Image documents: manifests, indexes and configs of OCI and Docker.
//!
//! Every type keeps the fields that it does not know, so that a document which is read, changed in one place
//! and written again loses nothing. Digests are always taken over the bytes as they came, never over a
//! re-encoding.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::platform::Platform;

/// Media types of manifests, configs and layers.
pub mod media_type {
    /// An OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed OCI layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzip OCI layer.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd OCI layer.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// A Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// A Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// A Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// A Docker manifest, schema 1, which wharf refuses.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// A signed Docker manifest, schema 1, which wharf refuses.
    pub const DOCKER_SCHEMA1_SIGNED: &str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether `media_type` names a manifest of one image.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether `media_type` names an index.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    /// Whether `media_type` names a config of a container image.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Whether `media_type` names a file system layer, also a non-distributable one.
    pub fn is_layer(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    }
}

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the content is. Empty in very old documents.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Where else the content can be had (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, when it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the content runs on; indexes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of an artifact.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A plain descriptor.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            other: Map::new(),
        }
    }
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// Its own media type; OCI lets it be absent.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An index: one name for several platforms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// Its own media type; OCI lets it be absent.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A document that a reference may name.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why bytes are not a manifest or index that wharf accepts.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or fields of the wrong type.
    #[error("manifest does not parse")]
    Json(#[source] serde_json::Error),
    /// Docker schema 1, deprecated since 2017.
    #[error(
        "manifests of Docker's schema 1 are not supported: rebuild the image or push it again with a current client"
    )]
    Schema1,
    /// Both `layers` and `manifests`: two readers would see two images (CVE-2021-41190).
    #[error("manifest is ambiguous: it has both layers and manifests")]
    Ambiguous,
    /// The body says it is something else than it was served as.
    #[error("manifest says it is {inside:?} but was served as {outside:?}")]
    MediaType {
        /// The `mediaType` field.
        inside: String,
        /// The content type or descriptor.
        outside: String,
    },
    /// A media type that is neither manifest nor index.
    #[error("unsupported manifest media type {0:?}")]
    Unsupported(String),
}

impl Document {
    /// Reads a manifest or index. `outside` is the media type that the bytes were announced with,
    /// empty if unknown.
    pub fn parse(bytes: &[u8], outside: &str) -> Result<Self, DocumentError> {
        let shape: Shape = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        let outside = outside.split(';').next().unwrap_or_default().trim();
        if shape.is_schema1(outside) {
            return Err(DocumentError::Schema1);
        }
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        // Registries without content negotiation serve octet-stream or plain JSON.
        let generic =
            matches!(outside, "" | "application/json" | "application/octet-stream" | "text/plain");
        if !generic && !shape.media_type.is_empty() && shape.media_type != outside {
            return Err(DocumentError::MediaType {
                inside: shape.media_type,
                outside: outside.to_owned(),
            });
        }
        let kind = if shape.media_type.is_empty() && !generic {
            outside
        } else {
            shape.media_type.as_str()
        };
        if shape.manifests.is_some() && (kind.is_empty() || media_type::is_index(kind)) {
            return serde_json::from_slice(bytes).map(Self::Index).map_err(DocumentError::Json);
        }
        if shape.layers.is_some() && (kind.is_empty() || media_type::is_manifest(kind)) {
            return serde_json::from_slice(bytes).map(Self::Manifest).map_err(DocumentError::Json);
        }
        Err(DocumentError::Unsupported(kind.to_owned()))
    }

    /// The media type to store and serve it as.
    pub fn media_type(&self) -> &str {
        let (own, default) = match self {
            Self::Manifest(m) => (&m.media_type, media_type::OCI_MANIFEST),
            Self::Index(i) => (&i.media_type, media_type::OCI_INDEX),
        };
        if own.is_empty() { default } else { own }
    }
}

/// The few fields that decide what a document is.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Shape {
    fn is_schema1(&self, outside: &str) -> bool {
        let named =
            |t: &str| matches!(t, media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED);
        self.schema_version == 1
            || self.fs_layers.is_some()
            || named(outside)
            || named(&self.media_type)
    }
}

/// An image config: how to run it and how it came about.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Run-time defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RunConfig>,
    /// The container it was committed from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The config of that container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_config: Option<RunConfig>,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Version of Docker that made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// One entry per build step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// Windows build.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows features.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageConfig {
    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    /// When it was made, if the config says so in a form that parses.
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref()?.parse().ok()
    }
}

/// The layers of an image, by digest of their uncompressed tar.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Base first. Docker writes null for none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl RootFs {
    /// The chain id of each layer, base first (OCI image-spec, config.md): the layer
    /// together with everything below it.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let id = match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(id);
        }
        chain
    }
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Run-time defaults, with Docker's extensions to OCI.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// User name or id, with optional group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or program if there is no entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// Whether the command line is already escaped (Windows).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Paths of anonymous volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Value>>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Instructions for a build on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that stops the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of `RUN` in shell form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields that wharf does not know (Hostname, Image, Tty … of old builders), kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A health check; durations are nanoseconds, 0 means inherited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`; empty means inherited.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Per check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Grace at start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks during that grace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(byte: u8) -> String {
        Digest::sha256(&[byte]).to_string()
    }

    #[test]
    fn a_docker_config_survives_reading_and_writing() {
        let original = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05.678Z",
            "config": {
                "Hostname": "", "Tty": false, "User": "me", "ExposedPorts": {"80/tcp": {}},
                "Env": ["A=b"], "Cmd": ["x"], "ArgsEscaped": true, "OnBuild": ["RUN y"],
                "Healthcheck": {"Test": ["CMD", "z"], "Interval": 30_000_000_000_i64, "Retries": 3},
                "Shell": ["/bin/bash", "-c"], "StopTimeout": 7, "Labels": {"a": "1"},
                "Image": "sha256:abc", "Future": {"deep": [1, 2]}
            },
            "container": "c0ffee", "container_config": {"Cmd": ["/bin/sh"], "Hostname": "c0ffee"},
            "docker_version": "20.10", "moby.buildkit.buildinfo.v1": "x",
            "history": [{"created": "2020-01-02T03:04:05Z", "created_by": "ADD", "odd": 1},
                        {"created_by": "CMD", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": [digest(1), digest(2)]}
        });
        let config: ImageConfig = serde_json::from_value(original.clone()).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), original);
        assert_eq!(config.created_at().unwrap().as_millisecond() % 1000, 678);
    }

    #[test]
    fn nulls_of_go_are_absent_values() {
        let text = r#"{"config":{"Env":null,"Cmd":null,"Volumes":null,"Healthcheck":{"Test":null}},
                       "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert!(config.rootfs.diff_ids.is_empty());
        assert!(config.config.unwrap().env.is_empty());
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let rootfs = RootFs {
            diff_ids: vec![digest(1).parse().unwrap(), digest(2).parse().unwrap()],
            ..RootFs::default()
        };
        let second = Digest::sha256(format!("{} {}", digest(1), digest(2)).as_bytes());
        assert_eq!(rootfs.chain_ids(), vec![digest(1).parse().unwrap(), second]);
    }

    fn document(value: Value, outside: &str) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes(), outside)
    }

    #[test]
    fn confused_documents_are_refused() {
        let config = json!({"mediaType": media_type::OCI_CONFIG, "digest": digest(1), "size": 1});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
        let index = json!({"schemaVersion": 2, "manifests": []});
        let mut both = manifest.clone();
        both["manifests"] = json!([]);
        let mut typed = manifest.clone();
        typed["mediaType"] = json!(media_type::OCI_MANIFEST);

        assert!(matches!(document(manifest.clone(), ""), Ok(Document::Manifest(_))));
        assert!(matches!(document(index.clone(), media_type::OCI_INDEX), Ok(Document::Index(_))));
        assert!(matches!(document(both, ""), Err(DocumentError::Ambiguous)));
        assert!(matches!(
            document(typed.clone(), media_type::OCI_INDEX),
            Err(DocumentError::MediaType { .. })
        ));
        assert!(document(typed, "application/json; charset=utf-8").is_ok());
        assert!(matches!(
            document(index, media_type::OCI_MANIFEST),
            Err(DocumentError::Unsupported(_))
        ));
        assert!(matches!(
            document(json!({"schemaVersion": 1, "fsLayers": []}), ""),
            Err(DocumentError::Schema1)
        ));
        assert!(matches!(
            document(manifest, media_type::DOCKER_SCHEMA1_SIGNED),
            Err(DocumentError::Schema1)
        ));
        assert!(matches!(document(json!({}), ""), Err(DocumentError::Unsupported(_))));
        assert!(matches!(Document::parse(b"nope", ""), Err(DocumentError::Json(_))));
    }

    #[test]
    fn unknown_fields_of_manifests_are_kept() {
        let original = json!({
            "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
            "config": {"mediaType": "c", "digest": digest(1), "size": 1, "odd": true},
            "layers": [{"mediaType": "l", "digest": digest(2), "size": 2, "urls": ["u"],
                        "annotations": {"a": "b"}}],
            "subject": {"digest": digest(3)}, "annotations": {"k": "v"}
        });
        let manifest: Manifest = serde_json::from_value(original.clone()).unwrap();
        assert_eq!(serde_json::to_value(&manifest).unwrap(), original);
    }
}
