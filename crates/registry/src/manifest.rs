//! What a manifest that was pushed says: its kind, what it needs, and whom it refers to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::error::chain;
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, Document};

use crate::fault::{Code, Fault};

/// Largest manifest: the specification's limit.
pub(crate) const MANIFEST_MAX: usize = 4 << 20;

/// What is kept of a manifest beside its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    /// When it was pushed, in seconds since 1970.
    pub(crate) pushed: i64,
    /// Config and layers: what this repository must keep for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) blobs: BTreeSet<Digest>,
    /// Manifests of an index.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) children: BTreeSet<Digest>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    /// Kept only with a subject, for the list of referrers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A manifest as pushed.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) record: Record,
    /// What must be there, with the size that the manifest says it has.
    pub(crate) needs: Vec<(Digest, u64)>,
}

/// Reads a manifest. `outside` is its `Content-Type`.
pub(crate) fn receive(bytes: &[u8], outside: &str, now: i64) -> Result<Received, Fault> {
    let invalid = |text: String| Fault::new(Code::ManifestInvalid, text);
    let document = Document::parse(bytes, outside).map_err(|e| invalid(chain(&e).to_string()))?;
    let (inside, other, mut annotations) = match &document {
        Document::Manifest(m) => (&m.media_type, &m.other, m.annotations.clone()),
        Document::Index(i) => (&i.media_type, &i.other, i.annotations.clone()),
    };
    let outside = outside.split(';').next().unwrap_or_default().trim();
    let media_type = if inside.is_empty() { outside } else { inside.as_str() };
    if media_type.is_empty() {
        return Err(invalid("the manifest does not say its media type".into()));
    }
    let subject = subject(other)?;
    if subject.is_none() {
        annotations.clear();
    }
    let mut record = Record {
        media_type: media_type.to_owned(),
        size: bytes.len() as u64,
        pushed: now,
        blobs: BTreeSet::new(),
        children: BTreeSet::new(),
        subject,
        artifact_type: artifact_type(other),
        annotations,
    };
    let mut needs = Vec::new();
    match document {
        Document::Manifest(manifest) => {
            if record.artifact_type.is_none() {
                record.artifact_type = Some(manifest.config.media_type.clone());
            }
            // What may be had elsewhere need not be here, and may not be allowed to be.
            let here = |d: &&Descriptor| d.urls.is_empty() && !is_foreign(&d.media_type);
            let all = [&manifest.config].into_iter().chain(&manifest.layers).filter(here);
            needs.extend(all.map(|d| (d.digest.clone(), d.size)));
            record.blobs.extend(needs.iter().map(|(digest, _)| digest.clone()));
        }
        Document::Index(index) => {
            record.children.extend(index.manifests.into_iter().map(|d| d.digest));
        }
    }
    Ok(Received { record, needs })
}

fn is_foreign(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains(".foreign.")
}

fn subject(other: &Map<String, Value>) -> Result<Option<Digest>, Fault> {
    match other.get("subject") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            serde_json::from_value::<Descriptor>(value.clone()).map(|d| Some(d.digest)).map_err(
                |e| Fault::new(Code::ManifestInvalid, format!("subject is no descriptor: {e}")),
            )
        }
    }
}

fn artifact_type(other: &Map<String, Value>) -> Option<String> {
    other.get("artifactType")?.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_spec::image::media_type::{OCI_INDEX, OCI_MANIFEST};

    use super::*;

    fn descriptor(kind: &str, content: &[u8]) -> Value {
        json!({"mediaType": kind, "digest": Digest::sha256(content), "size": content.len()})
    }

    fn read(value: &Value, outside: &str) -> Result<Received, Fault> {
        receive(value.to_string().as_bytes(), outside, 7)
    }

    #[test]
    fn a_manifest_needs_its_blobs_and_not_those_from_elsewhere() {
        let mut foreign =
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"f");
        foreign["urls"] = json!(["https://x"]);
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor("c", b"config"),
            "layers": [descriptor("l", b"a"), descriptor("l", b"a"), foreign],
            "annotations": {"k": "v"}
        });
        let received = read(&manifest, OCI_MANIFEST).unwrap();
        assert_eq!(received.record.blobs.len(), 2);
        assert_eq!(received.record.artifact_type.as_deref(), Some("c"));
        assert!(received.record.annotations.is_empty(), "nobody asks for them without a subject");
        assert!(read(&manifest, "").is_err(), "neither says what it is");
    }

    #[test]
    fn referrers_keep_what_lists_show() {
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "application/sbom",
            "manifests": [descriptor(OCI_MANIFEST, b"m")],
            "subject": descriptor(OCI_MANIFEST, b"s"), "annotations": {"k": "v"}
        });
        let record =
            read(&index, "application/vnd.oci.image.index.v1+json; charset=utf-8").unwrap().record;
        assert_eq!(record.subject, Some(Digest::sha256(b"s")));
        assert_eq!(record.artifact_type.as_deref(), Some("application/sbom"));
        assert_eq!(record.annotations["k"], "v");
        assert_eq!(record.children, [Digest::sha256(b"m")].into());
        let mut wrong = index;
        wrong["subject"] = json!("x");
        assert_eq!(read(&wrong, OCI_INDEX).unwrap_err().code(), Code::ManifestInvalid);
    }

    #[test]
    fn confusion_is_refused() {
        let both = json!({
            "schemaVersion": 2, "config": descriptor("c", b""), "layers": [], "manifests": []
        });
        assert!(read(&both, OCI_MANIFEST).is_err());
        assert!(read(&json!({"schemaVersion": 2, "manifests": []}), OCI_MANIFEST).is_err());
        assert!(receive(b"{", OCI_MANIFEST, 0).is_err());
        assert!(receive("[".repeat(100_000).as_bytes(), OCI_MANIFEST, 0).is_err());
    }
}
