//! `--cache-to` and `--cache-from` of `build`: what the engine does, and the directories that are this side's.

use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Map, Value, json};
use wharf_base::fs::{Durability, write_atomic};
use wharf_spec::digest::Digest;

use super::text;
use crate::api::{Client, JsonStream, Payload, segment};
use crate::failure::{Failure, os_text};
use crate::parse::csv;

/// The annotation of the manifests that a list of cache has.
const CACHE: &str = "wharf.build.cache";
/// The annotation of what an index has under a name.
const NAME: &str = "org.opencontainers.image.ref.name";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Where cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CacheTo {
    /// Into the image itself.
    Inline,
    /// Under a name in a registry.
    Registry { name: String, how: How },
    /// Into a directory, as an OCI layout.
    Local { dest: String, how: How },
}

/// How much cache goes, and how it is packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct How {
    max: bool,
    mounts: bool,
    /// Options of its compression, which the engine reads.
    packing: Map<String, Value>,
}

/// The options of how layers are packed.
pub(super) const PACKING: [&str; 3] = ["compression", "compression-level", "force-compression"];

/// Where cache is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CacheFrom {
    /// An image, or what `--cache-to type=registry` wrote.
    Name(String),
    /// What `--cache-to type=local` wrote.
    Local(String),
}

impl CacheTo {
    pub(super) fn parse(text: &str) -> Result<CacheTo, Failure> {
        if text == "inline" {
            return Ok(CacheTo::Inline);
        }
        let fields = Fields::read("cache-to", text)?;
        match fields.kind.as_str() {
            "inline" => match fields.pairs.iter().find(|(k, _)| PACKING.contains(&k.as_str())) {
                Some((key, _)) => Err(fields.wrong(&format!(
                    "an inline cache has no layers but those of its image: give {key} to --output"
                ))),
                None => fields.only(&[]).map(|()| CacheTo::Inline),
            },
            "registry" => {
                let how = fields.how("ref")?;
                Ok(CacheTo::Registry { name: fields.need("ref")?, how })
            }
            "local" => {
                let how = fields.how("dest")?;
                Ok(CacheTo::Local { dest: fields.need("dest")?, how })
            }
            other => Err(fields
                .wrong(&format!("type {other:?} is not known: use inline, registry or local"))),
        }
    }

    /// As the engine takes it; `None` for what is told otherwise.
    pub(super) fn request(&self) -> Option<Value> {
        let ask = |kind: &str, name: &str, how: &How| {
            let mode = if how.max { "max" } else { "min" };
            json!({ "type": kind, "ref": name, "mode": mode, "mounts": how.mounts, "packing": how.packing })
        };
        match self {
            CacheTo::Inline => None,
            CacheTo::Registry { name, how } => Some(ask("registry", name, how)),
            CacheTo::Local { how, .. } => Some(ask("local", "", how)),
        }
    }
}

impl CacheFrom {
    pub(super) fn parse(text: &str) -> Result<CacheFrom, Failure> {
        if !text.contains('=') {
            return Ok(CacheFrom::Name(text.to_owned()));
        }
        let fields = Fields::read("cache-from", text)?;
        match fields.kind.as_str() {
            "registry" => {
                fields.only(&["ref"])?;
                fields.need("ref").map(CacheFrom::Name)
            }
            "local" => {
                fields.only(&["src"])?;
                fields.need("src").map(CacheFrom::Local)
            }
            other => {
                Err(fields.wrong(&format!("type {other:?} is not known: use registry or local")))
            }
        }
    }
}

/// `type=x,key=value`
struct Fields {
    flag: &'static str,
    text: String,
    kind: String,
    pairs: Vec<(String, String)>,
}

impl Fields {
    fn read(flag: &'static str, text: &str) -> Result<Fields, Failure> {
        let mut fields =
            Fields { flag, text: text.to_owned(), kind: String::new(), pairs: Vec::new() };
        for field in csv(text)? {
            let (key, value) = field.split_once('=').unwrap_or((field.as_str(), ""));
            match key {
                "type" => value.clone_into(&mut fields.kind),
                key => fields.pairs.push((key.to_owned(), value.to_owned())),
            }
        }
        Ok(fields)
    }

    fn wrong(&self, why: &str) -> Failure {
        Failure::new(format!("--{} {}: {why}", self.flag, self.text))
    }

    fn only(&self, known: &[&str]) -> Result<(), Failure> {
        match self.pairs.iter().find(|(k, _)| !known.contains(&k.as_str())) {
            Some((key, _)) => {
                let known = match known {
                    [] => String::new(),
                    known => format!("; known are {}", known.join(", ")),
                };
                Err(self.wrong(&format!("{key} is not supported by wharf: leave it out{known}")))
            }
            None => Ok(()),
        }
    }

    fn how(&self, place: &str) -> Result<How, Failure> {
        self.only(&[&[place, "mode", "mounts"][..], &PACKING].concat())?;
        let packing = PACKING.iter().filter_map(|k| Some(((*k).to_owned(), self.find(k)?.into())));
        let packing = packing.collect();
        Ok(How { max: self.max()?, mounts: self.truth("mounts")?, packing })
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn need(&self, key: &str) -> Result<String, Failure> {
        let found = self.find(key).filter(|v| !v.is_empty()).map(str::to_owned);
        found.ok_or_else(|| self.wrong(&format!("{key} is required")))
    }

    fn max(&self) -> Result<bool, Failure> {
        match self.find("mode") {
            None | Some("min") => Ok(false),
            Some("max") => Ok(true),
            Some(other) => Err(self.wrong(&format!("mode {other:?} is not known: use min or max"))),
        }
    }

    fn truth(&self, key: &str) -> Result<bool, Failure> {
        match self.find(key) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(self.wrong(&format!("{key}={other} is neither true nor false"))),
        }
    }
}

/// An image of a layout, and what has to go after it was used.
pub(super) struct One {
    pub(super) id: String,
    pub(super) loaded: Vec<String>,
}

/// Gives the engine one image of a layout: `PATH[:TAG][@DIGEST]`.
pub(super) async fn load_one(client: &Client, place: &str) -> Result<One, Failure> {
    let (place, digest) = match place.split_once('@') {
        Some((place, digest)) => (place, Some(digest)),
        None => (place, None),
    };
    let (dir, tag) = match place.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag)),
        _ => (place, None),
    };
    let mut index = read_index(&Path::new(dir).join("index.json"))?;
    let chosen = choose(&index, tag, digest);
    let mut chosen = chosen.ok_or_else(|| {
        Failure::new(format!("{dir} has no image {place}: name its tag or digest"))
    })?;
    // A name in it would become a name in the engine.
    if let Some(object) = chosen.as_object_mut() {
        object.remove("annotations");
    }
    index["manifests"] = json!([chosen]);
    let before = client.get("/images/json?all=1").await?;
    let ids = load(client, dir, Some(index.to_string())).await?;
    let id = ids.first().cloned();
    let id = id.ok_or_else(|| Failure::new(format!("{dir}: the engine took no image of it")))?;
    let was = |id: &String| before.as_array().into_iter().flatten().any(|i| i["Id"] == id.as_str());
    let loaded = ids.into_iter().filter(|id| !was(id)).collect();
    Ok(One { id, loaded })
}

fn choose(index: &Value, tag: Option<&str>, digest: Option<&str>) -> Option<Value> {
    let all = index["manifests"].as_array()?;
    let tagged = |m: &&Value, tag: &str| m["annotations"][NAME] == tag;
    let found = match (digest, tag, &all[..]) {
        (Some(digest), ..) => all.iter().find(|m| m["digest"] == digest),
        (None, Some(tag), _) => all.iter().find(|m| tagged(m, tag)),
        (None, None, [one]) => Some(one),
        (None, None, _) => all.iter().find(|m| tagged(m, "latest")),
    };
    found.cloned()
}

/// Gives the engine the images of a directory that is an OCI layout, as its index lists them or as `index` does;
/// returns their ids.
async fn load(client: &Client, dir: &str, index: Option<String>) -> Result<Vec<String>, Failure> {
    if !Path::new(dir).join("index.json").is_file() {
        return Err(Failure::new(format!("{dir} is no OCI layout: it has no index.json")));
    }
    let (reader, writer) = tokio::io::duplex(1 << 20);
    let (writer, top) = (tokio_util::io::SyncIoBridge::new(writer), dir.to_owned());
    let packing = tokio::task::spawn_blocking(move || {
        pack(&top, index.as_deref(), std::io::BufWriter::new(writer))
    });
    let payload = Payload::Stream(Box::pin(reader), "application/x-tar");
    let sent = client.send(Method::POST, "/images/load?quiet=1", payload, &[]).await;
    if (sent.is_err() || packing.is_finished())
        && let Ok(Err(e)) = packing.await
    {
        return Err(Failure::new(format!("cannot read {dir}: {}", os_text(&e))));
    }
    let (mut stream, mut ids) = (JsonStream::new(sent?), Vec::new());
    while let Some(line) = stream.next().await? {
        if let Some(error) = line["error"].as_str() {
            return Err(Failure::new(format!("cannot load {dir}: {error}")));
        }
        let told = line["stream"].as_str().unwrap_or_default();
        ids.extend(
            told.lines()
                .filter_map(|l| l.strip_prefix("Loaded image ID: "))
                .map(|id| id.trim().to_owned()),
        );
    }
    Ok(ids)
}

fn pack(dir: &str, index: Option<&str>, out: impl std::io::Write) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(out);
    tar.follow_symlinks(false);
    for name in ["oci-layout", "index.json"] {
        match index.filter(|_| name == "index.json") {
            None => tar.append_path_with_name(Path::new(dir).join(name), name)?,
            Some(index) => {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_size(index.len() as u64);
                tar.append_data(&mut header, name, index.as_bytes())?;
            }
        }
    }
    tar.append_dir_all("blobs", Path::new(dir).join("blobs"))?;
    let mut out = tar.into_inner()?;
    std::io::Write::flush(&mut out)
}

/// What the engine wrote into a directory as images, as a list of cache under the name `latest`, which is where buildx
/// looks for one.
pub(super) fn list(dest: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {dest}: {}", os_text(&e)));
    let path = Path::new(dest).join("index.json");
    let mut index = read_index(&path)?;
    for manifest in index["manifests"].as_array_mut().into_iter().flatten() {
        manifest["annotations"] = json!({ CACHE: "" });
    }
    let bytes = index.to_string().into_bytes();
    let digest = Digest::sha256(&bytes);
    let write = |path: &Path, bytes: &[u8]| {
        write_atomic(path, bytes, 0o644, Durability::Process).map_err(failed)
    };
    write(&blob(dest, &digest), &bytes)?;
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": INDEX, "digest": digest, "size": bytes.len(), "annotations": { NAME: "latest" },
    }] });
    write(&path, top.to_string().as_bytes())
}

/// The list of cache that a directory has, as an index of its own; `None` if it has no more than images.
fn listed(dir: &str) -> Result<Option<String>, Failure> {
    let index = read_index(&Path::new(dir).join("index.json"))?;
    let Some(top) = choose(&index, None, None).filter(|m| m["mediaType"] == INDEX) else {
        return Ok(None);
    };
    let Ok(digest) = text(&top, "digest").parse::<Digest>() else { return Ok(None) };
    let inner = read_index(&blob(dir, &digest))?;
    let mut all = inner["manifests"].as_array().into_iter().flatten();
    Ok(all.any(|m| m["annotations"][CACHE].is_string()).then(|| inner.to_string()))
}

fn read_index(path: &Path) -> Result<Value, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|e| Failure::new(format!("cannot read {}: {}", path.display(), os_text(&e))))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(format!("{} is no index: {e}", path.display())))
}

fn blob(dir: &str, digest: &Digest) -> PathBuf {
    Path::new(dir).join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

/// Gives the engine the images of a cache in a directory; returns their ids.
pub(super) async fn load_cache(client: &Client, dir: &str) -> Result<Vec<String>, Failure> {
    load(client, dir, listed(dir)?).await
}

/// Removes images that were made or loaded for the sake of their cache.
pub(super) async fn forget(client: &Client, ids: &[String]) {
    for id in ids {
        // What is left is an image without a name, which a prune removes.
        drop(client.delete(&format!("/images/{}?noprune=1&force=1", segment(id))).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_layout_are_chosen() {
        let named = |n: &str| json!({ "digest": n, "annotations": { NAME: n } });
        let two = json!({ "manifests": [named("a"), named("latest")] });
        assert_eq!(choose(&two, Some("a"), None).unwrap()["digest"], "a");
        assert_eq!(choose(&two, None, None).unwrap()["digest"], "latest");
        assert_eq!(choose(&two, Some("latest"), Some("a")).unwrap()["digest"], "a");
        assert!(choose(&two, Some("b"), None).is_none());
        let one = json!({ "manifests": [named("a")] });
        assert_eq!(choose(&one, None, None).unwrap()["digest"], "a");
    }

    #[test]
    fn a_cache_is_listed_under_a_name_and_found_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().to_str().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        let images =
            json!({ "schemaVersion": 2, "manifests": [{ "digest": "sha256:ab", "size": 1 }] });
        let path = dir.path().join("index.json");
        write_atomic(&path, images.to_string().as_bytes(), 0o644, Durability::Process).unwrap();
        assert_eq!(listed(dest).unwrap(), None);
        list(dest).unwrap();
        let found: Value = serde_json::from_str(&listed(dest).unwrap().unwrap()).unwrap();
        assert_eq!(found["manifests"][0]["digest"], "sha256:ab");
        let top = read_index(&dir.path().join("index.json")).unwrap();
        assert_eq!(top["manifests"][0]["annotations"][NAME], "latest");
    }

    #[test]
    fn caches_have_buildxs_forms() {
        assert_eq!(CacheTo::parse("type=inline").unwrap(), CacheTo::Inline);
        let local = CacheTo::parse("type=local,dest=c,mode=max,mounts=true").unwrap();
        let how = How { max: true, mounts: true, ..How::default() };
        assert_eq!(local, CacheTo::Local { dest: "c".into(), how });
        let packed = CacheTo::parse("type=registry,ref=r/c,compression=zstd").unwrap();
        assert_eq!(packed.request().unwrap()["packing"], json!({ "compression": "zstd" }));
        assert_eq!(CacheFrom::parse("a/b:c").unwrap(), CacheFrom::Name("a/b:c".into()));
        assert_eq!(CacheFrom::parse("type=local,src=c").unwrap(), CacheFrom::Local("c".into()));
        for (text, says) in [
            ("type=registry", "ref is required"),
            ("type=local,dest=c,mode=most", "use min or max"),
            ("type=gha", "use inline, registry or local"),
            ("type=local,dest=c,tag=x", "tag is not supported by wharf: leave it out"),
            ("type=inline,compression=zstd", "give compression to --output"),
        ] {
            assert!(CacheTo::parse(text).unwrap_err().text.contains(says), "{text}");
        }
        assert!(CacheFrom::parse("type=s3,bucket=b").is_err());
    }
}
