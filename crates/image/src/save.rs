//! Writing image archives: one tar that reads as docker's layout and as OCI's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, media_type};
use wharf_spec::reference::Reference;

use crate::archive::ArchiveError;
use crate::lease::Lease;
use crate::tarball::{self, Kind, Meta};
use crate::{Attached, Image, ImageStore, Several};

/// What goes into the archive. Holds everything alive until it is written.
pub(crate) struct Plan {
    blobs: BTreeMap<Digest, Blob>,
    /// `index.json`
    index: Vec<u8>,
    /// `manifest.json`, docker's, which has no words for several platforms.
    manifest: Option<Vec<u8>>,
    _leases: Vec<Lease>,
    _attached: Vec<Attached>,
}

/// A blob, of the store or made for the archive.
enum Blob {
    File(PathBuf),
    Bytes(Vec<u8>),
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
    plan_of(store, &chosen, &BTreeMap::new())
}

/// These images, each with these names, and with `notes` as annotations where they are listed.
pub(crate) fn plan_of(
    store: &ImageStore,
    chosen: &[(Image, BTreeSet<Reference>)],
    notes: &BTreeMap<String, String>,
) -> Result<Plan, ArchiveError> {
    let mut plan = Plan::of(store, chosen.iter().map(|(image, _)| image))?;
    let manifests = chosen.iter().flat_map(|(image, names)| {
        let (of, platform) = (image.manifest(), Some(image.platform()));
        let bare = Descriptor::new(&of.media_type, of.digest.clone(), of.size);
        named(Descriptor { platform, annotations: notes.clone(), ..bare }, names)
    });
    plan.index = index_json(manifests.collect())?;
    let entries: Vec<Value> = chosen.iter().map(|(image, names)| entry(image, names)).collect();
    plan.manifest = Some(serde_json::to_vec(&entries).map_err(ArchiveError::Encode)?);
    Ok(plan)
}

/// Images, one for each platform, under the same names: OCI's layout alone.
pub(crate) fn plan_of_index(
    store: &ImageStore,
    index: &Several,
    names: &BTreeSet<Reference>,
) -> Result<Plan, ArchiveError> {
    let mut plan = Plan::of(store, index.images.iter())?;
    let bytes = index.to_json().map_err(ArchiveError::Encode)?;
    for digest in index.attached.iter().flat_map(Attached::blobs) {
        plan.blobs.insert(digest.clone(), Blob::File(store.0.blobs.path(digest)));
    }
    plan._attached.clone_from(&index.attached);
    let whole = index.describe(&bytes);
    plan.blobs.insert(whole.digest.clone(), Blob::Bytes(bytes));
    plan.index = index_json(named(whole, names))?;
    Ok(plan)
}

impl Plan {
    /// Everything that the images are made of.
    fn of<'a>(
        store: &ImageStore,
        images: impl Iterator<Item = &'a Image>,
    ) -> Result<Plan, ArchiveError> {
        let (mut blobs, mut leases) = (BTreeMap::new(), Vec::new());
        for image in images {
            leases.push(store.lease(image)?);
            let own = [image.id(), &image.manifest().digest];
            for digest in own.into_iter().chain(image.layers().iter().map(|l| &l.blob)) {
                // Opened now, so that a missing blob is an error before the first byte.
                store.0.blobs.file(digest)?;
                blobs.insert(digest.clone(), Blob::File(store.0.blobs.path(digest)));
            }
        }
        let (index, _attached) = (Vec::new(), Vec::new());
        Ok(Plan { blobs, index, manifest: None, _leases: leases, _attached })
    }
}

fn index_json(manifests: Vec<Descriptor>) -> Result<Vec<u8>, ArchiveError> {
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests
    });
    serde_json::to_vec(&index).map_err(ArchiveError::Encode)
}

/// Writes the archive. Names and times are fixed, so equal images give equal archives.
pub(crate) fn write(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let dir = Meta { mode: 0o755, ..Meta::default() };
    let meta = Meta { mode: 0o644, ..Meta::default() };
    tarball::header(out, Path::new("blobs"), Kind::Dir, &dir)?;
    let mut algorithm = None;
    for (digest, blob) in &plan.blobs {
        let name = digest.algorithm().name();
        if algorithm.replace(name) != Some(name) {
            tarball::header(out, &Path::new("blobs").join(name), Kind::Dir, &dir)?;
        }
        let name = Path::new("blobs").join(name).join(digest.hex());
        match blob {
            Blob::Bytes(bytes) => tarball::file(out, &name, bytes, &meta)?,
            Blob::File(path) => {
                let mut file = File::open(path)?;
                let size = file.metadata()?.len();
                tarball::header(out, &name, Kind::File(size), &meta)?;
                copy(&mut file, out, size)?;
                tarball::pad(out, size)?;
            }
        }
    }
    tarball::file(out, Path::new("index.json"), &plan.index, &meta)?;
    if let Some(manifest) = &plan.manifest {
        tarball::file(out, Path::new("manifest.json"), manifest, &meta)?;
    }
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
pub(crate) fn select(
    store: &ImageStore,
    text: &str,
) -> Result<Vec<(Image, Option<Reference>)>, ArchiveError> {
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

/// A descriptor once for each name, or once.
fn named(bare: Descriptor, names: &BTreeSet<Reference>) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![bare];
    }
    let named = |name: &Reference| {
        let mut descriptor = bare.clone();
        descriptor.annotations.extend([
            ("io.containerd.image.name".to_owned(), name.to_string()),
            (
                "org.opencontainers.image.ref.name".to_owned(),
                name.tag().unwrap_or_default().to_owned(),
            ),
        ]);
        descriptor
    };
    names.iter().map(named).collect()
}
