//! Unpacked layers on disk: one directory per chain id, complete or absent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use wharf_spec::digest::Digest;

use crate::StoreError;
use crate::error::io_error;

/// Directory that stands for no layers at all.
const EMPTY: &str = "empty";

/// Where the layer is or would be.
pub(crate) fn path(root: &Path, chain: &Digest) -> PathBuf {
    root.join("layers").join(chain.hex())
}

/// Names of the directories that exist.
pub(crate) fn stored(root: &Path) -> Result<BTreeSet<String>, StoreError> {
    let dir = root.join("layers");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
        let name = entry.map_err(io_error("read", &dir))?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    names.remove(EMPTY);
    Ok(names)
}

/// Takes a layer away at once, by rename, and deletes it in the background. A crash in between leaves it
/// in `tmp/`, which the next open empties.
pub(crate) fn discard(root: &Path, name: &str) -> Result<(), StoreError> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let from = root.join("layers").join(name);
    let n = SERIAL.fetch_add(1, Ordering::Relaxed);
    let to = root.join("tmp").join(format!("dead-{}-{n}", &name[..name.len().min(12)]));
    match fs::rename(&from, &to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_error("rename", &from))?,
    }
    let dead = to.clone();
    let work = move || {
        if let Err(error) = fs::remove_dir_all(&dead) {
            tracing::warn!(%error, path = %dead.display(), "dead layer is left to the next start");
        }
    };
    match std::thread::Builder::new().name("image-sweep".into()).spawn(work) {
        Ok(_) => Ok(()),
        Err(_) => fs::remove_dir_all(&to).map_err(io_error("remove", &to)),
    }
}

/// Removes the files in `dir` that nobody wrote to for `lifetime`.
pub(crate) fn expire(dir: &Path, now: SystemTime, lifetime: Duration) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        let written = fs::metadata(&path).and_then(|m| m.modified());
        let age = written.ok().and_then(|then| now.duration_since(then).ok());
        if age.is_some_and(|age| age > lifetime) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes everything in `dir`.
pub(crate) fn empty_dir(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(io_error("remove", &path))?;
    }
    Ok(())
}
