//! Provenance: how a result was made, as SLSA's predicates in in-toto statements, beside images of an index.
//!
//! A client's default (`inline-only=true`, which buildx sends with every build) is left out: the same build would not
//! give the same index twice. Whoever asks for provenance gets it.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde_json::{Value, json};
use tonic::Status;
use wharf_build::{Built, Material, package_url};
use wharf_image::{Attached, Image, ImageStore};
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::options::{OptionError, boolean};

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const PAYLOAD: &str = "application/vnd.in-toto+json";
const TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
const TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const METADATA_02: &str = "https://mobyproject.org/buildkit@v1#metadata";

/// What is to be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `mode=max`: arguments, labels and the Dockerfile as well.
    everything: bool,
    version: Version,
    builder: String,
    reproducible: bool,
}

/// Of SLSA's predicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Version {
    #[default]
    V02,
    V1,
}

impl Version {
    fn predicate(self) -> &'static str {
        match self {
            Version::V02 => "https://slsa.dev/provenance/v0.2",
            Version::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// Reads `attest:KIND`. `None` if nothing is to be said.
pub(crate) fn read(kind: &str, value: &str) -> Result<Option<Wanted>, OptionError> {
    let refused = |text: String| Err(OptionError::Unsupported(text));
    match kind {
        "provenance" => {}
        "sbom" => {
            return refused(
                "attestations of type sbom need a scanner's image, which wharf does not run: build with --sbom=false \
                 and scan the image afterwards"
                    .into(),
            );
        }
        other => return refused(format!("unknown attestation type {other:?}: use provenance")),
    }
    let mut wanted = Wanted::default();
    let mut by_default = false;
    for field in value.split(',').filter(|f| !f.is_empty()) {
        let (key, text) = field.split_once('=').unwrap_or((field, ""));
        let wrong = |why: &str| OptionError::Value {
            key: format!("{key} of attest:provenance"),
            value: text.to_owned(),
            why: why.to_owned(),
        };
        let truth = || boolean(text).ok_or_else(|| wrong("use true or false"));
        match (key, text) {
            // buildx says it again.
            ("type", "provenance") => {}
            ("mode", "min" | "max") => wanted.everything = text == "max",
            ("mode", _) => return Err(wrong("use min or max")),
            ("version", "v0.2") => wanted.version = Version::V02,
            ("version", "v1") => wanted.version = Version::V1,
            ("version", _) => return Err(wrong("use v0.2 or v1")),
            ("builder-id", id) => id.clone_into(&mut wanted.builder),
            ("reproducible", _) => wanted.reproducible = truth()?,
            ("inline-only", _) => by_default = truth()?,
            ("disabled", _) if truth()? => return Ok(None),
            ("disabled", _) => {}
            _ => {
                return Err(wrong(
                    "not known: use mode, version, builder-id, reproducible or inline-only",
                ));
            }
        }
    }
    Ok((!by_default).then_some(wanted))
}

/// What a build was asked for.
pub(crate) struct Facts<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) frontend: &'a str,
    pub(crate) options: &'a HashMap<String, String>,
    /// The Dockerfile's name and text.
    pub(crate) file: (&'a str, &'a [u8]),
    pub(crate) reference: &'a str,
    pub(crate) began: SystemTime,
    pub(crate) ended: SystemTime,
}

/// What is said of one result, without whom it is said of.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    kind: &'static str,
    predicate: Value,
}

/// Writes down how a result was made.
pub(crate) fn say(facts: &Facts<'_>, built: &Built) -> Said {
    let wanted = facts.wanted;
    let request = Asked::of(facts);
    let predicate = match wanted.version {
        Version::V02 => request.v02(facts, built.materials()),
        Version::V1 => request.v1(facts, built.materials()),
    };
    Said { kind: wanted.version.predicate(), predicate }
}

/// The request as it may be told.
struct Asked {
    args: BTreeMap<String, String>,
    /// A context that is no directory of the client.
    context: Option<String>,
    /// Nothing was left out.
    complete: bool,
    vcs: BTreeMap<String, String>,
    /// No file came from a directory of the client.
    remote: bool,
}

impl Asked {
    fn of(facts: &Facts<'_>) -> Asked {
        let shown = |text: &String| wharf_image::without_password(text);
        let (mut args, mut vcs) = (BTreeMap::new(), BTreeMap::new());
        let mut complete = true;
        for (key, value) in facts.options {
            if let Some(key) = key.strip_prefix("vcs:") {
                vcs.insert(key.to_owned(), shown(value));
            } else if key.starts_with("attest:") || key == "context" {
                // The one is about this, the other is told as the source.
            } else if !facts.wanted.everything
                && (key.starts_with("build-arg:") || key.starts_with("label:"))
            {
                complete = false;
            } else {
                args.insert(key.clone(), shown(value));
            }
        }
        let context = facts.options.get("context").map(shown);
        let remote = context.as_ref().is_some_and(|c| !c.starts_with("http://buildkit-session"));
        let remote = remote && !facts.options.contains_key("dockerfilekey");
        Asked { args, context, complete, vcs, remote }
    }

    fn source(&self, facts: &Facts<'_>, path: &str) -> Value {
        let mut source = json!({ path: facts.file.0 });
        if let Some(context) = &self.context {
            source["uri"] = context.as_str().into();
        }
        source
    }

    fn parameters(&self, facts: &Facts<'_>) -> Value {
        let mut parameters = json!({ "frontend": facts.frontend, "args": self.args });
        if !self.remote {
            parameters["locals"] = json!([{ "name": "context" }, { "name": "dockerfile" }]);
        }
        parameters
    }

    fn metadata(&self, facts: &Facts<'_>) -> Value {
        let mut out = json!({});
        if !self.vcs.is_empty() {
            out["vcs"] = json!(self.vcs);
        }
        if facts.wanted.everything {
            let (name, text) = facts.file;
            let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
            let info = json!({ "filename": name, "language": "Dockerfile", "data": data });
            out["source"] = json!({ "infos": [info] });
        }
        out
    }

    fn v02(&self, facts: &Facts<'_>, materials: &[Material]) -> Value {
        json!({
            "builder": { "id": facts.wanted.builder },
            "buildType": TYPE_02,
            "materials": materials.iter().map(material).collect::<Vec<_>>(),
            "invocation": {
                "configSource": self.source(facts, "entryPoint"),
                "parameters": self.parameters(facts),
                "environment": { "platform": Platform::host().to_string() },
            },
            "metadata": {
                "buildInvocationID": facts.reference,
                "buildStartedOn": time(facts.began),
                "buildFinishedOn": time(facts.ended),
                "completeness": {
                    "parameters": self.complete, "environment": true, "materials": self.remote,
                },
                "reproducible": facts.wanted.reproducible,
                METADATA_02: self.metadata(facts),
            },
        })
    }

    fn v1(&self, facts: &Facts<'_>, materials: &[Material]) -> Value {
        json!({
            "buildDefinition": {
                "buildType": TYPE_1,
                "externalParameters": {
                    "configSource": self.source(facts, "path"),
                    "request": self.parameters(facts),
                },
                "internalParameters": { "builderPlatform": Platform::host().to_string() },
                "resolvedDependencies": materials.iter().map(material).collect::<Vec<_>>(),
            },
            "runDetails": {
                "builder": { "id": facts.wanted.builder },
                "metadata": {
                    "invocationId": facts.reference,
                    "startedOn": time(facts.began),
                    "finishedOn": time(facts.ended),
                    "buildkit_metadata": self.metadata(facts),
                    "buildkit_completeness": {
                        "request": self.complete, "resolvedDependencies": self.remote,
                    },
                    "buildkit_reproducible": facts.wanted.reproducible,
                },
            },
        })
    }
}

fn material(of: &Material) -> Value {
    let (hash, digits) = &of.digest;
    json!({ "uri": of.uri, "digest": { *hash: digits } })
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap_or_default().to_string()
}

/// Makes the manifest that says it of `image`, which goes under `names`. Blocks.
pub(crate) fn attach(
    store: &ImageStore,
    image: &Image,
    names: &[Reference],
    said: &Said,
) -> Result<Attached, Status> {
    let of = image.manifest();
    let subject = |name: String| json!({ "name": name, "digest": { of.digest.algorithm().name(): of.digest.hex() } });
    let mut subjects: Vec<Value> =
        names.iter().map(|n| subject(package_url(n, &image.platform()))).collect();
    if subjects.is_empty() {
        subjects.push(subject("_".into()));
    }
    let statement = encode(&json!({
        "_type": STATEMENT, "predicateType": said.kind, "subject": subjects,
        "predicate": said.predicate,
    }));
    let layer = describe(PAYLOAD, &statement);
    // A registry that knows images alone takes it for one, which runs nowhere.
    let config = encode(&json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    }));
    let mut listed_layer = json!(layer);
    listed_layer["annotations"] = json!({ "in-toto.io/predicate-type": said.kind });
    let manifest = encode(&json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": describe(media_type::OCI_CONFIG, &config), "layers": [listed_layer],
    }));
    let mut listed = describe(media_type::OCI_MANIFEST, &manifest);
    listed.annotations = BTreeMap::from([
        ("vnd.docker.reference.digest".to_owned(), of.digest.to_string()),
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
    ]);
    let (architecture, os) = ("unknown".to_owned(), "unknown".to_owned());
    listed.platform = Some(Platform { architecture, os, ..Platform::default() });
    let attached = store.attach(listed, &manifest, &[statement, config]);
    attached.map_err(|e| Status::unknown(wharf_base::error::chain(&e).to_string()))
}

fn encode(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_is_read_and_a_default_left_out() {
        let max = read("provenance", "type=provenance,mode=max,version=v1,builder-id=x")
            .unwrap()
            .unwrap();
        assert!(max.everything && max.version == Version::V1 && max.builder == "x");
        assert_eq!(read("provenance", "").unwrap(), Some(Wanted::default()));
        assert_eq!(read("provenance", "mode=min,inline-only=true").unwrap(), None);
        assert_eq!(read("provenance", "disabled=true").unwrap(), None);
        for (kind, value, says) in [
            ("sbom", "", "--sbom=false"),
            ("vex", "", "use provenance"),
            ("provenance", "mode=all", "use min or max"),
            ("provenance", "version=v2", "use v0.2 or v1"),
            ("provenance", "inline-only=x", "use true or false"),
            ("provenance", "nonsense=1", "use mode, version"),
        ] {
            let error = read(kind, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn arguments_are_told_only_when_everything_is() {
        let options = HashMap::from(
            [("build-arg:A", "secret"), ("target", "t"), ("vcs:source", "https://u:p@h/x")]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let said = |everything| {
            let wanted = Wanted { everything, ..Wanted::default() };
            let facts = Facts {
                wanted: &wanted,
                frontend: "dockerfile.v0",
                options: &options,
                file: ("Dockerfile", b"FROM x"),
                reference: "r",
                began: SystemTime::UNIX_EPOCH,
                ended: SystemTime::UNIX_EPOCH,
            };
            Asked::of(&facts).v02(&facts, &[])
        };
        let (min, max) = (said(false), said(true));
        assert!(!min.to_string().contains("secret") && max.to_string().contains("secret"));
        assert_eq!(min["metadata"]["completeness"]["parameters"], false);
        assert_eq!(max["metadata"][METADATA_02]["source"]["infos"][0]["data"], "RlJPTSB4");
        assert_eq!(max["metadata"][METADATA_02]["vcs"]["source"], "https://h/x");
        assert_eq!(max["metadata"]["buildStartedOn"], "1970-01-01T00:00:00Z");
    }
}
