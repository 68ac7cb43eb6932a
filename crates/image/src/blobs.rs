//! The content store: immutable files named by their digest, never visible before they are verified.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wharf_spec::digest::{Algorithm, Digest, Hasher};

use crate::StoreError;
use crate::error::io_error;

/// All blobs of a store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Blobs(Arc<Dirs>);

#[derive(Debug)]
struct Dirs {
    root: PathBuf,
    serial: AtomicU64,
}

/// A blob that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    blobs: Blobs,
    file: File,
    temp: PathBuf,
    /// `None` if somebody else hashes the same bytes.
    hasher: Option<Hasher>,
    size: u64,
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = root.join("blobs").join(algorithm.name());
            wharf_base::fs::private_dir(&dir).map_err(io_error("create", &dir))?;
        }
        Ok(Self(Arc::new(Dirs { root: root.to_owned(), serial: AtomicU64::new(0) })))
    }

    /// Where the blob is or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.0.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// A path under `tmp/` that nobody else has.
    pub(crate) fn temp_path(&self, what: &str) -> PathBuf {
        let n = self.0.serial.fetch_add(1, Ordering::Relaxed);
        self.0.root.join("tmp").join(format!("{what}-{n}"))
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// The size of a stored blob.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// The whole blob, verified. For documents; layers are streamed.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let path = self.path(digest);
        self.file(digest)?.read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(StoreError::Digest { expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// The blob, open for reading.
    pub(crate) fn file(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::MissingBlob(digest.clone()))
            }
            other => other.map_err(io_error("open", &path)),
        }
    }

    /// Starts a blob whose digest is not known yet.
    pub(crate) fn writer(&self) -> Result<BlobWriter, StoreError> {
        let temp = self.temp_path("blob");
        let mut how = OpenOptions::new();
        how.write(true).create_new(true).mode(0o600);
        let file = how.open(&temp).map_err(io_error("create", &temp))?;
        let hasher = Some(Hasher::new(Algorithm::Sha256));
        Ok(BlobWriter { blobs: self.clone(), file, temp, hasher, size: 0 })
    }

    /// Stores a document. Returns its digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::sha256(bytes);
        if !self.has(&digest) {
            let mut writer = self.writer()?;
            writer.write(bytes)?;
            writer.finish(Some(&digest))?;
        }
        Ok(digest)
    }

    /// Stores a document that is known to have `digest`.
    pub(crate) fn put_as(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.has(digest) {
            return Ok(());
        }
        let mut writer = self.writer()?;
        writer.write(bytes)?;
        self.adopt(&writer.temp, digest)
    }

    /// Makes a complete, verified file the blob `digest`. When it reaches the disk is told in `durable.rs`.
    pub(crate) fn adopt(&self, from: &Path, digest: &Digest) -> Result<(), StoreError> {
        fs::rename(from, self.path(digest)).map_err(io_error("rename", from))
    }

    /// Removes a blob; no error if it is not there.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes every blob that is not in `live`.
    pub(crate) fn retain(&self, live: &BTreeSet<Digest>) -> Result<(), StoreError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.0.root.join("blobs").join(algorithm.name());
            for entry in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
                let entry = entry.map_err(io_error("read", &dir))?;
                let name = entry.file_name();
                let text = format!("{}:{}", algorithm.name(), name.to_string_lossy());
                let known = text.parse::<Digest>().is_ok_and(|d| live.contains(&d));
                if !known {
                    fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// Bytes in all blobs.
    pub(crate) fn disk_usage(&self) -> Result<u64, StoreError> {
        tree_size(&self.0.root.join("blobs"))
    }
}

impl BlobWriter {
    /// Adds `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(io_error("write", &self.temp))
    }

    /// Somebody else hashes the same bytes, and ends with [`BlobWriter::finish_as`]. Before the first of them.
    pub(crate) fn leave_hashing(&mut self) {
        self.hasher = None;
    }

    /// Makes it a blob. With `expected`, only if that is its digest. Returns digest and size.
    pub(crate) fn finish(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let digest = match self.hasher.take() {
            Some(hasher) => hasher.finish(),
            None => hash_file(&self.temp, Algorithm::Sha256)?,
        };
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(StoreError::Digest { expected: expected.clone(), found: digest });
        }
        self.finish_as(digest)
    }

    /// Makes it a blob of a digest that was found elsewhere. Returns digest and size.
    pub(crate) fn finish_as(self, digest: Digest) -> Result<(Digest, u64), StoreError> {
        self.blobs.adopt(&self.temp, &digest)?;
        Ok((digest, self.size))
    }
}

impl Drop for BlobWriter {
    /// After a rename there is nothing left to remove.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.temp));
    }
}

/// The digest of a file.
pub(crate) fn hash_file(path: &Path, algorithm: Algorithm) -> Result<Digest, StoreError> {
    let mut hasher = Hasher::new(algorithm);
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut file = BufReader::with_capacity(256 << 10, file);
    loop {
        let bytes = file.fill_buf().map_err(io_error("read", path))?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(bytes);
        let n = bytes.len();
        file.consume(n);
    }
}

/// Bytes of all files below `dir`.
pub(crate) fn tree_size(dir: &Path) -> Result<u64, StoreError> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let entry = entry.map_err(io_error("read", dir))?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sum += tree_size(&entry.path())?,
            Ok(meta) => sum += meta.len(),
            // Finished or removed meanwhile.
            Err(_) => {}
        }
    }
    Ok(sum)
}
