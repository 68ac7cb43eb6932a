//! Layers with their blobs packed anew, for whoever wants them compressed.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write as _};

use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::image::media_type;

use crate::assemble::BlobOut;
use crate::blobs::BlobWriter;
use crate::error::io_error;
use crate::lease::Lease;
use crate::{ImageStore, Layer, StoreError};

/// How the blob of a layer is packed, with the level of its compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// A bare tar.
    Plain,
    /// gzip, 0 to 9.
    Gzip(u32),
    /// zstd, 1 to 22.
    Zstd(i32),
}

/// What is to become of the blobs of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repack {
    /// Of those that are bare tars.
    pub packing: Packing,
    /// Also of those that are compressed in another way.
    pub force: bool,
}

/// What was packed since the daemon started: the blob it was made from and how, what came of it and its size. The blob
/// may have gone meanwhile.
pub(crate) type Packed = Mutex<BTreeMap<(Digest, Packing), (Digest, u64)>>;

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Packing::Plain => media_type::OCI_LAYER,
            Packing::Gzip(_) => media_type::OCI_LAYER_GZIP,
            Packing::Zstd(_) => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// Whether a blob of that type is packed so; the level does not count.
    fn is_of(self, media_type: &str) -> bool {
        match self {
            Packing::Plain => is_plain(media_type),
            Packing::Gzip(_) => media_type.ends_with("gzip"),
            Packing::Zstd(_) => media_type.ends_with("zstd"),
        }
    }
}

fn is_plain(media_type: &str) -> bool {
    !media_type.ends_with("gzip") && !media_type.ends_with("zstd")
}

impl ImageStore {
    /// `layer` with a blob packed as wanted: the same files under the same diff id. The caller leases the layer; what is new
    /// is leased here. Packing is repeatable: the same blob gives the same blob. Blocks.
    pub fn repack(&self, layer: &Layer, how: Repack) -> Result<(Layer, Lease), StoreError> {
        let Repack { packing, force } = how;
        let stays = packing.is_of(&layer.media_type) || !(force || is_plain(&layer.media_type));
        let (blob, blob_size) = match stays {
            true => return Ok((layer.clone(), self.0.leases.take([layer.blob.clone()]))),
            false => self.packed(&layer.blob, packing)?,
        };
        let lease = self.0.leases.take([blob.clone()]);
        let media_type = packing.media_type().to_owned();
        Ok((Layer { blob, blob_size, media_type, ..layer.clone() }, lease))
    }

    fn packed(&self, from: &Digest, packing: Packing) -> Result<(Digest, u64), StoreError> {
        let key = (from.clone(), packing);
        let known = self.0.packed.lock().get(&key).cloned();
        if let Some(known) = known.filter(|(digest, _)| self.0.blobs.has(digest)) {
            return Ok(known);
        }
        let mut blob = self.0.blobs.writer()?;
        let path = self.0.blobs.path(from);
        let file = self.0.blobs.file(from)?;
        pack(file, packing, &mut blob).map_err(io_error("pack", &path))?;
        let made = blob.finish(None)?;
        self.0.packed.lock().insert(key, made.clone());
        Ok(made)
    }
}

fn pack(from: std::fs::File, packing: Packing, blob: &mut BlobWriter) -> io::Result<()> {
    let mut from = crate::unpack::decompress(from)?;
    let mut out = BufWriter::with_capacity(256 << 10, BlobOut(blob));
    match packing {
        Packing::Plain => drop(io::copy(&mut from, &mut out)?),
        Packing::Gzip(level) => {
            let level = flate2::Compression::new(level.min(9));
            let mut encoder = flate2::write::GzEncoder::new(&mut out, level);
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?;
        }
        Packing::Zstd(level) => {
            let mut encoder = zstd::stream::write::Encoder::new(&mut out, level)?;
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?;
        }
    }
    out.flush()
}
