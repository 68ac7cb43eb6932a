//! Taking a layer in: one pass that stores its blob, hashes it and unpacks it.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use wharf_spec::digest::Digest;

use crate::StoreError;
use crate::blobs::{BlobWriter, Blobs};
use crate::error::io_error;
use crate::image::Layer;
use crate::store::{Inner, LayerRecord};
use crate::unpack::{self, Compression, How, UnpackError};

/// Why a layer could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It does not unpack.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A layer that is unpacked, under a temporary name. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Taken {
    dir: TempDir,
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
    /// The blob as it came.
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    pub(crate) compression: Compression,
}

#[derive(Debug)]
struct TempDir(PathBuf);

impl Drop for TempDir {
    /// After a rename there is nothing left to remove; what cannot be removed now goes at the next open.
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Taken {
    /// The media type of the blob, in OCI's terms.
    pub(crate) fn media_type(&self) -> &'static str {
        self.compression.media_type()
    }
}

impl Inner {
    /// Stores and unpacks what `input` yields: as it is when it is plain, gzip or zstd, which a manifest can name.
    pub(crate) fn take_layer(&self, input: impl Read + Send) -> Result<Taken, LayerError> {
        let input = unpack::for_a_layer(input).map_err(UnpackError::Read)?;
        let mut tee = Tee { input, blob: self.blobs.writer()?, failed: None, head: Vec::new() };
        let unpacked = self.unpack_temp(&mut tee);
        if let Some(error) = tee.failed.take() {
            return Err(error.into());
        }
        let (dir, unpacked) = unpacked?;
        // What follows the end of a compressed stream belongs to the blob all the same.
        io::copy(&mut tee, &mut io::sink()).map_err(UnpackError::Read)?;
        let compression = Compression::sniff(&tee.head);
        let unpack::Unpacked { diff_id, size } = unpacked;
        let (blob, blob_size) = match compression {
            Compression::None => tee.blob.finish_as(diff_id.clone())?,
            _ => tee.blob.finish(None)?,
        };
        Ok(Taken { dir, diff_id, size, blob, blob_size, compression })
    }

    /// Unpacks `input`, whose blob is stored by someone else.
    pub(crate) fn unpack_blob(
        &self,
        input: impl Read + Send,
        blob: Digest,
        blob_size: u64,
    ) -> Result<Taken, LayerError> {
        let (dir, unpacked) = self.unpack_temp(input)?;
        let unpack::Unpacked { diff_id, size } = unpacked;
        Ok(Taken { dir, diff_id, size, blob, blob_size, compression: Compression::None })
    }

    /// Makes a taken layer the layer `chain`.
    pub(crate) fn adopt_layer(&self, taken: Taken, chain: &Digest) -> Result<(), StoreError> {
        let Taken { dir, diff_id, size, blob, .. } = taken;
        self.install_layer(&dir.0, chain, LayerRecord { diff_id, size, blob })
    }

    /// What an image says about a layer.
    pub(crate) fn layer_of(
        &self,
        chain_id: &Digest,
        blob: Digest,
        blob_size: u64,
        media_type: &str,
    ) -> Result<Layer, StoreError> {
        let record =
            self.layer(chain_id).ok_or_else(|| StoreError::MissingBlob(chain_id.clone()))?;
        Ok(Layer {
            diff_id: record.diff_id,
            chain_id: chain_id.clone(),
            blob,
            blob_size,
            media_type: media_type.to_owned(),
            size: record.size,
        })
    }

    fn unpack_temp(
        &self,
        input: impl Read + Send,
    ) -> Result<(TempDir, unpack::Unpacked), LayerError> {
        let path = self.blobs.temp_path("layer");
        fs::create_dir(&path).map_err(io_error("create", &path))?;
        let dir = TempDir(path);
        let how =
            How { threads: self.settings.unpack_threads, limits: self.settings.limits.clone() };
        let unpacked = unpack::unpack(input, &dir.0, &how)?;
        Ok((dir, unpacked))
    }
}

/// Writes to a blob what is read through it.
struct Tee<R> {
    input: R,
    blob: BlobWriter,
    /// Why the blob could not be written: the reader only hears that it failed.
    failed: Option<StoreError>,
    head: Vec<u8>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(out)?;
        if self.head.is_empty() {
            // The reader below gives all there is up to much more than that.
            self.head.extend_from_slice(&out[..n.min(Compression::MARK)]);
            if Compression::sniff(&self.head) == Compression::None {
                self.blob.leave_hashing();
            }
        }
        if let Err(error) = self.blob.write(&out[..n]) {
            self.failed = Some(error);
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(n)
    }
}

/// A writer for blobs that no layer is unpacked from.
pub(crate) fn store_blob(blobs: &Blobs, mut input: impl Read) -> Result<(Digest, u64), LayerError> {
    let mut writer = blobs.writer()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(writer.finish(None)?),
            Ok(n) => writer.write(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(UnpackError::Read(e).into()),
        }
    }
}
