//! Reading image archives: docker's `manifest.json` and OCI's `index.json`, in one pass over the stream.
//!
//! The manifest comes last in most archives, so everything that looks like a layer is stored and unpacked as
//! it passes; which image it belongs to is settled at the end.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_spec::digest::Digest;
use wharf_spec::image::{Descriptor, Document, ImageConfig, Index, Manifest, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::archive::{ArchiveError, LoadOptions, Loaded};
use crate::image::Layer;
use crate::ingest::{self, Taken};
use crate::lease::Lease;
use crate::make::Made;
use crate::progress::{LayerStep, Progress};
use crate::store::NewImage;
use crate::unpack::{self, Compression, Entries, EntryKind, Feed, UnpackError};
use crate::{ImageStore, make};

/// All documents of an archive together.
const DOCUMENTS_MAX: u64 = 64 << 20;
/// Annotation with the full name of an image.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Annotation with its tag, or its name.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

pub(crate) fn load(
    store: &ImageStore,
    input: impl Read + Send,
    options: &LoadOptions,
) -> Result<Vec<Loaded>, ArchiveError> {
    let plain = unpack::decompress(input).map_err(UnpackError::Read)?;
    let mut archive = Archive {
        store,
        options,
        documents: HashMap::new(),
        document_bytes: 0,
        layers: HashMap::new(),
        links: HashMap::new(),
        lease: store.0.leases.take([]),
    };
    archive.read(plain)?;
    archive.images()
}

struct Archive<'a> {
    store: &'a ImageStore,
    options: &'a LoadOptions,
    documents: HashMap<PathBuf, Vec<u8>>,
    document_bytes: u64,
    layers: HashMap<PathBuf, Staged>,
    /// Old archives have each layer once and symlinks for the rest.
    links: HashMap<PathBuf, PathBuf>,
    lease: Lease,
}

/// A layer of the archive.
struct Staged {
    blob: Digest,
    blob_size: u64,
    media_type: &'static str,
    diff_id: Digest,
    /// Unpacked and not yet adopted; `None` if it was known to be here already.
    taken: Option<Taken>,
}

/// One image as an archive describes it.
struct Found {
    config: Vec<u8>,
    layers: Vec<PathBuf>,
    names: Vec<Reference>,
    /// The manifest to keep, if the archive has one.
    manifest: Option<(Descriptor, Vec<u8>, Manifest)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<PathBuf>>,
}

impl Archive<'_> {
    fn read(&mut self, input: impl Read + Send) -> Result<(), ArchiveError> {
        let mut entries = Entries::new(Feed::new(input, None));
        while let Some(entry) = entries.next()? {
            match entry.kind {
                EntryKind::File { size } => self.file(entry.path, size, &mut entries)?,
                EntryKind::Symlink { target } => {
                    let base = entry.path.parent().unwrap_or(Path::new(""));
                    let target = tidy(&base.join(target));
                    self.links.insert(entry.path, target);
                }
                EntryKind::HardLink { target } => {
                    self.links.insert(entry.path, target);
                }
                _ => {}
            }
        }
        entries.drain()?;
        Ok(())
    }

    fn file(
        &mut self,
        path: PathBuf,
        size: u64,
        entries: &mut Entries<impl Read + Send>,
    ) -> Result<(), ArchiveError> {
        let mut content = Content { entries, rest: None, error: None };
        let mut head = [0; 512];
        let n = fill(&mut content, &mut head).map_err(UnpackError::Read)?;
        let whole = (&head[..n]).chain(content.by_ref());
        match Shape::of(&head[..n]) {
            Shape::Document => {
                self.document_bytes += size;
                if self.document_bytes > DOCUMENTS_MAX {
                    return Err(ArchiveError::TooManyDocuments(DOCUMENTS_MAX));
                }
                let mut bytes = Vec::new();
                let mut whole = whole;
                whole.read_to_end(&mut bytes).map_err(UnpackError::Read)?;
                self.documents.insert(path, bytes);
            }
            Shape::Layer => {
                let staged = self.layer(&path, size, whole);
                if let Some(error) = content.error.take() {
                    return Err(error.into());
                }
                self.layers.insert(path, staged?);
            }
            Shape::Other => {}
        }
        Ok(())
    }

    fn layer(
        &mut self,
        path: &Path,
        size: u64,
        content: impl Read + Send,
    ) -> Result<Staged, ArchiveError> {
        let wrong = |source| ArchiveError::Layer { path: path.to_owned(), source };
        let id = short(path);
        let tell = |step| (self.options.progress)(Progress::Layer { id: id.clone(), step });
        tell(LayerStep::Loading { current: 0, total: size });
        let inner = &self.store.0;
        if let Some((blob, diff_id)) = self.known(path) {
            let (found, blob_size) = ingest::store_blob(&inner.blobs, content).map_err(wrong)?;
            self.lease.extend([found.clone()]);
            if found != blob {
                return Err(ArchiveError::Digest { path: path.to_owned(), found });
            }
            let media_type = media_type::OCI_LAYER;
            return Ok(Staged { blob, blob_size, media_type, diff_id, taken: None });
        }
        let mut counted = Counted { inner: content, n: 0, told: 0, total: size, tell: &tell };
        let taken = inner.take_layer(&mut counted).map_err(wrong)?;
        tell(LayerStep::Loading { current: size, total: size });
        self.lease.extend([taken.blob.clone()]);
        Ok(Staged {
            blob: taken.blob.clone(),
            blob_size: taken.blob_size,
            media_type: taken.media_type(),
            diff_id: taken.diff_id.clone(),
            taken: Some(taken),
        })
    }

    /// If the name says which layer it is and that is an uncompressed one stored here, it need not be unpacked.
    fn known(&self, path: &Path) -> Option<(Digest, Digest)> {
        let name = path.file_name()?.to_str()?;
        let digest: Digest = format!("sha256:{name}").parse().ok()?;
        let index = self.store.0.index.lock();
        let layer = index.layers.values().find(|l| l.diff_id == digest && l.blob == digest)?;
        Some((digest, layer.diff_id.clone()))
    }

    fn images(mut self) -> Result<Vec<Loaded>, ArchiveError> {
        let oci = self.oci_manifests()?;
        let mut found = match self.documents.remove(Path::new("manifest.json")) {
            Some(bytes) => self.docker_images(&bytes, &oci)?,
            None => Vec::new(),
        };
        if found.is_empty() {
            found = self.oci_images(oci)?;
        }
        if found.is_empty() {
            return Err(ArchiveError::NoImage);
        }
        found.into_iter().map(|image| self.store(image)).collect()
    }

    fn docker_images(
        &self,
        bytes: &[u8],
        oci: &[(Descriptor, Vec<Reference>)],
    ) -> Result<Vec<Found>, ArchiveError> {
        let entries: Vec<DockerEntry> =
            serde_json::from_slice(bytes).map_err(json_error(Path::new("manifest.json")))?;
        let mut all = Vec::new();
        for entry in entries {
            let config = self.document(&tidy(&entry.config))?.clone();
            let tags = entry.repo_tags.unwrap_or_default();
            let names = tags.iter().map(|t| parse_name(t)).collect::<Result<_, _>>()?;
            let layers: Vec<PathBuf> =
                entry.layers.unwrap_or_default().iter().map(|l| tidy(l)).collect();
            let id = Digest::sha256(&config);
            let manifest = oci
                .iter()
                .filter_map(|(d, _)| self.manifest(d).ok())
                .find(|(_, _, m)| m.config.digest == id);
            all.push(Found { config, layers, names, manifest });
        }
        Ok(all)
    }

    fn oci_images(
        &self,
        manifests: Vec<(Descriptor, Vec<Reference>)>,
    ) -> Result<Vec<Found>, ArchiveError> {
        let mut all = Vec::new();
        for (descriptor, names) in manifests {
            let (descriptor, bytes, manifest) = self.manifest(&descriptor)?;
            let config = self.document(&blob_path(&manifest.config.digest))?.clone();
            let layers = manifest.layers.iter().map(|l| blob_path(&l.digest)).collect();
            all.push(Found {
                config,
                layers,
                names,
                manifest: Some((descriptor, bytes, manifest)),
            });
        }
        Ok(all)
    }

    /// The manifests that `index.json` leads to: one per entry, the best for the platform, names with it.
    fn oci_manifests(&self) -> Result<Vec<(Descriptor, Vec<Reference>)>, ArchiveError> {
        let path = Path::new("index.json");
        let Some(bytes) = self.documents.get(path) else { return Ok(Vec::new()) };
        let index: Index = serde_json::from_slice(bytes).map_err(json_error(path))?;
        let mut all: BTreeMap<Digest, (Descriptor, Vec<Reference>)> = BTreeMap::new();
        for descriptor in index.manifests {
            let name = name_of(&descriptor)?;
            for manifest in self.choose(descriptor, 0)? {
                let slot = all.entry(manifest.digest.clone()).or_insert((manifest, Vec::new()));
                slot.1.extend(name.clone());
            }
        }
        Ok(all.into_values().collect())
    }

    /// Follows nested indexes to the manifest that suits best; without platforms, to all that are present.
    fn choose(
        &self,
        descriptor: Descriptor,
        depth: usize,
    ) -> Result<Vec<Descriptor>, ArchiveError> {
        let path = blob_path(&descriptor.digest);
        let Some(bytes) = self.documents.get(&path) else { return Ok(Vec::new()) };
        let document = Document::parse(bytes, &descriptor.media_type)
            .map_err(|source| ArchiveError::Document { path, source })?;
        let index = match document {
            Document::Manifest(_) => return Ok(vec![descriptor]),
            Document::Index(index) if depth < 4 => index,
            Document::Index(_) => return Ok(Vec::new()),
        };
        let wanted = self.options.platform.as_ref().unwrap_or(&self.store.0.settings.platform);
        let present = |d: &Descriptor| self.documents.contains_key(&blob_path(&d.digest));
        let distance = |d: &Descriptor| match &d.platform {
            Some(platform) => wanted.distance(platform),
            None => Some(0),
        };
        let candidates = index.manifests.into_iter().filter(present);
        let best = candidates.filter_map(|d| distance(&d).map(|n| (n, d))).min_by_key(|(n, _)| *n);
        match best {
            Some((_, descriptor)) => self.choose(descriptor, depth + 1),
            None if depth == 0 && self.options.platform.is_some() => {
                Err(ArchiveError::Platform(Platform::clone(wanted)))
            }
            None => Ok(Vec::new()),
        }
    }

    fn manifest(
        &self,
        descriptor: &Descriptor,
    ) -> Result<(Descriptor, Vec<u8>, Manifest), ArchiveError> {
        let path = blob_path(&descriptor.digest);
        let bytes = self.document(&path)?.clone();
        if !descriptor.digest.matches(&bytes) {
            return Err(ArchiveError::Digest { path, found: Digest::sha256(&bytes) });
        }
        match Document::parse(&bytes, &descriptor.media_type) {
            Ok(Document::Manifest(manifest)) => {
                let kind = descriptor.media_type.clone();
                let size = bytes.len() as u64;
                Ok((Descriptor::new(&kind, descriptor.digest.clone(), size), bytes, manifest))
            }
            Ok(Document::Index(_)) => Err(ArchiveError::Missing(path)),
            Err(source) => Err(ArchiveError::Document { path, source }),
        }
    }

    fn document(&self, path: &Path) -> Result<&Vec<u8>, ArchiveError> {
        let path = self.linked(path);
        self.documents.get(path).ok_or_else(|| ArchiveError::Missing(path.to_owned()))
    }

    fn linked<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.links.get(path).map_or(path, PathBuf::as_path)
    }

    fn store(&mut self, found: Found) -> Result<Loaded, ArchiveError> {
        let id = Digest::sha256(&found.config);
        let config: ImageConfig =
            serde_json::from_slice(&found.config).map_err(json_error(Path::new(id.hex())))?;
        let expected = config.rootfs.diff_ids.len();
        if expected != found.layers.len() {
            return Err(ArchiveError::LayerCount { expected, found: found.layers.len() });
        }
        if let Some(wanted) = &self.options.platform
            && wanted.distance(&config.platform()).is_none()
        {
            return Err(ArchiveError::Platform(wanted.clone()));
        }
        let mut layers = Vec::new();
        for (n, (path, chain)) in found.layers.iter().zip(config.rootfs.chain_ids()).enumerate() {
            layers.push(self.adopt(n, path, &chain, &config.rootfs.diff_ids[n])?);
        }
        let inner = &self.store.0;
        let names = found.names.clone();
        let fits = found.manifest.filter(|(_, _, manifest)| {
            manifest.layers.iter().map(|l| &l.digest).eq(layers.iter().map(|l| &l.blob))
        });
        let image = match fits {
            Some((descriptor, bytes, manifest)) => {
                self.lease.extend([id.clone(), descriptor.digest.clone()]);
                inner.blobs.put(&found.config)?;
                inner.blobs.put(&bytes)?;
                for (layer, described) in layers.iter_mut().zip(&manifest.layers) {
                    layer.media_type.clone_from(&described.media_type);
                }
                let (manifest, index, parent) = (descriptor, None, None);
                inner.register(NewImage { id, config, manifest, index, layers, parent, names })?
            }
            None => {
                let (config_bytes, annotations) = (found.config, BTreeMap::new());
                let made = Made { config, config_bytes, layers, names, parent: None, annotations };
                make::register_made(inner, made)?
            }
        };
        Ok(Loaded { image, names: found.names })
    }

    fn adopt(
        &mut self,
        n: usize,
        path: &Path,
        chain: &Digest,
        diff_id: &Digest,
    ) -> Result<Layer, ArchiveError> {
        let path = self.linked(path).to_owned();
        self.lease.extend([chain.clone()]);
        let inner = &self.store.0;
        let missing = || ArchiveError::Missing(path.clone());
        let staged = self.layers.get_mut(&path).ok_or_else(missing)?;
        if staged.diff_id != *diff_id {
            return Err(ArchiveError::DiffId {
                layer: n,
                expected: diff_id.to_string(),
                found: staged.diff_id.to_string(),
            });
        }
        if inner.layer(chain).is_none() {
            let taken = match staged.taken.take() {
                Some(taken) => taken,
                // The same layer in two images at different heights: unpacked once more, from its blob.
                None => {
                    let file = inner.blobs.file(&staged.blob)?;
                    inner
                        .unpack_blob(file, staged.blob.clone(), staged.blob_size)
                        .map_err(|source| ArchiveError::Layer { path: path.clone(), source })?
                }
            };
            inner.adopt_layer(taken, chain)?;
        }
        let Staged { blob, blob_size, media_type, .. } = staged;
        Ok(inner.layer_of(chain, blob.clone(), *blob_size, media_type)?)
    }
}

/// What the first bytes of a file say.
enum Shape {
    Document,
    Layer,
    Other,
}

impl Shape {
    fn of(head: &[u8]) -> Self {
        let is_tar = head.len() == 512 && (&head[257..262] == b"ustar" || head == [0; 512]);
        match head.first() {
            Some(b'{' | b'[') => Self::Document,
            _ if is_tar || Compression::sniff(head) != Compression::None => Self::Layer,
            _ => Self::Other,
        }
    }
}

/// The content of the current entry as a reader.
struct Content<'a, R> {
    entries: &'a mut Entries<R>,
    rest: Option<crate::unpack::Chunk>,
    /// Why the archive itself broke, which the reader cannot say.
    error: Option<UnpackError>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.rest.as_ref().is_none_or(|c| c.is_empty()) {
            self.rest = match self.entries.content() {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.error = Some(error);
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
        }
        let Some(chunk) = &mut self.rest else { return Ok(0) };
        let n = chunk.len().min(out.len());
        out[..n].copy_from_slice(&chunk[..n]);
        chunk.advance(n);
        Ok(n)
    }
}

/// Tells how far a layer is, every few megabytes.
struct Counted<'a, R, F> {
    inner: R,
    n: u64,
    told: u64,
    total: u64,
    tell: &'a F,
}

impl<R: Read, F: Fn(LayerStep)> Read for Counted<'_, R, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.n += n as u64;
        if self.n - self.told >= 4 << 20 {
            self.told = self.n;
            (self.tell)(LayerStep::Loading { current: self.n, total: self.total });
        }
        Ok(n)
    }
}

fn fill(input: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < out.len() {
        match input.read(&mut out[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs").join(digest.algorithm().name()).join(digest.hex())
}

/// Without `.` and with `..` taken back, as the archive's own names are.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// The 12 digits by which people know a layer: of its blob, or of the directory it is in.
fn short(path: &Path) -> String {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let parent = path.parent().and_then(Path::file_name).and_then(|n| n.to_str());
    let text = if name == "layer.tar" { parent.unwrap_or(name) } else { name };
    text.chars().take(12).collect()
}

fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    if let Some(name) = descriptor.annotations.get(NAME_ANNOTATION) {
        return parse_name(name).map(Some);
    }
    // A bare tag names nothing here; some tools write the whole name.
    let name = descriptor.annotations.get(REF_ANNOTATION);
    Ok(name.filter(|n| n.contains(['/', ':'])).and_then(|n| parse_name(n).ok()))
}

fn parse_name(text: &str) -> Result<Reference, ArchiveError> {
    let name = Reference::parse(text)
        .map_err(|reason| crate::StoreError::Reference { name: text.to_owned(), reason })?;
    Ok(name.or_latest())
}

fn json_error(path: &Path) -> impl FnOnce(serde_json::Error) -> ArchiveError + use<> {
    let path = path.to_owned();
    move |source| ArchiveError::Json { path, source }
}
