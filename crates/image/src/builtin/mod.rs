//! Images made from wharf's own program, with no network: `hello-world`, `pause`, `wharf/welcome`.
//!
//! Each has one layer, shared by all, with one file: `/wharf`, a copy of the running program. A copy, not
//! a link: nothing in a container may reach the host's binary (CVE-2019-5736). Names, times and
//! modes are fixed, so one binary always gives the same ids. An image of that name which was pulled or
//! loaded is never replaced.

mod program;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::json;
use wharf_spec::digest::Digest;
use wharf_spec::image::{History, ImageConfig, RunConfig};
use wharf_spec::reference::Reference;

pub use program::main;

use crate::error::io_error;
use crate::tarball::{self, Kind, Meta};
use crate::{ArchiveError, Image, ImageStore, StoreError, make};

/// Names and the hidden verb that each runs.
const IMAGES: &[(&str, &str)] = &[
    ("docker.io/library/hello-world:latest", "builtin-hello"),
    ("docker.io/library/pause:latest", "builtin-pause"),
    ("docker.io/wharf/welcome:latest", "builtin-welcome"),
];
/// When they were made: reproducible ids need a fixed time.
const CREATED: &str = "2026-11-23T00:00:00Z";
const CREATED_SECONDS: i64 = 1_795_392_000;

/// Whether `name` is that of a builtin image.
pub fn knows(name: &Reference) -> bool {
    verb(name).is_some()
}

fn verb(name: &Reference) -> Option<&'static str> {
    let text = name.to_string();
    IMAGES.iter().find(|(known, _)| *known == text).map(|(_, verb)| *verb)
}

/// Makes the builtin image `name` and stores it.
pub(crate) fn provide(store: &ImageStore, name: &Reference) -> Result<Image, StoreError> {
    let missing = || StoreError::NoSuchImage(name.familiar());
    let verb = verb(name).ok_or_else(missing)?;
    build(store, name, verb).map_err(|error| match error {
        ArchiveError::Store(error) => error,
        other => StoreError::Builtin { name: name.familiar(), source: Box::new(other) },
    })
}

fn build(store: &ImageStore, name: &Reference, verb: &str) -> Result<Image, ArchiveError> {
    let inner = &store.0;
    let path = &inner.settings.program;
    let mut lease = inner.leases.take([]);
    // The layer of another builtin image of this same program is found by its content, not made again.
    let diff_id = digest(layer(path)?).map_err(io_error("read", path))?;
    lease.extend([diff_id.clone()]);
    if inner.layer(&diff_id).is_none() || !inner.blobs.has(&diff_id) {
        let taken = inner
            .take_layer(layer(path)?)
            .map_err(|source| ArchiveError::Layer { path: path.clone(), source })?;
        inner.adopt_layer(taken, &diff_id)?;
    }
    let size = inner.blobs.size(&diff_id).unwrap_or_default();
    let kind = wharf_spec::image::media_type::OCI_LAYER;
    let layers = vec![inner.layer_of(&diff_id, diff_id.clone(), size, kind)?];
    let config = config(store, verb, diff_id);
    let bytes = serde_json::to_vec(&config).map_err(ArchiveError::Encode)?;
    let names = vec![name.clone()];
    let annotations = Default::default();
    let made = make::Made { config, config_bytes: bytes, layers, names, parent: None, annotations };
    make::register_made(inner, made)
}

/// The layer as a tar, read as it is made.
fn layer(program: &Path) -> Result<impl Read + Send + use<>, StoreError> {
    let file = File::open(program).map_err(io_error("open", program))?;
    let size = file.metadata().map_err(io_error("stat", program))?.len();
    let mtime = wharf_sys::root::Time { seconds: CREATED_SECONDS, nanos: 0 };
    let meta = Meta { mode: 0o755, mtime, ..Meta::default() };
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    tarball::header(&mut head, Path::new("wharf"), Kind::File(size), &meta)
        .and_then(|()| tarball::pad(&mut tail, size))
        .and_then(|()| tarball::end(&mut tail))
        .map_err(io_error("pack", program))?;
    Ok(io::Cursor::new(head).chain(file.take(size)).chain(io::Cursor::new(tail)))
}

fn digest(mut input: impl Read) -> io::Result<Digest> {
    let mut hasher = wharf_spec::digest::Hasher::new(wharf_spec::digest::Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn config(store: &ImageStore, verb: &str, diff_id: Digest) -> ImageConfig {
    let platform = store.0.settings.platform.clone();
    let mut run = RunConfig {
        entrypoint: Some(vec!["/wharf".into(), verb.into()]),
        env: vec!["PATH=/".into()],
        working_dir: "/".into(),
        ..RunConfig::default()
    };
    if verb == "builtin-welcome" {
        run.exposed_ports = Some([("80/tcp".to_owned(), json!({}))].into());
    }
    let mut config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config: Some(run),
        created: Some(CREATED.into()),
        history: vec![History {
            created: Some(CREATED.into()),
            created_by: format!("wharf {verb}"),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    config.rootfs.kind = "layers".into();
    config.rootfs.diff_ids = vec![diff_id];
    config
}
