//! Writing image archives: one tar that reads as docker's layout and as OCI's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_spec::digest::Digest;
use wharf_spec::image::media_type;
use wharf_spec::reference::Reference;

use crate::archive::ArchiveError;
use crate::lease::Lease;
use crate::tarball::{self, Kind, Meta};
use crate::{Image, ImageStore};

/// What goes into the archive. Holds everything alive until it is written.
pub(crate) struct Plan {
    /// Digest and file of every blob.
    blobs: BTreeMap<Digest, PathBuf>,
    index: Vec<u8>,
    manifest: Vec<u8>,
    _leases: Vec<Lease>,
}

pub(crate) fn plan(store: &ImageStore, names: &[String]) -> Result<Plan, ArchiveError> {
    let mut chosen: Vec<(Image, BTreeSet<Reference>)> = Vec::new();
    for text in names {
        for (image, name) in select(store, text)? {
            match chosen.iter_mut().find(|(other, _)| other.id() == image.id()) {
                Some((_, names)) => names.extend(name),
                None => chosen.push((image, name.into_iter().collect())),
            }
        }
    }
    plan_of(store, &chosen)
}

/// These images, each with these names.
pub(crate) fn plan_of(
    store: &ImageStore,
    chosen: &[(Image, BTreeSet<Reference>)],
) -> Result<Plan, ArchiveError> {
    let mut plan = Plan {
        blobs: BTreeMap::new(),
        index: Vec::new(),
        manifest: Vec::new(),
        _leases: Vec::new(),
    };
    let (mut manifests, mut entries) = (Vec::new(), Vec::new());
    for (image, names) in chosen {
        plan._leases.push(store.lease(image)?);
        let blobs = [image.id(), &image.manifest().digest];
        for digest in blobs.into_iter().chain(image.layers().iter().map(|l| &l.blob)) {
            // Opened now, so that a missing blob is an error before the first byte.
            store.0.blobs.file(digest)?;
            plan.blobs.insert(digest.clone(), store.0.blobs.path(digest));
        }
        manifests.extend(descriptors(image, names));
        entries.push(entry(image, names));
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests
    });
    plan.index = serde_json::to_vec(&index).map_err(ArchiveError::Encode)?;
    plan.manifest = serde_json::to_vec(&entries).map_err(ArchiveError::Encode)?;
    Ok(plan)
}

/// Writes the archive. Names and times are fixed, so equal images give equal archives.
pub(crate) fn write(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let dir = Meta { mode: 0o755, ..Meta::default() };
    let meta = Meta { mode: 0o644, ..Meta::default() };
    tarball::header(out, Path::new("blobs"), Kind::Dir, &dir)?;
    let mut algorithm = None;
    for (digest, path) in &plan.blobs {
        let name = digest.algorithm().name();
        if algorithm.replace(name) != Some(name) {
            tarball::header(out, &Path::new("blobs").join(name), Kind::Dir, &dir)?;
        }
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let name = Path::new("blobs").join(name).join(digest.hex());
        tarball::header(out, &name, Kind::File(size), &meta)?;
        copy(&mut file, out, size)?;
        tarball::pad(out, size)?;
    }
    tarball::file(out, Path::new("index.json"), &plan.index, &meta)?;
    tarball::file(out, Path::new("manifest.json"), &plan.manifest, &meta)?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    tarball::file(out, Path::new("oci-layout"), layout, &meta)?;
    tarball::end(out)
}

/// Buffers larger than `io::copy`'s.
fn copy(file: &mut File, out: &mut impl Write, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let n = io::Read::read(file, &mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.write_all(&buffer[..n])?;
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}

/// The images that `text` means, and the name each goes by: a repository is all its tags.
fn select(store: &ImageStore, text: &str) -> Result<Vec<(Image, Option<Reference>)>, ArchiveError> {
    if let Ok(name) = Reference::parse(text)
        && name.is_name_only()
    {
        let index = store.0.index.lock();
        let tags = index
            .names
            .values()
            .filter(|n| n.reference.tag().is_some() && n.reference.name_only() == name.name_only());
        let all: Vec<_> = tags
            .filter_map(|n| Some((index.images.get(&n.image)?.clone(), Some(n.reference.clone()))))
            .collect();
        if !all.is_empty() {
            return Ok(all);
        }
    }
    let image = store.resolve(text)?;
    let name = Reference::parse(text).ok().map(Reference::or_latest);
    let by_name = name.filter(|n| {
        n.digest().is_none() && store.0.index.lock().named(n).is_some_and(|i| i.id() == image.id())
    });
    Ok(vec![(image, by_name)])
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn entry(image: &Image, names: &BTreeSet<Reference>) -> Value {
    let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
    let layers: Vec<String> = image.layers().iter().map(|l| blob_path(&l.blob)).collect();
    json!({ "Config": blob_path(image.id()), "RepoTags": tags, "Layers": layers })
}

fn descriptors(image: &Image, names: &BTreeSet<Reference>) -> Vec<Value> {
    let manifest = image.manifest();
    let platform = image.platform();
    let bare = json!({
        "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
        "platform": platform
    });
    if names.is_empty() {
        return vec![bare];
    }
    let named = |name: &Reference| {
        let mut descriptor = bare.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag().unwrap_or_default()
        });
        descriptor
    };
    names.iter().map(named).collect()
}
